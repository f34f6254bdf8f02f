"""A visitor's region in the viewer: at full resolution, under the heat map of the visit."""

import threading

import numpy as np

from pcam_tf.app import findings
from pcam_tf.app.findings import Reader
from pcam_tf.app.results import RegionResult
from pcam_tf.app.viewed import Viewed
from pcam_tf.app.visits import Visits
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.slides import reader as slide_reader
from pcam_tf.slides.grid import Grid
from pcam_tf.slides.reader import Backend, Slide

_ORIENTATION = 274  # the number of a tag of EXIF and TIFF


class RegionViews:
    """The regions of all visits, by their keys, which cannot be guessed."""

    def __init__(self, reader: Reader, visits: Visits):
        self._reader, self._visits = reader, visits
        self._open: dict[str, Viewed] = {}
        self._lock = threading.Lock()

    def find(self, key: str) -> Viewed | None:
        """Return a region as the viewer shows it; None if no visit has it any more."""
        region = self._visits.of_region(key)
        with self._lock:
            self._drop_gone(key)
            if region is None:
                return None
            if key not in self._open:
                self._open[key] = viewed_region(self._reader, region)
            return self._open[key]

    def sweep(self) -> None:
        """Drop the regions that no visit shows any more."""
        with self._lock:
            self._drop_gone(None)

    def close(self) -> None:
        """Drop all regions: the server ends."""
        with self._lock:
            self._open.clear()

    def _drop_gone(self, key):
        # Others may be reading a region: its file is closed after its last reader.
        for gone in self._open.keys() - self._visits.shown_regions() - {key}:
            del self._open[gone]


def viewed_region(reader: Reader, region: RegionResult) -> Viewed:
    """Return a region as the viewer shows it.

    Its pixels are those of the uploaded file where a slide's reader can read that, and otherwise
    those that the model was given.

    Raises:
        InputError: it was deleted meanwhile.
    """
    try:
        slide = _upload(reader, region) or _given(reader, region)
    except FileNotFoundError as error:
        raise InputError("this region is not kept any more: give it again.") from error
    rows, columns = region.probabilities.shape[:2]
    grid = Grid(rows, columns, region.stride_px * reader.task.mpp, slide.mpp)
    return Viewed(
        region.key, region.name, slide, grid, region.probabilities, _raw(reader, region),
        tuple(filter(None, (region.notice, *region.notes))), region.is_drawn,
    )  # fmt: skip


def _upload(reader, region):
    """Return the file of a region as a slide, if it is the same picture."""
    if region.source is None:
        return None
    try:
        slide = slide_reader.open_slide(region.source, region.mpp)
    except InputError:
        return None
    height, width = region.pixels().shape[:2]
    difference = np.subtract(slide.size_at(reader.task.mpp), (width, height))
    if np.abs(difference).max() <= 1 and not _is_changed(slide, region.source):
        return slide
    slide.backend.close()  # another page of the file, say
    return None


def _is_changed(slide, path):
    """Return whether a TIFF is turned, or put on white, where it is read as a picture."""
    if slide.backend.format in ("png", "jpeg"):  # read by the same code
        return False
    try:
        with image_files.opened(path) as file:
            is_turned = file.picture.getexif().get(_ORIENTATION, 1) != 1
            return is_turned or file.picture.has_transparency_data
    except InputError:  # a slide
        return False


def _given(reader, region):
    pixels, mpp = region.pixels(), reader.task.mpp

    def read(level, x, y, width, height):
        return np.ascontiguousarray(pixels[y : y + height, x : x + width])

    backend = Backend((pixels.shape[1::-1],), read, lambda: None, "region", mpp)
    return Slide(region.file, mpp, (), backend)


def _raw(reader, region):
    """Return the model's own probabilities of two classes, float32 (rows, columns), or None."""
    if not reader.task.is_binary:
        return None
    tissue = np.isfinite(region.probabilities[..., 1])
    raw = np.full(tissue.shape, np.nan, "float32")
    cells = region.probabilities[tissue]
    raw[tissue] = findings.uncalibrated(reader, cells, of_cells=True)[:, 0]
    return raw
