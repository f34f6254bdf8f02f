"""Pictures of slides: heat map over tissue, tissue mask, lesion candidates.

Where the slides are real, these pictures show tissue and stay out of the repository.
"""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from PIL import Image
from scipy import ndimage

from pcam_tf.figures import style
from pcam_tf.figures.style import new_figure, styled
from pcam_tf.task import PCAM

# The colour of tumour in the middle of the scale, lighter below, darker above.
_HEAT = LinearSegmentedColormap.from_list("heat", ["#FFF3E8", "#F4A259", style.TUMOUR, "#7A2A00"])
_PALENESS = 0.45  # share of the light that is added to tissue below a heat map
_OPACITY, _OPAQUE_FROM = 0.85, 0.5  # the largest opacity, and the probability from which on it is
_SIDE = 6.0  # inches, of the longer side of a panel
_CANDIDATES_A_ROW = 6


def over_tissue(thumbnail: np.ndarray, probabilities: np.ndarray, step: float) -> np.ndarray:
    """Return pale grey tissue under a smooth heat map, uint8 (height, width, 3).

    Args:
        thumbnail: uint8 (height, width, 3).
        probabilities: float32 (rows, columns), NaN where there is no tissue.
        step: side of a cell in pixels of the thumbnail.
    """
    height, width = thumbnail.shape[:2]
    tissue = np.isfinite(probabilities)
    weights, sums = (
        np.asarray(
            Image.fromarray(np.float32(each)).resize(
                (width, height), Image.Resampling.BILINEAR, box=(0, 0, width / step, height / step)
            )
        )
        for each in _covering((tissue, np.where(tissue, probabilities, 0)), thumbnail, step)
    )
    values = np.clip(sums / np.maximum(weights, 1e-6), 0, 1)
    grey = thumbnail.mean(axis=-1, keepdims=True)
    pale = grey + _PALENESS * (255 - grey)
    alpha = _OPACITY * weights * np.clip(values / _OPAQUE_FROM, 0, 1)
    mixed = pale + alpha[..., None] * (255 * _HEAT(values)[..., :3] - pale)
    return np.rint(mixed).astype("uint8")


def _covering(maps, thumbnail, step):
    """Return maps as float32 with cells added until they cover a thumbnail."""
    needed = [math.ceil(side / step) for side in thumbnail.shape[:2]]
    for each in maps:
        missing = [(0, max(n - have, 0)) for n, have in zip(needed, each.shape, strict=True)]
        yield np.pad(np.float32(each), missing)


def tissue_picture(thumbnail: np.ndarray, tissue: np.ndarray, step: float) -> np.ndarray:
    """Return a thumbnail, uint8 (height, width, 3), with what is no tissue in pale grey.

    A green line runs around the tissue.

    Args:
        thumbnail: uint8 (height, width, 3).
        tissue: bool (rows, columns).
        step: side of a pixel of `tissue` in pixels of the thumbnail.
    """
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) / step).astype(int), most - 1)
        for side, most in zip(thumbnail.shape[:2], tissue.shape, strict=True)
    )
    inside = tissue[np.ix_(rows, columns)]
    grey = thumbnail.mean(axis=-1, keepdims=True)
    picture = np.where(inside[..., None], thumbnail, grey + _PALENESS * (255 - grey))
    line = ndimage.binary_dilation(inside, iterations=2) & ~inside
    picture[line] = 255 * np.array(mpl.colors.to_rgb(style.GREEN))
    return np.rint(picture).astype("uint8")


@styled
def overview(
    thumbnail: np.ndarray,
    probabilities: np.ndarray,
    areas: Sequence[Sequence[np.ndarray]],
    *,
    step_um: float,
    um_per_px: float,
    threshold: float,
    title: str,
    positive: str = PCAM.classes[1],
) -> Figure:
    """Show a slide, and beside or below it its heat map with the outlines of tumour.

    Args:
        thumbnail: uint8 (height, width, 3), the whole slide.
        probabilities: float32 (rows, columns), NaN where there is no tissue.
        areas: the rings of each area of tumour, x and y in cells.
        step_um: side of a cell in microns.
        um_per_px: microns per pixel of the thumbnail.
        threshold: the probability from which on areas are called tumour.
        title: of the figure.
        positive: the class that the probabilities are of.
    """
    height, width = thumbnail.shape[:2]
    step = step_um / um_per_px
    figure, panels = _two_panels(width, height)
    for axes, picture in zip(
        panels, (thumbnail, over_tissue(thumbnail, probabilities, step)), strict=True
    ):
        axes.imshow(picture, interpolation="antialiased")
        axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.spines[:].set_visible(True)
        axes.spines[:].set_linewidth(0.5)
    outline(panels[1], [ring * step - 0.5 for rings in areas for ring in rings])
    scale_bar(panels[0], um_per_px, width)
    _legend(figure, panels, threshold, positive)
    figure.suptitle(title, fontweight="bold", fontsize=11)
    return figure


def _two_panels(width, height):
    """Return a figure with two panels of one shape: beside each other, or the wide ones stacked."""
    scale = _SIDE / max(width, height)
    if width > 1.6 * height:
        figure = new_figure(width * scale + 1.9, 2 * height * scale + 0.6)
        return figure, figure.subplots(2, 1)
    figure = new_figure(2 * width * scale + 1.9, height * scale + 0.45)
    return figure, figure.subplots(1, 2)


def _legend(figure, panels, threshold, positive):
    """Draw the scale of colours with numbers, and the threshold on it."""
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), _HEAT),
        ax=list(panels), label=f"probability of {positive}", shrink=0.7, aspect=28, pad=0.02,
    )  # fmt: skip
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1])
    bar.ax.axhline(threshold, color="black", linewidth=2)
    bar.ax.annotate(
        f"outlined from\n{threshold:.2f} on", (0, threshold), (-4, 0), ha="right", va="center",
        xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8,
    )  # fmt: skip


def outline(axes, rings: Sequence[np.ndarray]) -> None:
    """Draw the rings of areas, each (n, 2), x and y in the axes' units: black on white."""
    if not rings:
        return
    closed = [np.concatenate([ring, ring[:1]]) for ring in rings]
    path = Path.make_compound_path(*(Path(ring, closed=True) for ring in closed))
    for line_colour, width in (("white", 1.8), ("black", 0.9)):
        axes.add_patch(PathPatch(path, fill=False, edgecolor=line_colour, linewidth=width))


def scale_bar(axes, um_per_px: float, width: int, share: float = 0.25) -> None:
    """Draw a bar of a round length at the lower left of a picture.

    Args:
        axes: that show the picture.
        um_per_px: microns per pixel of the picture.
        width: of the picture in pixels.
        share: of the width that the bar takes at most.
    """
    length_um = round_length(um_per_px * width * share)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    bar = AnchoredSizeBar(
        axes.transData, length_um / um_per_px, text, "lower left",
        pad=0.4, borderpad=0.5, sep=4, size_vertical=width / 200,
    )  # fmt: skip
    bar.patch.set(alpha=0.85, edgecolor="none")
    axes.add_artist(bar)


def round_length(most: float) -> float:
    """Return the largest of 1, 2 or 5 times a power of ten that is at most so long."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


@styled
def candidate_gallery(
    fields: Sequence[np.ndarray], captions: Sequence[str], *, cell_px: float, um_per_px: float
) -> Figure:
    """Show the surroundings of lesion candidates, a square around each candidate's cell.

    Args:
        fields: each uint8 (side, side, 3), the candidate in the middle.
        captions: one for each.
        cell_px: side of a cell in pixels of a field.
        um_per_px: microns per pixel of a field.
    """
    rows = max(-(-len(fields) // _CANDIDATES_A_ROW), 1)
    figure = new_figure(1.75 * _CANDIDATES_A_ROW, 2.0 * rows)
    grid = np.atleast_1d(figure.subplots(rows, _CANDIDATES_A_ROW)).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, field, caption in zip(grid, fields, captions, strict=False):
        axes.imshow(field, interpolation="antialiased")
        first = (len(field) - cell_px) / 2 - 0.5
        for colour, width in (("black", 2.2), ("white", 1.1)):
            axes.add_patch(
                Rectangle((first, first), cell_px, cell_px, fill=False, ec=colour, lw=width)
            )
        axes.set_title(caption, fontsize=9, fontweight=400, pad=3)
    if len(fields):
        scale_bar(grid[0], um_per_px, fields[0].shape[1], share=0.6)
    return figure
