"""Pictures of patches: with their class and labelled square, augmented, misclassified, by stain.

Where the patches are real, these pictures show tissue and stay out of the repository.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pcam_tf.figures import style
from pcam_tf.figures.style import new_figure, styled
from pcam_tf.task import PCAM, Task


def show_patch(axes, patch, *, colour=None, task: Task = PCAM):
    """Show a patch (height, width, 3) in `axes`.

    The square that the label is about is drawn where the task has one and the patch its full side.
    """
    axes.imshow(np.clip(np.rint(patch), 0, 255).astype("uint8"), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    if task.centre_px is not None and patch.shape[0] == task.side_px:
        # Black under white: visible on any tissue.
        for line_colour, width in (("black", 2.0), ("white", 1.0)):
            axes.add_patch(
                Rectangle(
                    (task.centre.start - 0.5, task.centre.start - 0.5),
                    task.centre_px,
                    task.centre_px,
                    fill=False,
                    edgecolor=line_colour,
                    linewidth=width,
                )
            )
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(colour or "#888888")
    axes.spines[:].set_linewidth(2.5 if colour else 0.5)


def _patch_sheet(patches, captions, labels, *, title, task, columns=8):
    rows = max(-(-len(patches) // columns), 1)
    figure = new_figure(1.25 * columns, 1.5 * rows + 0.4)
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    colours = style.class_colours(len(task.classes))
    for axes in grid[len(patches) :]:
        axes.axis("off")
    for axes, patch, caption, label in zip(grid, patches, captions, labels, strict=False):
        show_patch(axes, patch, colour=colours[label], task=task)
        axes.set_title(caption, fontsize=8, fontweight=400, pad=3)
    figure.suptitle(title, fontweight="bold", fontsize=11)
    return figure


@styled
def patch_grid(images: np.ndarray, labels: np.ndarray, *, title: str, task: Task = PCAM) -> Figure:
    """Show patches with the names of their classes and the square that the label is about.

    Args:
        images: uint8 (n, side, side, 3).
        labels: (n,), indices of classes.
        title: of the figure.
        task: names of the classes, and the square.
    """
    captions = [task.classes[label] for label in labels]
    return _patch_sheet(images, captions, labels, title=title, task=task)


@styled
def error_gallery(images: np.ndarray, errors: pd.DataFrame, *, task: Task = PCAM) -> Figure:
    """Show misclassified patches of two classes.

    Args:
        images: uint8 (n, side, side, 3).
        errors: (n) rows of `label`, `probability` and `error`, see `evaluation.confident_errors`.
        task: names of the classes, and the square that the label is about.
    """
    captions = [
        f"{row.error}\np({task.classes[1]}) {row.probability:.2f}"
        for row in errors.itertuples(index=False)
    ]
    title = "The most confident errors" if len(errors) else "No errors"
    return _patch_sheet(images, captions, errors["label"], title=title, task=task)


@styled
def augmentation_sheet(
    originals: np.ndarray, augmented: np.ndarray, *, task: Task = PCAM
) -> Figure:
    """Show patches, a row each, beside their augmented views.

    Args:
        originals: (n, height, width, 3), RGB 0..255.
        augmented: (n, views, height, width, 3), RGB 0..255.
        task: the square that the label is about.
    """
    rows, views = augmented.shape[:2]
    figure = new_figure(1.15 * (views + 1) + 0.2, 1.15 * rows + 0.35)
    if not rows:
        return figure
    grid = figure.subplots(
        rows, views + 1, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03}
    )
    for row in range(rows):
        show_patch(grid[row, 0], originals[row], colour="black", task=task)
        for view in range(views):
            show_patch(grid[row, view + 1], augmented[row, view], task=task)
    grid[0, 0].set_title("original", fontsize=9)
    for view in range(views):
        grid[0, view + 1].set_title(f"view {view + 1}", fontsize=9, fontweight=400)
    return figure
