"""Maps of numbers as pictures to lay over tissue: where tumour is seen, and how probable it is."""

import base64
import io

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw

from pcam_tf.figures.plots import NORMAL, TUMOUR
from pcam_tf.slides.regions import STRIDE_PX

CENTRE_PX = (32, 64)  # rows and columns of a patch that its label is about
_CELL_PX = 8  # side of a cell in the picture of a heat map: room for an outline
_LARGEST_PX = 2400  # side of a picture that is sent to a browser


def explanation(signed: np.ndarray) -> Image.Image:
    """Return a signed map (height, width) as RGBA: orange for tumour, blue against, 0 clear.

    Relative to the map's largest value: two patches' colours cannot be compared.
    """
    strength = signed / max(float(np.abs(signed).max()), 1e-9)
    colours = np.where((strength > 0)[..., None], _colour(TUMOUR), _colour(NORMAL))
    return _with_opacity(colours, np.abs(strength))


def heat(probabilities: np.ndarray, threshold: float) -> Image.Image:
    """Return a heat map (rows, columns) as RGBA, 8×8 px a cell.

    The stronger the orange, the more probable is tumour; cells without tissue are clear. A line
    encloses what is called tumour.
    """
    known = np.nan_to_num(probabilities, nan=0.0)
    cells = np.kron(known, np.ones((_CELL_PX, _CELL_PX)))
    picture = _with_opacity(np.broadcast_to(_colour(TUMOUR), (*cells.shape, 3)), cells)
    draw = ImageDraw.Draw(picture)
    called = np.pad(known >= threshold, 1)
    for row, column in np.argwhere(called[1:-1, 1:-1]):
        left, top = column * _CELL_PX, row * _CELL_PX
        right, bottom = left + _CELL_PX - 1, top + _CELL_PX - 1
        around = called[row : row + 3, column : column + 3]
        for is_inside, line in (
            (around[0, 1], (left, top, right, top)),
            (around[2, 1], (left, bottom, right, bottom)),
            (around[1, 0], (left, top, left, bottom)),
            (around[1, 2], (right, top, right, bottom)),
        ):
            if not is_inside:
                draw.line(line, fill="black")
    return picture


def _colour(name):
    return np.array(mpl.colors.to_rgb(name)) * 255


def _with_opacity(colours, opacity):
    alpha = np.clip(opacity, 0, 1)[..., None] * 255
    return Image.fromarray(np.concatenate([colours, alpha], axis=-1).round().astype("uint8"))


def over_patch(patch: np.ndarray, overlay: Image.Image, opacity: float = 0.5) -> Image.Image:
    """Return a patch, uint8 (96, 96, 3), five times enlarged under an overlay, its centre drawn."""
    factor = 5
    size = (patch.shape[1] * factor, patch.shape[0] * factor)
    picture = Image.fromarray(patch).resize(size, Image.Resampling.BICUBIC)
    picture = _laid_over(picture, overlay.resize(size, Image.Resampling.BICUBIC), opacity)
    first, last = (edge * factor for edge in CENTRE_PX)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((first - 1, first - 1, last, last), outline="white", width=3)
    draw.rectangle((first, first, last - 1, last - 1), outline="black", width=1)
    return picture


def over_region(
    region: np.ndarray, overlay: Image.Image, stride_px: int = STRIDE_PX, opacity: float = 0.6
) -> Image.Image:
    """Return a region, uint8 (height, width, 3), under its heat map, at most 2400 px a side."""
    picture = shown(region)
    scale = picture.width / region.shape[1] * stride_px / _CELL_PX
    size = tuple(max(round(side * scale), 1) for side in overlay.size)
    # The grid may reach beyond the region.
    enlarged = overlay.resize(size, Image.Resampling.NEAREST).crop((0, 0, *picture.size))
    return _laid_over(picture, enlarged, opacity)


def _laid_over(picture, overlay, opacity):
    alpha = overlay.getchannel("A").point(lambda level: round(level * opacity))
    picture = picture.copy()
    picture.paste(overlay.convert("RGB"), mask=alpha)
    return picture


def shown(region: np.ndarray) -> Image.Image:
    """Return a region as a picture of at most 2400 px a side."""
    picture = Image.fromarray(region)
    picture.thumbnail((_LARGEST_PX, _LARGEST_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def data_url(picture: Image.Image) -> str:
    """Return a picture as an address that holds it whole: small ones as PNG, large ones as JPEG."""
    content = io.BytesIO()
    if picture.mode == "RGBA" or max(picture.size) <= 512:
        kind = "png"
        picture.save(content, "PNG", compress_level=3)
    else:
        kind = "jpeg"
        picture.save(content, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
