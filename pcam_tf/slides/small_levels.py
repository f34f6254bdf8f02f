"""A small level for slides that have none: it is averaged once and kept in memory.

The tissue mask, the thumbnail and the viewer look at a whole slide. Where the smallest level of a
file is large, each of them would decode all of it.
"""

import collections
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

_LARGE_PX = 32_000_000  # of a level; what is below is decoded each time
_MOST_PX = 26_000_000  # of the level that is made
_STEP = 8  # at least: it is too coarse for patches
_AT_ONCE_PX = 16_000_000
_MOST_KEPT = 2  # slides

_kept = collections.OrderedDict()
_lock = threading.Lock()

Read = Callable[[int, int, int, int, int], np.ndarray]  # level, x, y, width, height


def with_small_level(
    path: Path, sizes: tuple[tuple[int, int], ...], read: Read
) -> tuple[tuple[tuple[int, int], ...], Read]:
    """Return the sizes of a slide's levels and what reads them, with a small level as the last.

    Args:
        path: of the file.
        sizes: (width, height) of its levels, the largest first.
        read: returns pixels of a level, see `reader.Backend`.
    """
    width, height = sizes[-1]
    if width * height <= _LARGE_PX:
        return sizes, read
    step = _STEP
    while width * height > _MOST_PX * step**2:
        step *= 2
    found, last = path.stat(), len(sizes)
    key = path.resolve(), found.st_size, found.st_mtime_ns

    def read_any(level, x, y, wide, high):
        if level < last:
            return read(level, x, y, wide, high)
        small = _kept_or(key, lambda: _averaged(sizes[-1], step, last - 1, read))
        return np.ascontiguousarray(small[y : y + high, x : x + wide])

    return (*sizes, (-(-width // step), -(-height // step))), read_any


def _kept_or(key, make):
    with _lock:
        if key not in _kept:
            _kept[key] = make()
        _kept.move_to_end(key)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
        return _kept[key]


def _averaged(size, step, level, read):
    """Return a level in squares of a side, averaged, uint8 (height, width, 3)."""
    width, height = size
    rows = max(_AT_ONCE_PX // width // step, 1) * step
    parts = (read(level, 0, top, width, min(rows, height - top)) for top in range(0, height, rows))
    return np.concatenate([np.asarray(Image.fromarray(part).reduce(step)) for part in parts])
