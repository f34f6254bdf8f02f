"""The remedies with a logistic head on frozen features, which are computed once and kept."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from pcam_tf.data import sampling
from pcam_tf.files import written_whole
from pcam_tf.gan import generated, patches, remedies
from pcam_tf.gan.study_design import POSITIVE, SUBSET_SEED, Ids, Study, digest, file_name
from pcam_tf.training import augmentation, recipes

REMEDIES = remedies.REMEDIES
# Augmented views of each tumour patch, at most, and about as many in all as there are normal ones.
MOST_VIEWS = 40


def predictor(
    study: Study, ids: Ids, generator: generated.Generator | None
) -> Callable[[str, int], dict[str, pd.DataFrame]]:
    """Return a function from a remedy and a seed to the predictions table of each split.

    Args:
        study: with `features`.
        ids: of the training patches of the prevalence.
        generator: that has seen the same, or None.
    """
    pool = _pool(study, ids, generator)

    def predict(remedy, seed):
        head, tables = remedies.fit(remedies.plan(remedy, pool, seed), seed), {}
        for split in study.splits:
            read, features = _real(study, split)
            values = remedies.probabilities(head, features)
            tables[split] = pd.DataFrame(
                {"id": read["id"], "label": read["label"], "probability": values}
            )
        return tables

    return predict


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
    stored = study.folder / "features" / f"train-{digest(ids)[:12]}-{views}.npy"
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


def _real(study, split):
    """Return ids and labels, and features, of all patches of a split."""
    names = study.folder / "features" / f"{file_name(split)}.csv"
    stored = study.folder / "features" / f"{file_name(split)}.npy"
    if not (stored.is_file() and names.is_file()):
        read = patches.read(study.source, split, study.side_px)
        _store(stored, study.features(read.image))
        with written_whole(names) as temporary:
            pd.DataFrame({"id": read.id, "label": read.label}).to_csv(temporary, index=False)
    return pd.read_csv(names, dtype={"id": str}, keep_default_na=False), np.load(stored)


def _store(path, features):
    with written_whole(path) as temporary:
        np.save(temporary, features.astype("float32"))
