"""Lesion candidates of a heat map: its peaks, as the table that FROC reads."""

from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf.files import written_whole
from pcam_tf.slides.heat_maps import HeatMap

FILE = "lesions.csv"
APART_UM = 200.0  # between two candidates
LOWEST = 0.05  # probability of a candidate


def candidates(
    heat: HeatMap, *, apart_um: float = APART_UM, lowest: float = LOWEST
) -> pd.DataFrame:
    """Return lesion candidates, the most probable first, by non-maximum suppression.

    The cell with the highest probability is a candidate, and cells nearer to it than `apart_um` are
    none; and so on with the remaining cells. Of equal cells the first of the grid is taken.

    Args:
        heat: the heat map.
        apart_um: least distance of two candidates.
        lowest: least probability of a candidate.

    Returns:
        Columns `confidence`, `x`, `y` (level-0 pixels), `row` and `column` of the cell.
    """
    left = np.nan_to_num(heat.probabilities, nan=-1.0)
    centres = heat.grid.centres_px()
    reach = int(apart_um / heat.grid.step_um)
    away = np.arange(-reach, reach + 1) * heat.grid.step_um
    is_near = np.hypot(away[:, None], away[None]) < apart_um
    found = []
    places = np.argwhere(left >= lowest)
    order = np.argsort(-left[left >= lowest], kind="stable")
    for row, column in places[order]:
        if left[row, column] < 0:  # too near to another
            continue
        found.append((left[row, column], *centres[row, column], row, column))
        top, start = max(row - reach, 0), max(column - reach, 0)
        window = left[top : row + reach + 1, start : column + reach + 1]
        part = is_near[top - row + reach :, start - column + reach :]
        window[part[: window.shape[0], : window.shape[1]]] = -1
    return pd.DataFrame(found, columns=["confidence", "x", "y", "row", "column"])


def write_candidates(path: str | Path, found: pd.DataFrame, size: tuple[int, int]) -> None:
    """Write candidates as `confidence,x,y`, whole level-0 pixels, which `froc` reads.

    Args:
        path: of the file.
        found: see `candidates`.
        size: width and height of the slide; the centre of a last cell may lie beyond it.

    Raises:
        InputError: the file cannot be written.
    """
    table = found[["confidence", "x", "y"]].round({"confidence": 6})
    for name, side in zip("xy", size, strict=True):
        table[name] = np.minimum(table[name].astype(int), side - 1)
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
