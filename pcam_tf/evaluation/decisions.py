"""What a model's calls are worth: net benefit, and the cost of a miss against a false alarm."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import sklearn.metrics

from pcam_tf.errors import InputError
from pcam_tf.evaluation import metrics

# A miss costs as much as this many false alarms.
COST_RATIOS = (1, 5, 20)
THRESHOLDS = np.round(np.arange(0.01, 1.0, 0.01), 2)
RESAMPLES = 200


def decision_curve(predictions: pd.DataFrame, *, prevalence: float | None = None) -> pd.DataFrame:
    """Return the net benefit of acting on a model's probability, by threshold.

    Who acts at a probability t holds one tumour found to be worth (1 - t) / t false alarms. Net
    benefit is, per patch, tumour found minus false alarms at that exchange rate (A. J. Vickers and
    E. B. Elkin, Medical Decision Making 26 (2006)); acting on nothing has 0.

    Args:
        predictions: a checked predictions table.
        prevalence: the share of tumour where the model is to be used, above 0 and below 1; None
            for that of the table. Sensitivity and specificity are taken to be the same there;
            probabilities are used as they are.

    Returns:
        A row for each threshold: `threshold`, `net_benefit` with its bootstrap `low` and `high`,
        and `call_all`, the net benefit of calling every patch tumour.

    Raises:
        InputError: an impossible prevalence.
    """
    if prevalence is None:
        prevalence = predictions["label"].mean()
    if not 0 < prevalence < 1:
        raise InputError(f"prevalence is {prevalence}: choose a share above 0 and below 1.")
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    price = THRESHOLDS / (1 - THRESHOLDS)

    def benefit(rows):
        tumour, normal = (np.sort(scores[rows][labels[rows] == label]) for label in (1, 0))
        sensitivity = 1 - np.searchsorted(tumour, THRESHOLDS) / max(len(tumour), 1)
        false_alarms = 1 - np.searchsorted(normal, THRESHOLDS) / max(len(normal), 1)
        return prevalence * sensitivity - (1 - prevalence) * price * false_alarms

    samples = metrics.resampled_rows(predictions)[:RESAMPLES]
    low, high = np.percentile([benefit(rows) for rows in samples], metrics.PERCENTILES, axis=0)
    return pd.DataFrame(
        {
            "threshold": THRESHOLDS,
            "net_benefit": benefit(np.arange(len(labels))),
            "low": low,
            "high": high,
            "call_all": prevalence - (1 - prevalence) * price,
        }
    )


def costs(
    predictions: pd.DataFrame, validation: pd.DataFrame, ratios: Iterable[float] = COST_RATIOS
) -> pd.DataFrame:
    """Return what a miss and a false alarm cost, at thresholds that were cheapest on validation.

    Args:
        predictions: the predictions table to judge.
        validation: that of the validation split, on which each threshold is chosen.
        ratios: how many false alarms a miss costs as much as.

    Returns:
        A row for each ratio: `miss_costs`, `threshold`, `missed` and `false_alarms` (patches) and
        `cost`, in false alarms per 100 patches, with its bootstrap `low` and `high`; and
        `cheapest`, the smaller of calling all or no patch tumour, which a useful model stays below.

    Raises:
        InputError: a ratio that is not above 0.
    """
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    samples, rows = metrics.resampled_rows(predictions), []
    for ratio in ratios:
        if not ratio > 0:
            raise InputError(f"a miss cannot cost {ratio} false alarms: choose a number above 0.")
        threshold = _cheapest_threshold(validation, ratio)
        called = scores >= threshold
        price = 100 * np.where(labels == 1, ratio * ~called, called)
        low, high = np.percentile([price[each].mean() for each in samples], metrics.PERCENTILES)
        rows.append(
            {
                "miss_costs": float(ratio),
                "threshold": threshold,
                "missed": int((~called & (labels == 1)).sum()),
                "false_alarms": int((called & (labels == 0)).sum()),
                "cost": float(price.mean()),
                "low": float(low),
                "high": float(high),
                "cheapest": float(100 * min(ratio * labels.mean(), 1 - labels.mean())),
            }
        )
    return pd.DataFrame(rows)


def _cheapest_threshold(validation, ratio):
    rates, sensitivity, thresholds = sklearn.metrics.roc_curve(
        validation["label"], validation["probability"], drop_intermediate=False
    )
    share = validation["label"].mean()
    cost = ratio * share * (1 - sensitivity) + (1 - share) * rates
    # scikit-learn begins with an infinite threshold, at which nothing is called tumour.
    return float(min(thresholds[np.argmin(cost)], np.nextafter(1.0, 2.0)))
