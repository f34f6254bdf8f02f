"""The heat map of a region by what reads slides: field by field, for models made for one pass."""

from collections.abc import Callable

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.slides import regions
from pcam_tf.slides.field_predictors import FieldPredictor
from pcam_tf.slides.reader import mirrored

_AT_ONCE = 2  # fields that are predicted together, one a core


def heat_map(
    predictor: FieldPredictor,
    region: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the probability of each cell of a region's grid, whose step is the predictor's.

    Args:
        predictor: what reads the fields, one or two at a time.
        region: uint8 (height, width, 3) at the task's scale. Beyond its borders it is mirrored.
        progress: called with the cells done and their total.

    Returns:
        As `regions.heat_map`: float32 (rows, columns), of the second class, NaN without tissue.

    Raises:
        InputError: a step that is no step of a region, or a prediction that is not finite.
    """
    tissue = regions.tissue_mask(region, predictor.step_px)
    cells, found = predictor.cells, np.full(tissue.shape, np.nan, "float32")
    padded = np.pad(tissue, [(0, -side % cells) for side in tissue.shape])
    corners = [
        (row, column)
        for row in range(0, tissue.shape[0], cells)
        for column in range(0, tissue.shape[1], cells)
        if padded[row : row + cells, column : column + cells].any()
    ]
    done, total = 0, int(tissue.sum())
    for first in range(0, len(corners), _AT_ONCE):
        part = corners[first : first + _AT_ONCE]
        wanted = np.stack([padded[y : y + cells, x : x + cells] for y, x in part])
        fields = np.stack([_field(region, predictor, *corner) for corner in part])
        for (row, column), values, here in zip(
            part, predictor.predict(fields, wanted), wanted, strict=True
        ):
            if not np.isfinite(values[here]).all():
                raise InputError("the model returns no number for a place with tissue.")
            y, x = np.nonzero(here)
            found[row + y, column + x] = values[here]
        done += int(wanted.sum())
        if progress:
            progress(done, total)
    return found


def _field(region, predictor, row, column):
    """Return the field whose first cell is (row, column)."""
    margin = (predictor.field_px - predictor.cells * predictor.step_px) / 2
    starts = (int(np.ceil(cell * predictor.step_px - margin - 0.5)) for cell in (row, column))
    sides = [
        mirrored(np.arange(start, start + predictor.field_px), size)
        for start, size in zip(starts, region.shape[:2], strict=True)
    ]
    return region[np.ix_(*sides)]
