"""Classifiers of frozen features, fitted on the rows of a split.

Inner folds, which share no case either, choose how much the logistic regression is regularised: by
the cross-entropy of what they hold out, in which all classes have the same weight. The blend of
discriminants has nothing to choose.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import sklearn.linear_model
import sklearn.metrics
import sklearn.model_selection
import threadpoolctl

from pcam_tf.studies.subtype_folds import Split

INNER_FOLDS = 3
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
SHRINKAGES = (0.2, 0.5, 0.8, 0.95)
# Factor of the scaled logits of a blend: its probabilities are of a common size, not calibrated.
SHARPNESS = 8.0


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


def logistic(
    views: Sequence[np.ndarray], labels: np.ndarray, units: np.ndarray, split: Split, seed: int
) -> np.ndarray:
    """Return the probabilities of the held-out rows by logistic regression, classes balanced.

    Args:
        views: arrays (n, features), the first of the fields as they are; all train.
        labels: (n,) indices of classes.
        units: (n,) what the inner folds may not cut: cases, or the fields themselves.
        split: rows that train and rows that are held out.
        seed: of the inner folds.

    Returns:
        float64 (held out, classes).
    """
    train, held_out = split
    # Threads of BLAS wait for each other far longer than these small products take.
    with threadpoolctl.threadpool_limits(1):
        strength = _chosen_strength(views, labels, units, train, seed)
        projection, features, truth = _training(views, labels, train)
        model = _regression(strength).fit(features, truth)
        found = np.zeros((len(held_out), labels.max() + 1))
        found[:, model.classes_] = model.predict_proba(projection(views[0][held_out]))
    return found


def _regression(strength):
    return sklearn.linear_model.LogisticRegression(
        C=strength, class_weight="balanced", max_iter=200, tol=1e-3
    )


def _training(views, labels, rows):
    """Return the projection of the training rows of all views, what they become, and labels."""
    features = np.concatenate([view[rows] for view in views])
    projection = _Projection(features)
    return projection, projection(features), np.tile(labels[rows], len(views))


def _inner_splits(labels, units, train, seed):
    """Return pairs of rows of the inner folds; none where a class has one unit in `train`."""
    count = min(INNER_FOLDS, pd.Series(units[train]).groupby(labels[train]).nunique().min())
    if count < 2:
        return []
    splitter = sklearn.model_selection.StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    parts = splitter.split(train, labels[train], units[train])
    return [(train[fitted], train[judged]) for fitted, judged in parts]


def _chosen_strength(views, labels, units, train, seed):
    splits = _inner_splits(labels, units, train, seed)
    if not splits:
        return STRENGTHS[len(STRENGTHS) // 2]
    counts = np.bincount(labels[train])
    losses = np.zeros(len(STRENGTHS))
    for fitted, judged in splits:
        projection, features, truth = _training(views, labels, fitted)
        judged_features = projection(views[0][judged])
        for index, strength in enumerate(STRENGTHS):
            model = _regression(strength).fit(features, truth)
            losses[index] += sklearn.metrics.log_loss(
                labels[judged],
                model.predict_proba(judged_features),
                labels=model.classes_,
                sample_weight=1 / counts[labels[judged]],
            )
    return STRENGTHS[int(losses.argmin())]


class Linear(NamedTuple):
    """A linear classifier of features: logits = (features - mean) @ weights + offset.

    Attributes:
        mean: float64 (features,), of the training rows.
        weights: float64 (features, classes), of the classes that have training rows.
        offset: float64 (classes,).
    """

    mean: np.ndarray
    weights: np.ndarray
    offset: np.ndarray


def discriminant(features: np.ndarray, labels: np.ndarray, train: np.ndarray) -> Linear:
    """Return the mean of linear discriminants of several shrinkages.

    Classes are alike, and the covariance is shrunk towards a multiple of the identity (J. H.
    Friedman, "Regularized discriminant analysis", JASA 84, 1989). The logits of each are divided by
    the squared distance between the classes that it sees in training. So nothing is chosen.

    Args:
        features: (n, features).
        labels: (n,) indices of classes.
        train: rows to fit.
    """
    projection = _Projection(features[train].astype("float64"))
    rows, truth = projection(features[train]), labels[train]
    known, place, counts = np.unique(truth, return_inverse=True, return_counts=True)
    means = np.stack([rows[truth == label].mean(axis=0) for label in known])
    within = (rows - means[place]) / np.sqrt(counts[place])[:, None]
    values, axes = np.linalg.eigh(within.T @ within / len(known))
    middle = means.mean(axis=0)
    means = (means - middle) @ axes
    weights, offset = np.zeros_like(means), np.zeros(len(known))
    for shrinkage in SHRINKAGES:
        variances = (1 - shrinkage) * np.maximum(values, 0) + shrinkage * values.mean()
        squares = (means**2 / variances).sum(axis=1)
        distance = 2 * squares.sum() / (len(known) - 1)
        weights += means / variances / distance
        offset -= squares / 2 / distance
    rotated = axes @ weights.T / len(SHRINKAGES)
    offset = offset / len(SHRINKAGES) - middle @ rotated
    return Linear(
        projection.mean, projection.axes @ rotated / projection.deviation[:, None], offset
    )


def blend(
    readings: Sequence[np.ndarray], labels: np.ndarray, units: np.ndarray, split: Split, seed: int
) -> np.ndarray:
    """Return the probabilities of the held-out rows by the mean of a `discriminant` a reading.

    Args:
        readings: arrays (n, features), one for each way to read the fields.
        labels: (n,) indices of classes.
        units: not used: there are no inner folds.
        split: rows that train and rows that are held out.
        seed: not used: nothing is drawn.

    Returns:
        float64 (held out, classes).
    """
    train, held_out = split
    found = np.zeros((len(held_out), labels.max() + 1))
    logits = 0
    with threadpoolctl.threadpool_limits(1):
        for features in readings:
            fitted = discriminant(features, labels, train)
            logits += (features[held_out] - fitted.mean) @ fitted.weights + fitted.offset
    probabilities = scipy.special.softmax(SHARPNESS / len(readings) * logits, axis=1)
    found[:, np.unique(labels[train])] = probabilities
    return found
