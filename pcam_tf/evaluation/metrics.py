"""Metrics of two classes.

A patch is predicted to be of the second class when its probability is at least the threshold.
Sensitivity is the share of the second class that is found; specificity that of the first.
"""

import numpy as np
import pandas as pd
import sklearn.metrics

from pcam_tf.errors import InputError
from pcam_tf.evaluation import calibration, intervals, predictions_table

# Average precision and curves are sorted anew for each resample, which takes longer.
FEWER_RESAMPLES = 200


def confusion(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the counts (2, 2): rows are the truth, columns the prediction.

    [[first class right, false alarm], [missed, second class right]].
    """
    predicted = np.asarray(probabilities) >= threshold
    return sklearn.metrics.confusion_matrix(labels, predicted.astype(int), labels=[0, 1])


def operating_points(validation: pd.DataFrame) -> dict[str, float]:
    """Choose thresholds on the validation split.

    Returns:
        `youden`: the largest sensitivity + specificity (W. J. Youden, Cancer 3 (1950));
        `sensitivity_95`: the highest threshold with sensitivity of at least 0.95;
        `specificity_95`: the lowest threshold with specificity of at least 0.95.

    Raises:
        InputError: the table is not of two classes.
    """
    refuse_more_classes(validation, "operating points")
    false_positive_rate, sensitivity, thresholds = sklearn.metrics.roc_curve(
        validation["label"], validation["probability"], drop_intermediate=False
    )
    # scikit-learn begins with an infinite threshold, at which nothing is of the second class.
    thresholds = np.minimum(thresholds, np.nextafter(1.0, 2.0))
    chosen = {
        "youden": np.argmax(sensitivity - false_positive_rate),
        "sensitivity_95": np.argmax(sensitivity >= 0.95),
        "specificity_95": np.flatnonzero(false_positive_rate <= 0.05)[-1],
    }
    return {name: float(thresholds[index]) for name, index in chosen.items()}


def refuse_more_classes(predictions: pd.DataFrame, what: str) -> None:
    """Raise an InputError if a table is not of two classes, which `what` needs."""
    if not predictions_table.is_binary(predictions):
        count = len(predictions_table.classes_of(predictions))
        raise InputError(f"{what} need two classes; the table has {count}.")


def overall(predictions: pd.DataFrame) -> dict[str, dict]:
    """Return the metrics that need no threshold.

    Intervals: AUC by DeLong, or by bootstrap where there are groups; average precision by
    bootstrap; the others have none.
    """
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()

    def average_precision(rows):
        # A resample of groups may hold one class only; it then counts for nothing.
        if len(np.unique(labels[rows])) < 2:
            return np.nan
        return sklearn.metrics.average_precision_score(labels[rows], scores[rows])

    sampled = intervals.bootstrap(predictions, average_precision, FEWER_RESAMPLES)
    return {
        "auc": auc_metric(predictions),
        "average_precision": intervals.metric(
            average_precision(slice(None)), intervals.percentile_interval(sampled)
        ),
        "log_loss": intervals.metric(calibration.log_losses(predictions).mean()),
        "brier": intervals.metric(sklearn.metrics.brier_score_loss(labels, scores)),
        "calibration_error": intervals.metric(calibration.error(labels, scores)),
    }


def auc_metric(predictions: pd.DataFrame) -> dict:
    """Return the AUC as a metric: DeLong's interval, or the bootstrap's where there are groups."""
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    value, *interval = intervals.auc_interval(labels, scores)
    if intervals.is_grouped(predictions):
        sampled = intervals.bootstrap(predictions, intervals.auc_by_rows(labels, scores))
        interval = intervals.percentile_interval(sampled)
    return intervals.metric(value, interval)


def at_thresholds(predictions: pd.DataFrame, thresholds: dict[str, float]) -> dict[str, dict]:
    """Return all metrics at each threshold, with Wilson or bootstrap intervals.

    Returns:
        The name of the threshold -> `threshold`, `confusion` (counts) and `metrics`.
    """
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    cells = [2 * labels + (scores >= threshold) for threshold in thresholds.values()]
    matrices = intervals.bootstrap(
        predictions,
        lambda rows: [np.bincount(cell[rows], minlength=4).reshape(2, 2) for cell in cells],
    )
    grouped = intervals.is_grouped(predictions)
    points = {}
    for index, (name, threshold) in enumerate(thresholds.items()):
        matrix = confusion(labels, scores, threshold)
        metrics = _with_intervals(matrix, matrices[:, index], grouped=grouped)
        points[name] = {"threshold": threshold, "confusion": matrix.tolist(), "metrics": metrics}
    return points


def _with_intervals(matrix, sampled, *, grouped):
    """Return the metrics of a confusion matrix; `sampled` are those of resamples (count, 2, 2)."""
    (true_negative, false_positive), (false_negative, true_positive) = matrix.tolist()
    shares = {
        "accuracy": (true_negative + true_positive, int(matrix.sum())),
        "sensitivity": (true_positive, true_positive + false_negative),
        "specificity": (true_negative, true_negative + false_positive),
        "precision": (true_positive, true_positive + false_positive),
    }
    sampled_rates = _rates(sampled)
    metrics = {}
    for name, value in _rates(matrix).items():
        if np.isnan(value):  # precision where no patch is predicted to be of the second class
            metrics[name] = intervals.metric(None)
        elif name in shares and not grouped:
            metrics[name] = intervals.metric(value, intervals.wilson(*shares[name]))
        else:
            interval = intervals.percentile_interval(sampled_rates[name])
            metrics[name] = intervals.metric(value, interval)
    return metrics


def _rates(matrix):
    """Return the metrics of confusion matrices (..., 2, 2); NaN where one is not defined."""
    (true_negative, false_positive), (false_negative, true_positive) = np.moveaxis(
        matrix, (-2, -1), (0, 1)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = true_positive / (true_positive + false_negative)
        specificity = true_negative / (true_negative + false_positive)
        return {
            "accuracy": (true_positive + true_negative) / matrix.sum(axis=(-2, -1)),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": true_positive / (true_positive + false_positive),
            "f1": 2 * true_positive / (2 * true_positive + false_positive + false_negative),
        }


def curves(predictions: pd.DataFrame, resamples: int = FEWER_RESAMPLES) -> dict[str, pd.DataFrame]:
    """Return the ROC and the precision–recall curve with pointwise bootstrap bands.

    For more than two classes, give it a table of `one_against_rest`.

    Returns:
        `roc`: columns false_positive_rate, sensitivity, low, high; `precision_recall`: columns
        recall, precision, low, high; each on a grid of 201 points.

    Raises:
        InputError: the table is not of two classes.
    """
    refuse_more_classes(predictions, "ROC and precision–recall curves")
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    grid = np.linspace(0, 1, 201)

    def curves_of(rows):
        truth, scored = labels[rows], scores[rows]
        if len(np.unique(truth)) < 2:
            return np.full((2, len(grid)), np.nan)
        rate, sensitivity, _ = sklearn.metrics.roc_curve(truth, scored)
        precision, recall, _ = sklearn.metrics.precision_recall_curve(truth, scored)
        return (
            np.interp(grid, rate, sensitivity),
            np.interp(grid, recall[::-1], precision[::-1]),
        )

    sampled = intervals.bootstrap(predictions, curves_of, resamples)
    bands = [intervals.percentile_bands(sampled[:, index]) for index in range(2)]
    names = {
        "roc": ("false_positive_rate", "sensitivity"),
        "precision_recall": ("recall", "precision"),
    }
    return {
        name: pd.DataFrame({x: grid, y: values, "low": low, "high": high})
        for (name, (x, y)), values, (low, high) in zip(
            names.items(), curves_of(slice(None)), bands, strict=True
        )
    }
