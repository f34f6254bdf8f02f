"""Metrics of more than two classes: of all classes together and of each class against the rest.

A patch is predicted to be of its most probable class. A mean over classes ("macro", and balanced
accuracy) is over the classes that have patches; a metric of a class without patches is not defined.
"""

import numpy as np
import pandas as pd

from pcam_tf.evaluation import calibration, intervals, predictions_table


def confusion(predictions: pd.DataFrame) -> np.ndarray:
    """Return the counts (classes, classes): rows are the truth, columns the prediction."""
    count = len(predictions_table.classes_of(predictions))
    return np.bincount(_cells(predictions), minlength=count**2).reshape(count, count)


def _cells(predictions):
    """Return the cell of the flattened confusion matrix that each patch counts in, (n,)."""
    count = len(predictions_table.classes_of(predictions))
    labels = predictions["label"].to_numpy()
    return count * labels + predictions_table.predicted_classes(predictions)


def statistics_by_rows(predictions: pd.DataFrame):
    """Return a function of row numbers, repeated or not, for the bootstrap.

    Returns:
        A function that returns float64 (classes + 1, classes): the confusion matrix, and below it
        the AUC of each class against the rest, NaN where it is not defined.
    """
    cells = _cells(predictions)
    labels = predictions["label"].to_numpy()
    probabilities = predictions_table.probabilities_of(predictions)
    count = probabilities.shape[1]
    aucs = [
        intervals.auc_by_rows((labels == index).astype(int), probabilities[:, index])
        for index in range(count)
    ]

    def statistics(rows):
        matrix = np.bincount(cells[rows], minlength=count**2).reshape(count, count)
        return np.vstack([matrix, [each(rows) for each in aucs]])

    return statistics


def overall_of(statistics: np.ndarray) -> dict[str, np.ndarray]:
    """Return accuracy, balanced accuracy, macro F1 and macro AUC.

    Args:
        statistics: (..., classes + 1, classes) of `statistics_by_rows`.

    Returns:
        The name of the metric -> its values (...).
    """
    matrix = statistics[..., :-1, :]
    of_class = per_class_of(statistics)
    return {
        "accuracy": np.trace(matrix, axis1=-2, axis2=-1) / matrix.sum(axis=(-2, -1)),
        "balanced_accuracy": _mean_of_defined(of_class["sensitivity"]),
        "macro_f1": _mean_of_defined(of_class["f1"]),
        "macro_auc": _mean_of_defined(of_class["auc"]),
    }


def per_class_of(statistics: np.ndarray) -> dict[str, np.ndarray]:
    """Return AUC, sensitivity, precision and F1 of each class against the rest.

    Args:
        statistics: (..., classes + 1, classes) of `statistics_by_rows`.

    Returns:
        The name of the metric -> its values (..., classes), NaN where it is not defined.
    """
    matrix, aucs = statistics[..., :-1, :], statistics[..., -1, :]
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    truth, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "auc": aucs,
            "sensitivity": right / truth,
            "precision": right / predicted,
            "f1": 2 * right / (truth + predicted),
        }
    return {name: np.where(truth > 0, value, np.nan) for name, value in values.items()}


def _mean_of_defined(values):
    """Return the mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1)


def report(predictions: pd.DataFrame) -> dict:
    """Return the part of a report that needs no validation table.

    Returns:
        `metrics` (accuracy, balanced_accuracy, macro_f1, macro_auc, log_loss, brier,
        calibration_error), `per_class` (class -> auc, sensitivity, precision, f1) and `confusion`
        (counts, rows are the truth). Intervals are by bootstrap of groups where there are any.
        Without groups those of shares are Wilson's, those of an AUC DeLong's, and the others by
        bootstrap within the classes. `calibration_error` has no interval.
    """
    statistics = statistics_by_rows(predictions)
    losses = calibration.log_losses(predictions)
    squares = calibration.brier_scores(predictions)
    sampled = intervals.bootstrap(predictions, statistics)
    means = intervals.bootstrap(
        predictions, lambda rows: (losses[rows].mean(), squares[rows].mean())
    )
    values = statistics(slice(None))
    metrics = _overall_metrics(predictions, values, sampled) | {
        "log_loss": intervals.metric(losses.mean(), intervals.percentile_interval(means[:, 0])),
        "brier": intervals.metric(squares.mean(), intervals.percentile_interval(means[:, 1])),
        "calibration_error": intervals.metric(
            calibration.error(*calibration.outcomes_and_probabilities(predictions))
        ),
    }
    return {
        "metrics": metrics,
        "per_class": _class_metrics(predictions, values, sampled),
        "confusion": values[:-1].astype(int).tolist(),
    }


def _overall_metrics(predictions, values, sampled):
    sampled_metrics = overall_of(sampled)
    metrics = {
        name: intervals.metric(value, intervals.percentile_interval(sampled_metrics[name]))
        for name, value in overall_of(values).items()
    }
    if not intervals.is_grouped(predictions):
        right = int(np.trace(values[:-1]))
        wilson = intervals.wilson(right, len(predictions))
        metrics["accuracy"] = intervals.metric(right / len(predictions), wilson)
    return metrics


def _class_metrics(predictions, values, sampled):
    grouped = intervals.is_grouped(predictions)
    sampled_metrics = per_class_of(sampled)
    exact = {} if grouped else _exact_intervals(predictions, values[:-1].astype(int))
    content = {}
    for index, name in enumerate(predictions_table.classes_of(predictions)):
        content[name] = {}
        for key, of_classes in per_class_of(values).items():
            interval = exact.get((name, key))
            if interval is None:
                interval = intervals.percentile_interval(sampled_metrics[key][:, index])
            content[name][key] = intervals.metric(of_classes[index], interval)
    return content


def _exact_intervals(predictions, matrix):
    """Return (class, metric) -> its interval without resampling: Wilson's or DeLong's."""
    exact = {}
    indices = {name: at for at, name in enumerate(predictions_table.classes_of(predictions))}
    for name, table in predictions_table.one_against_rest(predictions).items():
        index = indices[name]
        right, truth, predicted = (
            int(count)
            for count in (matrix[index, index], matrix[index].sum(), matrix[:, index].sum())
        )
        exact[name, "auc"] = intervals.auc_interval(table["label"], table["probability"])[1:]
        exact[name, "sensitivity"] = intervals.wilson(right, truth)
        if predicted:
            exact[name, "precision"] = intervals.wilson(right, predicted)
    return exact


def macro_auc(predictions: pd.DataFrame) -> dict:
    """Return the mean one-against-rest AUC as a metric with its bootstrap interval."""
    statistics = statistics_by_rows(predictions)
    sampled = intervals.bootstrap(predictions, statistics)
    value = overall_of(statistics(slice(None)))["macro_auc"]
    interval = intervals.percentile_interval(overall_of(sampled)["macro_auc"])
    return intervals.metric(value, interval)
