"""Pictures: patches with their labelled centre, augmented views, errors, and the model's diagram.

Where the patches are real, these pictures show tissue and stay out of the repository.
"""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from pcam_tf.figures.plots import CLASS_COLOURS, CLASSES, GREEN, new_figure, styled

CENTRE_PX = (32, 64)


def show_patch(axes, patch, *, colour=None):
    """Show a patch (H, W, 3) in `axes`, its centre square drawn where it has its full 96 px."""
    axes.imshow(np.clip(patch, 0, 255).astype("uint8"), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    if patch.shape[0] == 96:
        first, last = CENTRE_PX
        # Black under white: visible on any tissue.
        for line_colour, width in (("black", 2.0), ("white", 1.0)):
            axes.add_patch(
                Rectangle(
                    (first - 0.5, first - 0.5),
                    last - first,
                    last - first,
                    fill=False,
                    edgecolor=line_colour,
                    linewidth=width,
                )
            )
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(colour or "#888888")
    axes.spines[:].set_linewidth(2.5 if colour else 0.5)


def _patch_sheet(patches, captions, colours, *, columns, title):
    rows = max(-(-len(patches) // columns), 1)
    figure = new_figure(1.25 * columns, 1.5 * rows + 0.4)
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in grid[len(patches) :]:
        axes.axis("off")
    for axes, patch, caption, colour in zip(grid, patches, captions, colours, strict=False):
        show_patch(axes, patch, colour=colour)
        axes.set_title(caption, fontsize=8, fontweight="normal", pad=3)
    figure.suptitle(title, fontweight="bold", fontsize=11)
    return figure


@styled
def patch_grid(images: np.ndarray, labels: np.ndarray, *, title: str) -> Figure:
    """Show patches (n, 96, 96, 3) uint8 with their labels (n,) and the labelled centre square."""
    return _patch_sheet(
        images,
        [CLASSES[label] for label in labels],
        [CLASS_COLOURS[label] for label in labels],
        columns=8,
        title=title,
    )


@styled
def error_gallery(images: np.ndarray, errors: pd.DataFrame) -> Figure:
    """Show misclassified patches (n, 96, 96, 3) with a table of `label`, `probability`, `error`."""
    captions = [
        f"{row.error}\np(tumour) {row.probability:.2f}" for row in errors.itertuples(index=False)
    ]
    title = "The most confident errors" if len(errors) else "No errors"
    colours = [CLASS_COLOURS[label] for label in errors["label"]]
    return _patch_sheet(images, captions, colours, columns=8, title=title)


@styled
def augmentation_sheet(originals: np.ndarray, augmented: np.ndarray) -> Figure:
    """Show patches (n, H, W, 3), a row each, beside their augmented views (n, views, H, W, 3)."""
    rows, views = augmented.shape[:2]
    figure = new_figure(1.15 * (views + 1) + 0.2, 1.15 * rows + 0.35)
    if not rows:
        return figure
    grid = figure.subplots(
        rows, views + 1, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03}
    )
    for row in range(rows):
        show_patch(grid[row, 0], originals[row], colour="black")
        for view in range(views):
            show_patch(grid[row, view + 1], augmented[row, view])
    grid[0, 0].set_title("original", fontsize=9)
    for view in range(views):
        grid[0, view + 1].set_title(f"view {view + 1}", fontsize=9, fontweight="normal")
    return figure


@styled
def model_diagram(*, crop_px: int, backbone: str, features: int, dropout: float) -> Figure:
    """Draw the classifier and its two phases."""
    figure = new_figure(11, 4.6)
    axes = figure.subplots()
    axes.set(xlim=(0, 110), ylim=(0, 46))
    axes.axis("off")
    seen = f"centre {crop_px}×{crop_px}" if crop_px < 96 else "whole patch"
    boxes = [
        (2, "patch", "96×96×3\nRGB 0..255"),
        (22.5, "preprocessing", f"{seen}\nscaling"),
        (43, backbone, "ImageNet\nweights"),
        (66.5, "pooling", f"average:\n{features:,} features"),
        (87, "head", f"dropout {dropout:g}\n1 unit, sigmoid"),
    ]
    phases = [
        (26, "Frozen phase", "features computed once, only the head is trained", ("head",)),
        (5, "Unfrozen phase", "everything is trained, at a lower rate", (backbone, "head")),
    ]
    for bottom, name, meaning, trained in phases:
        axes.text(2, bottom + 15.2, name, fontweight="bold", fontsize=12)
        axes.text(22.5, bottom + 15.2, meaning, fontsize=10.5, color="#444444")
        for left, box, text in boxes:
            width = 19 if box == backbone else 16
            learns = box in trained
            frozen = box == backbone and not learns
            axes.add_patch(
                FancyBboxPatch(
                    (left, bottom),
                    width,
                    12,
                    boxstyle="round,pad=0.3,rounding_size=1.2",
                    facecolor="#d5efe6" if learns else "#f3f3f3",
                    edgecolor=GREEN if learns else "#888888",
                    linewidth=2 if learns else 1,
                    linestyle="--" if frozen else "-",
                )
            )
            state = "trained" if learns else "frozen" if frozen else ""
            axes.text(left + width / 2, bottom + 9.4, box, ha="center", fontweight="bold")
            axes.text(left + width / 2, bottom + 4.9, text, ha="center", va="center", fontsize=9)
            axes.text(
                left + width / 2,
                bottom + 0.7,
                state,
                ha="center",
                fontsize=9,
                style="italic",
                color="#00694d" if learns else "#555555",
            )
        ends = [(left + (19 if box == backbone else 16), left) for left, box, _ in boxes]
        for (right, _), (_, left) in pairwise(ends):
            axes.add_patch(_arrow(right + 0.5, left - 0.5, bottom + 6))
        axes.add_patch(_arrow(103.5, 106.5, bottom + 6))
        axes.text(108, bottom + 6, "p", ha="center", va="center", fontsize=13, style="italic")
    axes.text(
        108, 0.5, "p: probability that the centre 32×32 px hold tumour", ha="right", fontsize=9
    )
    return figure


def _arrow(start, end, height):
    return FancyArrowPatch(
        (start, height), (end, height), arrowstyle="-|>", mutation_scale=12, color="#444444"
    )
