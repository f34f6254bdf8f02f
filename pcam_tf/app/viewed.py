"""What the viewer shows: a slide or region, its heat map, and one place of it closely."""

import dataclasses

import numpy as np
from PIL import Image

from pcam_tf.app import findings, overlays
from pcam_tf.app.findings import Reader
from pcam_tf.errors import InputError
from pcam_tf.figures import style
from pcam_tf.slides.grid import Grid
from pcam_tf.slides.reader import Slide


@dataclasses.dataclass(frozen=True, eq=False)
class Viewed:
    """A slide in the viewer.

    Attributes:
        key: by which the browser asks for it.
        name: that is shown.
        slide: an open one.
        grid: of the heat map; None while there is none.
        probabilities: float32 (rows, columns, classes), calibrated; NaN where there is no tissue.
        raw: of two classes the second's before calibration, float32 (rows, columns), where known.
        notes: what the reviewer should know.
        is_drawn: whether it is a synthetic example, which need not be like the training data.
    """

    key: str
    name: str
    slide: Slide
    grid: Grid | None = None
    probabilities: np.ndarray | None = None
    raw: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    is_drawn: bool = False

    def heat(self, index: int) -> np.ndarray:
        """Return the heat map of a class, float32 (rows, columns).

        Raises:
            InputError: there is no heat map, or no such class.
        """
        if self.probabilities is None:
            raise InputError(f"{self.name} has not been read yet.")
        if not 0 <= index < self.probabilities.shape[-1]:
            raise InputError(f"there is no class {index}.")
        return self.probabilities[..., index]


def patch_at(viewed: Viewed, reader: Reader, row: int, column: int) -> np.ndarray:
    """Return the patch in the middle of which a cell lies, uint8 (side, side, 3).

    Raises:
        InputError: there is no such cell, no tissue in it, or the file is damaged there.
    """
    heat = viewed.heat(0)
    if not (0 <= row < heat.shape[0] and 0 <= column < heat.shape[1]):
        raise InputError("there is no such place.")
    if np.isnan(heat[row, column]):
        raise InputError("there is no tissue at this place.")
    task, step_um = reader.task, viewed.grid.step_um
    left, top = (
        round((index + 0.5) * step_um / task.mpp - task.side_px / 2) for index in (column, row)
    )
    return viewed.slide.window(left, top, task.side_px, task.side_px, task.mpp)


def place(viewed: Viewed, reader: Reader, row: int, column: int, index: int) -> dict:
    """Return what the panel shows of a cell: the heat map's own probability, and why.

    Args:
        viewed: the slide.
        reader: the model of its heat map.
        row, column: of the cell.
        index: of the class that is explained.

    Raises:
        InputError: see `patch_at`.
    """
    patch = patch_at(viewed, reader, row, column)
    probabilities = viewed.probabilities[row, column]
    overlay, legend = None, "There are no explanations of this model."
    name = reader.task.classes[index]
    if reader.method is not None:
        signed = findings.explanation(reader, patch, index)
        overlay = overlays.saliency(signed, supports=style.TUMOUR, opposes=style.NORMAL)
        legend = f"Orange supports {name}, blue opposes it, relative to this patch."
    x_um, y_um = viewed.grid.centres_um()[row, column]
    return {
        "row": row,
        "column": column,
        "x_um": float(x_um),
        "y_um": float(y_um),
        "probabilities": [float(each) for each in probabilities],
        "words": findings.likelihood(float(probabilities[index]), name),
        "notice": "" if viewed.is_drawn else findings.novelty_notice(reader, patch[None]),
        "patch": overlays.data_url(Image.fromarray(patch)),
        "explanation": overlay and overlays.data_url(overlay),
        "square": _square(reader.task),
        "legend": legend,
    }


def _square(task):
    """Return where the labelled square begins and how long its sides are, in shares of a patch."""
    if not task.centre_px:
        return None
    return {"start": task.centre.start / task.side_px, "side": task.centre_px / task.side_px}
