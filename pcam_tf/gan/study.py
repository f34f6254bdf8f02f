"""Do generated patches help against imbalance? All remedies at several prevalences, on one test.

Predictions tables of each prevalence, remedy and seed are kept in the folder. A study that is
killed goes on where it was.
"""

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pcam_tf import data
from pcam_tf.data import sampling
from pcam_tf.errors import InputError
from pcam_tf.evaluation import predictions_table
from pcam_tf.files import claim
from pcam_tf.gan import fine_tuned_remedies, frozen_remedies, generated, remedies
from pcam_tf.gan.study_design import (
    POSITIVE,
    PREVALENCES,
    SEEDS,
    SUBSET_SEED,
    UNFINISHED,
    Ids,
    Study,
    digest,
    file_name,
)
from pcam_tf.prediction import tables as prediction_tables
from pcam_tf.training import recipes

log = logging.getLogger(__name__)


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
        InputError: a generator has seen other patches, or is of another side; the folder holds
            another study; or see `sampling.ids_at_prevalence`.
    """
    way = fine_tuned_remedies if study.recipe else frozen_remedies
    ids = _ids(study, prevalences)
    of_prevalence = _matched(generators, ids, study.side_px)
    _claim(study)
    tables = {split: {} for split in study.splits}
    for prevalence in prevalences:
        generator = of_prevalence.get(prevalence)
        names = [name for name in way.REMEDIES if generator or name not in remedies.GENERATED]
        predict = None
        for remedy, seed in itertools.product(names, seeds):
            paths = _table_paths(study, prevalence, remedy, seed, generator)
            if not all(path.is_file() for path in paths.values()):
                predict = predict or way.predictor(study, ids[prevalence], generator)
                for split, table in predict(remedy, seed).items():
                    prediction_tables.write(table, paths[split])
                shutil.rmtree(study.folder / UNFINISHED, ignore_errors=True)
                log.info("%g, %s, seed %d", prevalence, remedy, seed)
            for split, path in paths.items():
                found = predictions_table.read_predictions(path)
                tables[split][prevalence, remedy, seed] = found
    return tables


def _claim(study):
    """Write what is studied into the folder; refuse one that holds another study."""
    described = {
        "splits": list(study.splits),
        "side_px": study.side_px,
        "recipe": dataclasses.asdict(study.recipe) if study.recipe else None,
        "source": data.described(study.source),
    }

    def completed(stored):  # what an earlier version did not note is not compared
        recipe = stored.get("recipe")  # without one the heads were on frozen features
        recipe = recipe and dataclasses.asdict(recipes.from_json(recipe))
        known = {name: stored[name] for name in described if name in stored}
        return described | known | {"recipe": recipe}

    claim(study.folder / "study.json", described, "study", completed)


def _ids(study, prevalences):
    """Return prevalence -> the ids of its normal and of its tumour patches."""
    task = data.task_of(study.source)
    if not task.is_binary:
        raise InputError(f"a prevalence is about two classes, and {task.name} has more.")
    smallest = task.centre_px or task.side_px
    if not smallest <= study.side_px <= task.side_px:
        raise InputError(
            f"classifiers that see {study.side_px} px do not fit {task.name} patches: choose "
            f"{smallest} to {task.side_px} px."
        )
    names, labels = sampling.ids_and_labels(study.source)
    found = {}
    for prevalence in prevalences:
        rows = sampling.imbalanced_rows(labels, prevalence, SUBSET_SEED)
        found[prevalence] = Ids(*(names[rows[labels[rows] == label]] for label in (0, POSITIVE)))
    return found


def _matched(generators, ids, side_px):
    """Return prevalence -> the generator that has seen exactly its training patches."""
    digests = {
        digest(sorted(np.concatenate(found))): prevalence for prevalence, found in ids.items()
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
        split: study.folder / f"predictions-{file_name(split)}-{prevalence:g}-{name}-{seed}.csv"
        for split in study.splits
    }
