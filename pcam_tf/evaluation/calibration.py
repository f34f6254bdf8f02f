"""Calibration: does a probability of 0.8 mean that eight of ten are tumour?"""

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
# A probability of exactly 0 or 1 has no finite log-odds.
_NEAREST = 1e-15


def fit_temperature(validation: pd.DataFrame) -> float:
    """Return the temperature by which to divide the log-odds of a model's predictions.

    The one that makes the predictions table's cross-entropy least (C. Guo et al., On calibration
    of modern neural networks, ICML 2017). Above 1 the model was too sure, below 1 too shy.
    """
    log_odds = _log_odds(validation["probability"])
    labels = validation["label"].to_numpy()

    def cross_entropy(log_temperature):
        scaled = log_odds / np.exp(log_temperature)
        return np.mean(np.logaddexp(0, scaled) - labels * scaled)

    found = scipy.optimize.minimize_scalar(cross_entropy, bounds=(-4, 4), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Return a predictions table with its log-odds divided by `temperature`; ranks stay."""
    scaled = scipy.special.expit(_log_odds(predictions["probability"]) / temperature)
    return predictions.assign(probability=scaled)


def _log_odds(probabilities):
    return scipy.special.logit(np.clip(probabilities.to_numpy(), _NEAREST, 1 - _NEAREST))


def bins(predictions: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """Compare predicted probability to the share of tumour in bins of equal width.

    Returns:
        A row for each bin that is not empty: `mean_probability`, `tumour_fraction`, `low` and
        `high` (Wilson, 95 %) and `count`.
    """
    which = np.minimum((predictions["probability"] * count).astype(int), count - 1)
    rows = predictions.groupby(which).agg(
        mean_probability=("probability", "mean"),
        tumour_fraction=("label", "mean"),
        tumour=("label", "sum"),
        count=("label", "size"),
    )
    low, high = proportion_confint(
        rows.pop("tumour"), rows["count"], alpha=1 - CONFIDENCE, method="wilson"
    )
    return rows.assign(low=low, high=high).reset_index(drop=True)


def error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error over 15 bins of equal width (Guo et al., 2017).

    Args:
        labels: (n,) of 0 and 1.
        probabilities: (n,) of tumour.
    """
    which = np.minimum((probabilities * 15).astype(int), 14)
    gaps = np.bincount(which, weights=probabilities - labels, minlength=15)
    return float(np.abs(gaps).sum() / len(labels))
