"""Reports and comparisons as text for a terminal."""

from pcam_tf.evaluation import intervals, reports, table_reports


def format_report(content: dict, *, title: str) -> str:
    """Return a report as text: a line for each metric, its 95 % interval in brackets."""
    counts = table_reports.class_counts(content)
    classes = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    lines = [
        title,
        f"{content['patches']:,} patches: {classes}",
        f"intervals: {content['intervals']}",
        "",
        *_metric_lines(content["metrics"]),
    ]
    if table_reports.is_binary(content):
        lines += _operating_point_lines(content)
    else:
        lines += _class_lines(content)
    lines += _calibration_lines(content) + _cost_lines(content) + _label_fault_lines(content)
    lines += _hospital_lines(content)
    return "\n".join(lines)


def _metric_lines(metrics):
    return [
        f"  {reports.metric_name(key):<20}{reports.metric_text(metric)}"
        for key, metric in metrics.items()
    ]


def _operating_point_lines(content):
    first, second = table_reports.class_counts(content)
    lines = []
    for name, point in content["operating_points"].items():
        (true_first, false_alarm), (missed, true_second) = point["confusion"]
        chosen = "" if name == "at_0.5" else f", {name.replace('_', ' ')} on validation"
        lines += [
            "",
            f"threshold {point['threshold']:.3f}{chosen}",
            f"  {true_second:,} {second} found, {missed:,} missed; "
            f"{true_first:,} {first} passed, {false_alarm:,} false alarms",
            *_metric_lines(point["metrics"]),
        ]
    return lines


def _class_lines(content):
    return [
        "  (Brier score: sum over the classes, 0 to 2; calibration error: of the most probable "
        "class)",
        "",
        "each class against the rest",
        reports.markdown_table(reports.class_rows(content)),
        "",
        "patches by true class (rows) and most probable class (columns), share of the row in "
        "brackets",
        reports.markdown_table(reports.confusion_rows(content)),
        "",
        reports.TWO_CLASSES_ONLY,
    ]


def _calibration_lines(content):
    if "calibration" not in content:
        return []
    fitted = content["calibration"]
    lines = ["", f"calibration: temperature {fitted['temperature']:.2f}, fitted on validation"]
    for key, before in fitted["before"].items():
        values = (reports.metric_text(metric) for metric in (before, fitted["after"][key]))
        lines.append("  {:<20}{} before, {} after".format(reports.metric_name(key), *values))
    return lines


def _cost_lines(content):
    rows = reports.cost_rows(content)
    if not rows:
        return []
    return [
        "",
        "cost per 100 patches, in false alarms, at the threshold cheapest on validation",
        *(
            f"  a miss costs {row['a miss costs']:<16} {row['cost per 100 patches']}; "
            f"{row['without a model']} without a model"
            for row in rows
        ),
    ]


def _label_fault_lines(content):
    if "without_label_faults" not in content:
        return []
    kept = content["without_label_faults"]
    return [
        "",
        f"without {kept['patches_left_out']:,} patches of slides with known label faults",
        f"  {'AUC':<20}{reports.metric_text(kept['auc'])}",
        f"  {'accuracy at 0.5':<20}{reports.metric_text(kept['accuracy'])}",
    ]


def _hospital_lines(content):
    lines = []
    for name, found in content.get("hospitals", {}).items():
        lines.append(f"  hospital {name}: {found['patches']:,} patches")
        if "auc" in found:
            auc, accuracy = (reports.metric_text(found[key]) for key in ("auc", "accuracy"))
            lines[-1] += f", AUC {auc}, accuracy at 0.5 {accuracy}"
    return ["", "by hospital", *lines] if lines else []


def format_comparison(content: dict, *, names: tuple[str, str]) -> str:
    """Return the result of `comparison.compare` as text."""
    first, second = names
    discordant, groups = content["mcnemar"], content["groups"]
    lines = [f"{content['patches']:,} patches; differences are {first} minus {second}"]
    if groups is not None:
        lines.append(_groups_text(groups))
    lines.append("")
    test = "DeLong, paired" if groups is None else "bootstrap of groups, paired"
    if "auc" in content:
        auc = content["auc"]
        lines += [
            f"  AUC of {first}: {reports.metric_text(auc['first'])}",
            f"  AUC of {second}: {reports.metric_text(auc['second'])}",
            f"  difference: {reports.metric_text(auc['difference'])}{_p_text(auc['p'], test)}",
            "",
        ]
    width = 14 if "auc" in content else 20
    lines += [
        f"paired bootstrap of the differences{'' if groups is None else ', by group'}",
        *(
            f"  {reports.metric_name(key):<{width}}{reports.metric_text(metric)}"
            f"{_p_text(metric['p'])}"
            for key, metric in content["bootstrap"].items()
        ),
        "",
        "tests that take patches as independent"
        + ("" if groups is None else "; patches of one group are not: do not rely on these"),
    ]
    if "delong" in content:
        delong = content["delong"]
        lines.append(
            f"  difference of AUC: {reports.metric_text(delong['difference'])}"
            f"{_p_text(delong['p'], 'DeLong, paired')}"
        )
    lines.append(
        f"  only {first} right: {discordant['only_first_right']:,} patches; "
        f"only {second} right: {discordant['only_second_right']:,}"
        f"{_p_text(discordant['p'], 'McNemar')}"
    )
    return "\n".join(lines)


def _groups_text(groups):
    text = f"of {groups:,} group{'s' if groups > 1 else ''}, which are resampled"
    if groups < intervals.FEWEST_GROUPS:
        return f"{text}; no intervals: at least {intervals.FEWEST_GROUPS} groups are needed"
    if groups < intervals.ENOUGH_GROUPS:
        return f"{text}; intervals of so few groups are too narrow"
    return text


def _p_text(p, test=""):
    if p is None:
        return ""
    return f", p {_p_value(p)}{f' ({test})' if test else ''}"


def _p_value(p):
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
