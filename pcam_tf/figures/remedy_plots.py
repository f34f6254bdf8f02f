"""Plots of remedies for class imbalance: sensitivity by prevalence, rows of patches."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.figures import style
from pcam_tf.figures.style import new_figure, styled

_MARKERS = "osD^vPX"


@styled
def sensitivity_by_prevalence(results: pd.DataFrame, metric: str) -> Figure:
    """Draw a metric of each remedy at each prevalence with its interval.

    Args:
        results: columns `prevalence`, `remedy`, `metric`, `value`, `low`, `high`.
        metric: which one.
    """
    of_metric = results[results["metric"] == metric]
    names = list(dict.fromkeys(of_metric["remedy"]))
    prevalences = sorted(set(of_metric["prevalence"]))
    figure = new_figure(8.8, 4.4)
    axes = figure.subplots()
    colours = [style.NEUTRAL, *style.class_colours(len(names) - 1)]
    for number, name in enumerate(names):
        part = of_metric[of_metric["remedy"] == name].set_index("prevalence")
        places = np.array([prevalences.index(each) for each in part.index])
        places = places + 0.1 * (number - (len(names) - 1) / 2)
        errors = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
        axes.errorbar(
            places, part["value"], yerr=errors, fmt=_MARKERS[number % len(_MARKERS)],
            color=colours[number], markersize=6, capsize=2.5, label=name,
        )  # fmt: skip
    for edge in range(len(prevalences) - 1):
        axes.axvline(edge + 0.5, color="#cccccc", linewidth=0.8)
    axes.set_xticks(range(len(prevalences)), [f"{100 * each:g} %" for each in prevalences])
    axes.set_xlim(-0.5, len(prevalences) - 0.5)
    axes.grid(False, axis="x")
    axes.set(xlabel="tumour among the training patches", ylabel=f"{metric}, 95 % interval")
    axes.set_title("Remedies for class imbalance")
    figure.legend(loc="outside right center")
    return figure


@styled
def rows_of_patches(rows: Mapping[str, np.ndarray], *, title: str) -> Figure:
    """Show rows of patches that stand below each other, such as real and generated ones.

    Args:
        rows: name of a row -> its patches, uint8 (n, side, side, 3), in all as many.
        title: of the figure.
    """
    columns = len(next(iter(rows.values())))
    figure = new_figure(1.1 * columns, 0.5 + 1.2 * len(rows))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, images) in zip(panels, rows.items(), strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(name)
    figure.suptitle(title, fontweight="bold", fontsize=11)
    return figure
