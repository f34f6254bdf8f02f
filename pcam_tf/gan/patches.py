"""The centres of training patches in memory, and in which order a training sees them."""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds

from pcam_tf import data
from pcam_tf.errors import InputError
from pcam_tf.task import Task


@dataclasses.dataclass(frozen=True)
class Patches:
    """Centres of patches, and what is known of them.

    Attributes:
        id: (n,) text.
        image: uint8 (n, side, side, 3).
        label: int64 (n,).
    """

    id: np.ndarray
    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.image)).hexdigest()

    def part(self, rows: np.ndarray) -> "Patches":
        """Return the patches of some rows."""
        return Patches(self.id[rows], self.image[rows], self.label[rows])


def centre(images: np.ndarray, side_px: int) -> np.ndarray:
    """Return the centre of patches (n, height, width, 3) as (n, side_px, side_px, 3)."""
    first = (images.shape[1] - side_px) // 2
    return images[:, first : first + side_px, first : first + side_px]


def padded(images: np.ndarray, side_px: int) -> np.ndarray:
    """Return patches (n, side, side, 3) with a mirrored border, (n, side_px, side_px, 3)."""
    before = (side_px - images.shape[1]) // 2
    after = side_px - images.shape[1] - before
    border = ((0, 0), (before, after), (before, after), (0, 0))
    return np.pad(images, border, mode="symmetric")


def read(
    source: tfds.core.DatasetBuilder, split: str, side_px: int, ids: Iterable[str] | None = None
) -> Patches:
    """Return the centres of the patches of a split, sorted by id.

    Args:
        source: a prepared source.
        split: a split or a slice of it.
        side_px: side of the centre.
        ids: only these patches; None for all.

    Raises:
        InputError: no such split, or an id that is not in it.
    """
    wanted = None if ids is None else list(ids)
    parts = []
    for batch in data.arrays(data.batches(source, split, batch_size=256)):
        rows = slice(None) if wanted is None else np.isin(batch["id"], wanted)
        images = centre(batch["image"][rows], side_px).copy()
        parts.append(Patches(batch["id"][rows], images, batch["label"][rows]))
    names = [field.name for field in dataclasses.fields(Patches)]
    found = Patches(*(np.concatenate([getattr(each, name) for each in parts]) for name in names))
    missing = 0 if wanted is None else len(set(wanted)) - len(found)
    if missing:
        raise InputError(
            f"{missing:,} of {len(set(wanted)):,} patches are not in the {split} split: give the "
            "data directory that they are of."
        )
    # TFDS stores patches by the hash of their id; this order is that of any directory.
    return found.part(np.argsort(found.id, kind="stable"))


def check_classes(patches: Patches, task: Task) -> None:
    """Refuse patches that lack a class: a generator learns each class from its patches.

    Raises:
        InputError: a class is missing.
    """
    for label, name in enumerate(task.classes):
        if not (patches.label == label).any():
            raise InputError(
                f"there is no {name} patch to learn from: a generator needs patches of each class."
            )


class BalancedOrder:
    """Rows of each batch: as many of each class, each class in its own order, anew each round."""

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        self.rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.each, self.seed = batch_size // len(self.rows), seed
        self._orders = {}

    def batch(self, step: int) -> np.ndarray:
        """Return the rows of the batch of a step (from 0), (batch,); it depends on nothing else."""
        return np.concatenate([
            [self._row(number, place) for place in range(step * self.each, (step + 1) * self.each)]
            for number in range(len(self.rows))
        ])  # fmt: skip

    def _row(self, number, place):
        rows = self.rows[number]
        again, index = divmod(place, len(rows))
        if self._orders.get(number, (None,))[0] != again:
            order = np.random.default_rng([self.seed, number, again]).permutation(rows)
            self._orders[number] = (again, order)
        return self._orders[number][1][index]
