"""The grid of a slide: square cells of one size, from the slide's top left on."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the cells of a heat map lie.

    Cell (row, column) is a square with its top left at (column, row) · step_um. The last row and
    column may reach beyond the slide. The slide begins where `reader.Slide` does: at the bounds
    that the file states.

    Attributes:
        rows: number of cells down.
        columns: number of cells across.
        step_um: side of a cell in microns.
        level0_mpp: microns per pixel of the slide's largest level.
    """

    rows: int
    columns: int
    step_um: float
    level0_mpp: float

    def centres_um(self) -> np.ndarray:
        """Return the centres of the cells, float64 (rows, columns, 2): x and y in microns."""
        x = (np.arange(self.columns) + 0.5) * self.step_um
        y = (np.arange(self.rows) + 0.5) * self.step_um
        return np.stack(np.meshgrid(x, y), axis=-1)

    def centres_px(self) -> np.ndarray:
        """Return the centres of the cells, float64 (rows, columns, 2): x and y in level-0 pixels.

        Pixel 0 reaches from 0 to 1.
        """
        return self.centres_um() / self.level0_mpp


def grid_over(size: tuple[int, int], level0_mpp: float, step_um: float) -> Grid:
    """Return the grid that covers a slide.

    Args:
        size: width and height of level 0.
        level0_mpp: microns per pixel of level 0.
        step_um: side of a cell in microns.
    """
    # A sliver of less than a thousandth of a cell is no cell.
    columns, rows = (max(math.ceil(side * level0_mpp / step_um - 1e-3), 1) for side in size)
    return Grid(rows, columns, step_um, level0_mpp)
