"""What is called tumour on a heat map: areas, lesion candidates, and their sizes."""

import dataclasses

import numpy as np
import pandas as pd

from pcam_tf.slides import lesions
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.slides.tumour_areas import TumourArea, tumour_areas


@dataclasses.dataclass(frozen=True)
class Findings:
    """What is called tumour on a slide.

    Attributes:
        threshold: the probability from which on a cell is called.
        areas: that hang together, the largest first.
        candidates: see `lesions.candidates`.
        tissue_mm2: area of the cells with tissue.
        tumour_mm2: area of the called cells.
        largest_mm2: of that, in the largest area.
    """

    threshold: float
    areas: list[TumourArea]
    candidates: pd.DataFrame
    tissue_mm2: float
    tumour_mm2: float
    largest_mm2: float


def findings_of(heat: HeatMap, threshold: float) -> Findings:
    """Return what is called tumour on a heat map from a threshold on."""
    areas = tumour_areas(heat.probabilities, threshold)
    cell_mm2 = heat.grid.step_um**2 / 1e6
    return Findings(
        threshold,
        areas,
        lesions.candidates(heat),
        cell_mm2 * int(np.isfinite(heat.probabilities).sum()),
        cell_mm2 * sum(area.cells for area in areas),
        cell_mm2 * max((area.cells for area in areas), default=0),
    )
