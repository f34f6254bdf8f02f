"""Tumour subtypes by patient: folds that share no case, frozen features, tables of all folds.

A fold is predicted by a classifier that has seen none of its cases. A random split of the fields
("by image") is predicted in the same way, to show how much it flatters.
"""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf import data, synthetic
from pcam_tf.data import breakhis
from pcam_tf.errors import InputError, unknown
from pcam_tf.evaluation import predictions_table
from pcam_tf.files import claim, written_whole
from pcam_tf.models import model_files
from pcam_tf.studies import subtype_folds, subtype_methods
from pcam_tf.studies.subtype_methods import Fields
from pcam_tf.task import BREAKHIS, BREAKHIS_4, BREAKHIS_5, BREAKHIS_MALIGNANT, Task

TASKS = {each.name: each for each in (BREAKHIS, BREAKHIS_5, BREAKHIS_4, BREAKHIS_MALIGNANT)}
# As many folds as the rarest class has cases for: two of eight classes have two.
FOLDS = {BREAKHIS.name: 2, BREAKHIS_5.name: 3, BREAKHIS_4.name: 3, BREAKHIS_MALIGNANT.name: 5}
SEEDS = (0, 1, 2)
SPLITS = {"case": "by case", "image": "random (leaky)"}


def task_of(name: str) -> Task:
    """Return a task of BreakHis by its name.

    Raises:
        InputError: there is none; the message suggests the nearest.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def predictions(
    table: pd.DataFrame,
    probabilities: Sequence[np.ndarray],
    splits: Sequence[subtype_folds.Split],
    described: Task,
) -> pd.DataFrame:
    """Return the predictions table of all splits, with `group`, `magnification` and `fold`.

    Where a field is held out by several splits, the number of the split is put behind its id.
    """
    rows = np.concatenate([held_out for _, held_out in splits])
    fold = np.repeat(range(len(splits)), [len(held_out) for _, held_out in splits])
    values = np.concatenate(probabilities)
    if described.is_binary:
        values = values[:, 1:]
    joined = pd.concat(
        [
            table.loc[rows, ["id", "label"]].reset_index(drop=True),
            pd.DataFrame(values, columns=described.probability_columns),
            table.loc[rows, ["group", "magnification"]].reset_index(drop=True).assign(fold=fold),
        ],
        axis=1,
    )
    if joined["id"].duplicated().any():
        joined["id"] += "@" + joined["fold"].astype(str)
    return joined.iloc[np.argsort(rows, kind="stable")].reset_index(drop=True)


def study(
    described: Task,
    fields: Fields,
    table: pd.DataFrame,
    run_dir: str | Path,
    *,
    names: Sequence[str],
    seeds: Sequence[int] = SEEDS,
    count: int | None = None,
    published: str | Path | None = None,
) -> dict[tuple[str, str, int], pd.DataFrame]:
    """Predict all folds by all methods, by case and at random; what is there is only read.

    Writes `predictions-<method>-<case or image>-<seed>.csv` and `study.json` into `run_dir`.

    Args:
        described: the task.
        fields: (height, width, 3) uint8, of any sizes.
        table: see `load`.
        run_dir: the folder of the study.
        names: keys of `subtype_methods.methods`.
        seeds: of the folds.
        count: number of folds; None for the task's.
        published: splits of others instead, see `subtype_folds.published`; there is then no random
            split, and one seed.

    Returns:
        (method, "case" or "image", seed) -> predictions table of all fields that are held out.

    Raises:
        InputError: `run_dir` holds a study of another kind, or see `subtype_folds`.
    """
    run_dir, known = Path(run_dir), subtype_methods.methods()
    for name in names:
        if name not in known:
            raise unknown("method", name, known)
    count = count or FOLDS.get(described.name, 3)
    given = None if published is None else subtype_folds.published(table, published)
    kind = {"task": described.to_json(), "fields": len(table)}
    source = None if published is None else str(published)
    # Features of the shipped model are kept in the folder.
    model = {"shipped_model": model_files.digest(model_files.SHIPPED_MODEL)}
    content = kind | {"folds": count, "given_folds": source} | model
    # What an earlier version did not note is not compared.
    claim(run_dir / "study.json", content, "study", lambda stored: model | stored)
    found = {}
    for name in names:
        predictor = functools.cache(
            functools.partial(known[name].prepare, fields, run_dir / "features")
        )
        for by, seed in _plan(known[name], seeds, given):
            path = run_dir / f"predictions-{slug(name)}-{by}-{seed}.csv"
            if not path.is_file():
                splits = given or subtype_folds.splits_of(
                    subtype_folds.folds(table, count, seed, by)
                )
                units = (table["group"] if by == "case" else table["id"]).to_numpy()
                labels = table["label"].to_numpy()
                values = [predictor()(labels, units, split, seed) for split in splits]
                with written_whole(path) as temporary:
                    predictions(table, values, splits, described).to_csv(
                        temporary, index=False, float_format="%.6f"
                    )
            found[name, by, seed] = read(path)
    return found


def _plan(method, seeds, given):
    """Return the pairs of split and seed that a method is judged by."""
    if given:
        return [("case", 0)]
    return [("case", seeds[0])] if method.is_slow else itertools.product(SPLITS, seeds)


def slug(name: str) -> str:
    """Return the name of a method as a part of a file name."""
    return name.lower().replace(",", "").replace(" ", "-")


def read(path: str | Path) -> pd.DataFrame:
    """Return a predictions table of the study."""
    table = predictions_table.read_predictions(path)
    return table.astype({"magnification": "int64", "fold": "int64"})


def load(data_dir: str | Path, described: Task) -> tuple[Fields, pd.DataFrame]:
    """Return the fields of a data directory and their table, see `breakhis.read_fields`.

    Raises:
        InputError: a class of the task has no field; or see `breakhis.read_fields`.
    """
    fields, table = breakhis.read_fields(data.open_source(data_dir), described)
    there = set(table["label"])
    missing = [name for label, name in enumerate(described.classes) if label not in there]
    if missing:
        raise InputError(f"{data_dir} holds no field of {', '.join(missing)}: choose another task.")
    return fields, table


def load_or_draw(data_dir: str | Path | None, name: str) -> tuple[Task, Fields, pd.DataFrame]:
    """Return a task of BreakHis with its fields, or without a data directory drawn subtypes."""
    if data_dir:
        described = task_of(name)
        return described, *load(data_dir, described)
    drawn = list(synthetic.subtypes.draw_fields(fields_per_case=4))
    table = pd.DataFrame(drawn).drop(columns="image")
    return synthetic.subtypes.TASK, [field["image"] for field in drawn], table
