"""Figures of the studies: shifts of the picture, kinds of tissue, protocols of evaluation."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pcam_tf.figures.style import GREEN, NEUTRAL, NORMAL, SERIES, TUMOUR, new_figure, styled
from pcam_tf.studies import hard_tissue, protocols, robustness

# Label, protocol and column of each accuracy, from the most optimistic down.
ACCURACIES = (
    ("patches of the same slides", protocols.HELD_OUT, "accuracy"),
    ("the same, no shared tissue", protocols.APART, "accuracy"),
    ("validation slides", "validation", "accuracy"),
    ("test slides, threshold chosen on test", "test", "accuracy_own"),
    ("test slides, threshold of validation", "test", "accuracy_validation"),
    ("test slides, threshold 0.5", "test", "accuracy"),
)
CURVES = (
    (protocols.HELD_OUT, "same slides", TUMOUR, "-"),
    ("validation", "validation slides", NEUTRAL, "--"),
    ("test", "test slides", GREEN, "-."),
)


@styled
def under_shift(table: pd.DataFrame) -> Figure:
    """Draw the AUC of each model over the levels of each shift.

    Args:
        table: rows of `robustness.auc_under_shift`.
    """
    shifts = list(dict.fromkeys(table["shift"]))
    columns = min(len(shifts), 4)
    figure, panels = _panels(shifts, columns, 2.7 * columns + 0.8, ylabel="AUC")
    for axes, shift in zip(panels, shifts, strict=True):
        rows_of_shift = table[table["shift"] == shift]
        levels = list(dict.fromkeys(rows_of_shift["level"]))
        unchanged = levels.index(robustness.UNCHANGED.get(shift, 1))
        axes.axvline(unchanged, color="#bbbbbb", linewidth=1, zorder=0)
        for model, (colour, dashes) in zip(
            dict.fromkeys(table["model"]), cycle(SERIES), strict=False
        ):
            rows = rows_of_shift[rows_of_shift["model"] == model]
            places = np.arange(len(rows))
            axes.plot(
                places, rows["auc"], color=colour, linestyle=dashes, marker="o", ms=3, label=model
            )
            axes.fill_between(
                places, rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0
            )
        axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    _legend(figure, panels[0], title="95 % bands")
    return figure


@styled
def errors_by_measure(table: pd.DataFrame) -> Figure:
    """Draw the share of errors in the thirds of each measure.

    Args:
        table: rows of `hard_tissue.by_measure`.
    """
    names, kinds = (list(dict.fromkeys(table[column])) for column in ("measure", "error"))
    figure, panels = _panels(names, 3, 9.9, ylabel="share wrong")
    for axes, name in zip(panels, names, strict=True):
        for error, shift in zip(kinds, (-0.08, 0.08), strict=False):
            rows = table[(table["measure"] == name) & (table["error"] == error)]
            places = [hard_tissue.PARTS.index(third) + shift for third in rows["third"]]
            axes.errorbar(
                places,
                rows["share"],
                yerr=np.clip([rows["share"] - rows["low"], rows["high"] - rows["share"]], 0, None),
                color=NORMAL if error == "false alarm" else TUMOUR,
                linestyle="--" if error == "false alarm" else "-",
                marker="o",
                markersize=4,
                capsize=2,
                label=f"{error}, share of its class",
            )
        axes.set_xticks(range(3), hard_tissue.PARTS)
        axes.set_xlim(-0.4, 2.4)
    # They share it, so one sets it for all, once the last has drawn.
    panels[0].set_ylim(bottom=0)
    _legend(figure, panels[0], title="95 % intervals")
    return figure


def _panels(titles, columns, width, *, ylabel):
    """Return a figure, `width` inches wide, and a panel for each title, on one vertical scale."""
    rows = -(-len(titles) // columns)
    figure = new_figure(width, 2.5 * rows + 0.5)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title)
    for axes in panels[::columns]:
        axes.set_ylabel(ylabel)
    for axes in panels[len(titles) :]:
        axes.set_visible(False)
    return figure, panels[: len(titles)]


def _legend(figure, axes, *, title):
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title=title)


@styled
def ladder(table: pd.DataFrame, phase: str) -> Figure:
    """Draw accuracy and AUC by protocol, a dot for each seed.

    Args:
        table: rows of `protocols.results`.
        phase: "frozen" or "unfrozen".
    """
    size = protocols.main_size(table)
    rows = table[(table["phase"] == phase) & (table["size"] == size)]
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(6, 4))
    for place, (_, name, column) in enumerate(ACCURACIES):
        _dots(left, place, rows.loc[rows["protocol"] == name, column])
    for place, name in enumerate(protocols.PROTOCOLS):
        _dots(right, place, rows.loc[rows["protocol"] == name, "auc"])
    left.set_yticks(range(len(ACCURACIES)), [label for label, _, _ in ACCURACIES])
    right.set_yticks(range(len(protocols.PROTOCOLS)), protocols.PROTOCOLS)
    for axes, name in ((left, "accuracy"), (right, "AUC")):
        axes.invert_yaxis()
        axes.set_xlabel(name)
        axes.margins(x=0.12, y=0.12)
        axes.grid(axis="y", visible=False)
    left.set_title("Accuracy by protocol")
    right.set_title("AUC by protocol")
    seeds = rows["seed"].nunique()
    figure.suptitle(
        f"{size:,} training patches, {seeds} seeds (dots) and their mean (bar)", fontsize=10
    )
    return figure


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
def auc_over_size(table: pd.DataFrame, phase: str, size: int) -> Figure:
    """Draw 1 - AUC over the number of training patches, the fitted law carried on to `size`."""
    figure = new_figure(7.4, 4.2)
    axes = figure.subplots()
    for name, label, colour, dashes in CURVES:
        rows = table[(table["phase"] == phase) & (table["protocol"] == name)]
        law = protocols.extrapolate(rows, size)
        grid = np.geomspace(rows["size"].min(), size, 50)
        axes.plot(
            grid,
            law["b"] * grid ** -law["c"],
            color=colour,
            linestyle=dashes,
            label=f"{label}: AUC {law['auc']:.3f} at {size:,}",
        )
        axes.errorbar(
            size,
            1 - law["auc"],
            yerr=np.clip([[law["high"] - law["auc"]], [law["auc"] - law["low"]]], 0, None),
            color=colour,
            marker="s",
            markersize=5,
            fillstyle="none",
            capsize=3,
        )
        axes.plot(rows["size"], 1 - rows["auc"], "o", color=colour, markersize=5, alpha=0.7)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="training patches",
        ylabel="1 − AUC",
        title="AUC by number of training patches",
    )
    # Between powers of ten, 2 and 5 alone have room for a label.
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axes.legend(title="dots: measured; squares: extrapolated, 95 %", loc="best")
    return figure
