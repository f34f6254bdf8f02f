"""Figures of what moves a model: shifts of the picture, and the kind of tissue."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf import error_analysis, robustness
from pcam_tf.figures import NORMAL, SERIES, TUMOUR, new_figure, styled


@styled
def under_shift(found: pd.DataFrame) -> Figure:
    """Draw the AUC of each model over the levels of each shift.

    Args:
        found: rows of `robustness.auc_under_shift`.
    """
    shifts = list(dict.fromkeys(found["shift"]))
    columns = min(len(shifts), 4)
    rows = -(-len(shifts) // columns)
    figure = new_figure(2.7 * columns + 0.8, 2.5 * rows + 0.5)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, shift in zip(panels, shifts, strict=False):
        of_shift = found[found["shift"] == shift]
        levels = list(dict.fromkeys(of_shift["level"]))
        unchanged = levels.index(robustness.UNCHANGED.get(shift, 1))
        axes.axvline(unchanged, color="#bbbbbb", linewidth=1, zorder=0)
        for model, (colour, dashes) in zip(
            dict.fromkeys(found["model"]), cycle(SERIES), strict=False
        ):
            of = of_shift[of_shift["model"] == model]
            places = np.arange(len(of))
            axes.plot(
                places, of["auc"], color=colour, linestyle=dashes, marker="o", ms=3, label=model
            )
            axes.fill_between(places, of["low"], of["high"], color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        axes.set_title(shift)
    for axes in panels[len(shifts) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("AUC")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), title="95 % bands"
    )
    return figure


@styled
def errors_by_measure(found: pd.DataFrame) -> Figure:
    """Draw the share of errors in the thirds of each measure.

    Args:
        found: rows of `error_analysis.by_measure`.
    """
    names = list(dict.fromkeys(found["measure"]))
    columns = 3
    rows = -(-len(names) // columns)
    figure = new_figure(3.3 * columns, 2.5 * rows + 0.5)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        for (error, colour), shift in zip(
            (("missed tumour", TUMOUR), ("false alarm", NORMAL)), (-0.08, 0.08), strict=True
        ):
            of = found[(found["measure"] == name) & (found["error"] == error)]
            places = [error_analysis.PARTS.index(third) + shift for third in of["third"]]
            axes.errorbar(
                places,
                of["share"],
                yerr=np.clip([of["share"] - of["low"], of["high"] - of["share"]], 0, None),
                color=colour,
                linestyle="-" if error == "missed tumour" else "--",
                marker="o",
                markersize=4,
                capsize=2,
                label=f"{error}, share of its class",
            )
        axes.set_xticks(range(3), error_analysis.PARTS)
        axes.set_xlim(-0.4, 2.4)
        axes.set_title(name)
    # They share it, so one sets it for all, once the last has drawn.
    panels[0].set_ylim(bottom=0)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("share wrong")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, title="95 % intervals")
    return figure
