"""Intervals: the bootstrap, DeLong's variance of an AUC, Wilson's interval of a share.

All intervals are 95 %.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
PERCENTILES = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
RESAMPLES = 1000
# Resampling fewer groups says nothing: two give a third of all resamples no variation at all.
FEWEST_GROUPS = 3
# Percentile intervals of fewer groups are too narrow.
ENOUGH_GROUPS = 10


def metric(value: float | None, interval: tuple = (None, None)) -> dict:
    """Return a metric as it stands in a report: {"value", "low", "high"}.

    A value that is None or NaN is not defined: all three are then None.
    """
    if value is None or np.isnan(value):
        return {"value": None, "low": None, "high": None}
    low, high = (None if bound is None else float(bound) for bound in interval)
    return {"value": float(value), "low": low, "high": high}


def is_grouped(predictions: pd.DataFrame) -> bool:
    """Return whether a table names the group, such as the slide, of each patch."""
    return "group" in predictions


def can_be_resampled(predictions: pd.DataFrame) -> bool:
    """Return whether a table has no groups, or enough of them for an interval."""
    return not is_grouped(predictions) or predictions["group"].nunique() >= FEWEST_GROUPS


def resampled_rows(predictions: pd.DataFrame, count: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Yield bootstrap samples of row numbers: of groups where there are any, else by class.

    The samples are the same for the same table each time; only one is held at a time. There are
    none of fewer than `FEWEST_GROUPS` groups.

    Args:
        predictions: a table with `label` and perhaps `group`.
        count: the number of samples; fewer are the first of more.

    Yields:
        (n,) int64; resampled groups differ in size, so that n then varies.
    """
    generator = np.random.default_rng(0)
    if not can_be_resampled(predictions):
        return
    if is_grouped(predictions):
        groups = list(predictions.groupby("group").indices.values())
        for _ in range(count):
            chosen = generator.integers(len(groups), size=len(groups))
            yield np.concatenate([groups[index] for index in chosen])
    else:
        labels = predictions["label"].to_numpy()
        classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        for _ in range(count):
            yield np.concatenate([generator.choice(rows, len(rows)) for rows in classes])


def bootstrap(
    predictions: pd.DataFrame, statistic: Callable[[np.ndarray], object], count: int = RESAMPLES
) -> np.ndarray:
    """Return a statistic of each bootstrap sample (B. Efron, Annals of Statistics 7, 1979).

    Args:
        predictions: a table with `label` and perhaps `group`.
        statistic: of row numbers (n,); a number or an array of some shape.
        count: the number of samples.

    Returns:
        (count, *shape of the statistic); NaN where there are too few groups, so that
        `percentile_interval` gives none.
    """
    if not can_be_resampled(predictions):
        shape = np.shape(statistic(np.arange(len(predictions))))
        return np.full((count, *shape), np.nan)
    return np.array([statistic(rows) for rows in resampled_rows(predictions, count)])


def two_sided_p(differences: np.ndarray) -> float | None:
    """Return the p-value of bootstrapped differences (count,): twice the smaller tail beyond 0.

    It is at least 1 / count (A. C. Davison and D. V. Hinkley, Bootstrap Methods, 1997, ch. 4).
    None if all differences are NaN.
    """
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return None
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1, 2 * (tail + 1) / (len(differences) + 1)))


def percentile_interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the percentile interval of bootstrapped values (count,); NaN is left out.

    (None, None) if all values are NaN.
    """
    if np.all(np.isnan(values)):
        return None, None
    return tuple(map(float, np.nanpercentile(values, PERCENTILES)))


def percentile_bands(curves: np.ndarray) -> np.ndarray:
    """Return pointwise percentile intervals (2, points) of bootstrapped curves (count, points).

    Curves of NaN are left out; NaN everywhere if all are.
    """
    defined = curves[~np.isnan(curves).any(axis=1)]
    if not len(defined):
        return np.full((2, curves.shape[1]), np.nan)
    return np.percentile(defined, PERCENTILES, axis=0)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Return Wilson's interval of the share `hits` of `of`, which must be above 0."""
    return proportion_confint(hits, of, alpha=1 - CONFIDENCE, method="wilson")


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve, or NaN if there is one class only.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,); ties count half.
    """
    return auc_by_rows(labels, scores)(slice(None))


def auc_by_rows(labels: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return a function that takes row numbers, repeated or not, and returns their AUC.

    It sorts the scores once, so that an AUC of a resample takes only counting.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,); ties count half.
    """
    levels, level = np.unique(np.asarray(scores), return_inverse=True)
    cells = 2 * level + np.asarray(labels)

    def auc_of(rows):
        counts = np.bincount(cells[rows], minlength=2 * len(levels)).reshape(-1, 2)
        negative, positive = counts[:, 0], counts[:, 1]
        pairs = int(negative.sum()) * int(positive.sum())
        if pairs == 0:
            return np.nan
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs)

    return auc_of


def placement_values(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of the other class that each patch is ranked correctly against.

    These are the placement values of E. R. DeLong et al., Biometrics 44 (1988). The mean of either
    array is the AUC; their variances and covariances give DeLong's. They are computed from midranks
    as in X. Sun and W. Xu, IEEE Signal Processing Letters 21 (2014).

    Args:
        labels: (n,) of 0 and 1, both present.
        scores: (n,); ties count half.

    Returns:
        (patches labelled 1,) and (patches labelled 0,), shares 0..1 in the order of the table.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    positive, negative = scores[labels == 1], scores[labels == 0]
    ranks = scipy.stats.rankdata(np.concatenate([positive, negative]))
    of_positive = (ranks[: len(positive)] - scipy.stats.rankdata(positive)) / len(negative)
    of_negative = 1 - (ranks[len(positive) :] - scipy.stats.rankdata(negative)) / len(positive)
    return of_positive, of_negative


def auc_interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve and its interval, taking patches as independent.

    The variance is that of E. R. DeLong et al., Biometrics 44 (1988). The interval is symmetric in
    the logit of the AUC (M. S. Pepe, The Statistical Evaluation of Medical Tests, 2003, ch. 5):
    near 1, one that is symmetric in the AUC is too narrow. Scores that separate the classes have no
    variance; their interval is Clopper and Pearson's of as many right of as many independent pairs
    as the smaller class has patches. If a class has one patch, the interval is 0..1.

    Args:
        labels: (n,) of 0 and 1, both present.
        scores: (n,); ties count half.
    """
    placements = placement_values(labels, scores)
    value = float(placements[0].mean())
    pairs = min(map(len, placements))
    if pairs < 2:
        return value, 0.0, 1.0
    if value in (0, 1):
        low, high = proportion_confint(pairs * value, pairs, alpha=1 - CONFIDENCE, method="beta")
        return value, float(low), float(high)
    variance = sum(each.var(ddof=1) / len(each) for each in placements)
    margin = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance) / (value * (1 - value))
    centre = scipy.special.logit(value)
    low, high = scipy.special.expit([centre - margin, centre + margin])
    return value, float(low), float(high)


def auc_difference(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[dict, float | None]:
    """Return the difference of two AUCs on the same patches and its p-value (DeLong, paired).

    Args:
        labels: (n,) of 0 and 1, both present.
        first: (n,) scores of one model.
        second: (n,) scores of another; the difference is the first's AUC minus the second's.

    Returns:
        The difference as a `metric`, and the two-sided p-value; no interval and None where there is
        no variance to go by: one patch of a class, or a difference that is the same for all.
    """
    positive, negative = zip(
        *(placement_values(labels, scores) for scores in (first, second)), strict=True
    )
    difference = positive[0].mean() - positive[1].mean()
    gaps = [each[0] - each[1] for each in (positive, negative)]
    if min(map(len, gaps)) < 2 or (difference and max(map(np.ptp, gaps)) < 1e-12):
        return metric(difference), None
    variance = sum(np.var(each, ddof=1) / len(each) for each in gaps)
    deviation = np.sqrt(variance)
    margin = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * deviation
    # Models that rank every patch alike have the same AUC in any sample.
    p = 2 * scipy.stats.norm.sf(abs(difference) / deviation) if deviation > 0 else 1.0
    return metric(difference, (difference - margin, difference + margin)), float(p)
