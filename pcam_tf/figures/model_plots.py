"""The diagram of a classifier and of the two phases of its training."""

from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from pcam_tf.figures.style import GREEN, new_figure, styled
from pcam_tf.task import PCAM, Task

_HEIGHT = 12  # of a box


@styled
def model_diagram(
    *, crop_px: int, backbone: str, features: int, dropout: float, task: Task = PCAM
) -> Figure:
    """Draw the classifier and its two phases.

    Args:
        crop_px: side of the centre crop that the backbone sees.
        backbone: its name.
        features: number of the pooled features.
        dropout: share of the features dropped in training.
        task: names of the classes, side of a patch, and the square that the label is about.
    """
    boxes = _boxes(crop_px, backbone, features, dropout, task)
    figure = new_figure(11, 4.6)
    axes = figure.subplots()
    axes.set(xlim=(0, 110), ylim=(0, 46))
    axes.axis("off")
    for bottom, name, meaning, trained in (
        (26, "Frozen phase", "features computed once, only the head is trained", ("head",)),
        (5, "Unfrozen phase", "everything is trained, at a lower rate", (backbone, "head")),
    ):
        axes.text(2, bottom + 15.2, name, fontweight="bold", fontsize=12)
        axes.text(22.5, bottom + 15.2, meaning, fontsize=10.5, color="#444444")
        for left, width, box, text in boxes:
            state = "trained" if box in trained else "frozen" if box == backbone else ""
            _draw_box(axes, (left, bottom), width, (box, text, state))
        ends = [(left + width, left) for left, width, _, _ in boxes]
        for (right, _), (_, left) in pairwise(ends):
            axes.add_patch(_arrow(right + 0.5, left - 0.5, bottom + _HEIGHT / 2))
        axes.add_patch(_arrow(103.5, 106.5, bottom + _HEIGHT / 2))
        axes.text(
            108, bottom + _HEIGHT / 2, "p", ha="center", va="center", fontsize=13, style="italic"
        )
    axes.text(108, 0.5, _meaning_of_p(task), ha="right", fontsize=9)
    return figure


def _boxes(crop_px, backbone, features, dropout, task):
    """Return left edge, width, name and text of each box."""
    seen = f"centre {crop_px}×{crop_px}" if crop_px < task.side_px else "whole patch"
    output = "1 unit, sigmoid" if task.is_binary else f"{task.outputs} units, softmax"
    return [
        (2, 16, "patch", f"{task.side_px}×{task.side_px}×3\nRGB 0..255"),
        (22.5, 16, "preprocessing", f"{seen}\nscaling"),
        (43, 19, backbone, "ImageNet\nweights"),
        (66.5, 16, "pooling", f"average:\n{features:,} features"),
        (87, 16, "head", f"dropout {dropout:g}\n{output}"),
    ]


def _meaning_of_p(task):
    if not task.is_binary:
        return "p: probability of each class"
    part = f"centre {task.centre_px}×{task.centre_px} px" if task.centre_px else "patch"
    return f"p: probability of {task.classes[1]} in the {part}"


def _draw_box(axes, corner, width, texts):
    """Draw a box; `texts` are its name, its text, and "trained", "frozen" or nothing."""
    (left, bottom), (name, text, state) = corner, texts
    is_trained = state == "trained"
    axes.add_patch(
        FancyBboxPatch(
            corner,
            width,
            _HEIGHT,
            boxstyle="round,pad=0.3,rounding_size=1.2",
            facecolor="#d5efe6" if is_trained else "#f3f3f3",
            edgecolor=GREEN if is_trained else "#888888",
            linewidth=2 if is_trained else 1,
            linestyle="--" if state == "frozen" else "-",
        )
    )
    middle, colour = left + width / 2, "#00694d" if is_trained else "#555555"
    axes.text(middle, bottom + 9.4, name, ha="center", fontweight="bold")
    axes.text(middle, bottom + 4.9, text, ha="center", va="center", fontsize=9)
    axes.text(middle, bottom + 0.7, state, ha="center", fontsize=9, style="italic", color=colour)


def _arrow(start, end, height):
    return FancyArrowPatch(
        (start, height), (end, height), arrowstyle="-|>", mutation_scale=12, color="#444444"
    )
