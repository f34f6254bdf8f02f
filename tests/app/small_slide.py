"""A small synthetic slide, its true heat map, and a model of which only the settings are used."""

import numpy as np

from pcam_tf.app.findings import Point, Reader
from pcam_tf.slides import grid
from pcam_tf.synthetic import slide_plan
from pcam_tf.task import PCAM

PLAN = slide_plan.plan_slide(640, radii_px=(90, 60))
POINTS = {
    "Balanced": Point(0.4, "rates of one", 0.5),
    "Few false alarms": Point(0.7, "of two", 0.8),
}
MODEL = Reader(None, None, PCAM, "model", 1.0, POINTS)


def heat_of_truth(slide):
    """Return a grid and probabilities by how deep in the tumour a cell lies, (rows, columns, 2)."""
    cells = grid.grid_over(slide.size, slide.mpp, PCAM.centre_px * PCAM.mpp)
    x, y = np.moveaxis(cells.centres_um() / PCAM.mpp, -1, 0)
    depth = np.max([each.depth(y, x) for each in PLAN.islands], axis=0)
    is_tissue = np.max([each.depth(y, x) for each in PLAN.tissue], axis=0) > 0
    heat = np.where(is_tissue, 1 / (1 + np.exp(-depth / 20)), np.nan)
    return cells, np.stack([1 - heat, heat], axis=-1).astype("float32")
