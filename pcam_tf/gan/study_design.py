"""What a study of remedies asks, of which patches."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from pcam_tf.gan.features import Features
from pcam_tf.training import recipes

PREVALENCES = (0.01, 0.05, 0.2)
SEEDS = (0, 1, 2)
# Which tumour patches there are at a prevalence; a generator has to have seen the same.
SUBSET_SEED = 0
POSITIVE = 1
UNFINISHED = "unfinished"  # folder of what is trained at the moment


@dataclasses.dataclass(frozen=True)
class Study:
    """What is asked, of which patches, and where results are kept.

    Attributes:
        source: a prepared source of two classes.
        folder: of the study.
        side_px: side of the centres that all classifiers see, real and generated alike.
        features: of the centres of patches, from a backbone that has not seen this source; for
            heads on frozen features.
        recipe: of networks that are trained as a whole, in place of such heads.
        splits: that are predicted.
    """

    source: tfds.core.DatasetBuilder
    folder: Path
    side_px: int
    features: Features | None = None
    recipe: recipes.Recipe | None = None
    splits: tuple[str, ...] = ("validation", "test")


class Ids(NamedTuple):
    """Ids of the training patches of a prevalence, text, by class."""

    normal: np.ndarray
    tumour: np.ndarray


def digest(ids: Iterable[str]) -> str:
    """Return the SHA-256 of ids, which depends on their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def file_name(split: str) -> str:
    """Return the name of a split, or of a slice of one, as part of a file's name."""
    return split.replace("[", "-").replace("]", "").replace(":", "to")
