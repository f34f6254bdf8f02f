"""Calibration: does a probability of 0.8 mean that eight of ten patches are of that class?

With two classes the probability is that of the second class. With more, it is that of the most
probable class, and what is counted is how often that class is the true one.
"""

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special

from pcam_tf.evaluation import intervals, predictions_table

ERROR_BINS = 15
# A probability of exactly 0 or 1 has no finite logarithm of its odds.
_NEAREST = 1e-15


def fit_temperature(validation: pd.DataFrame) -> float:
    """Return the temperature by which to divide a model's logits.

    It minimises the cross-entropy of the predictions table (C. Guo et al., On calibration of
    modern neural networks, ICML 2017). Above 1 the model was overconfident, below 1
    underconfident.
    """
    logits = _logits(validation)
    labels = validation["label"].to_numpy()

    def cross_entropy(log_temperature):
        scaled = logits / np.exp(log_temperature)
        if scaled.ndim == 1:
            return np.mean(np.logaddexp(0, scaled) - labels * scaled)
        of_label = np.take_along_axis(scaled, labels[:, None], axis=1)[:, 0]
        return np.mean(scipy.special.logsumexp(scaled, axis=1) - of_label)

    best = scipy.optimize.minimize_scalar(cross_entropy, bounds=(-4, 4), method="bounded")
    return float(np.exp(best.x))


def apply_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Return a predictions table with its logits divided by `temperature`.

    With two classes the order of the patches stays; with more, the order of the classes of each
    patch stays.
    """
    scaled = _logits(predictions) / temperature
    if scaled.ndim == 1:
        return predictions.assign(probability=scipy.special.expit(scaled))
    columns = predictions_table.probability_columns(predictions)
    values = scipy.special.softmax(scaled, axis=1)
    return predictions.assign(**dict(zip(columns, values.T, strict=True)))


def _logits(predictions):
    """Return the log-odds (n,) of two classes, or the log-probabilities (n, classes) of more."""
    probabilities = predictions_table.probabilities_of(predictions)
    if probabilities.ndim == 1:
        return scipy.special.logit(np.clip(probabilities, _NEAREST, 1 - _NEAREST))
    return np.log(np.clip(probabilities, _NEAREST, 1))


def bins(predictions: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """Compare predicted probability to what was observed, in bins of equal width.

    Returns:
        A row for each bin that is not empty: `mean_probability`; `fraction` of patches that are of
        the second class (two classes) or of the predicted class (more); `low` and `high`
        (Wilson, 95 %); and `count`.
    """
    outcomes, probabilities = outcomes_and_probabilities(predictions)
    which = np.minimum((probabilities * count).astype(int), count - 1)
    rows = (
        pd.DataFrame({"probability": probabilities, "outcome": outcomes})
        .groupby(which)
        .agg(
            mean_probability=("probability", "mean"),
            fraction=("outcome", "mean"),
            hits=("outcome", "sum"),
            count=("outcome", "size"),
        )
    )
    low, high = intervals.wilson(rows.pop("hits"), rows["count"])
    return rows.assign(low=low, high=high).reset_index(drop=True)


def outcomes_and_probabilities(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return what calibration compares, both (n,).

    Two classes: the labels, and the probability of the second class. More: whether the most
    probable class is the true one (0 or 1), and its probability.
    """
    labels = predictions["label"].to_numpy()
    probabilities = predictions_table.probabilities_of(predictions)
    if probabilities.ndim == 1:
        return labels, probabilities
    return (probabilities.argmax(axis=1) == labels).astype("int64"), probabilities.max(axis=1)


def error(outcomes: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error over 15 bins of equal width (Guo et al., 2017).

    Args:
        outcomes: (n,) of 0 and 1.
        probabilities: (n,) of the outcome 1.
    """
    which = np.minimum((probabilities * ERROR_BINS).astype(int), ERROR_BINS - 1)
    gaps = np.bincount(which, weights=probabilities - outcomes, minlength=ERROR_BINS)
    return float(np.abs(gaps).sum() / len(outcomes))


def log_losses(predictions: pd.DataFrame) -> np.ndarray:
    """Return the cross-entropy of each patch, (n,), in nats."""
    labels = predictions["label"].to_numpy()
    probabilities = predictions_table.probabilities_of(predictions)
    if probabilities.ndim == 1:
        clipped = np.clip(probabilities, _NEAREST, 1 - _NEAREST)
        return -np.where(labels == 1, np.log(clipped), np.log(1 - clipped))
    of_label = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return -np.log(np.clip(of_label, _NEAREST, 1))


def brier_scores(predictions: pd.DataFrame) -> np.ndarray:
    """Return the Brier score of each patch, (n,).

    Two classes: the squared error of the second class's probability, 0..1. More: the sum of the
    squared errors over all classes, 0..2 (G. W. Brier, Monthly Weather Review 78, 1950).
    """
    labels = predictions["label"].to_numpy()
    probabilities = predictions_table.probabilities_of(predictions)
    if probabilities.ndim == 1:
        return (probabilities - labels) ** 2
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)


def effect(predictions: pd.DataFrame, validation: pd.DataFrame) -> dict:
    """Return what a temperature fitted on `validation` does to the calibration of `predictions`.

    Returns:
        `temperature`; `before` and `after`: `log_loss`, `brier` and `calibration_error`, each a
        metric with its bootstrap interval.
    """
    temperature = fit_temperature(validation)
    scaled = apply_temperature(predictions, temperature)
    before, after = _calibration_by_rows(predictions), _calibration_by_rows(scaled)
    sampled = intervals.bootstrap(predictions, lambda rows: [before(rows), after(rows)])
    content = {"temperature": temperature}
    for index, (name, statistic) in enumerate((("before", before), ("after", after))):
        values = statistic(slice(None))
        content[name] = {
            key: intervals.metric(value, intervals.percentile_interval(sampled[:, index, column]))
            for column, (key, value) in enumerate(
                zip(("log_loss", "brier", "calibration_error"), values, strict=True)
            )
        }
    return content


def _calibration_by_rows(predictions):
    """Return a function of row numbers that returns log loss, Brier score, calibration error."""
    losses, squares = log_losses(predictions), brier_scores(predictions)
    outcomes, probabilities = outcomes_and_probabilities(predictions)
    return lambda rows: (
        losses[rows].mean(),
        squares[rows].mean(),
        error(outcomes[rows], probabilities[rows]),
    )
