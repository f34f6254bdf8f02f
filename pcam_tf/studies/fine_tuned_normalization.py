"""Does stain normalisation help a network that is trained as a whole?

The conditions, the shifts and the table of `normalization`. Here backbone and head are fine-tuned
in each condition, for the same number of steps, from the same weights and on the same patches in
the same order.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from pcam_tf import data, training
from pcam_tf.data import writing
from pcam_tf.files import written_whole
from pcam_tf.models import engines
from pcam_tf.models.engines import Engine
from pcam_tf.studies import normalization, robustness
from pcam_tf.studies.normalization import CONDITIONS, SHIFTS
from pcam_tf.task import Task
from pcam_tf.training import recipes

PATCHES = 10_000
_BATCH = 256


def recipe_of(preset: str) -> recipes.Recipe:
    """Return the recipe of the study: a preset, shortened, with the stain strength of `strong`.

    No condition may end early, so that all take the same steps.

    Raises:
        InputError: there is no such preset.
    """
    epochs = 6
    return dataclasses.replace(
        recipes.preset(preset),
        stain_strength=recipes.preset("strong").stain_strength,
        frozen_epochs=4,
        unfrozen_epochs=epochs,
        patience=epochs,
        test_time_augmentation=False,
    )


def study(
    source: tfds.core.DatasetBuilder, run_dir: str | Path, settings: normalization.Settings
) -> tuple[np.ndarray, dict[tuple[str, float], dict[str, np.ndarray]]]:
    """Return what `normalization.study` does, of networks that are fine-tuned.

    Writes into `run_dir`: the patches as they are and normalised, a run for each condition, and
    `probabilities.csv`. A study that was stopped goes on there.

    Args:
        source: of patches of two classes.
        run_dir: the folder of the study.
        settings: what it is made with.

    Returns:
        Labels (n,) of the test split, and (shift, level) -> name of the condition -> probabilities
        (n,) of one view.

    Raises:
        InputError: the folder holds a study with other settings, no patch serves as reference, or
            the preset needs real patches and these are synthetic.
    """
    recipes.check_patches(settings.recipe.preset, real=not data.is_synthetic(source))
    run_dir = Path(run_dir)
    normalization.claim(run_dir, source, settings)
    table = run_dir / "probabilities.csv"
    if not table.is_file():
        normalise = normalization.normaliser(source, settings)
        models = _trained(source, run_dir, settings, normalise)
        batches = data.arrays(data.batches(source, "test", batch_size=_BATCH))
        _write(table, *robustness.probabilities_under_shift(models, batches, shifts=SHIFTS))
    return _read(table)


@dataclasses.dataclass(frozen=True)
class _Normalising:
    """A classifier that is given its patches normalised."""

    engine: Engine
    normalise: Callable
    task: Task

    def predict_on_batch(self, patches):
        return self.engine.predict_on_batch(np.asarray(self.normalise(patches)))


def _trained(source, run_dir, settings, normalise):
    """Return the classifier of each condition; it takes patches as they are."""
    task, models = data.task_of(source), {}
    for number, (name, (is_normalised, is_jittered)) in enumerate(CONDITIONS.items(), start=1):
        print(f"[{number}/{len(CONDITIONS)}] {name}", flush=True)
        change = normalise if is_normalised else np.asarray
        # Patches as they are get written as well: the order in a source depends on its files.
        kind = "normalised" if is_normalised else "raw"
        patches = _prepared(source, run_dir / "patches" / kind, settings, change)
        recipe = normalization.condition_recipe(settings, is_jittered)
        model = training.train(recipe, patches, run_dir / name)
        engine = engines.fastest(model, sum(map(len, SHIFTS.values())) * data.count(source, "test"))
        models[name] = _Normalising(engine, change, task)
    return models


def _prepared(source, folder, settings, change):
    """Return the source of changed patches in a folder; write it if it is not there."""
    task = data.task_of(source)
    if not writing.is_written(folder, task):
        slices = normalization.slices_of(source, settings)
        splits = {name: writing.changed(source, split, change) for name, split in slices.items()}
        data.write_source(splits, folder, task)
    return data.open_source(folder)


def _write(path, labels, predicted):
    """Write a row for each shift, level and test patch: its label and all probabilities."""
    parts = [
        pd.DataFrame({"shift": shift, "level": level, "label": labels, **by_condition})
        for (shift, level), by_condition in predicted.items()
    ]
    with written_whole(path) as temporary:
        pd.concat(parts).to_csv(temporary, index=False, float_format="%.7g")


def _read(path):
    parts = dict(iter(pd.read_csv(path).groupby(["shift", "level"], sort=False)))
    labels = next(iter(parts.values()))["label"].to_numpy()
    return labels, {
        key: {name: rows[name].to_numpy() for name in CONDITIONS} for key, rows in parts.items()
    }
