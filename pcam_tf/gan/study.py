"""Do generated patches help against imbalance? All remedies at several prevalences, on one test.

Features of each set of patches are computed once and kept in the folder; predictions tables too. A
study that is killed goes on where it was.
"""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from pcam_tf import data
from pcam_tf.data import sampling
from pcam_tf.errors import InputError
from pcam_tf.evaluation import predictions_table
from pcam_tf.files import write_json, written_whole
from pcam_tf.gan import generated, patches, remedies
from pcam_tf.gan.features import Features
from pcam_tf.prediction import tables as prediction_tables
from pcam_tf.training import augmentation, recipes

log = logging.getLogger(__name__)
PREVALENCES = (0.01, 0.05, 0.2)
SEEDS = (0, 1, 2)
# Augmented views of each tumour patch, at most, and about as many in all as there are normal ones.
MOST_VIEWS = 40
# Which tumour patches there are at a prevalence; a generator has to have seen the same.
SUBSET_SEED = 0
POSITIVE = 1


@dataclasses.dataclass(frozen=True)
class Study:
    """What is asked, of which patches, and where results are kept.

    Attributes:
        source: a prepared source of two classes.
        folder: of the study.
        features: of the centres of patches, from a backbone that has not seen this source.
        side_px: side of the centres that all classifiers see, real and generated alike.
        splits: that are predicted.
    """

    source: tfds.core.DatasetBuilder
    folder: Path
    features: Features
    side_px: int
    splits: tuple[str, ...] = ("validation", "test")


def run(
    study: Study,
    generators: Sequence[generated.Generator] = (),
    prevalences: Sequence[float] = PREVALENCES,
    seeds: Sequence[int] = SEEDS,
) -> dict[str, dict[tuple[float, str, int], pd.DataFrame]]:
    """Train and predict all remedies; what is in the folder is only read.

    Args:
        study: see `Study`.
        generators: each serves the prevalence whose training patches are the ones it has seen; at
            others the remedies by generated patches are left out.
        prevalences: of tumour among the training patches.
        seeds: of heads, orders and choices.

    Returns:
        Split -> (prevalence, remedy, seed) -> predictions table.

    Raises:
        InputError: a generator has seen other patches, or is of another side; see also
            `sampling.ids_at_prevalence`.
    """
    ids = _ids(study, prevalences)
    of_prevalence = _matched(generators, ids, study.side_px)
    write_json(study.folder / "study.json", {
        "splits": list(study.splits),
        "side_px": study.side_px,
        "generators": {f"{each:g}": found.digest for each, found in of_prevalence.items()},
    })  # fmt: skip
    tables = {split: {} for split in study.splits}
    for prevalence in prevalences:
        generator = of_prevalence.get(prevalence)
        names = [name for name in remedies.REMEDIES if generator or name not in remedies.GENERATED]
        pool = None
        for remedy, seed in itertools.product(names, seeds):
            paths = _table_paths(study, prevalence, remedy, seed, generator)
            if not all(path.is_file() for path in paths.values()):
                pool = pool or _pool(study, ids[prevalence], generator)
                _predict(study, remedies.plan(remedy, pool, seed), seed, paths)
                log.info("%g, %s, seed %d", prevalence, remedy, seed)
            for split, path in paths.items():
                found = predictions_table.read_predictions(path)
                tables[split][prevalence, remedy, seed] = found
    return tables


def _ids(study, prevalences):
    """Return prevalence -> the ids of its normal and of its tumour patches."""
    task = data.task_of(study.source)
    if not task.is_binary:
        raise InputError(f"a prevalence is about two classes, and {task.name} has more.")
    names, labels = sampling.ids_and_labels(study.source)
    found = {}
    for prevalence in prevalences:
        rows = sampling.imbalanced_rows(labels, prevalence, SUBSET_SEED)
        found[prevalence] = [names[rows[labels[rows] == label]] for label in (0, POSITIVE)]
    return found


def _matched(generators, ids, side_px):
    """Return prevalence -> the generator that has seen exactly its training patches."""
    digests = {
        _digest(sorted(np.concatenate(found))): prevalence for prevalence, found in ids.items()
    }
    matched = {}
    for generator in generators:
        prevalence = digests.get(generator.training_ids_sha256)
        if prevalence is None:
            raise InputError(
                "a generator has seen other patches than a classifier of this study: train it by "
                f"`gan train --prevalence P --seed {SUBSET_SEED}` on this source."
            )
        if generator.recipe.side_px != side_px:
            raise InputError(
                f"the generator makes {generator.recipe.side_px} px and the study sees {side_px}."
            )
        matched[prevalence] = generator
    return matched


def _table_paths(study, prevalence, remedy, seed, generator):
    """Return the file of the predictions of each split."""
    name = remedy.replace(" + ", "-").replace(", ", "-").replace(" ", "-")
    if remedy in remedies.GENERATED:
        name += f"-{generator.digest[:8]}"
    return {
        split: study.folder / f"predictions-{_safe(split)}-{prevalence:g}-{name}-{seed}.csv"
        for split in study.splits
    }


def _predict(study, planned, seed, paths):
    """Train a head and write its predictions of each split."""
    head = remedies.fit(planned, seed)
    for split, path in paths.items():
        read, features = _real(study, split)
        values = remedies.probabilities(head, features)
        table = pd.DataFrame({"id": read["id"], "label": read["label"], "probability": values})
        prediction_tables.write(table, path)


def _real(study, split):
    """Return ids and labels, and features, of all patches of a split."""
    names = study.folder / "features" / f"{_safe(split)}.csv"
    stored = study.folder / "features" / f"{_safe(split)}.npy"
    if not (stored.is_file() and names.is_file()):
        read = patches.read(study.source, split, study.side_px)
        _store(stored, study.features(read.image))
        with written_whole(names) as temporary:
            pd.DataFrame({"id": read.id, "label": read.label}).to_csv(temporary, index=False)
    return pd.read_csv(names, dtype={"id": str}, keep_default_na=False), np.load(stored)


def _safe(split):
    return split.replace("[", "-").replace("]", "").replace(":", "to")


def _store(path, features):
    with written_whole(path) as temporary:
        np.save(temporary, features.astype("float32"))


def _digest(ids):
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _pool(study, ids, generator):
    """Return the features of all patches that a prevalence may use."""
    normal, tumour = ids
    views = min(MOST_VIEWS, -(-len(normal) // (2 * len(tumour))))
    plain = [_training_features(study, each) for each in ids]
    made = np.zeros((0, plain[0].shape[1]), "float32")
    if generator is not None:
        made = _generated(study, generator, 2 * (len(normal) - len(tumour)))
    return remedies.Pool(
        *plain,
        _training_features(study, normal, views=1),
        _training_features(study, tumour, views=views),
        made,
    )


def _training_features(study, ids, views=0):
    """Return features of patches, (n, features), or of augmented views, (views × n, features)."""
    stored = study.folder / "features" / f"train-{_digest(ids)[:12]}-{views}.npy"
    if not stored.is_file():
        read = patches.read(study.source, sampling.TRAIN, study.side_px, ids)
        layers = augmentation.layers_of(strong_augmentation(study.side_px), seed=SUBSET_SEED)
        parts = [
            study.features(_changed(layers if views else [], read.image[first : first + 256]))
            for _ in range(max(views, 1))
            for first in range(0, len(read), 256)
        ]
        _store(stored, np.concatenate(parts))
    return np.load(stored)


def strong_augmentation(side_px: int) -> recipes.Recipe:
    """Return a recipe with the augmentation of the preset `strong`, for patches of a side."""
    recipe = dataclasses.replace(recipes.preset("strong"), surroundings=0.0)
    # Compression works on blocks of 16 px.
    return recipe if side_px % 16 == 0 else dataclasses.replace(recipe, jpeg_quality=100)


def _changed(layers, images):
    images = images.astype("float32")
    for layer in layers:
        images = layer(images, training=True)
    return np.asarray(images)


def _generated(study, generator, count):
    """Return features of generated tumour patches."""
    stored = study.folder / "features" / f"generated-{generator.digest[:12]}-{count}.npy"
    if not stored.is_file():
        chunks = generated.images(generator, POSITIVE, count, SUBSET_SEED)
        _store(stored, np.concatenate([study.features(each) for each in chunks]))
    return np.load(stored)
