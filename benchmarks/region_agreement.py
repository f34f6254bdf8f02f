"""How well a heat map agrees with the annotation of a region: AUC, Dice, distance of boundaries.

    python benchmarks/region_agreement.py REGION MASK [REGION MASK ...] [--model RUN] [--exact]

A model that was made for it reads whole fields in one pass, unless `--exact` or `--eight-views`.

MASK is a picture of the same field of view, 0 where there is no tumour. A cell is tumour when the
annotation touches it. Dice and boundary are at the threshold that has the largest Dice on the
region itself: they say how sharp a heat map is, not whether a threshold is right. There is no
interval, because it would assume that neighbouring cells are independent.
"""

import argparse
import functools

import numpy as np
import scipy.ndimage
from PIL import Image

from pcam_tf import evaluation, prediction, slides
from pcam_tf.data import image_files
from pcam_tf.models import engines, model_files
from pcam_tf.slides import field_predictors, region_fields
from pcam_tf.task import PCAM

STEP_UM = PCAM.centre_px * PCAM.mpp


def main() -> None:
    """Print a line for each region."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", metavar="REGION MASK")
    parser.add_argument("--model", help="a .keras file or a run's folder; default: the shipped one")
    parser.add_argument("--mpp", type=float, help="microns per pixel, instead of what files state")
    parser.add_argument("--exact", action="store_true", help="patch by patch in any case")
    parser.add_argument("--eight-views", action="store_true", help="average the symmetric views")
    arguments = parser.parse_args()
    model = engines.load(arguments.model)
    task = engines.task_of(model)

    def patch_by_patch(region):
        def predict(patches):
            return prediction.probabilities(
                model, patches, test_time_augmentation=arguments.eight_views
            )

        return slides.heat_map(predict, region, task=task)

    heat_map = patch_by_patch
    file = arguments.model or model_files.SHIPPED_MODEL
    if not (arguments.exact or arguments.eight_views) and field_predictors.is_in_one_pass(file):
        heat_map = functools.partial(region_fields.heat_map, field_predictors.one_pass(file))

    for path, mask_path in zip(arguments.pictures[::2], arguments.pictures[1::2], strict=True):
        region, mpp, *_ = image_files.read(path, task, arguments.mpp)
        mask = np.asarray(Image.open(mask_path))
        heat = heat_map(region)
        truth = slides.covered_cells(mask, region.shape[:2])
        tissue = np.isfinite(heat)
        labels, found = truth[tissue].astype(int), heat[tissue]
        auc, _, _ = evaluation.auc_interval(labels, found)
        called = [found[labels == label].mean() for label in (1, 0)]
        dice, threshold = max((dice_of(found >= each, labels), each) for each in np.unique(found))
        away_um = boundary_distance((heat >= threshold) & tissue, truth & tissue) * STEP_UM
        print(
            f"{path}: {mpp} microns per pixel, {heat.shape[0]}×{heat.shape[1]} cells, "
            f"{tissue.mean():.2f} tissue, {labels.mean():.2f} tumour, AUC {auc:.3f}; mean "
            f"probability in tumour {called[0]:.2f}, elsewhere {called[1]:.2f}; from "
            f"{threshold:.2f} on Dice {dice:.2f}, boundary {away_um:.0f} µm away"
        )


def dice_of(called: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * (called & (truth == 1)).sum() / (called.sum() + truth.sum()))


def boundary_distance(called: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance in cells between the boundaries of two masks, both ways.

    The edge of the picture is no boundary. NaN where a mask has none.
    """
    outlines = [
        mask & ~scipy.ndimage.binary_erosion(mask, border_value=1) for mask in (called, truth)
    ]
    if not all(outline.any() for outline in outlines):
        return float("nan")
    away = [scipy.ndimage.distance_transform_edt(~each) for each in outlines]
    return float(np.concatenate([away[1][outlines[0]], away[0][outlines[1]]]).mean())


if __name__ == "__main__":
    main()
