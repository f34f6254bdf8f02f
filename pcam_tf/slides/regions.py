"""From a region of a slide to a heat map: probabilities on a grid of cells.

A region is a picture, uint8 (height, width, 3) RGB. A model knows tissue at the scale of its task
only, so a region is rescaled to it first. Each cell of the grid gets the prediction for the patch
around it. For PatchCamelyon a cell of 32 px is the labelled centre of that patch of 96 px.
"""

from collections.abc import Callable

import numpy as np

from pcam_tf import stain
from pcam_tf.data import audit
from pcam_tf.errors import InputError
from pcam_tf.slides import tissue as tissue_rules
from pcam_tf.slides.reader import mirrored
from pcam_tf.task import PCAM, Task

STRIDE_PX = PCAM.centre_px
# Larger regions are looked at in larger steps: two cores read one or two hundred patches a second.
MOST_CELLS = 1800
BATCH_SIZE = 32
_DARK = 25  # grey level
_BLOCK_PX = 8  # saturation is that of means over such blocks, since a lone pixel's is noise


def tissue_mask(region: np.ndarray, stride_px: int = STRIDE_PX) -> np.ndarray:
    """Return which cells of the grid hold tissue, bool (rows, columns).

    By the rule with which PCam chose patches: somewhere in the cell, saturation (of means over
    8×8 px) is at least 0.07, and green is absorbed most, as by haematoxylin and eosin. Glass is
    grey, so it is none; nor are ink, coverslip edges, toolbars of screenshots, the black beyond a
    scan, or a colour that fills a whole cell.
    """
    rows, columns = _grid(region, stride_px)
    height, width = (-(-cells * stride_px // _BLOCK_PX) * _BLOCK_PX for cells in (rows, columns))
    filled = np.pad(
        region, ((0, height - len(region)), (0, width - region.shape[1]), (0, 0)), "edge"
    )
    blocks = filled.reshape(height // _BLOCK_PX, _BLOCK_PX, width // _BLOCK_PX, _BLOCK_PX, 3)
    colours = blocks.mean(axis=(1, 3))
    # In the dark, saturation is a quotient of noise.
    stained = (audit.saturation(colours) >= audit.BLANK_SATURATION) & (colours.max(-1) > _DARK)
    density = stain.optical_density(colours, tissue_rules.USUAL_GLASS)
    stained &= tissue_rules.is_stained(density)
    per_cell = stride_px // _BLOCK_PX
    tissue = stained.reshape(rows, per_cell, columns, per_cell).any(axis=(1, 3))
    cells = filled.reshape(rows, stride_px, columns, stride_px, 3)
    return tissue & (cells.max(axis=(1, 3)) > cells.min(axis=(1, 3))).any(axis=-1)


def has_tissue(patch: np.ndarray) -> bool:
    """Return whether a patch, uint8 (side, side, 3), shows tissue anywhere, see `tissue_mask`."""
    unit = 2 * _BLOCK_PX
    return bool(tissue_mask(patch, -(-max(patch.shape[:2]) // unit) * unit).any())


def _grid(region, stride_px):
    if stride_px % (2 * _BLOCK_PX) or stride_px <= 0:
        raise InputError(f"a step of {stride_px} px: give a multiple of {2 * _BLOCK_PX} px.")
    return -(-len(region) // stride_px), -(-region.shape[1] // stride_px)


def strides_px(task: Task = PCAM) -> tuple[int, ...]:
    """Return the steps from patch to patch that a task allows, in px, the smallest first.

    From the labelled centre, or half a patch where there is none, to a whole patch.
    """
    unit = 2 * _BLOCK_PX
    smallest = task.centre_px or task.side_px // 2
    steps = (int(smallest * factor) // unit * unit for factor in (1, 1.5, 2, 3))
    return tuple(dict.fromkeys(max(step, unit) for step in steps if step <= task.side_px))


def affordable_stride(region: np.ndarray, task: Task = PCAM) -> int:
    """Return the smallest step of `strides_px` whose grid has at most about 1,800 tissue cells.

    That is an answer within about fifteen seconds on two cores. If no step is large enough, the
    largest is returned.
    """
    strides = strides_px(task)
    for stride_px in strides[:-1]:
        if tissue_mask(region, stride_px).sum() <= MOST_CELLS:
            return stride_px
    return strides[-1]


def heat_map(
    predict: Callable[[np.ndarray], np.ndarray],
    region: np.ndarray,
    stride_px: int = STRIDE_PX,
    progress: Callable[[int, int], None] | None = None,
    task: Task = PCAM,
) -> np.ndarray:
    """Return the probability of each cell of a region's grid.

    Args:
        predict: from patches, uint8 (n, side, side, 3) with n up to 32, to probabilities (n,)
            or (n, classes).
        region: uint8 (height, width, 3) at the task's scale, at least as large as a patch.
        stride_px: side of a cell; the step from patch to patch.
        progress: called with the patches done and their total after every batch.
        task: side of a patch.

    Returns:
        float32 (rows, columns) or (rows, columns, classes), cell (i, j) being the square from pixel
        (i, j) · stride_px on; the last row and column may reach beyond the region, which is
        mirrored there. NaN where there is no tissue.

    Raises:
        InputError: an impossible step, a region smaller than a patch, or a prediction that is not
            finite.
    """
    tissue = tissue_mask(region, stride_px)
    found = np.full(tissue.shape, np.nan, "float32")
    places = np.argwhere(tissue)
    for first in range(0, len(places), BATCH_SIZE):
        chosen = places[first : first + BATCH_SIZE]
        patches = np.stack([patch_around(region, *place, stride_px, task) for place in chosen])
        predicted = predict(patches)
        if not np.isfinite(predicted).all():
            # In a heat map NaN means that there is no tissue.
            raise InputError("the model returns no number for a patch with tissue: use another.")
        if first == 0:
            found = np.full((*tissue.shape, *predicted.shape[1:]), np.nan, "float32")
        found[tuple(chosen.T)] = predicted
        if progress:
            progress(first + len(chosen), len(places))
    return found


def patch_around(
    region: np.ndarray, row: int, column: int, stride_px: int = STRIDE_PX, task: Task = PCAM
) -> np.ndarray:
    """Return the patch, uint8 (side, side, 3), in the middle of which a cell of the grid lies.

    Beyond its borders the region is mirrored.

    Raises:
        InputError: the grid has no such cell, or the region is smaller than a patch.
    """
    rows, columns = _grid(region, stride_px)
    if not (0 <= row < rows and 0 <= column < columns):
        raise InputError(f"there is no cell ({row}, {column}) in a grid of {rows}×{columns}.")
    side_px = task.side_px
    if min(region.shape[:2]) < side_px:
        raise InputError(f"a region has at least {side_px}×{side_px} px, not {region.shape}.")
    inside = [
        mirrored(np.arange(side_px) + cell * stride_px + (stride_px - side_px) // 2, side)
        for cell, side in zip((row, column), region.shape[:2], strict=True)
    ]
    return region[np.ix_(*inside)]


def covered_cells(mask: np.ndarray, shape: tuple[int, int], stride_px: int = STRIDE_PX):
    """Return which cells of a region's grid an annotation touches, bool (rows, columns).

    PCam's rule: one pixel of tumour in the cell is enough.

    Args:
        mask: (height, width) of the same field of view as the region, at any scale; 0 is normal.
        shape: (height, width) of the region whose grid it is, in pixels.
        stride_px: side of a cell.
    """
    touched = np.asarray(mask) != 0
    for axis in (0, 1):
        cells = -(-shape[axis] // stride_px)
        edges = np.arange(cells) * stride_px * mask.shape[axis] / shape[axis]
        touched = np.logical_or.reduceat(touched, edges.astype(int), axis=axis)
    return touched
