"""Figures of the study of protocols: the ladder of accuracies, and learning curves."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pcam_tf.figures.style import GREEN, NEUTRAL, TUMOUR, new_figure, styled
from pcam_tf.studies import protocol_results, protocols

# Label, protocol and column of each accuracy, from the most optimistic down.
ACCURACIES = (
    ("patches of the same slides", protocols.HELD_OUT, "accuracy"),
    ("the same, no shared tissue", protocol_results.APART, "accuracy"),
    ("validation slides", "validation", "accuracy"),
    ("test slides, threshold chosen on test", "test", "accuracy_own"),
    ("test slides, epoch chosen on test", "test", "accuracy_epoch"),
    ("test slides, threshold of validation", "test", "accuracy_validation"),
    ("test slides, threshold 0.5", "test", "accuracy"),
)
CURVES = (
    (protocols.HELD_OUT, "same slides", TUMOUR, "-"),
    ("validation", "validation slides", NEUTRAL, "--"),
    ("test", "test slides", GREEN, "-."),
)


@styled
def ladder(table: pd.DataFrame, phase: str = "unfrozen") -> Figure:
    """Draw accuracy and AUC by protocol, a dot for each seed.

    Args:
        table: rows of `protocol_results.results`.
        phase: "frozen" or "unfrozen".
    """
    size = protocol_results.main_size(table)
    rows = table[(table["phase"] == phase) & (table["size"] == size)]
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=(6, 4))
    accuracies = [each for each in ACCURACIES if not _values(rows, *each[1:]).empty]
    for place, (_, protocol, column) in enumerate(accuracies):
        _dots(left, place, _values(rows, protocol, column))
    of_protocols = [(label, each) for label, each, column in ACCURACIES if column == "accuracy"]
    for place, (_, protocol) in enumerate(of_protocols):
        _dots(right, place, _values(rows, protocol, "auc"))
    left.set_yticks(range(len(accuracies)), [label for label, _, _ in accuracies])
    labels = [label.removesuffix(", threshold 0.5") for label, _ in of_protocols]
    right.set_yticks(range(len(labels)), labels)
    for axes, name in ((left, "accuracy"), (right, "AUC")):
        axes.invert_yaxis()
        axes.set_xlabel(name)
        axes.margins(x=0.14, y=0.1)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{name[0].upper()}{name[1:]} by protocol")
    seeds = rows["seed"].nunique()
    dots = f"{seeds} seeds (dots) and their mean (bar)" if seeds > 1 else "one seed"
    figure.suptitle(f"{size:,} training patches, {dots}", fontsize=10)
    return figure


def _values(rows, protocol, column):
    return rows.loc[rows["protocol"] == protocol, column].dropna()


def _dots(axes, place, values):
    axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=TUMOUR, linewidth=3)
    axes.plot(values, [place] * len(values), "o", color=NEUTRAL, markersize=5, alpha=0.8)
    axes.annotate(
        f"{values.mean():.3f}",
        (values.max(), place),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )


@styled
def errors_by_size(table: pd.DataFrame, size: int, *, reported: bool = False) -> Figure:
    """Draw the errors of the fine-tuned network over the number of training patches.

    Args:
        table: rows of `protocol_results.results`, of two sizes or more.
        size: where the fitted curves end.
        reported: draw `protocol_results.REPORTED` at `size` as well.
    """
    table = table[table["phase"] == "unfrozen"]
    figure = new_figure(10, 4.4)
    left, right = figure.subplots(1, 2)
    for axes, column, name in ((left, "accuracy", "accuracy at 0.5"), (right, "auc", "AUC")):
        for protocol, label, colour, dashes in CURVES:
            of = table[table["protocol"] == protocol]
            grid = np.geomspace(of["size"].min(), size, 40)
            curve = protocol_results.learning_curve(of, column, grid)
            axes.plot(grid, 1 - curve["value"], color=colour, linestyle=dashes, label=label)
            axes.fill_between(
                grid, 1 - curve["high"], 1 - curve["low"], color=colour, alpha=0.12, linewidth=0
            )
            axes.plot(of["size"], 1 - of[column], "o", color=colour, markersize=5, alpha=0.7)
            if reported and column == "accuracy":
                axes.plot(
                    size, 1 - protocol_results.REPORTED[protocol], "D", color=colour, clip_on=False
                )
        axes.axvspan(table["size"].max(), size, color="#f4f4f4", zorder=0)
        _logarithmic(axes)
        axes.set(xlabel="training patches", ylabel=f"1 − {name}", title=f"Error: 1 − {name}")
    handles, labels = left.get_legend_handles_labels()
    diamonds = "; diamonds: another classifier, reported" if reported else ""
    title = f"dots: measured; lines: fitted, 95 % bands; grey: beyond what was measured{diamonds}"
    figure.legend(handles, labels, loc="outside lower center", ncols=3, title=title)
    return figure


def _logarithmic(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log")
    # Between powers of ten, these alone have room for a label.
    labelled = ((axes.xaxis, "{x:,.0f}", (3,)), (axes.yaxis, "{x:g}", (2, 5)))
    for axis, form, parts in labelled:
        axis.set_minor_locator(LogLocator(subs=parts))
        axis.set_major_formatter(form)
        axis.set_minor_formatter(form)
