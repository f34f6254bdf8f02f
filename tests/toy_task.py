"""A task of three classes and 64 px, drawn: nothing of it is PatchCamelyon's."""

import dataclasses

import numpy as np
import tiny_training

from pcam_tf import data, stain
from pcam_tf.task import Task

TASK = Task("shapes", ("discs", "stripes", "squares"), side_px=64, mpp=0.5, group="patient")
SIZES = {"train": 240, "validation": 96, "test": 96}
RECIPE = dataclasses.replace(
    tiny_training.RECIPE,
    preset="shapes",
    crop_px=None,
    class_weights=True,
    shift_px=2.0,
    frozen_views=1,
    batch_size=16,
    unfrozen_epochs=12,
    unfrozen_learning_rate=1e-2,
    label_smoothing=0.02,
)


def draw(label, rng):
    """Return one patch, uint8 (64, 64, 3): haematoxylin in the shapes of its class, on eosin."""
    rows, columns = np.mgrid[:64, :64] + rng.uniform(0, 16, (2, 1, 1))
    if label == 0:
        marks = np.hypot(rows % 16 - 8, columns % 16 - 8) < 5
    elif label == 1:
        marks = (rows if rng.random() < 0.5 else columns) % 4 < 2
    else:
        marks = np.maximum(np.abs(rows % 32 - 16), np.abs(columns % 32 - 16)) < 12
    haematoxylin = 0.1 + rng.uniform(0.6, 1.2) * marks + rng.normal(0, 0.05, marks.shape)
    densities = np.stack([haematoxylin, np.full(marks.shape, rng.uniform(0.2, 0.5))], axis=-1)
    return stain.mix(densities, stain.MIXING[:2])


def examples(split):
    """Yield the patches of a split; a patient is a sixth of it."""
    rng = np.random.default_rng(list(SIZES).index(split))
    for number in range(SIZES[split]):
        # Unbalanced: half discs, a quarter of each other class.
        label = (0, 1, 0, 2)[number % 4]
        yield {"id": f"{split}_{number}", "image": draw(label, rng), "label": label}


def write(data_dir):
    """Write the task as a data directory and return its source."""
    return data.write_source({split: examples(split) for split in SIZES}, data_dir, TASK)
