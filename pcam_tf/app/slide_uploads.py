"""A slide file that a visitor gives: told from a picture, tried, and read if it is no larger.

`read` runs in a process of its own (`picture_worker`): what a damaged or wicked file does to the
libraries that read slides must not happen to the server.
"""

import dataclasses
import itertools
from pathlib import Path

from pcam_tf.data import image_files
from pcam_tf.data.image_kinds import LARGEST_PX
from pcam_tf.errors import InputError
from pcam_tf.slides import reader
from pcam_tf.task import Task

# Slides that are one file; of other formats several files belong together.
SUFFIXES = (".svs", ".ndpi", ".scn", ".bif", ".svslide")
_TIFF = (".tif", ".tiff")
_MOST_PAGES = 64  # the largest is among the first
LARGEST_TILE_PX = 16_000_000  # decoded whole, by the server too


class LargeSlide(InputError):
    """A slide of more megapixels than a region may have, which is read as a slide."""

    def __init__(self, name: str, mpp: float):
        super().__init__(f"{name} is a whole slide: give it on the page.")
        self.mpp = mpp  # microns per pixel, stated or given


class UnknownScale(InputError):
    """A slide that states no scale."""


def is_slide(path: Path) -> bool:
    """Return whether a file is read as a slide: by its name, or a TIFF of over 50 megapixels."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix.lower() not in _TIFF:
        return False
    # Not above: only TIFF needs it. Its tags alone are read here, in the server.
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            pages = itertools.islice(file.pages, _MOST_PAGES)
            return any(page.imagewidth * page.imagelength > LARGEST_PX for page in pages)
    except Exception:  # damaged: the reader of pictures says why
        return False


def read(path: Path, task: Task, mpp: float | None, name: str) -> image_files.Picture:
    """Return a slide as a picture at the scale of a task.

    Args:
        path: of the file.
        task: whose scale it is brought to.
        mpp: microns per pixel of its largest level; None: as the file states.
        name: what to call it in messages.

    Raises:
        LargeSlide: it is fine, and has more than 50 megapixels at that scale.
        UnknownScale: it states none, and `mpp` is None.
        InputError: it cannot be read, or is smaller than a patch.
    """
    _check_tiles(path, name)
    with reader.opened(path, mpp or 1.0) as slide:
        used = mpp or slide.backend.mpp
        if used is None:
            raise UnknownScale(
                f"{name} does not state its scale: choose at what magnification it was scanned, "
                'or enter its microns per pixel and press "Read again".'
            )
        slide = dataclasses.replace(slide, mpp=used)
        for level, (width, height) in enumerate(slide.backend.sizes):
            slide.pixels(level, width // 2, height // 2, 1, 1)
        width, height = slide.size_at(task.mpp)
        if width * height > LARGEST_PX:
            slide.thumbnail()
            raise LargeSlide(name, used)
        image_files.scaled_size(slide.size, used, name, task)
        pixels = slide.window(0, 0, width, height, task.mpp)
        return image_files.Picture(pixels, used, () if mpp else slide.backend.notes, False)


def _check_tiles(path, name):
    """Refuse a TIFF with a tile that takes much memory, however small the file is."""
    # Not above: only slides need it.
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            pages = [page for page in file.pages if page.is_tiled]
            largest = max((page.tilewidth * page.tilelength for page in pages), default=0)
    except Exception:  # damaged, or no TIFF: the reader of slides says which
        return
    if largest > LARGEST_TILE_PX:
        raise InputError(
            f"{name} has tiles of {largest / 1e6:.0f} megapixels: save it with smaller ones."
        )
