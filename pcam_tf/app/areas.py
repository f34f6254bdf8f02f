"""Areas of a heat map from a threshold on: what they are, where, and their outlines.

An area is a group of cells that touch, corners included, and that all have at least the threshold.
"""

import numpy as np
import pandas as pd
from scipy import ndimage

from pcam_tf.slides.grid import Grid
from pcam_tf.slides.tumour_areas import numbered_areas

COLUMNS = (
    "area", "probability", "mean_probability", "area_mm2", "cells", "row", "column",
    "x_um", "y_um", "x_px", "y_px", "width_um", "height_um",
)  # fmt: skip


def areas_above(probabilities: np.ndarray, grid: Grid, threshold: float) -> pd.DataFrame:
    """Return the areas, the one with the highest probability first; of equals the larger one.

    Args:
        probabilities: float32 (rows, columns) of one class; NaN where there is no tissue.
        grid: where the cells lie.
        threshold: from which on a cell belongs to an area.

    Returns:
        A row an area: its number, highest and mean probability, size, and the cell that has the
        highest probability, with its centre in microns and in level-0 pixels; `COLUMNS`.
    """
    labels = numbered_areas(probabilities, threshold)
    count = int(labels.max(initial=0))
    if not count:
        return pd.DataFrame({name: [] for name in COLUMNS})
    numbers = np.arange(1, count + 1)
    places = np.array(ndimage.maximum_position(probabilities, labels, numbers))
    cells = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    sides = np.array([[part.stop - part.start for part in box] for box in boxes]) * grid.step_um
    rows, columns = places.T
    table = pd.DataFrame({
        "probability": probabilities[rows, columns].astype(float),
        "mean_probability": ndimage.mean(probabilities, labels, numbers),
        "area_mm2": cells * (grid.step_um / 1000) ** 2,
        "cells": cells, "row": rows, "column": columns,
        **_centres(grid, rows, columns),
        "width_um": sides[:, 1], "height_um": sides[:, 0],
    })  # fmt: skip
    order = ["probability", "cells", "row", "column"]
    table = table.sort_values(order, ascending=[False, False, True, True], ignore_index=True)
    return table.assign(area=table.index + 1)[list(COLUMNS)]


def _centres(grid, rows, columns):
    um, px = grid.centres_um()[rows, columns], grid.centres_px()[rows, columns]
    return {"x_um": um[:, 0], "y_um": um[:, 1], "x_px": px[:, 0], "y_px": px[:, 1]}


def outlines(probabilities: np.ndarray, grid: Grid, threshold: float) -> np.ndarray:
    """Return the outlines of all areas as straight lines, float64 (n, 4): x0, y0, x1, y1 in µm.

    Each line is as long as it can be. See `areas_above` for the arguments.
    """
    inside = np.pad(probabilities >= threshold, 1).astype(int)
    top = _runs(np.diff(inside, axis=0)[:, 1:-1])
    side = _runs(np.diff(inside, axis=1)[1:-1].T)
    level, first, last = top.T
    across = np.stack([first, level, last, level], axis=1)
    level, first, last = side.T
    down = np.stack([level, first, level, last], axis=1)
    return np.concatenate([across, down]) * grid.step_um


def _runs(edges):
    """Return lines of equal edges that are not 0: their line, first cell and end, int (n, 3)."""
    padded = np.pad(edges, ((0, 0), (1, 1)))
    starts = np.argwhere((padded[:, 1:] != padded[:, :-1]) & (padded[:, 1:] != 0))
    ends = np.argwhere((padded[:, 1:] != padded[:, :-1]) & (padded[:, :-1] != 0))
    return np.column_stack([starts, ends[:, 1]])
