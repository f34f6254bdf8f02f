"""A report as one page that needs nothing else: figures inside, no script, no other host."""

import base64
import importlib.resources
import io
from collections.abc import Sequence

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf import evaluation
from pcam_tf.evaluation import calibration, decisions, reports, table_reports
from pcam_tf.figures import plots, style

THIS_TABLE = "this table"


def page(
    report: dict,
    predictions: pd.DataFrame,
    *,
    title: str,
) -> str:
    """Return a report as a self-contained page.

    Args:
        report: what `evaluation.report` returned for the table.
        predictions: the predictions table that was evaluated.
        title: of the page.

    Returns:
        HTML, its figures embedded as PNG.
    """
    counts = table_reports.class_counts(report)
    if table_reports.is_binary(report):
        sections = _sections_of_two(report, predictions, tuple(counts))
    else:
        sections = _sections_of_more(report, predictions, tuple(counts))
    shares = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return document(
        title,
        f"{report['patches']:,} patches: {shares}. Intervals: {report['intervals']}.",
        "These numbers are about patches, not about slides or patients.",
        sections,
    )


def document(title: str, introduction: str, warning: str, sections: Sequence[dict]) -> str:
    """Return a self-contained page of sections.

    Args:
        title: of the page.
        introduction: a paragraph below it.
        warning: what the reader must know besides that this is for research only.
        sections: see `section`.
    """
    # Every value is escaped: a file's name and a class's name come from the user or others.
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    file = importlib.resources.files("pcam_tf.figures") / "report.html"
    template = environment.from_string(file.read_text(encoding="utf-8"))
    return template.render(
        title=title, introduction=introduction, warning=warning, sections=sections
    )


def _sections_of_two(report, predictions, classes):
    points = report["operating_points"]
    chosen = points.get(reports.MAIN_OPERATING_POINT, points["at_0.5"])
    threshold = chosen["threshold"]
    sections = [
        section(
            "Ranking and probabilities",
            reports.metric_rows(report["metrics"]),
            plots.roc_and_precision_recall({THIS_TABLE: evaluation.curves(predictions)}),
            "ROC and precision–recall curves with 95 % bands",
        ),
        section(
            "Decisions",
            reports.operating_point_rows(report),
            plots.confusion_matrices(
                np.array(chosen["confusion"]), title=f"Threshold {threshold:.2f}", classes=classes
            ),
            "confusion matrix, rows are the truth",
            text="Thresholds other than 0.5 were chosen on validation."
            if len(points) > 1
            else "Without a validation table only the threshold 0.5 is shown.",
        ),
        section(
            "Predicted probabilities of each class",
            [],
            plots.probability_histogram(predictions, threshold, classes=classes),
            "histogram of the probabilities of each class",
        ),
        _calibration_section(report, predictions, classes),
        section(
            "Net benefit and costs",
            reports.cost_rows(report),
            plots.decision_curve(
                {THIS_TABLE: decisions.decision_curve(predictions)}, classes=classes
            ),
            "net benefit by threshold",
            text=f"Net benefit: patches of {classes[1]} that are found minus false alarms, at the "
            "exchange rate that the threshold stands for. Costs are in false alarms per 100 "
            "patches.",
        ),
    ]
    if "without_label_faults" in report:
        sections.append(_label_fault_section(report["without_label_faults"]))
    return sections


def _label_fault_section(kept):
    return section(
        "Without slides whose labels are known to be faulty",
        reports.metric_rows({"auc": kept["auc"], "accuracy": kept["accuracy"]}),
        text=f"{kept['patches_left_out']:,} patches left out.",
    )


def _sections_of_more(report, predictions, classes):
    tables = evaluation.one_against_rest(predictions)
    curves = {name: evaluation.curves(table) for name, table in tables.items()}
    return [
        section(
            "All classes",
            reports.metric_rows(report["metrics"]),
            text="A patch is predicted to be of its most probable class. Brier score: sum over "
            "the classes, 0 to 2. Calibration error: of the most probable class.",
        ),
        section(
            "Each class against the rest",
            reports.class_rows(report),
            plots.roc_and_precision_recall(curves),
            "one-against-rest ROC and precision–recall curves with 95 % bands",
        ),
        section(
            "Decisions",
            reports.confusion_rows(report),
            plots.confusion_matrices(
                np.array(report["confusion"]), title="Most probable class", classes=classes
            ),
            "confusion matrix, rows are the truth",
            text=f"Counts, and the share of the row in brackets. {reports.TWO_CLASSES_ONLY}",
        ),
        _calibration_section(report, predictions, classes),
    ]


def _calibration_section(report, predictions, classes):
    bins = {"as predicted": calibration.bins(predictions)}
    if "calibration" in report:
        temperature = report["calibration"]["temperature"]
        calibrated = calibration.apply_temperature(predictions, temperature)
        bins[f"temperature {temperature:.2f}"] = calibration.bins(calibrated)
    figure = plots.reliability(bins, classes=classes)
    return section("Calibration", reports.calibration_rows(report), figure, "reliability diagram")


def section(
    title: str,
    rows: list[dict],
    figure: Figure | None = None,
    alt: str = "",
    *,
    text: str = "",
    kind: str = "png",
) -> dict:
    """Return a section of a page.

    Args:
        title: its heading.
        rows: of a table, each from column to text.
        figure: a picture below the table.
        alt: what the picture shows, for readers who do not see it.
        text: a paragraph above the table.
        kind: of the picture, "png" or "jpeg"; the latter is smaller for tissue.
    """
    picture = figure and {"alt": alt, "kind": kind, "content": _encoded(figure, kind)}
    return {"title": title, "text": text, "rows": rows, "picture": picture}


def _encoded(figure: Figure, kind: str) -> str:
    content = io.BytesIO()
    options = {"png": {"metadata": {"Software": None}}, "jpeg": {"pil_kwargs": {"quality": 85}}}
    with mpl.rc_context(style.STYLE):
        figure.savefig(content, format=kind, dpi=110, **options[kind])
    return base64.b64encode(content.getvalue()).decode("ascii")
