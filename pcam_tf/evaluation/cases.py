"""Evaluation by case: fields of one patient are not independent, so patients are the unit.

A case is a group with one label; a patient with two tumours is two cases that are resampled as one
group. The probabilities of a case are the mean of the log-probabilities of its fields, made to add
up to 1: fields vote with their confidence, and one field cannot decide alone unless it is certain.
Certainty is limited to 1 in a million.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pcam_tf.errors import InputError
from pcam_tf.evaluation import intervals, predictions_table, table_reports

SMALLEST = 1e-6
PERMUTATIONS = 2000
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "top_2")


def case_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions table of cases.

    Args:
        predictions: a checked table of fields with `group`.

    Returns:
        `id` (group and label), `label`, the probabilities, `group`, and `fields` (how many).

    Raises:
        InputError: the table has no groups.
    """
    if "group" not in predictions:
        raise InputError("the table has no column group: cases are not known.")
    columns = predictions_table.probability_columns(predictions)
    binary = predictions_table.is_binary(predictions)
    logs = np.log(np.clip(_all_probabilities(predictions), SMALLEST, 1))
    rows = []
    for (group, label), members in predictions.groupby(["group", "label"]).indices.items():
        mean = np.exp(logs[members].mean(axis=0))
        mean = (mean / mean.sum())[1:] if binary else mean / mean.sum()
        rows.append([f"{group}/{label}", label, *mean, group, len(members)])
    return pd.DataFrame(rows, columns=["id", "label", *columns, "group", "fields"])


def _all_probabilities(predictions):
    """Return the probabilities of all classes, float64 (n, classes), of two classes as well."""
    probabilities = predictions_table.probabilities_of(predictions)
    if probabilities.ndim == 1:
        return np.stack([1 - probabilities, probabilities], axis=1)
    return probabilities


def top_accuracy(predictions: pd.DataFrame, count: int = 2) -> dict:
    """Return how often the true class is among the `count` most probable ones, as a metric.

    The interval is by bootstrap of groups where there are any.
    """
    right = is_among(predictions, count).astype("float64")
    sampled = intervals.bootstrap(predictions, lambda rows: right[rows].mean())
    return intervals.metric(right.mean(), intervals.percentile_interval(sampled))


def is_among(predictions: pd.DataFrame, count: int) -> np.ndarray:
    """Return whether the true class is among the `count` most probable ones, bool (n,)."""
    ranked = np.argsort(-_all_probabilities(predictions), axis=1, kind="stable")[:, :count]
    return (ranked == predictions["label"].to_numpy()[:, None]).any(axis=1)


def report(predictions: pd.DataFrame, classes=None) -> dict:
    """Evaluate fields and cases.

    Returns:
        `fields` and `cases`: reports of `evaluation.report` with `top_2` added for more than two
        classes. All intervals resample groups.
    """
    tables = {"fields": predictions, "cases": case_table(predictions)}
    content = {}
    for name, table in tables.items():
        options = {} if classes is None else {"classes": classes}
        content[name] = table_reports.report(table, **options)
        if not predictions_table.is_binary(table):
            content[name]["metrics"]["top_2"] = top_accuracy(table)
    return content


def accuracy_by_case(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the share of fields predicted right: `group`, `label`, `fields`, `accuracy`."""
    right = predictions_table.predicted_classes(predictions) == predictions["label"].to_numpy()
    by_case = predictions.assign(right=right).groupby(["group", "label"], sort=True)["right"]
    return by_case.agg(fields="size", accuracy="mean").reset_index()


def metrics_by_rows(predictions: pd.DataFrame):
    """Return a function of row numbers, repeated or not, that returns the `METRICS`, float64 (5,).

    Means over classes are over those that the rows hold; `auc` is of the second of two classes, or
    the mean over the classes, each against the rest.
    """
    labels = predictions["label"].to_numpy()
    probabilities = _all_probabilities(predictions)
    count = probabilities.shape[1]
    cells = count * labels + predictions_table.predicted_classes(predictions)
    among = is_among(predictions, 2)
    aucs = [
        intervals.auc_by_rows((labels == index).astype(int), probabilities[:, index])
        for index in range(1 if count == 2 else 0, count)
    ]

    def metrics(rows):
        matrix = np.bincount(cells[rows], minlength=count**2).reshape(count, count)
        right, truth, predicted = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
        there = truth > 0
        f1 = 2 * right[there] / (truth + predicted)[there]
        defined = [value for value in (each(rows) for each in aucs) if not np.isnan(value)]
        return (
            right.sum() / truth.sum(),
            (right[there] / truth[there]).mean(),
            f1.mean(),
            np.mean(defined) if defined else np.nan,
            among[rows].mean(),
        )

    return metrics


def mean_metrics(tables: Sequence[pd.DataFrame]) -> dict[str, dict]:
    """Return the `METRICS`, each the mean over several tables of the same fields or cases.

    Args:
        tables: one for each seed. Intervals resample groups, the same in all tables.
    """
    functions = [metrics_by_rows(table) for table in tables]

    def mean(rows):
        return np.mean([function(rows) for function in functions], axis=0)

    sampled = intervals.bootstrap(tables[0], mean)
    return {
        name: intervals.metric(value, intervals.percentile_interval(sampled[:, index]))
        for index, (name, value) in enumerate(zip(METRICS, mean(slice(None)), strict=True))
    }


def paired_difference(first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame]) -> dict:
    """Compare tables of the same fields by balanced accuracy, with groups as the unit.

    The interval is by paired bootstrap of groups. The p-value is of a permutation test that swaps
    both predictions of all fields of a group or none: under the hypothesis of no difference, each
    group might as well have had the other model's predictions.

    Args:
        first: tables of one model, one for each seed.
        second: tables of another, as many.

    Returns:
        `difference` (a metric: the first's mean minus the second's), `p` and `groups`.

    Raises:
        InputError: the tables hold different fields or labels, or no groups.
    """
    table = first[0]
    if "group" not in table:
        raise InputError("the table has no column group: cases are not known.")
    labels = table["label"].to_numpy()
    for each in (*first, *second):
        if not each[["id", "label"]].equals(table[["id", "label"]]):
            raise InputError("the tables hold different fields: predict the same with both models.")
    one, other = (
        np.stack([predictions_table.predicted_classes(each) for each in tables]) == labels
        for tables in (first, second)
    )
    gain = (one.mean(axis=0) - other.mean(axis=0)).astype("float64")
    classes = np.eye(labels.max() + 1)[labels]

    def difference(rows):
        counts = classes[rows].sum(axis=0)
        return ((gain[rows] @ classes[rows])[counts > 0] / counts[counts > 0]).mean()

    value = difference(slice(None))
    sampled = intervals.bootstrap(table, difference)
    codes = table["group"].astype("category").cat.codes.to_numpy()
    # Swapping a group turns the sign of its part of the difference.
    present = classes.sum(axis=0) > 0
    weights = (classes[:, present] / classes[:, present].sum(axis=0)).mean(axis=1)
    parts = np.bincount(codes, weights=gain * weights)
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (PERMUTATIONS, len(parts)))
    extreme = int((np.abs(signs @ parts) >= abs(value) - 1e-12).sum())
    return {
        "difference": intervals.metric(value, intervals.percentile_interval(sampled)),
        "p": (extreme + 1) / (PERMUTATIONS + 1),
        "groups": len(parts),
    }
