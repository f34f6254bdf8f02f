"""Tiles of a slide for the viewer: JPEG at every zoom, drawn from the file and kept in memory.

Levels are those of `reader.Slide.tile`: 0 is one pixel, each further one doubles the scale, and the
deepest is the slide at full resolution.
"""

import collections
import io
import threading

import numpy as np
from PIL import Image

from pcam_tf.slides import reader

KEPT_BYTES = 100_000_000  # of JPEG, some 5,000 tiles
_QUALITY = 88


class TileCache:
    """The tiles of all open slides that were asked for last; any thread may ask."""

    def __init__(self, kept_bytes: int = KEPT_BYTES):
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._kept = collections.OrderedDict()
        self._bytes = 0

    def tile(self, key: str, slide: reader.Slide, level: int, column: int, row: int) -> bytes:
        """Return a tile as a JPEG file of 256×256 px; beyond the slide it is white.

        Args:
            key: of the slide; never that of another one.
            slide: an open one.
            level, column, row: see `reader.Slide.tile`.

        Raises:
            InputError: there is no such tile, or the file is damaged there.
        """
        place = (key, level, column, row)
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        content = jpeg(_filled(slide.tile(level, column, row)))
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


def _filled(pixels):
    """Return the tile of an edge filled up to a whole one."""
    missing = [(0, reader.TILE_PX - side) for side in pixels.shape[:2]]
    if not np.any(missing):
        return pixels
    return np.pad(pixels, (*missing, (0, 0)), constant_values=255)


def jpeg(pixels: np.ndarray) -> bytes:
    """Return pixels, uint8 (height, width, 3), as a JPEG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
