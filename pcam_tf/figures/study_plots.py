"""Figures of the studies: shifts of the picture, kinds of tissue."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.figures.style import NORMAL, SERIES, TUMOUR, new_figure, styled
from pcam_tf.studies import hard_tissue, robustness


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
