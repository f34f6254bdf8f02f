"""The report of a predictions table."""

from collections.abc import Sequence

import pandas as pd

from pcam_tf.errors import InputError
from pcam_tf.evaluation import (
    calibration,
    class_metrics,
    decisions,
    intervals,
    metrics,
    predictions_table,
)
from pcam_tf.task import PCAM


def report(
    predictions: pd.DataFrame,
    *,
    validation: pd.DataFrame | None = None,
    classes: Sequence[str] = PCAM.classes,
    group: str | None = PCAM.group,
) -> dict:
    """Evaluate a predictions table.

    Args:
        predictions: the table to evaluate, checked.
        validation: the table of the validation split, for choosing thresholds and a temperature.
        classes: the names of two classes, which a table of two does not hold.
        group: what patches come in, such as "slide" or "patient"; None: not known.

    Returns:
        A dictionary that JSON can hold. A metric is {"value", "low", "high"}; low and high are
        None where there is no interval, and all three where the metric is not defined.

        Two classes: `patches`; a count under the name of each class; `intervals` (how they were
        made); `metrics` that need no threshold; `operating_points`: those that do. With a
        validation table also `calibration` (see `calibration.effect`) and `costs` (see
        `decisions.costs`). With groups that name slides of `LABEL_FAULTS`, also
        `without_label_faults`; with a column `hospital`, `hospitals`: for each its patches, `auc`
        and `accuracy` at 0.5.

        More classes: `patches`, `classes` (name -> count), `intervals`, and `metrics`, `per_class`
        and `confusion` (see `class_metrics.report`). With a validation table also `calibration`.

    Raises:
        InputError: the validation table has other classes.
    """
    names = predictions_table.classes_of(predictions, classes)
    if validation is not None and predictions_table.classes_of(validation, classes) != names:
        raise InputError("the validation table has other classes: predict both with one model.")
    labels = predictions["label"].to_numpy()
    counts = {name: int((labels == index).sum()) for index, name in enumerate(names)}
    binary = predictions_table.is_binary(predictions)
    content = {
        "patches": len(predictions),
        **(counts if binary else {"classes": counts}),
        "intervals": _interval_text(predictions, group),
    }
    if binary:
        content |= _report_of_two(predictions, validation)
    else:
        content |= class_metrics.report(predictions)
        if validation is not None:
            content["calibration"] = calibration.effect(predictions, validation)
    return content


def _interval_text(predictions, group):
    if intervals.is_grouped(predictions):
        count = predictions["group"].nunique()
        name = group or "group"
        if not intervals.can_be_resampled(predictions):
            return (
                f"none: the patches are of {count} {name}{'s' if count > 1 else ''}, "
                f"and an interval needs at least {intervals.FEWEST_GROUPS}"
            )
        if count < intervals.ENOUGH_GROUPS:
            return f"95 %; patches resampled by group; of {count} {name}s only: too narrow"
        return "95 %; patches resampled by group"
    reason = f", since patches come in {group}s" if group else " if several are of one patient"
    return f"95 %, taking patches as independent: too narrow{reason}"


def _report_of_two(predictions, validation):
    thresholds = {"at_0.5": 0.5}
    if validation is not None:
        thresholds |= metrics.operating_points(validation)
    content = {
        "metrics": metrics.overall(predictions),
        "operating_points": metrics.at_thresholds(predictions, thresholds),
    }
    if validation is not None:
        content["calibration"] = calibration.effect(predictions, validation)
    faulty = predictions_table.label_faults(predictions)
    if faulty.any() and predictions.loc[~faulty, "label"].nunique() == 2:
        kept = predictions[~faulty].reset_index(drop=True)
        at_half = metrics.at_thresholds(kept, {"at_0.5": 0.5})["at_0.5"]
        content["without_label_faults"] = {
            "patches_left_out": int(faulty.sum()),
            "auc": metrics.auc_metric(kept),
            "accuracy": at_half["metrics"]["accuracy"],
        }
    if "hospital" in predictions:
        content["hospitals"] = _by_hospital(predictions)
    if validation is not None:
        content["costs"] = decisions.costs(predictions, validation).to_dict("records")
    return content


def _by_hospital(predictions):
    """Return hospital -> its patches, and AUC and accuracy at 0.5 where it has both classes."""
    content = {}
    for name, table in predictions.groupby("hospital", sort=True):
        content[str(name)] = {"patches": len(table)}
        if table["label"].nunique() == 2:
            kept = table.reset_index(drop=True)
            at_half = metrics.at_thresholds(kept, {"at_0.5": 0.5})["at_0.5"]["metrics"]
            content[str(name)] |= {
                "auc": metrics.auc_metric(kept),
                "accuracy": at_half["accuracy"],
            }
    return content


def is_binary(content: dict) -> bool:
    """Return whether a report is of two classes."""
    return "per_class" not in content


def class_counts(content: dict) -> dict[str, int]:
    """Return the number of patches of each class of a report, in the order of the classes."""
    if not is_binary(content):
        return content["classes"]
    # A report of two classes has the counts, under the names of the classes, between these keys.
    keys = list(content)
    names = keys[keys.index("patches") + 1 : keys.index("intervals")]
    return {name: content[name] for name in names}
