"""A report as one page that needs nothing else: figures inside, no script, no other host."""

import base64
import io

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf import evaluation
from pcam_tf.evaluation import calibration, decisions, reports
from pcam_tf.figures import plots

# Every value is escaped: a file's name is the user's, or somebody else's.
_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { white-space: nowrap; text-align: left; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; }
.note { color: #555; } .warning { border-left: 4px solid #D55E00; padding-left: .8rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ "{:,}".format(report.patches) }} patches: {{ "{:,}".format(report.normal) }} normal,
{{ "{:,}".format(report.tumour) }} tumour. Intervals: {{ report.intervals }}.</p>
<p class="warning">For research only. Not a medical device. These numbers are about patches, not
about slides or patients.</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.text %}<p class="note">{{ section.text }}</p>{% endif %}
{% if section.rows %}
<div class="wide"><table>
<thead><tr>{% for name in section.rows[0] %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in section.rows %}
<tr>{% for cell in row.values() %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if section.picture %}
<p><img alt="{{ section.picture.alt }}"
  src="data:image/png;base64,{{ section.picture.content }}"></p>
{% endif %}
{% endfor %}
</body>
</html>
"""
)


def page(
    report: dict,
    predictions: pd.DataFrame,
    *,
    title: str,
    validation: pd.DataFrame | None = None,
) -> str:
    """Return a report as a self-contained page.

    Args:
        report: what `evaluation.report` returned for these tables.
        predictions: the predictions table that was evaluated.
        title: of the page.
        validation: the table of the validation split, if one was used.

    Returns:
        HTML, its figures embedded as PNG.
    """
    threshold = report["operating_points"].get(
        reports.MAIN_OPERATING_POINT, report["operating_points"]["at_0.5"]
    )["threshold"]
    sections = [
        _section(
            "Ranking and probabilities",
            reports.metric_rows(report["metrics"]),
            plots.roc_and_precision_recall({"this table": evaluation.curves(predictions)}),
            "ROC and precision–recall curves with 95 % bands",
        ),
        _section(
            "Decisions",
            reports.operating_point_rows(report),
            plots.confusion_matrices(
                evaluation.confusion(predictions["label"], predictions["probability"], threshold),
                title=f"Threshold {threshold:.2f}",
            ),
            "confusion matrix, rows are the truth",
            text="Thresholds other than 0.5 were chosen on validation."
            if validation is not None
            else "Without a validation table only the threshold 0.5 is shown.",
        ),
        _section(
            "What the model says of each class",
            [],
            plots.probability_histogram(predictions, threshold),
            "probabilities of each class",
        ),
    ]
    bins = {"as predicted": calibration.bins(predictions)}
    if validation is not None:
        temperature = report["calibration"]["temperature"]
        calibrated = calibration.apply_temperature(predictions, temperature)
        bins[f"temperature {temperature:.2f}"] = calibration.bins(calibrated)
    rows = reports.calibration_rows(report) if validation is not None else []
    sections.append(_section("Calibration", rows, plots.reliability(bins), "reliability diagram"))
    rows = reports.cost_rows(report) if validation is not None else []
    sections.append(
        _section(
            "Is it worth acting on?",
            rows,
            plots.decision_curve({"this table": decisions.decision_curve(predictions)}),
            "net benefit by threshold",
            text="Net benefit: tumour found minus false alarms, at the exchange rate that the "
            "threshold stands for. Costs are in false alarms per 100 patches.",
        )
    )
    if "without_label_faults" in report:
        kept = report["without_label_faults"]
        sections.append(
            {
                "title": "Without slides whose labels are known to be faulty",
                "text": f"{kept['patches_left_out']:,} patches left out.",
                "rows": reports.metric_rows({"auc": kept["auc"], "accuracy": kept["accuracy"]}),
            }
        )
    return _PAGE.render(title=title, report=report, sections=sections)


def _section(title: str, rows: list, figure: Figure, alt: str, *, text: str = "") -> dict:
    picture = {"alt": alt, "content": _png(figure)}
    return {"title": title, "text": text, "rows": rows, "picture": picture}


def _png(figure: Figure) -> str:
    content = io.BytesIO()
    with mpl.rc_context(plots.STYLE):
        figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return base64.b64encode(content.getvalue()).decode("ascii")
