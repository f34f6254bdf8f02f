"""Two models on the same patches: is the difference more than chance?"""

import numpy as np
import pandas as pd
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar

from pcam_tf.errors import InputError
from pcam_tf.evaluation import metrics

# With fewer discordant patches the chi-squared approximation of McNemar's test is poor.
EXACT_BELOW = 25


def compare(
    first: pd.DataFrame, second: pd.DataFrame, *, thresholds: tuple[float, float] = (0.5, 0.5)
) -> dict:
    """Compare two predictions tables of the same patches.

    Differences are the first model's value minus the second's.

    Args:
        first: a checked predictions table.
        second: another, of the same patches in whatever order.
        thresholds: of the first and the second model, for what needs one.

    Returns:
        A dictionary that JSON can hold: `patches`; `auc` (`first`, `second`, `difference` with its
        paired DeLong interval, `p`); `mcnemar` (patches that only the `first` and only the
        `second` calls right, `p`); `bootstrap`: differences of AUC, accuracy, sensitivity and
        specificity, with paired percentile intervals, resampled by group where there are groups.

    Raises:
        InputError: the tables hold different patches or different labels.
    """
    second = _matched(first, second)
    labels = first["label"].to_numpy()
    scores = np.stack([table["probability"].to_numpy() for table in (first, second)])
    called = scores >= np.reshape(thresholds, (2, 1))
    right = called == labels
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    both, neither = int((right[0] & right[1]).sum()), int((~right[0] & ~right[1]).sum())
    test = mcnemar(
        [[both, only_first], [only_second, neither]],
        exact=only_first + only_second < EXACT_BELOW,
        correction=True,
    )
    return {
        "patches": len(labels),
        "thresholds": list(map(float, thresholds)),
        "auc": _delong(labels, scores),
        "mcnemar": {
            "only_first_right": only_first,
            "only_second_right": only_second,
            "p": float(test.pvalue),
        },
        "bootstrap": _bootstrap(first, labels, scores, called),
    }


def _matched(first, second):
    """Return the second table in the order of the first."""
    missing = first.loc[~first["id"].isin(second["id"]), "id"]
    if len(missing) or len(first) != len(second):
        example = f", such as {missing.iloc[0]}" if len(missing) else ""
        raise InputError(
            f"the tables hold different patches ({len(first):,} and {len(second):,}{example}): "
            "predict the same split with both models."
        )
    second = second.set_index("id").loc[first["id"]].reset_index()
    different = first["label"].to_numpy() != second["label"].to_numpy()
    if different.any():
        raise InputError(
            f"the tables disagree on the label of {different.sum():,} patches, such as "
            f"{first['id'][int(np.argmax(different))]}: they are of different data."
        )
    return second


def _delong(labels, scores):
    """Return both AUCs and the test of their difference (DeLong et al., 1988, paired)."""
    tumour, normal = zip(*(metrics.wins(labels, each) for each in scores), strict=True)
    aucs = [each.mean() for each in tumour]
    difference = aucs[0] - aucs[1]
    variance = sum(
        np.var(each[0] - each[1], ddof=1) / len(each[0])
        for each in (tumour, normal)
        if len(each[0]) > 1
    )
    spread = np.sqrt(variance)
    margin = scipy.stats.norm.ppf((1 + metrics.CONFIDENCE) / 2) * spread
    # Models that rank every patch alike differ by nothing, with certainty.
    p = 2 * scipy.stats.norm.sf(abs(difference) / spread) if spread > 0 else 1.0
    return {
        "first": metrics.metric(*_split(metrics.auc_interval(labels, scores[0]))),
        "second": metrics.metric(*_split(metrics.auc_interval(labels, scores[1]))),
        "difference": metrics.metric(difference, (difference - margin, difference + margin)),
        "p": float(p),
    }


def _split(interval):
    value, low, high = interval
    return value, (low, high)


def _bootstrap(table, labels, scores, called):
    """Return differences with intervals from the same resamples for both models."""
    tumour = labels == 1

    def rates(rows):
        truth, calls = tumour[rows], called[:, rows]
        hits = calls == truth
        with np.errstate(invalid="ignore"):
            return {
                "auc": [metrics.area(labels[rows], each[rows]) for each in scores],
                "accuracy": hits.mean(axis=1),
                "sensitivity": (hits & truth).sum(axis=1) / truth.sum(),
                "specificity": (hits & ~truth).sum(axis=1) / (~truth).sum(),
            }

    everything = rates(np.arange(len(labels)))
    sampled = [rates(rows) for rows in metrics.resampled_rows(table)]
    found = {}
    for name, (one, other) in everything.items():
        differences = [sample[name][0] - sample[name][1] for sample in sampled]
        interval = np.nanpercentile(differences, metrics.PERCENTILES)
        found[name] = metrics.metric(one - other, interval)
    return found
