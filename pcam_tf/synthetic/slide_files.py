"""Synthetic slides as TIFF files, as scanners write them: tiled, with levels, scale and JPEG."""

import math
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pcam_tf.errors import InputError, missing_extra
from pcam_tf.files import written_whole
from pcam_tf.synthetic.slide import draw_window
from pcam_tf.synthetic.slide_plan import SlidePlan
from pcam_tf.task import PCAM

KINDS = ("tiff", "svs", "ome", "strips")  # tiled TIFF, Aperio's, OME-TIFF; TIFF without tiles
_BLOCK_PX = 512
_TILE_PX = 256
_STRIP_ROWS = 16
_MARGIN_PX = 8  # more than the resampling filter's reach when a picture is enlarged
_MICRONS = {"CENTIMETER": 10_000, "INCH": 25_400}


def write_slide(
    plan: SlidePlan,
    path: str | Path,
    *,
    mpp: float = PCAM.mpp,
    levels: int = 3,
    step: int = 4,
    kind: str = "tiff",
    unit: str = "CENTIMETER",
    quality: int = 85,
) -> Path:
    """Write a synthetic slide, tile by tile; memory does not grow with the slide.

    Args:
        plan: see `slide_plan.plan_slide`.
        path: the file; its folder holds the drawing meanwhile, 3 bytes a pixel at PCam's scale.
        mpp: microns per pixel of level 0.
        levels: how many, the largest included; those smaller than a tile are left out.
        step: from level to level.
        kind: one of `KINDS`.
        unit: of the resolution, "CENTIMETER" or "INCH".
        quality: of JPEG, 1 to 100.

    Raises:
        InputError: another kind, the file cannot be written, or imagecodecs is not installed.
    """
    # Not above: only slides need it.
    try:
        import imagecodecs  # noqa: F401 (tifffile writes JPEG with it)
    except ImportError as error:
        raise missing_extra("imagecodecs", "slides") from error
    import tifffile

    if kind not in KINDS:
        raise InputError(f"kind {kind!r}: give one of {KINDS}.")
    size = [round(side * PCAM.mpp / mpp) for side in (plan.height, plan.width)]
    count = 1
    while count < levels and min(size) // step**count >= _TILE_PX:
        count += 1
    with (
        written_whole(path) as temporary,
        tempfile.TemporaryDirectory(dir=temporary.parent) as folder,
        tifffile.TiffWriter(temporary, bigtiff=math.prod(size) > 2e9, ome=kind == "ome") as tiff,
    ):
        drawing = _drawn(plan, Path(folder) / "drawing")
        for level in range(count):
            shape = tuple(side // step**level for side in size)
            options = _level_options(kind, level, count, mpp * step**level, unit, quality)
            scale = (mpp / PCAM.mpp) * (size[0] / shape[0])
            parts = _strips if kind == "strips" else _tiles
            tiff.write(
                parts(drawing, shape, scale),
                shape=(*shape, 3), dtype="uint8", software=False, **options,
            )  # fmt: skip
        del drawing
    return Path(path)


def _level_options(kind, level, count, mpp, unit, quality):
    """Return what tifffile is told about a level."""
    options = {
        "compression": "jpeg",
        "compressionargs": {"level": quality},
        "photometric": "rgb",
        "metadata": None,
        "resolution": (_MICRONS[unit] / mpp,) * 2,
        "resolutionunit": unit,
        "subfiletype": int(level > 0),
    }
    if kind == "strips":
        del options["compressionargs"]
        return options | {"rowsperstrip": _STRIP_ROWS, "compression": "deflate"}
    options["tile"] = (_TILE_PX,) * 2
    if kind == "svs":
        text = f"Aperio Image Library v12.0.0\nsynthetic|AppMag = 20|MPP = {mpp:.6f}"
        return options | {"description": text}
    if kind == "ome" and level == 0:
        sizes = {f"PhysicalSize{axis}{end}": value for axis in "XY"
                 for end, value in (("", mpp), ("Unit", "µm"))}  # fmt: skip
        return options | {"metadata": {"axes": "YXS", **sizes}, "subifds": count - 1}
    return options


def _drawn(plan, path):
    """Return the drawing at PCam's scale on disk, uint8 (height, width, 3)."""
    drawing = np.lib.format.open_memmap(path, "w+", "uint8", (plan.height, plan.width, 3))
    for top in range(0, plan.height, _BLOCK_PX):
        for left in range(0, plan.width, _BLOCK_PX):
            height, width = min(_BLOCK_PX, plan.height - top), min(_BLOCK_PX, plan.width - left)
            block = draw_window(plan, top, left, height, width)
            drawing[top : top + height, left : left + width] = block
    return drawing


def _tiles(drawing, shape, scale) -> Iterator[np.ndarray]:
    for top in range(0, shape[0], _TILE_PX):
        for left in range(0, shape[1], _TILE_PX):
            height, width = min(_TILE_PX, shape[0] - top), min(_TILE_PX, shape[1] - left)
            part = _rescaled(drawing, top, left, height, width, scale)
            yield np.pad(part, ((0, _TILE_PX - height), (0, _TILE_PX - width), (0, 0)), "edge")


def _strips(drawing, shape, scale) -> Iterator[bytes]:
    for top in range(0, shape[0], _STRIP_ROWS):
        height = min(_STRIP_ROWS, shape[0] - top)
        yield zlib.compress(_rescaled(drawing, top, 0, height, shape[1], scale), 1)


def _rescaled(drawing, top, left, height, width, scale):
    """Return a window of a level, `scale` drawing pixels to one of its pixels."""
    margin = _MARGIN_PX * max(scale, 1)
    box = np.array([left, top, left + width, top + height]) * scale
    limits = drawing.shape[1::-1]
    low = np.clip(np.floor(box[:2] - margin), 0, limits).astype(int)
    high = np.clip(np.ceil(box[2:] + margin), 0, limits).astype(int)
    window = Image.fromarray(np.ascontiguousarray(drawing[low[1] : high[1], low[0] : high[0]]))
    local = np.clip(box - np.tile(low, 2), 0, np.tile(high - low, 2))
    return np.asarray(window.resize((width, height), Image.Resampling.BICUBIC, box=tuple(local)))
