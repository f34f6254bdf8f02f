"""Whole slides: any window, at any scale, from the files that scanners write.

OpenSlide knows SVS, NDPI, MRXS, SCN, BIF, Philips' and generic tiled TIFF, and DICOM; tifffile
reads OME-TIFF with its levels, TIFF without tiles, and the tiles of SVS and generic TIFF; Pillow
reads PNG and JPEG. Coordinates start
at the top left of what was scanned (the bounds that MRXS and Hamamatsu state), as QuPath has them.
"""

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pcam_tf.data import image_files, image_kinds, image_scale
from pcam_tf.errors import InputError, first_line, missing_extra
from pcam_tf.files import is_pointer, printable
from pcam_tf.slides import small_levels, tiff_pages

SUFFIXES = (
    ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".tif", ".tiff",
    ".png", ".jpg", ".jpeg",
)  # fmt: skip
TILE_PX = 256  # side of the tiles of `tile`
# A level may be enlarged by so much: the next larger one has four to sixteen times the pixels.
_LARGEST_ENLARGEMENT = 1.1
# LANCZOS reaches 3 pixels of the result, and one more is safe.
_MARGIN_PX = 4
# Beyond it, pixels are first averaged in blocks, which is fast and looks the same.
_LARGE_REDUCTION = 6
_TILED_TIFF = ("aperio", "generic-tiff")  # formats of OpenSlide
_ORIENTATION, _SIDEWAYS = 274, (5, 6, 7, 8)  # EXIF: width and height change places
_MOST_AT_ONCE = 32_000_000  # pixels of a level that are in memory at a time


class Backend(NamedTuple):
    """What reads the pixels of a file."""

    # (width, height) of each level, the largest first; the last may be of `small_levels`
    sizes: tuple[tuple[int, int], ...]
    read: Callable[[int, int, int, int, int], np.ndarray]  # level, x, y, width, height
    close: Callable[[], None]
    format: str  # the scanner or kind of file, as OpenSlide names it
    mpp: float | None
    notes: tuple[str, ...] = ()
    origin: tuple[int, int] = (0, 0)  # x, y of the bounds, in level-0 pixels of the file
    in_strips: bool = False  # whole rows are decoded at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Slide:
    """An open slide; any thread may read from it.

    Attributes:
        path: of the file.
        mpp: microns per pixel of level 0, stated or given.
        notes: for the user: what is doubtful in the file.
        backend: what reads the pixels.
    """

    path: Path
    mpp: float
    notes: tuple[str, ...]
    backend: Backend

    @property
    def name(self) -> str:
        """The name of the file without its suffix."""
        return name_of(self.path)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.backend.sizes[0]

    def size_at(self, mpp: float) -> tuple[int, int]:
        """Return width and height at a scale."""
        width, height = (max(round(side * self.mpp / mpp), 1) for side in self.size)
        return width, height

    def window(self, left: int, top: int, width: int, height: int, mpp: float) -> np.ndarray:
        """Return a window at a scale, uint8 (height, width, 3), RGB.

        It is read from the nearest level and rescaled exactly. Beyond its borders the slide is
        mirrored.

        Args:
            left, top: of the window, in pixels of that scale; may be negative.
            width, height: of the window, in pixels of that scale.
            mpp: microns per pixel of the window.

        Raises:
            InputError: the file is damaged there.
        """
        places = list(zip((left, top), (width, height), self.size_at(mpp), strict=True))
        if any(first >= limit or first + length <= 0 for first, length, limit in places):
            raise InputError(f"{self.name}: there is nothing at ({left}, {top}).")
        columns, rows = (
            mirrored(np.arange(first, first + length), limit) for first, length, limit in places
        )
        # All that is seen in the mirror is read, and no part of it is mirrored twice.
        x, y = int(columns.min()), int(rows.min())
        pixels = self._scaled(x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y, mpp)
        if (x, y) == (left, top) and pixels.shape[:2] == (height, width):
            return pixels
        return pixels[np.ix_(rows - y, columns - x)]

    def _scaled(self, left, top, width, height, mpp):
        """Return a window within the slide at a scale, in parts if its level is large."""
        level = self._level_for(mpp)
        steps = [
            mpp / self.mpp * part / whole
            for part, whole in zip(self.backend.sizes[level], self.size, strict=True)
        ]
        rows = max(int(_MOST_AT_ONCE / (width * steps[0] * steps[1])), 1)
        return np.concatenate([
            self._rescaled(level, steps, left, first, width, min(rows, top + height - first))
            for first in range(top, top + height, rows)
        ])  # fmt: skip

    def _level_for(self, mpp):
        """Return the level to read for a scale: the smallest that need not be enlarged much."""
        wanted = _LARGEST_ENLARGEMENT * mpp / self.mpp
        widths = [width for width, _ in self.backend.sizes]
        return max(level for level, each in enumerate(widths) if level == 0 or
                   widths[0] / each <= wanted)  # fmt: skip

    def _rescaled(self, level, steps, left, top, width, height):
        """Return a window at a scale that has `steps` pixels of a level, across and down."""
        box = np.array([left, top, left + width, top + height]) * np.tile(steps, 2)
        margin = _MARGIN_PX * np.maximum(steps, 1)
        limits = self.backend.sizes[level]
        low = np.clip(np.floor(box[:2] - margin), 0, limits).astype(int)
        high = np.clip(np.ceil(box[2:] + margin), 0, limits).astype(int)
        pixels = self.pixels(level, *map(int, low), *map(int, high - low))
        if np.allclose(steps, 1) and np.allclose(box, np.rint(box), atol=1e-3):
            x, y = (np.rint(box[:2]) - low).astype(int)
            return pixels[y : y + height, x : x + width]
        box = np.clip(box - np.tile(low, 2), 0, np.tile(high - low, 2))
        gap = 3.0 if max(steps) > _LARGE_REDUCTION else None
        picture = Image.fromarray(pixels)
        return np.asarray(
            picture.resize((width, height), Image.Resampling.LANCZOS, tuple(box), gap)
        )

    def pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return pixels of a level as they are in the file, uint8 (height, width, 3).

        Raises:
            InputError: the file is damaged there.
        """
        try:
            return self.backend.read(level, x, y, width, height)
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(f"{self.path.name} needs more memory than there is.") from error
        except Exception as error:  # what readers raise for damage differs by format
            raise InputError(
                f"{printable(self.path)} is damaged or cut short ({first_line(error)}): copy it "
                "again."
            ) from error

    def tile(self, level: int, column: int, row: int) -> np.ndarray:
        """Return a tile of a Deep Zoom pyramid, uint8 (up to 256, up to 256, 3).

        Args:
            level: 0 is one pixel, `deepest_level` is level 0 of the slide; each doubles the last.
            column, row: of the tile.

        Raises:
            InputError: there is no such tile, or the file is damaged there.
        """
        if not 0 <= level <= self.deepest_level:
            raise InputError(f"there is no level {level}: give 0 to {self.deepest_level}.")
        step = 2 ** (self.deepest_level - level)
        sizes = [-(-side // step) for side in self.size]  # Deep Zoom rounds up
        places = []
        for index, size, limit in zip(
            (column, row), sizes, self.size_at(self.mpp * step), strict=True
        ):
            if not 0 <= index * TILE_PX < size:
                raise InputError(f"level {level} has no tile ({column}, {row}).")
            first = min(index * TILE_PX, limit - 1)
            places.append((first, min(TILE_PX, size - index * TILE_PX)))
        (left, width), (top, height) = places
        return self.window(left, top, width, height, self.mpp * step)

    @property
    def deepest_level(self) -> int:
        """The number of the level of a Deep Zoom pyramid that is level 0 of the slide."""
        return math.ceil(math.log2(max(self.size)))

    def thumbnail(self, most_px: int = 1024) -> np.ndarray:
        """Return the whole slide, uint8 (height, width, 3), the longer side at most so long."""
        mpp = self.mpp * max(max(self.size) / most_px, 1)
        return self.window(0, 0, *self.size_at(mpp), mpp)


def name_of(path: str | Path) -> str:
    """Return the name of a slide's file without its suffix, `.ome` included."""
    return Path(path).stem.removesuffix(".ome")


@contextlib.contextmanager
def opened(path: str | Path, mpp: float | None = None) -> Iterator[Slide]:
    """Yield an open slide.

    Args:
        path: of the file; of DICOM, any file of the slide.
        mpp: microns per pixel of level 0; None: as the file states.

    Raises:
        InputError: no such file, one that cannot be read, no usable scale, or a reader that is not
            installed.
    """
    slide = open_slide(path, mpp)
    try:
        yield slide
    finally:
        slide.backend.close()


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Return an open slide, see `opened`; `slide.backend.close()` closes it."""
    path = Path(path)
    if mpp is not None:
        image_scale.check_mpp(mpp)
    backend = _backend(path)
    sizes, read = small_levels.with_small_level(path, backend.sizes, backend.read)
    backend = backend._replace(sizes=sizes, read=read)
    used = mpp or backend.mpp
    if used is None:
        backend.close()
        doubts = f" ({'; '.join(backend.notes)})" if backend.notes else ""
        raise InputError(
            f"{printable(path)} states no scale that can be used{doubts}: give --mpp, the microns "
            "per pixel of its largest level, such as 0.25 for 40×."
        )
    return Slide(path, used, () if mpp else backend.notes, backend)


def _backend(path):
    """Return what reads a file."""
    name = printable(path)
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise InputError(f"{name} is no slide that can be read ({error.strerror}).") from error
    if is_pointer(path):
        raise InputError(f"{name} is a Git LFS pointer, not the slide: run `git lfs pull`.")
    kind = image_kinds.file_format(start)
    if kind in ("PNG", "JPEG") and path.suffix.lower() not in (".mrxs", ".vms", ".vmu"):
        return _picture(path)
    if kind == "TIFF" and tiff_pages.is_ome(path):
        return Backend(**tiff_pages.opened_pages(path))
    backend = _openslide(path, name)
    if backend:
        return _by_tiles(path, backend)
    if kind == "TIFF":
        return Backend(**tiff_pages.opened_pages(path))
    raise InputError(f"{name} is no slide that can be read: known are {', '.join(SUFFIXES)}.")


def _by_tiles(path, backend):
    """Return a backend whose tiles are read by tifffile where that is possible.

    OpenSlide begins at whole pixels of level 0, where pixels of other levels seldom lie. Then it
    interpolates, which blurs, and takes five times as long.
    """
    if backend.format not in _TILED_TIFF:
        return backend
    try:
        pages = tiff_pages.opened_pages(path)
    except InputError:
        return backend
    if pages["sizes"] != backend.sizes:
        pages["close"]()
        return backend
    backend.close()
    return backend._replace(read=pages["read"], close=pages["close"])


def _openslide(path, name):
    """Return OpenSlide's reader of a file; None for a file that it does not know."""
    # Not above: an optional library.
    try:
        import openslide
    except ImportError as error:
        raise missing_extra("openslide-python", "slides") from error
    try:
        file = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    except openslide.OpenSlideError as error:
        raise InputError(f"{name} is damaged or not whole ({first_line(error)}).") from error
    return openslide_backend(file)


def openslide_backend(file) -> Backend:
    """Return what reads an `openslide.OpenSlide`."""
    properties = file.properties
    steps, all_px = file.level_downsamples, file.level_dimensions
    bounds = [properties.get(f"openslide.bounds-{each}") for each in ("x", "y", "width", "height")]
    if None in bounds:
        x0, y0, sizes = 0, 0, tuple(all_px)
    else:
        x0, y0, *size = map(int, bounds)
        sizes = tuple(tuple(max(int(side / step), 1) for side in size) for step in steps)
    mpp = [image_scale.number(properties.get(f"openslide.mpp-{axis}", "")) for axis in "xy"]
    stated = image_scale.Stated("header", *mpp) if mpp[0] else None
    found, notes = image_scale.chosen(stated, None)
    power = properties.get("openslide.objective-power")
    if power and not found:
        notes.append(f"its objective is {power}×")

    def read(level, x, y, width, height):
        place = (x0 + round(x * steps[level]), y0 + round(y * steps[level]))
        return _on_white(file.read_region(place, level, (width, height)))

    vendor = properties.get("openslide.vendor", "openslide")
    return Backend(sizes, read, file.close, vendor, found, tuple(notes), (x0, y0))


def _on_white(picture):
    """Return an RGBA picture as RGB; where nothing was scanned, it is white."""
    if picture.getchannel("A").getextrema()[0] == 255:
        return np.asarray(picture.convert("RGB"))
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB"))


def _picture(path):
    """Return what reads a PNG or JPEG of up to 50 megapixels, which is decoded whole, once."""
    with image_files.opened(path) as file:
        turned = file.picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
        size = file.picture.size[::-1] if turned else file.picture.size
        mpp, notes, kind = file.mpp, (*file.notes, *file.scale_notes), file.picture.format
    lock = threading.Lock()

    @functools.cache
    def decoded():
        with image_files.opened(path) as file:
            return file.pixels()

    def read(level, x, y, width, height):
        with lock:
            pixels = decoded()
        return np.ascontiguousarray(pixels[y : y + height, x : x + width])

    return Backend((size,), read, lambda: None, kind.lower(), mpp, notes)


def mirrored(indices: np.ndarray, size: int) -> np.ndarray:
    """Return indices mirrored into 0..size - 1, without repeating the outermost pixel.

    As often as needed, since what is read may be larger than a slide or region.
    """
    indices = np.abs(indices) % max(2 * (size - 1), 1)
    return np.where(indices < size, indices, 2 * (size - 1) - indices)
