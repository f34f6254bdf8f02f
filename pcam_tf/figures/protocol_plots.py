"""Figures of the study of protocols: the ladder, and the learning curves with where they lead."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pcam_tf.figures.plots import GREEN, NEUTRAL, TUMOUR, new_figure, styled
from pcam_tf.studies import protocols

# What a reader may take from a claim, from the most flattering rung down.
RUNGS = (
    ("patches of the same slides", protocols.HELD_OUT, "accuracy"),
    ("the same, no tissue twice", protocols.APART, "accuracy"),
    ("validation slides", "validation", "accuracy"),
    ("test slides, threshold of their own", "test", "accuracy_own"),
    ("test slides, validation's threshold", "test", "accuracy_validation"),
    ("test slides, threshold 0.5", "test", "accuracy"),
)
CURVES = (
    (protocols.HELD_OUT, "same slides", TUMOUR, "-"),
    ("validation", "validation slides", NEUTRAL, "--"),
    ("test", "test slides", GREEN, "-."),
)


@styled
def ladder(found: pd.DataFrame, phase: str) -> Figure:
    """Draw accuracy and AUC by protocol for one phase of `protocol.results`, a dot a seed."""
    size = protocols.main_size(found)
    of = found[(found["phase"] == phase) & (found["size"] == size)]
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(6, 4))
    for place, (_, name, column) in enumerate(RUNGS):
        _dots(left, place, of.loc[of["protocol"] == name, column])
    for place, name in enumerate(protocols.PROTOCOLS):
        _dots(right, place, of.loc[of["protocol"] == name, "auc"])
    left.set_yticks(range(len(RUNGS)), [label for label, _, _ in RUNGS])
    right.set_yticks(range(len(protocols.PROTOCOLS)), protocols.PROTOCOLS)
    for axes, name in ((left, "accuracy"), (right, "AUC")):
        axes.invert_yaxis()
        axes.set_xlabel(name)
        axes.margins(x=0.12, y=0.12)
        axes.grid(axis="y", visible=False)
    left.set_title("One model, six accuracies")
    right.set_title("and four AUCs")
    seeds = of["seed"].nunique()
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
def learning_curves(found: pd.DataFrame, phase: str, size: int) -> Figure:
    """Draw 1 - AUC over the number of training patches, the fitted law carried on to `size`."""
    figure = new_figure(7.4, 4.2)
    axes = figure.subplots()
    for name, label, colour, dashes in CURVES:
        of = found[(found["phase"] == phase) & (found["protocol"] == name)]
        law = protocols.extrapolate(of, size)
        grid = np.geomspace(of["size"].min(), size, 50)
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
        axes.plot(of["size"], 1 - of["auc"], "o", color=colour, markersize=5, alpha=0.7)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="training patches",
        ylabel="1 − AUC",
        title="More patches of the same slides",
    )
    # Between powers of ten, 2 and 5 alone have room for a label.
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axes.legend(title="dots: measured; squares: extrapolated, 95 %", loc="best")
    return figure
