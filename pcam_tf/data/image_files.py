"""Pictures from outside: checked by their headers, then read as RGB at the scale of a task.

This is the one way in which the command line, the web page and the import of data read pictures.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pcam_tf.data import image_kinds, image_scale
from pcam_tf.data.image_kinds import LARGEST_PX
from pcam_tf.errors import InputError
from pcam_tf.files import is_pointer, printable
from pcam_tf.task import PCAM, Task

# Pillow opens dozens of formats, and each reader is a way in.
FORMATS = ("PNG", "JPEG", "TIFF")
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

Source = str | Path | bytes


class Picture(NamedTuple):
    """A picture at the scale of a task."""

    pixels: np.ndarray  # uint8 (height, width, 3), RGB
    mpp: float  # microns per pixel that the file was taken to have
    doubts: tuple[str, ...]  # for the user: what is doubtful in the file, what was left out
    is_assumed: bool  # no usable scale was stated or given: taken to have the task's
    change: str = ""  # from which scale to which it was rescaled

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: change and doubts, each a text without a full stop."""
        return (*self.doubts, self.change) if self.change else self.doubts


@dataclasses.dataclass
class Opened:
    """A picture whose header has been checked and whose pixels have not been decoded yet."""

    picture: Image.Image
    mpp: float | None = None  # as the file states
    scale_notes: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    channel_pages: tuple[int, ...] = ()  # pages that are red, green and blue
    stacked: np.ndarray | None = None  # channels that Pillow cannot read

    def pixels(self) -> np.ndarray:
        """Decode: uint8 (height, width, 3), RGB."""
        if self.stacked is not None:
            return self.stacked
        if not self.channel_pages:
            return np.asarray(as_rgb(self.picture))
        channels = []
        for page in self.channel_pages:
            self.picture.seek(page)
            channels.append(np.asarray(ImageOps.exif_transpose(self.picture).convert("L")))
        return np.stack(channels, axis=-1)


def read(
    source: Source, task: Task = PCAM, mpp: float | None = None, name: str | None = None
) -> Picture:
    """Read a picture of up to 50 megapixels and rescale it to the microns per pixel of a task.

    Args:
        source: a PNG, JPEG or TIFF file, or its bytes. Of a TIFF with several pages, the first;
            three grey pages that are said to be channels are joined.
        task: its scale, and the side of a patch, which is the smallest picture.
        mpp: the picture's microns per pixel; None: as the file states, or else the task's.
        name: what to call it in messages; its path if left out.

    Raises:
        InputError: it cannot be read, or is too small or too large at the task's scale.
    """
    name = _name(source, name)
    with opened(source, name) as file:
        used, notes, is_assumed = _used_scale(file, task, mpp)
        scaled_size(file.picture.size, used, name, task)
        pixels = file.pixels()
    found = at_scale(pixels, used, task, name)
    return found._replace(doubts=tuple(notes), is_assumed=is_assumed)


def at_scale(
    pixels: np.ndarray, mpp: float, task: Task = PCAM, name: str = "the picture"
) -> Picture:
    """Return pixels, uint8 (height, width, 3), of a known scale at that of a task.

    Raises:
        InputError: an impossible scale, or a picture that is then too small or too large.
    """
    found = rescaled(pixels, mpp, name, task)
    is_changed = found.shape != pixels.shape
    change = f"rescaled from {mpp:.4g} to {task.mpp:.4g} microns per pixel" if is_changed else ""
    return Picture(found, mpp, (), False, change)


def check(
    source: Source, task: Task = PCAM, mpp: float | None = None, name: str | None = None
) -> None:
    """Refuse by its header what `read` would refuse; damage shows in the pixels only.

    Raises:
        InputError: as `read`.
    """
    name = _name(source, name)
    with opened(source, name) as file:
        scaled_size(file.picture.size, _used_scale(file, task, mpp)[0], name, task)


def _name(source, name):
    return name or ("the picture" if isinstance(source, bytes) else printable(source))


def _used_scale(file, task, mpp):
    """Return the scale that a file is taken to have, notes, and whether it is assumed."""
    if mpp is not None:  # doubts about what the file states are settled
        return mpp, list(file.notes), False
    return file.mpp or task.mpp, [*file.notes, *file.scale_notes], file.mpp is None


@contextlib.contextmanager
def opened(source: Source, name: str | None = None) -> Iterator[Opened]:
    """Yield a picture whose header has been checked and whose pixels have not been decoded yet.

    Whatever the block raises while it decodes becomes an InputError as well.

    Args:
        source: a PNG, JPEG or TIFF file, or its bytes.
        name: what to call it in messages; its path if left out.

    Raises:
        InputError: no such picture, one that is too large to decode, or damaged, or of a kind
            that cannot be read: animated, more than 8 bits a channel, JPEG 2000 and so on.
    """
    name = _name(source, name)
    if not isinstance(source, bytes) and is_pointer(source):
        raise InputError(f"{name} is a Git LFS pointer, not the picture: run `git lfs pull`.")
    with _one_line(name), contextlib.ExitStack() as stack:
        file = stack.enter_context(_file(source))
        kind = image_kinds.file_format(file.read(12))
        if kind is None:
            raise InputError(
                f"{name} is not a picture that can be read (another format): give a PNG, JPEG or "
                "TIFF file."
            )
        _refuse_kind(name, kind if kind not in FORMATS else "")
        header = image_kinds.tiff_header(file) if kind == "TIFF" else None
        if header:
            _refuse_kind(name, header.refused)
            _refuse_size(name, *header.size)
        picture = stack.enter_context(_identified(file, name, kind, header))
        yield _with_facts(picture, name, kind, header)


def _file(source):
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


@contextlib.contextmanager
def _one_line(name):
    """Turn what readers raise into an InputError; what they raise for damage differs by format."""
    try:
        yield
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, "far more") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{name} is not a picture that can be read ({error.strerror}).") from error
    except MemoryError as error:
        raise InputError(f"{name} needs more memory than there is.") from error
    except Exception as error:
        # The readers' messages may contain the path, which a server must not show to visitors.
        raise InputError(
            f"{name} is not a picture that can be read (damaged or cut short): copy or save it "
            "again."
        ) from error


def _identified(file, name, kind, header):
    """Open by Pillow; what has a whole header and is unknown to Pillow is of an odd kind."""
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        if header and header.planes is not None:
            return Image.new("RGB", header.size)
        if header:
            _refuse_kind(name, header.unusual)
        if kind == "JPEG":
            file.seek(0)
            _refuse_kind(name, image_kinds.jpeg_oddity(file.read()))
        raise


def _with_facts(picture, name, kind, header):
    """Check a picture by what Pillow says of it, and return it with its scale and pages."""
    _refuse_size(name, *picture.size)
    if kind == "PNG" and getattr(picture, "is_animated", False):
        raise InputError(f"{name} is animated: save the one picture that is meant.")
    # Pillow calls 48-bit colour RGB as well, and would cut it to 8 bits a channel.
    if picture.mode not in _EIGHT_BIT_MODES or ";16" in str(getattr(picture, "tile", "")):
        _refuse_kind(name, f"mode {picture.mode} or more than 8 bits a channel")
    if header:
        mpp, doubts = image_scale.of_tags(header.tags, header.description)
        return Opened(picture, mpp, doubts, list(header.notes), header.channel_pages, header.planes)
    mpp, doubts = _scale_of_others(picture, kind)
    pages = getattr(picture, "n_frames", 1)
    notes = [f"{pages - 1} of its {pages} pictures left out: the first was read"]
    return Opened(picture, mpp, doubts, notes if pages > 1 else [])


def _scale_of_others(picture, kind):
    """Return the microns per pixel of a PNG or JPEG, or None, and notes."""
    info = picture.info
    if kind == "PNG":
        if "dpi" not in info:
            return None, []
        x, y = info["dpi"]
        return image_scale.of_dots(x, y, image_scale.INCH, f"{x:.6g} dots per inch")
    unit = info.get("jfif_unit")
    if unit in (1, 2):
        x, y = info["jfif_density"]
        microns, word = [(image_scale.INCH, "inch"), (image_scale.CENTIMETRE, "cm")][unit - 1]
        return image_scale.of_dots(x, y, microns, f"{x} dots per {word}")
    # Not `info["dpi"]`: Pillow puts 72 there where EXIF cannot be read.
    tags = picture.getexif()
    return image_scale.of_tags(tags, str(tags.get(image_scale.DESCRIPTION, "")))


def _refuse_kind(name, reason):
    if reason:
        raise InputError(
            f"{name} is of a kind that cannot be read ({reason}): save it as 8-bit RGB."
        )


def _refuse_size(name, width, height):
    if width * height > LARGEST_PX:
        raise _too_large(name, f"{width * height / 1e6:.0f}")


def _too_large(name, megapixels):
    return InputError(
        f"{name} has {megapixels} megapixels: give at most {LARGEST_PX / 1e6:.0f}, such as a part "
        "of the slide."
    )


def as_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, the right way up, on white where it is transparent.

    Grey, palette and CMYK pictures are converted; colour profiles are not looked at.
    """
    picture = ImageOps.exif_transpose(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def scaled_size(
    size: tuple[int, int], mpp: float, name: str = "the picture", task: Task = PCAM
) -> tuple[int, int]:
    """Return the (width, height) that a picture has at a task's microns per pixel.

    Raises:
        InputError: an impossible scale, or a size that is then too small or too large.
    """
    if task.mpp is None:
        raise InputError(
            f"{name} cannot be read: the task {task.name} states no microns per pixel to bring it "
            "to; predict a prepared data directory instead."
        )
    image_scale.check_mpp(mpp)
    width, height = (max(round(side * mpp / task.mpp), 1) for side in size)
    if min(height, width) < task.side_px:
        raise InputError(
            f"{name} is {width}×{height} px at {task.mpp} microns per pixel: at least "
            f"{task.side_px}×{task.side_px} px are needed."
        )
    if height * width > LARGEST_PX:
        raise InputError(
            f"{name} would have {height * width / 1e6:.0f} megapixels at {task.mpp} microns per "
            "pixel: check the number of microns per pixel."
        )
    return width, height


def rescaled(
    pixels: np.ndarray, mpp: float, name: str = "the picture", task: Task = PCAM
) -> np.ndarray:
    """Return a picture at a task's microns per pixel, antialiased, uint8.

    Args:
        pixels: uint8 (height, width, 3).
        mpp: its microns per pixel.
        name: what to call it in a message.
        task: its scale, and the smallest picture.

    Raises:
        InputError: an impossible scale, or a picture that is then too small or too large.
    """
    size = scaled_size(pixels.shape[1::-1], mpp, name, task)
    if size == pixels.shape[1::-1]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
