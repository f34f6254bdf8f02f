"""Other training sets of the same patches: at another prevalence, with patches of others added."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

from pcam_tf.data import sources
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole

TRAIN = "train"
# What a mixture reads of each patch; a source may hold more.
_FEATURES = ("id", "image", "label")


def imbalanced_rows(labels: np.ndarray, prevalence: float, seed: int) -> np.ndarray:
    """Return the rows of the largest part of a set in which class 1 has the given prevalence.

    All patches of the other class stay if there are enough of class 1, and the reverse. For the
    same seed, the rows of class 1 at a lower prevalence are among those at a higher one.

    Args:
        labels: (n,) of 0 and 1.
        prevalence: share of class 1, above 0 and below 1; kept to the nearest patch.
        seed: of the draw.

    Returns:
        Row numbers, ascending.

    Raises:
        InputError: a class is missing, the prevalence is impossible, or no patch would be left.
    """
    labels = np.asarray(labels)
    if not 0 < prevalence < 1:
        raise InputError(f"the prevalence {prevalence:g} is not between 0 and 1.")
    negative, positive = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    if not (len(negative) and len(positive)):
        raise InputError(
            f"there are {len(negative)} patches of class 0 and {len(positive)} of class 1: a "
            "prevalence needs both."
        )
    wanted = round(len(negative) * prevalence / (1 - prevalence))
    kept = len(negative)
    if wanted > len(positive):
        wanted, kept = len(positive), round(len(positive) * (1 - prevalence) / prevalence)
    if not (wanted and kept):
        raise InputError(
            f"a prevalence of {prevalence:g} leaves no patch of a class: {len(labels)} patches are "
            "too few."
        )
    rng = np.random.default_rng(seed)
    positive, negative = rng.permutation(positive)[:wanted], rng.permutation(negative)[:kept]
    return np.sort(np.concatenate([negative, positive]))


def ids_at_prevalence(source: tfds.core.DatasetBuilder, prevalence: float, seed: int) -> np.ndarray:
    """Return the ids of training patches of a source in which class 1 has the given prevalence.

    Args:
        source: a prepared source of two classes.
        prevalence, seed: see `imbalanced_rows`. The order of patches in the files does not count.

    Returns:
        (n,) text, ascending.

    Raises:
        InputError: more than two classes, or see `imbalanced_rows`.
    """
    described = sources.task_of(source)
    if not described.is_binary:
        raise InputError(f"a prevalence is about two classes, and {described.name} has more.")
    ids, labels = ids_and_labels(source)
    return ids[imbalanced_rows(labels, prevalence, seed)]


def ids_and_labels(source: tfds.core.DatasetBuilder) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all training patches of a source, text, ascending, and their labels."""
    encoded = source.as_dataset(split=TRAIN, decoders={"image": tfds.decode.SkipDecoding()})
    pairs = sorted(
        (patch["id"].decode(), int(patch["label"])) for patch in encoded.as_numpy_iterator()
    )
    ids, labels = map(np.array, zip(*pairs, strict=True))
    return ids, labels


def parse_addition(text: str) -> tuple[str, float]:
    """Return the folder and the weight of a text such as `generated:0.3`.

    Raises:
        InputError: it is not of this form.
    """
    folder, _, weight = text.rpartition(":")
    try:
        if folder:
            return folder, float(weight)
    except ValueError:
        pass
    raise InputError(f"{text!r} is not DIR:WEIGHT: give a folder and a weight, as generated:0.3.")


@dataclasses.dataclass(frozen=True)
class Addition:
    """Patches of another source that join each epoch.

    Attributes:
        source: a prepared source of the same task; patches of its training split are added.
        weight: their share of the training patches, between 0 and 1.
    """

    source: tfds.core.DatasetBuilder
    weight: float


class _Splits(dict):
    """The splits of a mixture: those of its source, but for the training split."""

    def __init__(self, source, train_patches):
        super().__init__(source.info.splits)
        self.whole = source.info.splits
        self[TRAIN] = tfds.core.SplitInfo(name=TRAIN, shard_lengths=[train_patches], num_bytes=0)

    def __missing__(self, name):
        if name.partition("[")[0] == TRAIN:
            raise ValueError("the training patches are a mixture")
        return self.whole[name]


class Mixture:
    """A source whose training patches are some of those of a source, and some of others.

    It takes the place of a TFDS builder in `data.batches` and in a training.
    """

    def __init__(
        self,
        source: tfds.core.DatasetBuilder,
        ids: Sequence[str] | None = None,
        additions: Iterable[Addition] = (),
        seed: int = 0,
    ):
        """Choose the training patches.

        Args:
            source: a prepared source; its other splits stay as they are.
            ids: of the training patches that stay; None for all.
            additions: patches to add. A source with too few is read several times over.
            seed: of the choice among patches that are added.

        Raises:
            InputError: an added source is of another task, or a weight is impossible.
        """
        self.source, self.additions, self.seed = source, list(additions), seed
        self.ids = None if ids is None else sorted(ids)
        self.data_dir = source.data_dir
        own = sources.count(source, TRAIN) if self.ids is None else len(self.ids)
        total = sum(each.weight for each in self.additions)
        for each in self.additions:
            _check_same_task(each.source, source)
            if each.weight <= 0 or total >= 1:
                raise InputError(
                    f"the weights of added patches ({each.weight:g}, in all {total:g}) must be "
                    "above 0 and below 1."
                )
        self._counts = [round(own * each.weight / (1 - total)) for each in self.additions]
        self.info = _Info(source, own + sum(self._counts))

    @property
    def described(self) -> dict:
        """What distinguishes the training patches, as JSON can hold it."""
        digest = hashlib.sha256("\n".join(self.ids or ()).encode()).hexdigest()
        return {
            "training_ids_sha256": digest if self.ids is not None else None,
            "added": [
                [each.source.info.name, _digest_of(each.source), each.weight, count]
                for each, count in zip(self.additions, self._counts, strict=True)
            ],
        }

    def as_dataset(self, split: str, **options) -> tf.data.Dataset:
        """Return a split as TFDS would, patch by patch; `options` are those of TFDS."""
        patches = self.source.as_dataset(split=split, **options).map(_common)
        if split != TRAIN:
            return patches
        if self.ids is not None:
            patches = patches.filter(_is_in(self.ids))
        parts = [patches]
        for number, (each, count) in enumerate(zip(self.additions, self._counts, strict=True)):
            there = sources.count(each.source, TRAIN)
            added = each.source.as_dataset(split=TRAIN, **options).map(_common)
            # Shuffled as a whole: which ones are taken does not depend on the order in the files.
            added = added.shuffle(there, seed=self.seed + number, reshuffle_each_iteration=False)
            parts.append(added.repeat(-(-count // there)).take(count))
        # Mixed throughout, since what reads the first patches alone is to see the whole mixture.
        own = self.info.splits[TRAIN].num_examples - sum(self._counts)
        turns = np.repeat(np.arange(len(parts)), [own, *self._counts])
        turns = np.random.default_rng(self.seed).permutation(turns)
        return tf.data.Dataset.choose_from_datasets(
            parts, tf.data.Dataset.from_tensor_slices(turns)
        )


class _Info:
    """What is read of the description of a TFDS builder."""

    def __init__(self, source, train_patches):
        self.name, self.version = source.info.name, source.info.version
        self.features, self.splits = source.info.features, _Splits(source, train_patches)


def _common(patch):
    return {name: patch[name] for name in _FEATURES}


def _is_in(ids):
    """Return a function that says of a patch whether its id is one of `ids`."""
    keys = tf.constant(list(ids))
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, tf.ones(len(ids), tf.int64)), default_value=0
    )
    return lambda patch: table.lookup(patch["id"]) > 0


def _check_same_task(added, source):
    given, wanted = sources.task_of(added), sources.task_of(source)
    if (given.classes, given.side_px) != (wanted.classes, wanted.side_px):
        raise InputError(
            f"{added.data_dir} holds patches of {given.name}, {given.side_px} px: patches of "
            f"{wanted.name}, {wanted.side_px} px, can be added."
        )


def _digest_of(source):
    """Return a digest of a source's description and files' names and sizes."""
    files = sorted(path for path in Path(source.data_dir).iterdir() if path.is_file())
    text = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_ids(path: str | Path, ids: Iterable[str]) -> None:
    """Write the ids of training patches as CSV, whole or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with written_whole(path) as temporary:
        pd.DataFrame({"id": list(ids)}).to_csv(temporary, index=False)
