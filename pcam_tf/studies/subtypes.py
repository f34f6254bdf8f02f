"""Tumour subtypes by patient: folds that share no case, frozen features, tables of all folds.

A fold is predicted by a classifier that has seen none of its cases. The strength of the
regularisation is chosen within the training folds, by folds that share no case either. A random
split of the fields ("by image") is predicted in the same way, to show how much it flatters.
"""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.linear_model
import sklearn.metrics
import sklearn.model_selection
import threadpoolctl

from pcam_tf import data, synthetic
from pcam_tf.data import breakhis
from pcam_tf.errors import InputError, unknown
from pcam_tf.evaluation import predictions_table
from pcam_tf.files import write_json, written_whole
from pcam_tf.models import classifier, field_models
from pcam_tf.studies import field_features, subtype_folds
from pcam_tf.task import BREAKHIS, BREAKHIS_4, BREAKHIS_5, BREAKHIS_MALIGNANT, Task

TASKS = {each.name: each for each in (BREAKHIS, BREAKHIS_5, BREAKHIS_4, BREAKHIS_MALIGNANT)}
# As many folds as the rarest class has cases for: two of eight classes have two.
FOLDS = {BREAKHIS.name: 2, BREAKHIS_5.name: 3, BREAKHIS_4.name: 3, BREAKHIS_MALIGNANT.name: 5}
SEEDS = (0, 1, 2)
SPLITS = {"case": "by case", "image": "random (leaky)"}
INNER_FOLDS = 3
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
STAIN_STRENGTH, STAIN_VIEWS = 0.35, 1

Fields = Sequence[np.ndarray]


def task_of(name: str) -> Task:
    """Return a task of BreakHis by its name.

    Raises:
        InputError: there is none; the message suggests the nearest.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def methods() -> dict[str, Callable[[Fields], list[np.ndarray]]]:
    """Return the frozen methods: name -> features of fields, of one view or of several.

    A function returns arrays (fields, features); the first is of the fields as they are, the
    others are of fields with jittered stain, for training alone.
    """

    def network(fields, *, shipped, layers=field_models.LAST, views=0):
        source = classifier.load() if shipped else None
        extractor = field_models.field_extractor(source, layers=layers)
        seen = [fields] + [
            field_features.stain_jittered(fields, STAIN_STRENGTH, seed) for seed in range(views)
        ]
        return [field_features.whole_fields(extractor, each) for each in seen]

    blocks = {"layers": field_models.ALL_BLOCKS}
    return {
        "colour and texture": lambda fields: [
            np.stack([field_features.plain_features(field) for field in fields])
        ],
        "ImageNet": functools.partial(network, shipped=False),
        "ImageNet, all blocks": functools.partial(network, shipped=False, **blocks),
        "ImageNet, all blocks, stain augmentation": functools.partial(
            network, shipped=False, views=STAIN_VIEWS, **blocks
        ),
        "PCam model": functools.partial(network, shipped=True),
        "PCam model, all blocks": functools.partial(network, shipped=True, **blocks),
        "PCam model, all blocks, stain augmentation": functools.partial(
            network, shipped=True, views=STAIN_VIEWS, **blocks
        ),
    }


class _Projection:
    """Standardisation, then a rotation onto the axes that the training rows span.

    A rotation changes no penalty of the coefficients' squares, so the fit is the same; with fewer
    rows than features it takes a fraction of the time.
    """

    def __init__(self, features):
        self.mean, self.deviation = features.mean(axis=0), features.std(axis=0)
        self.deviation[self.deviation < 1e-6] = 1.0
        rows = (features - self.mean) / self.deviation
        if rows.shape[1] <= rows.shape[0]:
            self.axes = np.eye(rows.shape[1], dtype=rows.dtype)
            return
        values, vectors = np.linalg.eigh(rows @ rows.T)
        kept = values > 1e-6 * values.max()
        self.axes = rows.T @ (vectors[:, kept] / np.sqrt(values[kept]))

    def __call__(self, features):
        return (features - self.mean) / self.deviation @ self.axes


def _classifier(strength):
    return sklearn.linear_model.LogisticRegression(
        C=strength, class_weight="balanced", max_iter=200, tol=1e-3
    )


def _training(views, labels, rows):
    """Return the projection of the training rows of all views, what they become, and labels."""
    features = np.concatenate([view[rows] for view in views])
    projection = _Projection(features)
    return projection, projection(features), np.tile(labels[rows], len(views))


def fold_probabilities(
    views: Sequence[np.ndarray],
    labels: np.ndarray,
    units: np.ndarray,
    splits: Sequence[subtype_folds.Split],
    seed: int,
) -> tuple[list[np.ndarray], list[float]]:
    """Return the probabilities of the fields that each split holds out, and the strengths.

    Args:
        views: arrays (n, features), the first of the fields as they are; all train.
        labels: (n,) indices of classes.
        units: (n,) what the inner folds may not cut: cases, or the fields themselves.
        splits: rows that train and rows that are held out.
        seed: of the inner folds.

    Returns:
        For each split float64 (held out, classes), and its chosen strength.
    """
    probabilities, chosen = [], []
    # Threads of BLAS wait for each other far longer than these small products take.
    with threadpoolctl.threadpool_limits(1):
        for train, held_out in splits:
            strength = _chosen_strength(views, labels, units, train, seed)
            projection, features, truth = _training(views, labels, train)
            model = _classifier(strength).fit(features, truth)
            found = np.zeros((len(held_out), labels.max() + 1))
            found[:, model.classes_] = model.predict_proba(projection(views[0][held_out]))
            probabilities.append(found)
            chosen.append(strength)
    return probabilities, chosen


def _chosen_strength(views, labels, units, train, seed):
    """Return the strength with the least cross-entropy, classes alike, on inner folds."""
    count = min(INNER_FOLDS, pd.Series(units[train]).groupby(labels[train]).nunique().min())
    if count < 2:  # no second case of a class to choose by
        return STRENGTHS[len(STRENGTHS) // 2]
    splitter = sklearn.model_selection.StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    weights = len(train) / np.bincount(labels[train])[labels[train]]
    losses = np.zeros(len(STRENGTHS))
    for fitted, judged in splitter.split(train, labels[train], units[train]):
        projection, features, truth = _training(views, labels, train[fitted])
        judged_features = projection(views[0][train[judged]])
        for index, strength in enumerate(STRENGTHS):
            model = _classifier(strength).fit(features, truth)
            losses[index] += sklearn.metrics.log_loss(
                labels[train[judged]],
                model.predict_proba(judged_features),
                labels=model.classes_,
                sample_weight=weights[judged],
            )
    return STRENGTHS[int(losses.argmin())]


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
        names: keys of `methods`.
        seeds: of the folds.
        count: number of folds; None for the task's.
        published: splits of others instead, see `subtype_folds.published`; there is then no random
            split, and one seed.

    Returns:
        (method, "case" or "image", seed) -> predictions table of all fields that are held out.

    Raises:
        InputError: `run_dir` holds a study of another kind, or see `subtype_folds`.
    """
    run_dir, known = Path(run_dir), methods()
    for name in names:
        if name not in known:
            raise unknown("method", name, known)
    count = count or FOLDS.get(described.name, INNER_FOLDS)
    given = None if published is None else subtype_folds.published(table, published)
    kind = {"task": described.to_json(), "fields": len(table)}
    source = None if published is None else str(published)
    _check_same_study(run_dir, kind | {"folds": count, "given_folds": source})
    found = {}
    for name in names:
        views = functools.cache(functools.partial(known[name], fields))
        for by, seed in [("case", 0)] if given else itertools.product(SPLITS, seeds):
            path = run_dir / f"predictions-{slug(name)}-{by}-{seed}.csv"
            if not path.is_file():
                fold = None if given else subtype_folds.folds(table, count, seed, by)
                splits = given or subtype_folds.splits_of(fold)
                units = (table["group"] if by == "case" else table["id"]).to_numpy()
                labels = table["label"].to_numpy()
                values, _ = fold_probabilities(views(), labels, units, splits, seed)
                with written_whole(path) as temporary:
                    predictions(table, values, splits, described).to_csv(
                        temporary, index=False, float_format="%.6f"
                    )
            found[name, by, seed] = read(path)
    return found


def slug(name: str) -> str:
    """Return the name of a method as a part of a file name."""
    return name.lower().replace(",", "").replace(" ", "-")


def read(path: str | Path) -> pd.DataFrame:
    """Return a predictions table of the study."""
    table = predictions_table.read_predictions(path)
    return table.astype({"magnification": "int64", "fold": "int64"})


def _check_same_study(run_dir, content):
    path = run_dir / "study.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != content:
        raise InputError(f"{run_dir} holds another study: delete it or name another.")
    write_json(path, content)


def load(data_dir: str | Path, described: Task) -> tuple[Fields, pd.DataFrame]:
    """Return the fields of a data directory and their table, see `breakhis.read_fields`."""
    return breakhis.read_fields(data.open_source(data_dir), described)


def load_or_draw(data_dir: str | Path | None, name: str) -> tuple[Task, Fields, pd.DataFrame]:
    """Return a task of BreakHis with its fields, or without a data directory drawn subtypes."""
    if data_dir:
        described = task_of(name)
        return described, *load(data_dir, described)
    drawn = list(synthetic.subtypes.draw_fields(fields_per_case=4))
    table = pd.DataFrame(drawn).drop(columns="image")
    return synthetic.subtypes.TASK, [field["image"] for field in drawn], table
