"""Figures of explanations: maps over their patches, and the curves of the checks."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.explain import checks
from pcam_tf.figures.pictures import show_patch
from pcam_tf.figures.style import GREEN, NEUTRAL, NORMAL, TUMOUR, new_figure, styled
from pcam_tf.task import PCAM, Task

# Vermilion speaks for the explained class and blue against it.
MAP_COLOURS = mpl.colors.LinearSegmentedColormap.from_list("map", [NORMAL, "white", TUMOUR])
_LINES = (TUMOUR, NORMAL, GREEN, "#CC79A7", "#E69F00", NEUTRAL, "black")


def shades(maps: np.ndarray) -> np.ndarray:
    """Return maps (n, h, w), each divided by its 99th percentile of size, cut to -1..1."""
    largest = np.percentile(np.abs(maps), 99, axis=(1, 2), keepdims=True)
    return np.clip(maps / np.where(largest > 0, largest, 1), -1, 1)


def overlay(patch: np.ndarray, shade: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Return a patch (h, w, 3) under the colours of its map (h, w) of -1..1, as uint8.

    The stronger the map, the more of its colour covers the tissue.
    """
    colours = MAP_COLOURS((shade + 1) / 2)[..., :3] * 255
    cover = opacity * np.abs(shade)[..., None]
    return np.rint(patch * (1 - cover) + colours * cover).astype("uint8")


@styled
def gallery(
    patches: np.ndarray,
    maps_by_method: dict[str, np.ndarray],
    captions: Sequence[str],
    *,
    task: Task = PCAM,
    target: int | None = None,
) -> Figure:
    """Show patches, a column each, over a row of overlays for each method.

    Each map has its own scale: strengths of two maps cannot be compared.

    Args:
        patches: uint8 (n, side, side, 3).
        maps_by_method: name of a method -> maps (n, side, side).
        captions: (n,) of text.
        task: names of the classes, and the square that the label is about.
        target: the class that the maps explain, see `explain.maps`.
    """
    count = len(patches)
    figure = new_figure(1.25 * count + 1.7, 1.28 * (len(maps_by_method) + 1) + 0.5)
    grid = figure.subplots(len(maps_by_method) + 1, count, squeeze=False)
    for axes, patch, caption in zip(grid[0], patches, captions, strict=True):
        show_patch(axes, patch, task=task)
        axes.set_title(caption, fontsize=8, fontweight=400)
    for line, (name, maps) in zip(grid[1:], maps_by_method.items(), strict=True):
        for axes, patch, shade in zip(line, patches, shades(maps), strict=True):
            show_patch(axes, overlay(patch, shade), task=task)
        line[0].set_ylabel(name.replace(", ", "\n").replace(" gra", "\ngra"), fontsize=9)
    grid[0, 0].set_ylabel("patch", fontsize=9)
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(-1, 1), MAP_COLOURS)
    bar = figure.colorbar(scale, ax=grid, shrink=0.6, aspect=30, pad=0.02)
    explained = _explained_class(task, target)
    bar.set_ticks([-1, 0, 1], labels=[f"against\n{explained}", "0", f"for\n{explained}"])
    return figure


def _explained_class(task, target):
    if target is None:
        return task.classes[1] if task.is_binary else "predicted\nclass"
    return task.classes[target]


@styled
def perturbation(curves: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw mean deletion and insertion curves: name -> what `checks.curves` returned."""
    figure = new_figure(9.5, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind, title in (
        (panels[0], "deletion", "Deletion: lower is better"),
        (panels[1], "insertion", "Insertion: higher is better"),
    ):
        for (name, by_kind), colour in zip(curves.items(), _LINES, strict=False):
            axes.plot(
                checks.SHARES,
                by_kind[kind].mean(axis=0),
                color=colour,
                linestyle="--" if name in checks.CONTROLS else "-",
                label=name,
            )
        axes.set_title(title)
        axes.xaxis.set_major_formatter("{x:.0%}")
    panels[0].set_ylabel("probability of the predicted class")
    words = "share of the patch, what speaks most for the predicted class first"
    figure.supxlabel(words, fontsize="medium")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


@styled
def randomised(correlations: pd.DataFrame) -> Figure:
    """Draw the rank correlation with the original map by how many layers are random."""
    figure = new_figure(8.4, 3.6)
    axes = figure.subplots()
    axes.axhline(0, color="#888888", linewidth=0.8)
    for (name, rows), colour in zip(
        correlations.groupby("method", sort=False), _LINES, strict=False
    ):
        layers = [0, *rows["layers"]]
        axes.plot(layers, [1, *rows["correlation"]], "o-", color=colour, markersize=4, label=name)
        axes.fill_between(layers, [1, *rows["low"]], [1, *rows["high"]], color=colour, alpha=0.12)
    axes.set_xscale("symlog", linthresh=1)
    ticks = [0, *sorted(correlations["layers"].unique())]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("random layers, from the head down")
    axes.set_ylabel("rank correlation")
    axes.set_title("Correlation with the map of the trained model (should fall to 0)")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure
