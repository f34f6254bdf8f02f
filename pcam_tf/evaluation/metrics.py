"""Metrics of predictions tables: pure functions, whatever model made the tables.

A predictions table has the columns `id`, `label` (0 normal, 1 tumour) and `probability` (of
tumour), and may have `group`, the slide or patient that a patch comes from. A patch is called
tumour when its probability is at least the threshold. Intervals are 95 %.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import sklearn.metrics
from statsmodels.stats.proportion import proportion_confint

from pcam_tf.errors import InputError, first_line
from pcam_tf.evaluation import calibration
from pcam_tf.evaluation.calibration import CONFIDENCE

RESAMPLES = 1000
PERCENTILES = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
# Slides of Camelyon16 whose outlines are known to be wrong or incomplete, as the notes that come
# with the data say (G. Litjens et al., GigaScience 7, 2018).
LABEL_FAULTS = ("normal_86", "test_49", "test_114")


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check a predictions table.

    Returns:
        Columns `id` (text), `label` (int64), `probability` (float64) and, if there, `group` (text).

    Raises:
        InputError: no such file, or its content cannot be evaluated; see `check_predictions`.
    """
    return check_predictions(read_table(path), str(path))


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV file that is said to be a predictions table, without checking its content.

    Raises:
        InputError: there is no such file, or it is not CSV.
    """
    try:
        return pd.read_csv(path, dtype={"id": str, "group": str}, keep_default_na=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no predictions table {path}.") from error
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = first_line(error)
        raise InputError(f"{path} is not a CSV table ({reason}).") from error


def check_predictions(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a predictions table with its types made right, or say what is wrong with it.

    Args:
        table: what is claimed to be a predictions table.
        name: what to call it in a message.

    Raises:
        InputError: a missing column, a repeated or empty id, a label other than 0 and 1, a
            probability that is not a number in 0..1, an empty group, or only one class.
    """
    missing = [column for column in ("id", "label", "probability") if column not in table]
    if missing:
        raise InputError(
            f"{name} has no column {missing[0]!r}: a predictions table has id,label,probability."
        )
    table = table.copy()
    ids = table["id"].astype("str").where(table["id"].notna())
    numbers = {
        column: pd.to_numeric(table[column], errors="coerce") for column in ("label", "probability")
    }
    if table["label"].isna().all():
        raise InputError(f"{name} has no labels: only patches whose truth is known are evaluated.")
    checks = [
        (ids.isna(), "an empty id: give each patch one"),
        (ids.duplicated(), "an id for the second time: each patch has one row"),
        (~numbers["label"].isin([0, 1]), "a label other than 0 (normal) and 1 (tumour)"),
        (numbers["probability"].isna(), "a probability that is no number"),
        (~numbers["probability"].between(0, 1), "a probability outside 0..1"),
    ]
    if "group" in table:
        checks.append((table["group"].isna(), "an empty group: name the slide of each patch"))
    for wrong, what in checks:
        if wrong.any():
            row = int(np.argmax(wrong.to_numpy()))
            raise InputError(f"{name}, row {row + 1} (id {table['id'].iloc[row]}): {what}.")
    if numbers["label"].nunique() < 2:
        raise InputError(f"{name} holds one class only: AUC needs normal and tumour patches.")
    return table.assign(
        id=ids, label=numbers["label"].astype("int64"), probability=numbers["probability"]
    )


def auc_interval(labels, probabilities) -> tuple[float, float, float]:
    """Return the area under the ROC curve and its DeLong interval, clipped to 0..1.

    One patch of a class tells nothing of how that class spreads: the interval is then 0..1.

    The variance is that of E. R. DeLong et al., Biometrics 44 (1988), computed from midranks as in
    X. Sun and W. Xu, IEEE Signal Processing Letters 21 (2014).

    Args:
        labels: (n,) of 0 and 1, both present.
        probabilities: (n,) scores; ties count half.
    """
    tumour_wins, normal_wins = wins(labels, probabilities)
    auc = float(tumour_wins.mean())
    if min(len(tumour_wins), len(normal_wins)) < 2:
        return auc, 0.0, 1.0
    variance = sum(of.var(ddof=1) / len(of) for of in (tumour_wins, normal_wins))
    margin = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance)
    return auc, float(max(auc - margin, 0)), float(min(auc + margin, 1))


def wins(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each tumour patch, and each normal one, wins against the other class.

    The mean of either is the AUC; their variances and covariances are DeLong's.

    Returns:
        (tumour patches,) and (normal patches,), shares 0..1 in the order of the table.
    """
    labels, scores = np.asarray(labels), np.asarray(probabilities)
    tumour, normal = scores[labels == 1], scores[labels == 0]
    ranks = scipy.stats.rankdata(np.concatenate([tumour, normal]))
    tumour_wins = (ranks[: len(tumour)] - scipy.stats.rankdata(tumour)) / len(normal)
    normal_wins = 1 - (ranks[len(tumour) :] - scipy.stats.rankdata(normal)) / len(tumour)
    return tumour_wins, normal_wins


def confusion(labels, probabilities, threshold: float) -> np.ndarray:
    """Return the counts [[true normal, false alarm], [missed, true tumour]]: rows are the truth."""
    predicted = np.asarray(probabilities) >= threshold
    return sklearn.metrics.confusion_matrix(labels, predicted.astype(int), labels=[0, 1])


def operating_points(validation: pd.DataFrame) -> dict[str, float]:
    """Choose thresholds on the validation split.

    Returns:
        `youden`: the largest sensitivity + specificity (W. J. Youden, Cancer 3 (1950));
        `sensitivity_95`: the highest threshold with sensitivity of at least 0.95;
        `specificity_95`: the lowest threshold with specificity of at least 0.95.
    """
    false_positive_rate, sensitivity, thresholds = sklearn.metrics.roc_curve(
        validation["label"], validation["probability"], drop_intermediate=False
    )
    # scikit-learn begins with an infinite threshold, at which nothing is called tumour.
    thresholds = np.minimum(thresholds, np.nextafter(1.0, 2.0))
    chosen = {
        "youden": np.argmax(sensitivity - false_positive_rate),
        "sensitivity_95": np.argmax(sensitivity >= 0.95),
        "specificity_95": np.flatnonzero(false_positive_rate <= 0.05)[-1],
    }
    return {name: float(thresholds[index]) for name, index in chosen.items()}


def report(predictions: pd.DataFrame, *, validation: pd.DataFrame | None = None) -> dict:
    """Evaluate a predictions table.

    Args:
        predictions: the table to evaluate, checked.
        validation: the table of the validation split, for choosing operating points.

    Returns:
        A dictionary that JSON can hold: `patches`, `normal`, `tumour`, `intervals` (how they were
        made), `metrics` that need no threshold and, under `operating_points`, those that do;
        with a validation table also `calibration` (the temperature fitted on it, metrics before
        and after), and with groups that name slides of `LABEL_FAULTS`, `without_label_faults`.
        A metric is {"value", "low", "high"}; low and high are None where there is no interval.
    """
    labels = predictions["label"].to_numpy()
    scores = predictions["probability"].to_numpy()
    resampled = resampled_rows(predictions)
    grouped = _grouped(predictions)
    auc, low, high = auc_interval(labels, scores)
    if grouped:
        low, high = _bootstrap(resampled, lambda rows: area(labels[rows], scores[rows]))
    thresholds = {"at_0.5": 0.5}
    if validation is not None:
        thresholds |= operating_points(validation)
    content = {
        "patches": len(labels),
        "normal": int((labels == 0).sum()),
        "tumour": int((labels == 1).sum()),
        "intervals": "95 %; patches resampled by group"
        if grouped
        else "95 %, taking patches as independent: too narrow, since patches come in slides",
        "metrics": {
            "auc": metric(auc, (low, high)),
            "average_precision": metric(
                sklearn.metrics.average_precision_score(labels, scores),
                _bootstrap(
                    [rows for rows in resampled[:200] if len(np.unique(labels[rows])) == 2],
                    lambda rows: sklearn.metrics.average_precision_score(
                        labels[rows], scores[rows]
                    ),
                ),
            ),
            "log_loss": metric(sklearn.metrics.log_loss(labels, scores)),
            "brier": metric(sklearn.metrics.brier_score_loss(labels, scores)),
            "calibration_error": metric(calibration.error(labels, scores)),
        },
        "operating_points": {
            name: _at_threshold(labels, scores, threshold, resampled, grouped=grouped)
            for name, threshold in thresholds.items()
        },
    }
    if validation is not None:
        temperature = calibration.fit_temperature(validation)
        after = calibration.apply_temperature(predictions, temperature)["probability"].to_numpy()
        content["calibration"] = {
            "temperature": temperature,
            "before": _calibration(labels, scores, resampled),
            "after": _calibration(labels, after, resampled),
        }
    faulty = label_faults(predictions)
    if faulty.any() and predictions.loc[~faulty, "label"].nunique() == 2:
        kept = report(predictions[~faulty].reset_index(drop=True))
        content["without_label_faults"] = {
            "patches_left_out": int(faulty.sum()),
            "auc": kept["metrics"]["auc"],
            "accuracy": kept["operating_points"]["at_0.5"]["metrics"]["accuracy"],
        }
    return content


def label_faults(predictions: pd.DataFrame) -> np.ndarray:
    """Return which patches come from a slide with known label faults, bool (n,).

    Slides are told by the end of their name in the column `group`, such as
    "camelyon16_test_049"; without groups, none is known.
    """
    if "group" not in predictions:
        return np.zeros(len(predictions), bool)
    found = predictions["group"].astype("str").str.extract(r"(normal|tumor|test)_0*(\d+)$")
    return (found[0] + "_" + found[1]).isin(LABEL_FAULTS).to_numpy()


def _calibration(labels, scores, resampled):
    """Return the metrics of calibration with bootstrap intervals."""
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    losses = -np.where(labels == 1, np.log(clipped), np.log(1 - clipped))
    squares = (scores - labels) ** 2
    return {
        "log_loss": metric(losses.mean(), _bootstrap(resampled, lambda rows: losses[rows].mean())),
        "brier": metric(squares.mean(), _bootstrap(resampled, lambda rows: squares[rows].mean())),
        "calibration_error": metric(
            calibration.error(labels, scores),
            _bootstrap(resampled, lambda rows: calibration.error(labels[rows], scores[rows])),
        ),
    }


def metric(value: float, interval: tuple = (None, None)) -> dict:
    """Return a metric as it stands in a report: {"value", "low", "high"}."""
    low, high = (None if bound is None else float(bound) for bound in interval)
    return {"value": float(value), "low": low, "high": high}


def _grouped(predictions):
    """Return whether groups can be resampled: one alone would give intervals of no width."""
    return "group" in predictions and predictions["group"].nunique() > 1


def resampled_rows(predictions: pd.DataFrame) -> list[np.ndarray]:
    """Return bootstrap samples of row numbers: of groups where there are any, else by class."""
    generator = np.random.default_rng(0)
    if _grouped(predictions):
        groups = list(predictions.groupby("group").indices.values())
        return [
            np.concatenate(
                [groups[index] for index in generator.integers(len(groups), size=len(groups))]
            )
            for _ in range(RESAMPLES)
        ]
    classes = [np.flatnonzero(predictions["label"] == label) for label in (0, 1)]
    return [
        np.concatenate([generator.choice(rows, len(rows)) for rows in classes])
        for _ in range(RESAMPLES)
    ]


def _bootstrap(resampled, statistic):
    """Return the percentile interval of a statistic of row numbers (B. Efron, 1979)."""
    values = [statistic(rows) for rows in resampled]
    if np.all(np.isnan(values)):
        return None, None
    return tuple(np.nanpercentile(values, PERCENTILES))


def area(labels, scores) -> float:
    """Return the AUC alone, or NaN where a resample of groups holds one class only."""
    tumour = labels == 1
    ranks = scipy.stats.rankdata(scores)[tumour]
    pairs = len(ranks) * (len(labels) - len(ranks))
    if pairs == 0:
        return np.nan
    return (ranks.sum() - len(ranks) * (len(ranks) + 1) / 2) / pairs


def _rates(matrix):
    """Return the metrics of confusion matrices (..., 2, 2); NaN where one is not defined."""
    (true_normal, false_alarm), (missed, true_tumour) = np.moveaxis(matrix, (-2, -1), (0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = true_tumour / (true_tumour + missed)
        specificity = true_normal / (true_normal + false_alarm)
        return {
            "accuracy": (true_tumour + true_normal) / matrix.sum(axis=(-2, -1)),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": true_tumour / (true_tumour + false_alarm),
            "f1": 2 * true_tumour / (2 * true_tumour + false_alarm + missed),
        }


def _at_threshold(labels, scores, threshold, resampled, *, grouped):
    """Return all metrics at one threshold, with Wilson or bootstrap intervals."""
    matrix = confusion(labels, scores, threshold)
    (true_normal, false_alarm), (missed, true_tumour) = matrix.tolist()
    cell = 2 * labels + (scores >= threshold)
    matrices = np.stack([np.bincount(cell[rows], minlength=4).reshape(2, 2) for rows in resampled])
    sampled = _rates(matrices)
    proportions = {
        "accuracy": (true_normal + true_tumour, len(labels)),
        "sensitivity": (true_tumour, true_tumour + missed),
        "specificity": (true_normal, true_normal + false_alarm),
        "precision": (true_tumour, true_tumour + false_alarm),
    }
    metrics = {}
    for name, value in _rates(matrix).items():
        if np.isnan(value):  # precision where nothing is called tumour
            metrics[name] = {"value": None, "low": None, "high": None}
        elif name in proportions and not grouped:
            interval = proportion_confint(*proportions[name], alpha=1 - CONFIDENCE, method="wilson")
            metrics[name] = metric(value, interval)
        else:
            metrics[name] = metric(value, np.nanpercentile(sampled[name], PERCENTILES))
    return {"threshold": threshold, "confusion": matrix.tolist(), "metrics": metrics}


def curves(predictions: pd.DataFrame, resamples: int = 200) -> dict[str, pd.DataFrame]:
    """Return the ROC and the precision–recall curve with pointwise bootstrap bands.

    Returns:
        `roc`: columns false_positive_rate, sensitivity, low, high; `precision_recall`: columns
        recall, precision, low, high; each on a grid of 201 points.
    """
    labels = predictions["label"].to_numpy()
    scores = predictions["probability"].to_numpy()
    grid = np.linspace(0, 1, 201)

    def roc(rows):
        rate, sensitivity, _ = sklearn.metrics.roc_curve(labels[rows], scores[rows])
        return np.interp(grid, rate, sensitivity)

    def precision_recall(rows):
        precision, recall, _ = sklearn.metrics.precision_recall_curve(labels[rows], scores[rows])
        return np.interp(grid, recall[::-1], precision[::-1])

    samples = [
        rows
        for rows in resampled_rows(predictions)[:resamples]
        if len(np.unique(labels[rows])) == 2
    ]
    found = {}
    for name, function, columns in (
        ("roc", roc, ("false_positive_rate", "sensitivity")),
        ("precision_recall", precision_recall, ("recall", "precision")),
    ):
        low, high = np.percentile([function(rows) for rows in samples], PERCENTILES, axis=0)
        values = function(np.arange(len(labels)))
        found[name] = pd.DataFrame({columns[0]: grid, columns[1]: values, "low": low, "high": high})
    return found


def confident_errors(predictions: pd.DataFrame, count: int, threshold: float = 0.5) -> pd.DataFrame:
    """Return the errors furthest from the threshold, the worst first.

    Returns:
        At most `count` rows of the table with a column `error`: "missed tumour" or "false alarm".
    """
    wrong = predictions[(predictions["probability"] >= threshold) != (predictions["label"] == 1)]
    order = (wrong["probability"] - threshold).abs().sort_values(ascending=False, kind="stable")
    wrong = wrong.loc[order.index[:count]]
    return wrong.assign(error=np.where(wrong["label"] == 1, "missed tumour", "false alarm"))
