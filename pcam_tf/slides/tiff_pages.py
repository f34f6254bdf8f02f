"""TIFF slides that OpenSlide does not read whole: OME-TIFF with its levels, TIFF without tiles."""

import collections
import contextlib
import logging
import threading
import weakref
from pathlib import Path

import numpy as np

from pcam_tf.data import image_kinds, image_scale
from pcam_tf.errors import InputError, first_line, missing_extra
from pcam_tf.files import printable

_CACHED_BYTES = 64_000_000  # of decoded tiles and strips
_SAMPLES = (1, 3, 4)
# What tifffile says of a file that ends before its last level.
_MISSING = ("invalid page offset", "corrupted")


def is_ome(path: Path) -> bool:
    """Return whether a TIFF file is an OME-TIFF; False for a damaged one."""
    try:
        with _complaints(), _tiff_file(path) as file:
            return bool(file.is_ome)
    except Exception:  # damaged: of any kind
        return False


def _tiff_file(path):
    # Not above: only TIFF files need it.
    import tifffile

    return tifffile.TiffFile(path)


@contextlib.contextmanager
def _complaints():
    """Yield what tifffile says of a file instead of raising, as it says it."""
    said, log, handler = [], logging.getLogger("tifffile"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    before = log.level, log.disabled
    log.addHandler(handler)
    log.propagate = False  # from now on: the user is told in one line
    # Whatever the program around has set: what is not said here would be taken for a whole file.
    log.setLevel(logging.WARNING)
    log.disabled = False
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.disabled = before[1]


def opened_pages(path: Path) -> dict:
    """Return the attributes of a `reader.Backend`, for a TIFF read tile by tile or strip by strip.

    Raises:
        InputError: a damaged file, or one whose pixels are no RGB or grey of 8 bits.
    """
    with _complaints() as said:
        return _opened(path, printable(path), said)


def _opened(path, name, said):
    try:
        file = _tiff_file(path)
    except Exception as error:  # damaged: of any kind
        raise InputError(f"{name} is damaged or not whole ({first_line(error)}).") from error
    try:
        pages = [_page_of(level) for level in file.series[0].levels]
        missing = [each for each in said if any(sign in each for sign in _MISSING)]
        if missing:
            raise ValueError(f"a level is missing: {missing[0].split('> ')[-1]}")
        first = pages[0]
        pages = [page for page in pages if page.dtype == first.dtype]
        _refuse(name, first)
        tags = {tag.code: tag.value for tag in first.tags if tag.code < 400}
        mpp, notes = image_scale.of_tags(tags, str(file.pages[0].description))
    except Exception as error:
        file.close()
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is damaged or not whole ({first_line(error)}).") from error
    sizes = tuple((page.imagewidth, page.imagelength) for page in pages)
    segments = _Segments(file, pages)
    kind = "ome-tiff" if file.is_ome else "tiff"
    return {
        "sizes": sizes,
        "read": segments.window,
        # Also if nobody closes it, as with OpenSlide's.
        "close": weakref.finalize(segments, file.close),
        "format": kind,
        "mpp": mpp,
        "notes": tuple(notes),
        "in_strips": not first.is_tiled,
    }


def _page_of(level):
    page = level.pages[0]
    return page.aspage() if hasattr(page, "aspage") else page


def _refuse(name, page):
    """Refuse pages that cannot be read tile by tile as RGB or grey of 8 bits."""
    reason = ""
    if page.dtype != np.uint8 or page.samplesperpixel not in _SAMPLES:
        reason = f"{page.samplesperpixel} channels of {page.dtype}"
    elif page.samplesperpixel > 1 and page.planarconfig != 1:
        reason = "channels in planes"
    elif not page.is_tiled and page.rowsperstrip * page.imagewidth > image_kinds.LARGEST_PX:
        reason = "all pixels in one strip"
    elif page.photometric not in (0, 1, 2, 6):
        reason = f"colours {page.photometric}"
    if reason:
        raise InputError(
            f"{name} is of a kind that cannot be read ({reason}): save it as tiled 8-bit RGB."
        )
    try:
        page.decode  # noqa: B018 (it raises where the library of a compression is missing)
    except Exception as error:
        raise missing_extra("imagecodecs", "slides") from error


class _Segments:
    """Windows of the pages of a TIFF, from tiles or strips; the last ones are kept decoded."""

    def __init__(self, file, pages):
        self._file, self._pages = file, pages
        self._lock = threading.Lock()
        self._kept = collections.OrderedDict()
        self._bytes = 0

    def window(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a window of a level, uint8 (height, width, 3)."""
        page = self._pages[level]
        rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (
            page.rowsperstrip, page.imagewidth)  # fmt: skip
        across = -(-page.imagewidth // columns)
        found = np.full((height, width, 3), 255, "uint8")
        for row in range(y // rows, -(-(y + height) // rows)):
            for column in range(x // columns, -(-(x + width) // columns)):
                segment = self._segment(level, row * across + column)
                if segment is None:
                    continue
                top, left = row * rows, column * columns
                y0, y1 = max(y, top), min(y + height, top + segment.shape[0])
                x0, x1 = max(x, left), min(x + width, left + segment.shape[1])
                found[y0 - y : y1 - y, x0 - x : x1 - x] = segment[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return found

    def _segment(self, level, index):
        """Return a decoded tile or strip, uint8 (rows, columns, 3); None for one without data."""
        with self._lock:
            if (level, index) in self._kept:
                self._kept.move_to_end((level, index))
                return self._kept[level, index]
            page = self._pages[level]
            if not page.databytecounts[index]:
                return None
            handle = self._file.filehandle
            handle.seek(page.dataoffsets[index])
            data = handle.read(page.databytecounts[index])
        if len(data) < page.databytecounts[index]:
            raise ValueError("it ends too early")
        decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
        if decoded is None:
            return None
        pixels = _rgb(decoded[0], page.photometric)
        with self._lock:
            if (level, index) not in self._kept:
                self._kept[level, index] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > _CACHED_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def _rgb(pixels, photometric):
    """Return decoded pixels (rows, columns, samples) as RGB; transparency is left out."""
    if photometric == 0:  # white is 0
        pixels = 255 - pixels
    return np.ascontiguousarray(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)))
