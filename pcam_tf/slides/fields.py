"""A slide field by field: which to read, how, and what is predicted, in a fixed order.

Fields are read while others are predicted, so that memory does not grow with the slide. The unit
of the work is always the same few fields: what is found does not depend on where it was resumed.
"""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.slides.field_predictors import FieldPredictor
from pcam_tf.slides.reader import Slide

_AT_ONCE = 4  # fields that are predicted together
_AHEAD = 1  # units that are read beforehand


class Unit(NamedTuple):
    """Fields that are read, predicted and recorded together."""

    fields: tuple[tuple[int, int], ...]  # (row, column) of each, in fields
    wanted: np.ndarray  # bool (fields, cells, cells)

    @property
    def count(self) -> int:
        """Number of wanted cells."""
        return int(self.wanted.sum())


def units_of(slide: Slide, wanted: np.ndarray, predictor: FieldPredictor) -> list[Unit]:
    """Return the units of a slide, in order.

    Args:
        slide: which is read in strips or in tiles; of strips, a unit holds a whole row of fields.
        wanted: bool (rows, columns), the cells to predict.
        predictor: its size of fields.
    """
    cells = predictor.cells
    padded = np.pad(wanted, [(0, -side % cells) for side in wanted.shape])
    blocks = padded.reshape(
        padded.shape[0] // cells, cells, padded.shape[1] // cells, cells
    ).swapaxes(1, 2)
    places = [tuple(each) for each in np.argwhere(blocks.any(axis=(2, 3))).tolist()]
    if slide.backend.in_strips:
        groups = [tuple(row) for _, row in itertools.groupby(places, lambda place: place[0])]
    else:
        groups = [tuple(group) for group in _batched(places)]
    return [Unit(group, np.stack([blocks[place] for place in group])) for group in groups]


def _batched(items):
    return [items[first : first + _AT_ONCE] for first in range(0, len(items), _AT_ONCE)]


def put(found: np.ndarray, unit: Unit, values: np.ndarray) -> None:
    """Put the probabilities of a unit's wanted cells, (count,), into a slide's (rows, columns)."""
    cells = unit.wanted.shape[1]
    field, row, column = np.nonzero(unit.wanted)
    corners = np.array(unit.fields) * cells
    found[corners[field, 0] + row, corners[field, 1] + column] = values


def predicted(
    slide: Slide, units: Iterable[Unit], predictor: FieldPredictor
) -> Iterator[tuple[Unit, np.ndarray]]:
    """Yield each unit with the probabilities of its wanted cells, float32 (count,).

    Raises:
        InputError: the file is damaged, or the model returns no numbers.
    """
    for unit, windows in _read_ahead(lambda unit: _windows(slide, unit, predictor), units):
        values = [
            predictor.predict(windows[first : first + _AT_ONCE], wanted)[wanted]
            for first, wanted in zip(
                range(0, len(windows), _AT_ONCE), _batched(unit.wanted), strict=True
            )
        ]
        values = np.concatenate(values).astype("float32")
        if not np.isfinite(values).all():
            # In a heat map NaN means that there is no tissue.
            raise InputError("the model returns no number for a patch with tissue: use another.")
        yield unit, values


def _read_ahead(read: Callable[[Unit], np.ndarray], units):
    """Yield units with what `read` returns of them; the next is read meanwhile."""
    pool = concurrent.futures.ThreadPoolExecutor(1, "slide")
    waiting = collections.deque()
    try:
        for unit in units:
            waiting.append((unit, pool.submit(read, unit)))
            if len(waiting) > _AHEAD:
                first, pending = waiting.popleft()
                yield first, pending.result()
        for first, pending in waiting:
            yield first, pending.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _windows(slide, unit, predictor):
    """Return the fields of a unit at the task's scale, uint8 (n, field_px, field_px, 3)."""
    side, mpp = predictor.field_px, predictor.task.mpp
    core = predictor.cells * predictor.step_px
    corners = np.ceil(np.array(unit.fields) * core - (side - core) / 2 - 0.5).astype(int)
    # A last cell of less than half a pixel lies beyond what is there at this scale.
    corners = np.minimum(corners, np.array(slide.size_at(mpp))[::-1] - 1)
    if not slide.backend.in_strips:
        return np.stack([
            slide.window(left, top, side, side, mpp) for top, left in corners.tolist()
        ])  # fmt: skip
    top, first, last = int(corners[0, 0]), int(corners[0, 1]), int(corners[-1, 1])
    band = slide.window(first, top, last - first + side, side, mpp)
    return np.stack([band[:, left - first : left - first + side] for left in corners[:, 1]])
