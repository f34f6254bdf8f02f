"""Reports of a run, and reports as rows of text: for Markdown, a notebook or a web page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf.errors import InputError, first_line
from pcam_tf.evaluation import (
    calibration,
    class_metrics,
    metrics,
    predictions_table,
    table_reports,
)
from pcam_tf.files import write_json
from pcam_tf.models import model_files
from pcam_tf.task import PCAM, Task

MAIN_OPERATING_POINT = "youden"
# What prediction.predict_run calls the tables of each phase, and the models that they are of.
RUN_TABLES = {"frozen": "predictions-frozen", "unfrozen": "predictions"}
RUN_MODELS = {"frozen": "model-frozen.keras", "unfrozen": "model.keras"}
VIEWS = 8  # of test-time augmentation
TWO_CLASSES_ONLY = "Operating points, costs and the decision curve are for two classes only."
_NAMES = {
    "auc": "AUC",
    "macro_auc": "macro AUC",
    "brier": "Brier score",
    "f1": "F1",
    "macro_f1": "macro F1",
}


def report_run(run_dir: str | Path) -> dict[str, dict]:
    """Report on a run's predictions of the test split and write `report.json` into its folder.

    Returns:
        A report for each phase that the run had, "frozen" and "unfrozen", its operating points
        chosen on the run's predictions of the validation split. `model_sha256` says of which model
        it is, and `views` and `one_view` are those of `report_on_views`.

    Raises:
        InputError: a table is missing or cannot be evaluated.
    """
    run_dir = Path(run_dir)
    task = predictions_table.task_of(run_dir / "predictions-test.csv") or PCAM
    reports = {}
    for phase, name in RUN_TABLES.items():
        if phase == "unfrozen" and model_files.is_frozen_only(run_dir):
            continue
        # A distilled run starts from its first teacher and has no frozen phase.
        if phase == "frozen" and not (run_dir / f"{name}-test.csv").is_file():
            continue
        validation = predictions_table.read_predictions(run_dir / f"{name}-validation.csv")
        test = predictions_table.read_predictions(run_dir / f"{name}-test.csv")
        content = report_on_test(test, validation, task)
        if (run_dir / RUN_MODELS[phase]).is_file():
            content["model_sha256"] = model_files.digest(run_dir / RUN_MODELS[phase])
        one_view = run_dir / f"{name}-one-view-validation.csv"
        if one_view.is_file():
            content |= report_on_views(validation, predictions_table.read_predictions(one_view))
        reports[phase] = content
    write_json(run_dir / "report.json", reports)
    return reports


def report_on_test(test: pd.DataFrame, validation: pd.DataFrame, task: Task) -> dict:
    """Return the report on a model's test table as `summary_rows` takes it.

    Operating points are chosen on the table of the validation split.
    """
    content = table_reports.report(
        test, validation=validation, classes=task.classes, group=task.group
    )
    return {
        "split": "test",
        **content,
        "validation_auc": _validation_auc(validation),
        "validation_patches": len(validation),
    }


def report_on_views(validation: pd.DataFrame, one_view: pd.DataFrame) -> dict:
    """Return by how many views a run was evaluated, and what to apply to a single view.

    The mean of eight views is less extreme than one view, so neither its thresholds nor its
    temperature fit one view.

    Args:
        validation: the run's predictions of the validation split.
        one_view: those from one view of each patch.

    Returns:
        `views`, 1 or 8, and `one_view`: `patches`, `thresholds` (by the names of the operating
        points; empty for more than two classes) and `temperature`.

    Raises:
        InputError: the tables are of different patches.
    """
    if list(validation["id"]) != list(one_view["id"]):
        raise InputError("the validation tables of the run are of different patches: predict anew.")
    same = np.array_equal(*map(predictions_table.probabilities_of, (validation, one_view)))
    binary = predictions_table.is_binary(one_view)
    return {
        "views": 1 if same else VIEWS,
        "one_view": {
            "patches": len(one_view),
            "thresholds": metrics.operating_points(one_view) if binary else {},
            "temperature": calibration.fit_temperature(one_view),
        },
    }


def report_of_model(model: str | Path) -> tuple[dict, str]:
    """Return the report of a model, and why there is none.

    A report is that of a model if it holds the digest of its file: a model that was trained
    further, or copied beside the report of another, has none.

    Args:
        model: a `.keras` file; its report is sought in `report.json` beside it.

    Returns:
        What `report_run` wrote for this model, and ""; or an empty dictionary and a sentence.

    Raises:
        InputError: `report.json` is damaged.
    """
    path = Path(model).with_name("report.json")
    if not path.is_file():
        return {}, "It has no report."
    reports, digest = read_run_report(path.parent), model_files.digest(model)
    for content in reports.values():
        if content.get("model_sha256") == digest:
            return content, ""
    again = "run the `train` command of its run again, which only predicts and reports"
    if any("model_sha256" in content for content in reports.values()):
        return {}, f"The report.json beside it is of another model: {again}."
    return {}, f"The report.json beside it does not say of which model it is: {again}."


def _validation_auc(validation):
    """Return the AUC, or the macro AUC of more than two classes, with its interval."""
    if not predictions_table.is_binary(validation):
        return class_metrics.macro_auc(validation)
    return metrics.auc_metric(validation)


def read_run_report(run_dir: str | Path) -> dict[str, dict]:
    """Return what `report_run` wrote.

    Raises:
        InputError: the run has no report, or it is damaged.
    """
    path = Path(run_dir) / "report.json"
    if not path.is_file():
        raise InputError(f"{run_dir} holds no report.json: evaluate the run first.")
    try:
        reports = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}): report on the run anew."
        ) from error
    if not (isinstance(reports, dict) and all(isinstance(each, dict) for each in reports.values())):
        raise InputError(f"{path} is not the report of a run: report on the run anew.")
    return reports


def summary_rows(reports: dict[str, dict]) -> list[dict[str, str]]:
    """Return a row for each model and split: patches, AUC and accuracy with their intervals.

    With more than two classes: macro AUC, accuracy and balanced accuracy.
    """
    rows = []
    for phase, content in reports.items():
        validation = [metric_text(content["validation_auc"]), "", ""]
        measured = content["metrics"]
        if table_reports.is_binary(content):
            columns = ["AUC", "accuracy at 0.5", "at the operating point"]
            points = content["operating_points"]
            chosen = (points["at_0.5"], points[MAIN_OPERATING_POINT])
            values = [measured["auc"], *(point["metrics"]["accuracy"] for point in chosen)]
        else:
            columns = ["macro AUC", "accuracy", "balanced accuracy"]
            values = [measured[key] for key in ("macro_auc", "accuracy", "balanced_accuracy")]
        for split, patches, cells in (
            ("validation", content["validation_patches"], validation),
            (content["split"], content["patches"], map(metric_text, values)),
        ):
            described = {"model": phase, "split": split, "patches": f"{patches:,}"}
            rows.append(described | dict(zip(columns, cells, strict=True)))
    return rows


def metric_name(key: str) -> str:
    """Return the name of a metric as a reader knows it."""
    return _NAMES.get(key, key.replace("_", " "))


def metric_text(metric: dict) -> str:
    """Return a metric as text, its 95 % interval in brackets."""
    if metric["value"] is None:
        return "not defined"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} ({metric['low']:.3f}–{metric['high']:.3f})"


def metric_rows(metrics: dict) -> list[dict[str, str]]:
    """Return a row for each metric, its 95 % interval in brackets."""
    return [
        {"metric": metric_name(key), "value": metric_text(metric)}
        for key, metric in metrics.items()
    ]


def class_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each of more than two classes; no row for two."""
    counts = table_reports.class_counts(content)
    return [
        {"class": name, "patches": f"{counts[name]:,}"}
        | {metric_name(key): metric_text(metric) for key, metric in metrics.items()}
        for name, metrics in content.get("per_class", {}).items()
    ]


def confusion_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each true class of more than two: how many were predicted as which.

    Each cell has the count and its share of the row; no row for two classes.
    """
    names = list(table_reports.class_counts(content))
    rows = []
    for name, counts in zip(names, content.get("confusion", []), strict=False):
        total = max(sum(counts), 1)
        cells = {
            other: f"{count:,} ({count / total:.2f})"
            for other, count in zip(names, counts, strict=True)
        }
        rows.append({"truth \\ predicted": name} | cells)
    return rows


def operating_point_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each operating point of a report; no row for more than two classes."""
    if not table_reports.is_binary(content):
        return []
    first, second = table_reports.class_counts(content).values()
    rows = []
    for name, point in content["operating_points"].items():
        (_, false_alarm), (missed, _) = point["confusion"]
        chosen = "nothing: 0.5 as it is" if name == "at_0.5" else name.replace("_", " 0.")
        rows.append(
            {
                "chosen for": chosen,
                "threshold": f"{point['threshold']:.3f}",
                **{
                    key: metric_text(point["metrics"][key])
                    for key in ("accuracy", "sensitivity", "specificity")
                },
                "missed": f"{missed:,} of {second:,}",
                "false alarms": f"{false_alarm:,} of {first:,}",
            }
        )
    return rows


def calibration_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each metric of calibration, before and after temperature scaling.

    No row if there was no validation table.
    """
    if "calibration" not in content:
        return []
    fitted = content["calibration"]
    return [
        {
            "metric": metric_name(key),
            "before": metric_text(before),
            f"after, temperature {fitted['temperature']:.2f}": metric_text(fitted["after"][key]),
        }
        for key, before in fitted["before"].items()
    ]


def cost_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each price of a miss, see `decisions.costs`.

    No row if there was no validation table, or for more than two classes.
    """
    return [
        {
            "a miss costs": f"{each['miss_costs']:g} false alarms",
            "threshold": f"{each['threshold']:.3f}",
            "missed": f"{each['missed']:,}",
            "false alarms": f"{each['false_alarms']:,}",
            "cost per 100 patches": f"{each['cost']:.1f}"
            + ("" if each["low"] is None else f" ({each['low']:.1f}–{each['high']:.1f})"),
            "without a model": f"{each['cheapest']:.1f}",
        }
        for each in content.get("costs", [])
    ]


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table that is also legible as plain text."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]

    def line(cells):
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    body = [line([row[column] for column in columns]) for row in rows]
    return "\n".join([line(columns), line(["-" * width for width in widths]), *body])
