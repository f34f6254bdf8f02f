"""Plots of the study of subtypes: two splits side by side, accuracy by case, fields."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.figures import explanation_plots, style
from pcam_tf.figures.style import GREEN, NEUTRAL, new_figure, styled


@styled
def splits_side_by_side(metrics: Mapping[str, Mapping[str, dict]], chance: float) -> Figure:
    """Draw balanced accuracy of each method by a random split and by a split of cases.

    Args:
        metrics: the method -> "image" and "case" -> a metric with its interval.
        chance: balanced accuracy of guessing.
    """
    figure = new_figure(8.4, 1.3 + 0.6 * len(metrics))
    axes = figure.subplots()
    for by, colour, marker, shift, name in (
        ("image", NEUTRAL, "s", -0.12, "random split of fields (leaky)"),
        ("case", GREEN, "o", 0.12, "split by case"),
    ):
        found = [metric[by] for metric in metrics.values()]
        values = np.array([each["value"] for each in found])
        bounds = np.array([[each["low"], each["high"]] for each in found]).T
        errors = np.clip([values - bounds[0], bounds[1] - values], 0, None)
        places = np.arange(len(found)) + shift
        axes.errorbar(values, places, xerr=errors, fmt=marker, color=colour, capsize=3, label=name)
    axes.axvline(chance, color="#aaaaaa", linestyle=":", label="guessing")
    axes.set_yticks(range(len(metrics)), list(metrics))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.01), xlabel="balanced accuracy of fields, 95 % intervals by case")
    axes.set_title("One method, two splits")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def accuracy_by_case(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the share of fields predicted right, a dot a case, see `cases.accuracy_by_case`."""
    figure = new_figure(8.4, 1.2 + 0.5 * len(classes))
    axes = figure.subplots()
    colours = style.class_colours(len(classes))
    for label in range(len(classes)):
        of_class = table[table["label"] == label].sort_values("accuracy")
        if of_class.empty:
            continue
        places = label + np.linspace(-0.25, 0.25, len(of_class))
        sizes = 12 + 3 * of_class["fields"]
        axes.scatter(of_class["accuracy"], places, s=sizes, color=colours[label], alpha=0.7)
        axes.plot([of_class["accuracy"].mean()] * 2, [label - 0.35, label + 0.35], color="black")
    axes.set_yticks(range(len(classes)), [name.replace("_", " ") for name in classes])
    axes.invert_yaxis()
    axes.set(xlim=(-0.03, 1.03), xlabel="share of the case's fields predicted right")
    axes.set_title("Each dot is a case (its size: fields); the line is the mean of the class")
    return figure


@styled
def roc_by_class(curves: Mapping[str, pd.DataFrame], aucs: Mapping[str, dict]) -> Figure:
    """Draw the ROC curve of each class against the rest, a panel each, with its band.

    Args:
        curves: the class -> `roc` of `evaluation.curves`.
        aucs: the class -> a metric.
    """
    figure = new_figure(2.3 * len(curves), 2.9)
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    colours = style.class_colours(len(curves))
    for axes, (name, table), colour in zip(panels, curves.items(), colours, strict=True):
        axes.plot(table["false_positive_rate"], table["sensitivity"], color=colour)
        axes.fill_between(
            table["false_positive_rate"], table["low"], table["high"], color=colour, alpha=0.2
        )
        axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal", xticks=(0, 0.5, 1))
        auc = f"AUC {aucs[name]['value']:.2f} ({aucs[name]['low']:.2f}–{aucs[name]['high']:.2f})"
        axes.set_title(f"{name.replace('_', ' ')}\n{auc}", fontsize=9)
    panels[0].set_ylabel("sensitivity")
    figure.supxlabel("1 − specificity; 95 % bands by case", fontsize=9)
    return figure


@styled
def fields_of_classes(
    fields: Mapping[str, Sequence[np.ndarray]], title: str = "One row a class, one column a case"
) -> Figure:
    """Draw some fields of each class: the class -> fields (height, width, 3) uint8."""
    columns = max(map(len, fields.values()))
    figure = new_figure(2.1 * columns, 1.45 * len(fields) + 0.4)
    panels = figure.subplots(len(fields), columns, squeeze=False)
    for row, (name, images) in zip(panels, fields.items(), strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, image in zip(row, images, strict=False):
            axes.imshow(image)
        row[0].set_title(name.replace("_", " "), loc="left", fontsize=9)
    figure.suptitle(title, fontweight="bold", fontsize=11)
    return figure


@styled
def evidence(
    fields: Sequence[np.ndarray], maps: Sequence[np.ndarray], captions: Sequence[str]
) -> Figure:
    """Draw fields, a column each, over what speaks for their class, see `subtype_evidence.maps`.

    Each map has its own scale.
    """
    figure = new_figure(2.3 * len(fields), 3.9)
    panels = figure.subplots(2, len(fields), squeeze=False)
    for (above, below), field, found, caption in zip(panels.T, fields, maps, captions, strict=True):
        shade = explanation_plots.shades(found[None])[0]
        for axes, picture in ((above, field), (below, explanation_plots.overlay(field, shade))):
            axes.imshow(picture)
            axes.set_axis_off()
        above.set_title(caption.replace("_", " "), fontsize=9)
    figure.suptitle("What speaks for the class (vermilion) and against it (blue)", fontsize=11)
    return figure
