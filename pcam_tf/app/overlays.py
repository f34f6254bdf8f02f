"""Saliency maps and heat maps as pictures over tissue, and what the page shows of a patch.

A patch is shown under its saliency map by `static/patch.*`, of which `patch_value` is the value.
"""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw

from pcam_tf.app import findings, results
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.results import PatchResult, RegionResult
from pcam_tf.figures import style
from pcam_tf.task import Task

_CELL_PX = 8  # side of a heat map's cell in the overlay: room for an outline
_LARGEST_PX = 2400  # side of a picture that is sent to a browser


def saliency(signed: np.ndarray, supports: str, opposes: str) -> Image.Image:
    """Return a signed map (height, width) as RGBA in two colours; 0 is transparent.

    Opacity is relative to the map's largest value: colours of two patches cannot be compared.

    Args:
        signed: the map.
        supports: colour where it is above 0.
        opposes: colour where it is below 0.
    """
    strength = signed / max(float(np.abs(signed).max()), 1e-9)
    colours = np.where((strength > 0)[..., None], _rgb(supports), _rgb(opposes))
    return _with_opacity(colours, np.abs(strength))


def heat_map(strength: np.ndarray, areas: np.ndarray, colours: Sequence[str]) -> Image.Image:
    """Return a heat map as RGBA, 8×8 px a cell, with a black line around each area.

    Args:
        strength: (rows, columns), opacity of each cell, 0..1; NaN is transparent.
        areas: int (rows, columns), the area of each cell; -1: none.
        colours: colour of each area, and at the end that of cells without one.
    """
    cells = np.ones((_CELL_PX, _CELL_PX))
    table = np.stack([_rgb(colour) for colour in colours])
    colour = np.kron(table[areas], cells[..., None])
    picture = _with_opacity(colour, np.kron(np.nan_to_num(strength, nan=0.0), cells))
    draw = ImageDraw.Draw(picture)
    padded = np.pad(areas, 1, constant_values=-1)
    for row, column in np.argwhere(areas >= 0):
        left, top = column * _CELL_PX, row * _CELL_PX
        right, bottom = left + _CELL_PX - 1, top + _CELL_PX - 1
        around = padded[row : row + 3, column : column + 3]
        for neighbour, line in (
            (around[0, 1], (left, top, right, top)),
            (around[2, 1], (left, bottom, right, bottom)),
            (around[1, 0], (left, top, left, bottom)),
            (around[1, 2], (right, top, right, bottom)),
        ):
            if neighbour != areas[row, column]:
                draw.line(line, fill="black")
    return picture


def _rgb(colour):
    return np.array(mpl.colors.to_rgb(colour)) * 255


def _with_opacity(colours, opacity):
    alpha = np.clip(opacity, 0, 1)[..., None] * 255
    return Image.fromarray(np.concatenate([colours, alpha], axis=-1).round().astype("uint8"))


def over_patch(
    patch: np.ndarray, overlay: Image.Image, task: Task, opacity: float = 0.5
) -> Image.Image:
    """Return a patch, uint8 (side, side, 3), five times enlarged under an overlay.

    The square that the label is about is outlined, if the task has one.
    """
    factor = 5
    size = (patch.shape[1] * factor, patch.shape[0] * factor)
    picture = Image.fromarray(patch).resize(size, Image.Resampling.BICUBIC)
    picture = _blended(picture, overlay.resize(size, Image.Resampling.BICUBIC), opacity)
    if task.centre_px:
        first, last = task.centre.start * factor, task.centre.stop * factor
        draw = ImageDraw.Draw(picture)
        draw.rectangle((first - 1, first - 1, last, last), outline="white", width=3)
        draw.rectangle((first, first, last - 1, last - 1), outline="black", width=1)
    return picture


def over_region(
    region: np.ndarray, overlay: Image.Image, stride_px: int, opacity: float = 0.6
) -> Image.Image:
    """Return a region, uint8 (height, width, 3), under its heat map, at most 2400 px a side."""
    picture = region_picture(region)
    scale = picture.width / region.shape[1] * stride_px / _CELL_PX
    size = tuple(max(round(side * scale), 1) for side in overlay.size)
    # The grid may reach beyond the region.
    enlarged = overlay.resize(size, Image.Resampling.NEAREST).crop((0, 0, *picture.size))
    return _blended(picture, enlarged, opacity)


def _blended(picture, overlay, opacity):
    alpha = overlay.getchannel("A").point(lambda level: round(level * opacity))
    picture = picture.copy()
    picture.paste(overlay.convert("RGB"), mask=alpha)
    return picture


def region_picture(region: np.ndarray) -> Image.Image:
    """Return a region as a picture of at most 2400 px a side."""
    picture = Image.fromarray(region)
    picture.thumbnail((_LARGEST_PX, _LARGEST_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def data_url(picture: Image.Image) -> str:
    """Return a picture as a data URL: small and transparent ones as PNG, large ones as JPEG."""
    content = io.BytesIO()
    if picture.mode == "RGBA" or max(picture.size) <= 512:
        kind = "png"
        picture.save(content, "PNG", compress_level=1)  # the visitor waits
    else:
        kind = "jpeg"
        picture.save(content, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def colours(task: Task) -> list[str]:
    """Return the colour of each class."""
    if task.is_binary:
        return [style.NORMAL, style.TUMOUR]
    table = mpl.colormaps["tab20"] if len(task.classes) > 10 else mpl.colormaps["tab10"]
    return [mpl.colors.to_hex(table(k % table.N)) for k in range(len(task.classes))]


def region_overlay(reader: Reader, region: RegionResult, point: Point) -> Image.Image:
    """Return a region's heat map as an overlay.

    Of two classes: the stronger the colour, the more probable is the second; a line encloses what
    is called so. Of more: the colour is that of the called class, the stronger the more probable.
    """
    called = findings.calls(region.probabilities, point.of_cells)
    if reader.task.is_binary:
        strength, areas = region.probabilities[..., 1], np.where(called == 1, 1, -1)
        return heat_map(strength, areas, [style.TUMOUR] * 3)
    return heat_map(region.probabilities.max(axis=-1), called, [*colours(reader.task), "black"])


def patch_overlay(reader: Reader, patch: PatchResult, point: Point) -> Image.Image:
    """Return a patch's saliency map as an overlay: orange supports the class, blue opposes it.

    Where there is no map, see `results.is_explained`, the overlay is transparent.
    """
    if not results.is_explained(reader, patch):
        return Image.new("RGBA", (patch.patch.shape[1], patch.patch.shape[0]))
    signed = results.explanation(reader, patch, point)
    return saliency(signed, supports=style.TUMOUR, opposes=style.NORMAL)


def patch_value(reader: Reader, patch: PatchResult, point: Point) -> dict:
    """Return what the viewer shows of a patch under its saliency map."""
    task, explained, square = reader.task, "", None
    legend, alt = "There is no tissue in this patch, so nothing is explained.", "Patch, no tissue."
    if patch.has_tissue:
        alt = f"Patch, called {findings.call(reader, patch.probabilities, point)}."
        legend = "There are no explanations of this model: no method can open it."
    if results.is_explained(reader, patch):
        explained = html.escape(task.classes[results.explained_class(reader, patch, point)])
        alt = alt.replace("Patch", "Patch under its explanation", 1)
        legend = (
            f"Orange supports {explained}, blue opposes it. The strength of the colours is "
            "relative to this patch."
        )
    if task.centre_px and patch.has_tissue:
        legend += " The square is the part that the prediction is about."
        square = {
            "left": 100 * task.centre.start / task.side_px,
            "side": 100 * task.centre_px / task.side_px,
        }
    return {
        "tissue": data_url(Image.fromarray(patch.patch)),
        "overlay": data_url(patch_overlay(reader, patch, point)),
        "alt": html.escape(alt),
        "square": square,
        "slider": "Explanation" if results.is_explained(reader, patch) else "",  # "": no slider
        "legend": legend,
    }
