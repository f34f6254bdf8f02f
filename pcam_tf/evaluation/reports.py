"""Reports: of a run, as JSON in its folder, and as text for a terminal or a README."""

import json
from pathlib import Path

from pcam_tf.errors import InputError
from pcam_tf.evaluation import decisions, metrics
from pcam_tf.files import write_json

MAIN_OPERATING_POINT = "youden"
# What prediction.predict_run calls the tables of each phase.
RUN_TABLES = {"frozen": "predictions-frozen", "unfrozen": "predictions"}


def report(predictions, *, validation=None) -> dict:
    """Return `evaluation.report` with `costs` of misses and false alarms where there is validation.

    Args:
        predictions: the predictions table to evaluate, checked.
        validation: the table of the validation split, for choosing thresholds.
    """
    content = metrics.report(predictions, validation=validation)
    if validation is not None:
        content["costs"] = decisions.costs(predictions, validation).to_dict("records")
    return content


def report_run(run_dir: str | Path) -> dict[str, dict]:
    """Report on a run's predictions of the test split and write `report.json` into its folder.

    Returns:
        A report for each phase that the run had, "frozen" and "unfrozen", its operating points
        chosen on the run's predictions of the validation split.

    Raises:
        InputError: a table is missing or cannot be evaluated.
    """
    run_dir = Path(run_dir)
    reports = {}
    for phase, name in RUN_TABLES.items():
        # A distilled run starts from its first teacher and has no frozen phase.
        if phase == "frozen" and not (run_dir / f"{name}-test.csv").is_file():
            continue
        validation = metrics.read_predictions(run_dir / f"{name}-validation.csv")
        test = metrics.read_predictions(run_dir / f"{name}-test.csv")
        reports[phase] = {"split": "test", **report(test, validation=validation)}
        auc, *interval = metrics.auc_interval(validation["label"], validation["probability"])
        reports[phase]["validation_auc"] = metrics.metric(auc, interval)
        reports[phase]["validation_patches"] = len(validation)
    write_json(run_dir / "report.json", reports)
    return reports


def read_run_report(run_dir: str | Path) -> dict[str, dict]:
    """Return what `report_run` wrote.

    Raises:
        InputError: the run has no report.
    """
    path = Path(run_dir) / "report.json"
    if not path.is_file():
        raise InputError(f"{run_dir} holds no report.json: evaluate the run first.")
    return json.loads(path.read_text(encoding="utf-8"))


def summary_rows(reports: dict[str, dict]) -> list[dict[str, str]]:
    """Return a row for each model and split: patches, AUC and accuracy with their intervals."""
    rows = []
    for phase, content in reports.items():
        points = content["operating_points"]
        rows.append(
            {
                "model": phase,
                "split": "validation",
                "patches": f"{content['validation_patches']:,}",
                "AUC": _text(content["validation_auc"]),
                "accuracy at 0.5": "",
                "at the operating point": "",
            }
        )
        rows.append(
            {
                "model": phase,
                "split": content["split"],
                "patches": f"{content['patches']:,}",
                "AUC": _text(content["metrics"]["auc"]),
                "accuracy at 0.5": _text(points["at_0.5"]["metrics"]["accuracy"]),
                "at the operating point": _text(
                    points[MAIN_OPERATING_POINT]["metrics"]["accuracy"]
                ),
            }
        )
    return rows


_NAMES = {"auc": "AUC", "brier": "Brier score", "f1": "F1"}


def _name(metric_name):
    return _NAMES.get(metric_name, metric_name.replace("_", " "))


def metric_rows(metrics: dict) -> list[dict[str, str]]:
    """Return a row for each metric, its 95 % interval in brackets."""
    return [{"metric": _name(name), "value": _text(metric)} for name, metric in metrics.items()]


def operating_point_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each operating point of a report."""
    rows = []
    for name, point in content["operating_points"].items():
        (_, false_alarm), (missed, _) = point["confusion"]
        chosen = "nothing: 0.5 as it is" if name == "at_0.5" else name.replace("_", " 0.")
        rows.append(
            {
                "chosen for": chosen,
                "threshold": f"{point['threshold']:.3f}",
                **{
                    key: _text(point["metrics"][key])
                    for key in ("accuracy", "sensitivity", "specificity")
                },
                "missed": f"{missed:,} of {content['tumour']:,}",
                "false alarms": f"{false_alarm:,} of {content['normal']:,}",
            }
        )
    return rows


def calibration_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each metric of calibration, before and after temperature scaling."""
    fitted = content["calibration"]
    return [
        {
            "metric": _name(name),
            "before": _text(before),
            f"after, temperature {fitted['temperature']:.2f}": _text(fitted["after"][name]),
        }
        for name, before in fitted["before"].items()
    ]


def cost_rows(content: dict) -> list[dict[str, str]]:
    """Return a row for each price of a miss, see `decisions.costs`."""
    return [
        {
            "a miss costs": f"{each['miss_costs']:g} false alarms",
            "threshold": f"{each['threshold']:.3f}",
            "missed": f"{each['missed']:,}",
            "false alarms": f"{each['false_alarms']:,}",
            "cost per 100 patches": f"{each['cost']:.1f} ({each['low']:.1f}–{each['high']:.1f})",
            "without a model": f"{each['cheapest']:.1f}",
        }
        for each in content["costs"]
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


def format_report(content: dict, *, title: str) -> str:
    """Return a report as text for a terminal: a line a metric, its 95 % interval in brackets."""
    lines = [
        title,
        f"{content['patches']:,} patches: {content['normal']:,} normal, "
        f"{content['tumour']:,} tumour",
        f"intervals: {content['intervals']}",
        "",
    ]

    def add(metrics):
        for name, metric in metrics.items():
            lines.append(f"  {_name(name):<20}{_text(metric)}")

    add(content["metrics"])
    for name, point in content["operating_points"].items():
        (true_normal, false_alarm), (missed, true_tumour) = point["confusion"]
        chosen = "" if name == "at_0.5" else f", {name.replace('_', ' ')} on validation"
        lines += ["", f"threshold {point['threshold']:.3f}{chosen}"]
        lines.append(
            f"  {true_tumour:,} tumour found, {missed:,} missed; "
            f"{true_normal:,} normal passed, {false_alarm:,} false alarms"
        )
        add(point["metrics"])
    if "calibration" in content:
        fitted = content["calibration"]
        lines += ["", f"calibration: temperature {fitted['temperature']:.2f}, fitted on validation"]
        for name, before in fitted["before"].items():
            after = fitted["after"][name]
            lines.append(f"  {_name(name):<20}{_text(before)} before, {_text(after)} after")
    if "costs" in content:
        lines += [
            "",
            "cost per 100 patches, in false alarms, at the threshold cheapest on validation",
        ]
        lines += [
            f"  a miss costs {row['a miss costs']:<16} {row['cost per 100 patches']}; "
            f"{row['without a model']} without a model"
            for row in cost_rows(content)
        ]
    if "without_label_faults" in content:
        kept = content["without_label_faults"]
        lines += [
            "",
            f"without {kept['patches_left_out']:,} patches of slides with known label faults",
            f"  {'AUC':<20}{_text(kept['auc'])}",
            f"  {'accuracy at 0.5':<20}{_text(kept['accuracy'])}",
        ]
    return "\n".join(lines)


def format_comparison(content: dict, *, names: tuple[str, str]) -> str:
    """Return what `comparison.compare` found as text for a terminal."""
    auc, discordant = content["auc"], content["mcnemar"]
    lines = [
        f"{content['patches']:,} patches; differences are {names[0]} minus {names[1]}",
        "",
        f"  AUC of {names[0]}: {_text(auc['first'])}",
        f"  AUC of {names[1]}: {_text(auc['second'])}",
        f"  difference: {_text(auc['difference'])}, p {_p_value(auc['p'])} (DeLong, paired)",
        "",
        f"  only {names[0]} right: {discordant['only_first_right']:,} patches; "
        f"only {names[1]} right: {discordant['only_second_right']:,}; "
        f"p {_p_value(discordant['p'])} (McNemar)",
        "",
        "paired bootstrap of the differences",
    ]
    lines += [
        f"  {'AUC' if name == 'auc' else name:<14}{_text(metric)}"
        for name, metric in content["bootstrap"].items()
    ]
    return "\n".join(lines)


def _p_value(p):
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _text(metric):
    if metric["value"] is None:
        return "not defined"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} ({metric['low']:.3f}–{metric['high']:.3f})"
