"""Tables of the study of remedies: metrics at the true prevalence, paired differences, Holm."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from pcam_tf.evaluation import intervals, reports
from pcam_tf.gan.remedies import PLAIN

SPECIFICITY = 0.95
MAIN_METRIC = "sensitivity at 95 % specificity"
CALIBRATION_BINS = 15
# So many that a p-value can stay small after Holm's correction of 18 differences.
RESAMPLES = 2000
Tables = Mapping[tuple[float, str, int], pd.DataFrame]


def sensitivity_at(labels: np.ndarray, scores: np.ndarray, specificity: float) -> float:
    """Return the share of class 1 above the score that a share of class 0 does not exceed."""
    negative = np.sort(scores[labels == 0])
    threshold = negative[min(int(np.ceil(specificity * len(negative))), len(negative)) - 1]
    return float((scores[labels == 1] > threshold).mean())


def prevalence_weights(labels: np.ndarray, prevalence: float) -> np.ndarray:
    """Return weights of patches (n,) by which class 1 has the given prevalence; their mean is 1."""
    share = labels.mean()
    return np.where(labels == 1, prevalence / share, (1 - prevalence) / (1 - share))


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Return the average precision of weighted patches, ties in the order of the table.

    Ten times as fast as scikit-learn's, which resampling needs.
    """
    order = np.argsort(-scores, kind="stable")
    found = (labels * weights)[order]
    precision = np.cumsum(found) / np.cumsum(weights[order])
    return float((precision * found).sum() / found.sum())


def calibration_error(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Return the expected calibration error of weighted patches, in bins of equal width."""
    which = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(which, weights * (labels - scores), minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def metrics_at(prevalence: float) -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    """Return name -> function of labels and scores, for patches reweighted to a prevalence."""
    return {
        MAIN_METRIC: lambda labels, scores: sensitivity_at(labels, scores, SPECIFICITY),
        "AUC": intervals.auc,
        "average precision": lambda labels, scores: average_precision(
            labels, scores, prevalence_weights(labels, prevalence)
        ),
        "calibration error": lambda labels, scores: calibration_error(
            labels, scores, prevalence_weights(labels, prevalence)
        ),
    }


def results(tables: Tables, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Return a row for each prevalence, remedy and metric: value, interval, difference to plain.

    A value is the mean over seeds. Intervals are of patches, resampled within the classes; all
    remedies and seeds share each resample. Of the differences, p-values of one metric are corrected
    by Holm over all prevalences and remedies.

    Columns: `prevalence`, `remedy`, `metric`, `value`, `low`, `high`, `difference`,
    `difference_low`, `difference_high`, `p`, `p_holm`; the last five are NaN for plain.
    """
    rows = []
    for prevalence in dict.fromkeys(key[0] for key in tables):
        of = {key[1:]: table for key, table in tables.items() if key[0] == prevalence}
        rows += _rows(prevalence, of, resamples)
    found = pd.DataFrame(rows)
    for _, part in found[found["p"].notna()].groupby("metric"):
        found.loc[part.index, "p_holm"] = multipletests(part["p"], method="holm")[1]
    return found


def _rows(prevalence, tables, resamples):
    names = list(dict.fromkeys(remedy for remedy, _ in tables))
    scores = {
        name: [table["probability"].to_numpy() for (remedy, _), table in tables.items()
               if remedy == name]
        for name in names
    }  # fmt: skip
    first = next(iter(tables.values()))
    labels = first["label"].to_numpy()
    measures = metrics_at(prevalence)

    def statistic(rows):
        return np.array([
            [np.mean([measure(labels[rows], each[rows]) for each in scores[name]])
             for measure in measures.values()]
            for name in names
        ])  # fmt: skip

    values = statistic(np.arange(len(labels)))
    samples = intervals.bootstrap(first[["label"]], statistic, resamples)
    plain = names.index(PLAIN)
    rows = []
    for number, name in enumerate(names):
        for column, measure in enumerate(measures):
            low, high = intervals.percentile_interval(samples[:, number, column])
            row = {"prevalence": prevalence, "remedy": name, "metric": measure,
                   "value": values[number, column], "low": low, "high": high,
                   "difference": np.nan, "difference_low": np.nan, "difference_high": np.nan,
                   "p": np.nan, "p_holm": np.nan}  # fmt: skip
            if number != plain:
                gaps = samples[:, number, column] - samples[:, plain, column]
                low, high = intervals.percentile_interval(gaps)
                row |= {
                    "difference": values[number, column] - values[plain, column],
                    "difference_low": low,
                    "difference_high": high,
                    "p": intervals.two_sided_p(gaps),
                }
            rows.append(row)
    return rows


def table_rows(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return `results` as texts: a row for each prevalence and remedy."""
    rows = []
    for (prevalence, remedy), part in found.groupby(["prevalence", "remedy"], sort=False):
        row = {"prevalence": f"{100 * prevalence:g} %", "remedy": remedy}
        for _, each in part.iterrows():
            row[each["metric"]] = reports.metric_text(
                intervals.metric(each["value"], (each["low"], each["high"]))
            )
        main = part.iloc[0]
        row["sensitivity minus plain"] = "–"
        row["p (Holm)"] = "–"
        if remedy != PLAIN:
            bounds = (main["difference_low"], main["difference_high"])
            row["sensitivity minus plain"] = reports.metric_text(
                intervals.metric(main["difference"], bounds)
            )
            row["p (Holm)"] = f"{main['p_holm']:.3f}"
        rows.append(row)
    return rows
