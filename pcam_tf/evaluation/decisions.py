"""What a model's decisions are worth: net benefit, and the cost of a miss against a false alarm.

All of it is for two classes. A patch of the second class, such as tumour, is what is looked for.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import sklearn.metrics

from pcam_tf.errors import InputError
from pcam_tf.evaluation import intervals, metrics

# A miss costs as much as this many false alarms.
COST_RATIOS = (1, 5, 20)
THRESHOLDS = np.round(np.arange(0.01, 1.0, 0.01), 2)
RESAMPLES = 200


def decision_curve(predictions: pd.DataFrame, *, prevalence: float | None = None) -> pd.DataFrame:
    """Return the net benefit of acting on a model's probability, by threshold.

    A threshold t stands for an exchange rate: finding one patch of tumour is worth (1 - t) / t
    false alarms. Net benefit is, per patch, tumour found minus false alarms at that exchange rate
    (A. J. Vickers and E. B. Elkin, Medical Decision Making 26 (2006)); acting on nothing has 0.

    Args:
        predictions: a checked predictions table of two classes.
        prevalence: the share of the second class where the model is to be used, above 0 and below
            1; None for that of the table. Sensitivity and specificity are assumed to be the same
            there; probabilities are used as they are.

    Returns:
        A row for each threshold: `threshold`, `net_benefit` with its bootstrap `low` and `high`,
        and `call_all`, the net benefit of predicting the second class for every patch.

    Raises:
        InputError: an impossible prevalence, or a table of more classes.
    """
    metrics.refuse_more_classes(predictions, "decision curves")
    if prevalence is None:
        prevalence = predictions["label"].mean()
    if not 0 < prevalence < 1:
        raise InputError(f"prevalence is {prevalence}: choose a share above 0 and below 1.")
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    price = THRESHOLDS / (1 - THRESHOLDS)

    def benefit(rows):
        positive, negative = (np.sort(scores[rows][labels[rows] == label]) for label in (1, 0))
        # A resample of groups may lack a class: then it has no sensitivity, or no specificity.
        if not len(positive) or not len(negative):
            return np.full(len(THRESHOLDS), np.nan)
        sensitivity = 1 - np.searchsorted(positive, THRESHOLDS) / len(positive)
        false_alarms = 1 - np.searchsorted(negative, THRESHOLDS) / len(negative)
        return prevalence * sensitivity - (1 - prevalence) * price * false_alarms

    sampled = intervals.bootstrap(predictions, benefit, RESAMPLES)
    low, high = intervals.percentile_bands(sampled)
    return pd.DataFrame(
        {
            "threshold": THRESHOLDS,
            "net_benefit": benefit(slice(None)),
            "low": low,
            "high": high,
            "call_all": prevalence - (1 - prevalence) * price,
        }
    )


def costs(
    predictions: pd.DataFrame, validation: pd.DataFrame, ratios: Iterable[float] = COST_RATIOS
) -> pd.DataFrame:
    """Return what misses and false alarms cost, at thresholds that were cheapest on validation.

    Args:
        predictions: the predictions table to evaluate, of two classes.
        validation: that of the validation split, on which each threshold is chosen.
        ratios: how many false alarms a miss costs as much as.

    Returns:
        A row for each ratio: `miss_costs`, `threshold`, `missed` and `false_alarms` (patches) and
        `cost`, in false alarms per 100 patches, with its bootstrap `low` and `high`; and
        `cheapest`, the cost of predicting one class for every patch, whichever class is cheaper. A
        useful model costs less.

    Raises:
        InputError: a ratio that is not above 0, or a table of more classes.
    """
    metrics.refuse_more_classes(predictions, "costs")
    metrics.refuse_more_classes(validation, "costs")
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    prices, table = [], []
    for ratio in ratios:
        if not ratio > 0:
            raise InputError(f"a miss cannot cost {ratio} false alarms: choose a number above 0.")
        threshold = _cheapest_threshold(validation, ratio)
        called = scores >= threshold
        price = 100 * np.where(labels == 1, ratio * ~called, called)
        prices.append(price)
        table.append(
            {
                "miss_costs": float(ratio),
                "threshold": threshold,
                "missed": int((~called & (labels == 1)).sum()),
                "false_alarms": int((called & (labels == 0)).sum()),
                "cost": float(price.mean()),
                "cheapest": float(100 * min(ratio * labels.mean(), 1 - labels.mean())),
            }
        )
    sampled = intervals.bootstrap(
        predictions, lambda rows: [price[rows].mean() for price in prices]
    )
    for row, values in zip(table, sampled.T, strict=True):
        row["low"], row["high"] = intervals.percentile_interval(values)
    columns = ["miss_costs", "threshold", "missed", "false_alarms", "cost", "low", "high"]
    return pd.DataFrame(table, columns=[*columns, "cheapest"])


def _cheapest_threshold(validation, ratio):
    rates, sensitivity, thresholds = sklearn.metrics.roc_curve(
        validation["label"], validation["probability"], drop_intermediate=False
    )
    share = validation["label"].mean()
    cost = ratio * share * (1 - sensitivity) + (1 - share) * rates
    # scikit-learn begins with an infinite threshold, at which nothing is of the second class.
    return float(min(thresholds[np.argmin(cost)], np.nextafter(1.0, 2.0)))
