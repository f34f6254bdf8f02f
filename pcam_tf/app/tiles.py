"""Tiles of a slide for the viewer: JPEG at every zoom, drawn from the file and kept in memory.

Level 0 is the slide in one tile, each further level doubles the scale, and level `full_level` is
the slide at full resolution. A few levels beyond it are enlarged.
"""

import collections
import io
import math
import threading

import numpy as np
from PIL import Image

from pcam_tf.errors import InputError
from pcam_tf.slides import reader

TILE_PX = 512  # side of a tile
ENLARGED_LEVELS = 3  # beyond full resolution, for pixels to be seen
KEPT_BYTES = 100_000_000  # of JPEG, some 2,000 tiles
_QUALITY = 88


def full_level(slide: reader.Slide) -> int:
    """Return the level at which a slide has its full resolution."""
    return max(math.ceil(math.log2(max(slide.size) / TILE_PX)), 0)


class TileCache:
    """The tiles of all open slides that were asked for last; any thread may ask."""

    def __init__(self, kept_bytes: int = KEPT_BYTES):
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._kept = collections.OrderedDict()
        self._bytes = 0

    def tile(self, key: str, slide: reader.Slide, level: int, column: int, row: int) -> bytes:
        """Return a tile as a JPEG file of 512×512 px; beyond the slide it is white.

        Args:
            key: of the slide; never that of another one.
            slide: an open one.
            level, column, row: of the tile.

        Raises:
            InputError: there is no such tile, or the file is damaged there.
        """
        return self._kept_or(
            (key, level, column, row), lambda: jpeg(_pixels(slide, level, column, row))
        )

    def overview(self, key: str, slide: reader.Slide, most_px: int) -> bytes:
        """Return the whole slide as a JPEG file, its longer side at most so long."""
        return self._kept_or((key, most_px), lambda: jpeg(slide.thumbnail(most_px)))

    def _kept_or(self, place, draw):
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        content = draw()
        with self._lock:
            if place not in self._kept:
                self._kept[place] = content
                self._bytes += len(content)
            while self._bytes > self._kept_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return content

    def forget(self, key: str) -> None:
        """Drop the tiles of a slide."""
        with self._lock:
            for place in [place for place in self._kept if place[0] == key]:
                self._bytes -= len(self._kept.pop(place))


def exists(slide: reader.Slide, level: int, column: int, row: int) -> bool:
    """Return whether a slide has a tile."""
    deepest = full_level(slide)
    if not 0 <= level <= deepest + ENLARGED_LEVELS:
        return False
    sizes = slide.size_at(slide.mpp * 2.0 ** (deepest - level))
    return all(
        0 <= index * TILE_PX < size for index, size in zip((column, row), sizes, strict=True)
    )


def _pixels(slide, level, column, row):
    """Return a tile, uint8 (512, 512, 3)."""
    if not exists(slide, level, column, row):
        raise InputError(f"there is no tile ({column}, {row}) at level {level}.")
    mpp = slide.mpp * 2.0 ** (full_level(slide) - level)
    left, top = column * TILE_PX, row * TILE_PX
    width, height = (
        min(TILE_PX, whole - first)
        for whole, first in zip(slide.size_at(mpp), (left, top), strict=True)
    )
    pixels = np.full((TILE_PX, TILE_PX, 3), 255, "uint8")
    pixels[:height, :width] = slide.window(left, top, width, height, mpp)
    return pixels


def jpeg(pixels: np.ndarray) -> bytes:
    """Return pixels, uint8 (height, width, 3), as a JPEG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
