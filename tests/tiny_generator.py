"""A generator small enough for tests, and patches for it; as a program: tiny_generator.py DIR."""

import logging
import sys
from pathlib import Path

import numpy as np

from pcam_tf import synthetic
from pcam_tf.gan import patches, recipes, training
from pcam_tf.task import PCAM

RECIPE = recipes.Recipe(
    side_px=32, overall=8, width=4, batch_size=8, kimg=0.096, check_kimg=0.024, seed=3
)


def features(images):
    """Return crude features of patches: means of 8 × 8 px, (n, features)."""
    means = images.reshape(len(images), 4, 8, 4, 8, 3).mean(axis=(2, 4))
    return means.reshape(len(images), -1) / 255


def drawn(count=64, split="train"):
    """Return the centres of drawn patches."""
    found = synthetic.draw_patches(count, split=split)
    ids = np.array([f"{split}_{number}" for number in range(count)])
    return patches.Patches(ids, patches.centre(found.image, RECIPE.side_px).copy(), found.label)


def run_in(folder, recipe=RECIPE, read=None):
    """Return the run of a recipe in a folder."""
    return training.Run(recipe, PCAM, drawn() if read is None else read, Path(folder), features)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    training.train(run_in(sys.argv[1]))
