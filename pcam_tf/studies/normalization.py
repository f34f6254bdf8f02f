"""Does stain normalisation help? A head on frozen features, with it, with augmentation, with both.

The same patches, views and recipe in four conditions. What differs is whether every patch is
normalised to one reference, and whether the stain of the training patches is jittered. Normalised
patches are jittered after it, since the other order would undo the jitter.
`fine_tuned_normalization` asks the same of networks that are trained as a whole.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
import tensorflow_datasets as tfds
import tqdm

from pcam_tf import data, evaluation, files
from pcam_tf.errors import InputError
from pcam_tf.models import classifier, engines
from pcam_tf.stain import layer, normalization
from pcam_tf.studies import robustness
from pcam_tf.training import augmentation, phases, recipes

# Name -> whether patches are normalised, and whether training patches are jittered.
CONDITIONS = {
    "neither": (False, False),
    "augmented": (False, True),
    "normalised": (True, False),
    "both": (True, True),
}
BASELINE = "neither"
# What another laboratory or scanner changes in the colours.
SHIFTS = {
    "haematoxylin gain": (1, 0.6, 1.6),
    "eosin gain": (1, 0.6, 1.6),
    "brightness": (1, 0.7, 1.3),
}
PATCHES = 4000
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)  # C of the logistic regression
_CANDIDATES = 200  # patches that the reference is chosen from
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a study is made with.

    Attributes:
        recipe: of all conditions; its stain strength is set to 0 in those without augmentation. The
            study of frozen features takes its backbone, its augmentation and its `frozen_views`: of
            the views of each training patch the first is the patch itself.
        patches: of training; all, if there are fewer.
        method: of normalisation, a key of `normalization.METHODS`.
        validation: patches of validation, on which penalty or epoch are chosen; all, if there are
            fewer.
    """

    recipe: recipes.Recipe
    patches: int
    method: str = "macenko"
    validation: int = 1500


def study(
    source: tfds.core.DatasetBuilder, run_dir: str | Path, settings: Settings
) -> tuple[np.ndarray, dict[tuple[str, float], dict[str, np.ndarray]]]:
    """Return labels of the test split, and probabilities under each shift in each condition.

    Features are kept in `run_dir`, so that a study that was stopped goes on there.

    Args:
        source: of patches of two classes.
        run_dir: the folder of the study.
        settings: what it is made with.

    Returns:
        Labels (n,), and (shift, level) -> name of the condition -> probabilities (n,).

    Raises:
        InputError: the folder holds a study with other settings, or no patch serves as reference.
    """
    features = _Features(source, Path(run_dir), settings)
    predicted = {(shift, level): {} for shift, levels in SHIFTS.items() for level in levels}
    for name, (is_normalised, is_jittered) in CONDITIONS.items():
        views = range(settings.recipe.frozen_views)
        train = [features.of_training(is_normalised, is_jittered, view) for view in views]
        head = fitted_head(
            np.concatenate(train),
            np.tile(features.labels("train"), len(views)),
            features.of("validation", is_normalised),
            features.labels("validation"),
        )
        for shift, level in predicted:
            shown = features.of("test", is_normalised, shift, level)
            predicted[shift, level][name] = head.predict_proba(shown)[:, 1]
    return features.labels("test"), predicted


class _Features:
    """Features of patches in all conditions, computed once and kept in a folder."""

    def __init__(self, source, folder, settings):
        self._folder, self._settings, self._task = folder, settings, data.task_of(source)
        claim(folder, source, settings)
        slices = slices_of(source, settings)
        self._patches = {name: data.read_patches(source, each) for name, each in slices.items()}
        self._normalise = normaliser(source, settings)

    def labels(self, split):
        return self._patches[split]["label"]

    def of(self, split, is_normalised, shift="", level=1.0):
        """Return features of a split's patches, float32 (n, features), shifted, then normalised."""
        is_changed = shift and level != robustness.UNCHANGED.get(shift, 1)
        name = f"{split}-{'normalised' if is_normalised else 'raw'}"
        change = (lambda each: robustness.shifted(each, shift, level)) if is_changed else _same
        return self._kept(f"{name}-{shift}-{level}" if is_changed else name, split, [
            change, self._normalise if is_normalised else _same
        ])  # fmt: skip

    def of_training(self, is_normalised, is_jittered, view):
        """Return features of a view of the training patches; the first view changes nothing."""
        if view == 0:
            return self.of("train", is_normalised)
        recipe = condition_recipe(self._settings, is_jittered)
        layers = augmentation.layers_of(recipe, seed=recipe.seed + 100 * view)
        name = f"train-{'normalised' if is_normalised else 'raw'}-{'jittered' * is_jittered}-{view}"
        return self._kept(name, "train", [
            self._normalise if is_normalised else _same,
            *(functools.partial(each, training=True) for each in layers),
        ])  # fmt: skip

    def _kept(self, name, split, steps):
        """Return the features of a split's patches after some steps, from the folder if there."""
        file = self._folder / f"features-{name.replace(' ', '-')}.npy"
        if file.is_file():
            return np.load(file).astype("float32")
        patches, found = self._patches[split]["image"], []
        for first in tqdm.trange(0, len(patches), _BATCH, desc=name, unit="batch"):
            batch = patches[first : first + _BATCH]
            for step in steps:
                batch = step(batch)
            found.append(self._network.predict_on_batch(np.asarray(batch, "float32")))
        with files.written_whole(file) as temporary:
            np.save(temporary, np.concatenate(found).astype("float16"))
        return np.concatenate(found).astype("float16").astype("float32")

    @functools.cached_property
    def _network(self):
        return _extractor(self._settings.recipe, self._settings.patches, self._task)


def _extractor(recipe, patches, task):
    """Return the frozen backbone of a recipe, in the way that runs fastest for so many patches."""
    model = phases.build(recipe, task)
    return engines.fastest(classifier.feature_extractor(model), patches)


def _same(patches):
    return patches


def claim(run_dir: Path, source: tfds.core.DatasetBuilder, settings: Settings) -> None:
    """Write what a study is made with, or refuse a folder that holds another study.

    Raises:
        InputError: the folder holds another study, or cannot be written to.
    """
    about = data.described(source) | {"candidates": _CANDIDATES}
    described = about | dataclasses.asdict(settings)

    def completed(stored):
        return {"splits": about["splits"]} | _completed(stored)

    files.claim(run_dir / "settings.json", described, "study", completed)


def _completed(stored):
    """Return settings that an earlier version wrote as this one would."""
    if "views" in stored:
        stored["recipe"]["frozen_views"] = stored.pop("views")
    # A field that a recipe has got since then has its default.
    return stored | {"recipe": dataclasses.asdict(recipes.from_json(stored["recipe"]))}


def slices_of(source: tfds.core.DatasetBuilder, settings: Settings) -> dict[str, str]:
    """Return the slice of each split that a study reads: all of test, as it is read once."""
    wanted = {"train": settings.patches, "validation": settings.validation}
    slices = {
        split: f"{split}[:{min(count, data.count(source, split))}]"
        for split, count in wanted.items()
    }
    return slices | {"test": "test"}


def recipe_of(preset: str) -> recipes.Recipe:
    """Return the recipe of the study of frozen features: a preset, with four views of each patch.

    Raises:
        InputError: there is no such preset.
    """
    return dataclasses.replace(recipes.preset(preset), frozen_views=4)


def condition_recipe(settings: Settings, is_jittered: bool) -> recipes.Recipe:
    """Return the recipe of the conditions with stain augmentation, or of those without it."""
    recipe = settings.recipe
    return recipe if is_jittered else dataclasses.replace(recipe, stain_strength=0.0)


def normaliser(source: tfds.core.DatasetBuilder, settings: Settings) -> layer.StainNormalization:
    """Return what normalises patches to the most usual of the first training patches.

    Raises:
        InputError: all of these are degenerate.
    """
    split = slices_of(source, settings)["train"]
    first = next(data.arrays(data.batches(source, split, batch_size=_CANDIDATES)))
    return layer.StainNormalization(reference_of(first["image"], settings.method))


def reference_of(patches: np.ndarray, method: str) -> normalization.Reference:
    """Return the stain of the patch that is nearest to the median stain of patches.

    Args:
        patches: uint8 (n, side, side, 3).
        method: a key of `normalization.METHODS`.

    Raises:
        InputError: all patches are degenerate.
    """
    stains = []
    for patch in patches:
        with contextlib.suppress(InputError):  # degenerate
            stains.append(normalization.fit(patch, method))
    if not stains:
        raise InputError("none of the patches can serve as reference: they hold too little tissue.")
    numbers = np.stack([
        np.concatenate([np.ravel(each) for each in dataclasses.astuple(one)]) for one in stains
    ])  # fmt: skip
    spread = np.maximum(numbers.std(axis=0), 1e-9)
    away = np.linalg.norm((numbers - np.median(numbers, axis=0)) / spread, axis=1)
    return stains[int(away.argmin())]


def fitted_head(
    features: np.ndarray, labels: np.ndarray, validation: np.ndarray, truth: np.ndarray
) -> sklearn.pipeline.Pipeline:
    """Return a logistic regression on features; its penalty is the best on validation patches."""
    heads = []
    for penalty in PENALTIES:
        head = sklearn.pipeline.make_pipeline(
            sklearn.preprocessing.StandardScaler(),
            sklearn.linear_model.LogisticRegression(C=penalty, max_iter=300),
        )
        heads.append(head.fit(features, labels))
    aucs = [evaluation.auc(truth, head.predict_proba(validation)[:, 1]) for head in heads]
    return heads[int(np.argmax(aucs))]


def summary_rows(labels: np.ndarray, predicted: Mapping) -> list[dict[str, str]]:
    """Return a row of text for each shift and level, and one for the mean of the changed ones.

    Each holds the AUC of the baseline and how much the other conditions gain, with 95 % intervals:
    a bootstrap of the patches, the same resamples for all.

    Args:
        labels: (n,) of 0 and 1.
        predicted: see `study`.
    """
    unchanged, changed = "unchanged", "mean under shift"
    parts = {unchanged: [next(iter(predicted))]}
    for shift, level in predicted:
        if level != robustness.UNCHANGED.get(shift, 1):
            parts[f"{shift} {level}"] = [(shift, level)]
    parts[changed] = [key for each in list(parts)[1:] for key in parts[each]]
    table = pd.DataFrame({"label": labels})

    def gains(rows):
        aucs = {
            key: {name: evaluation.auc(labels[rows], each[rows]) for name, each in by.items()}
            for key, by in predicted.items()
        }
        return {
            (part, name): np.mean([aucs[key][name] - aucs[key][BASELINE] for key in keys])
            for part, keys in parts.items()
            for name in CONDITIONS
        }, aucs

    found, aucs = gains(np.arange(len(labels)))
    samples = [gains(rows)[0] for rows in evaluation.resampled_rows(table, robustness.RESAMPLES)]
    rows = []
    for part, keys in parts.items():
        baseline = np.mean([aucs[key][BASELINE] for key in keys])
        row = {"test patches": part, f"AUC, {BASELINE}": f"{baseline:.3f}"}
        for name in CONDITIONS:
            if name != BASELINE:
                low, high = np.percentile(
                    [each[part, name] for each in samples], evaluation.PERCENTILES
                )
                row[name] = f"{found[part, name]:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append(row)
    return rows
