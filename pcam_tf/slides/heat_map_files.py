"""Heat maps as pictures for viewers: a pyramidal OME-TIFF, a pixel a cell."""

import uuid
from pathlib import Path

import numpy as np

from pcam_tf.files import written_whole
from pcam_tf.task import PCAM

NO_TISSUE = 0  # grey level; 1 to 255 are probabilities 0 to 1
_STEPS = 254
_TILE_PX = 256
_SMALLEST_PX = 64  # side of the last level


def grey_levels(probabilities: np.ndarray) -> np.ndarray:
    """Return a heat map as grey levels, uint8: 0 without tissue, else 1 + 254 × probability."""
    levels = np.rint(1 + _STEPS * np.clip(probabilities, 0, 1))
    return np.where(np.isnan(probabilities), NO_TISSUE, levels).astype("uint8")


def probabilities_of(levels: np.ndarray) -> np.ndarray:
    """Return the probabilities that grey levels stand for, float32; NaN without tissue."""
    return np.where(levels == NO_TISSUE, np.nan, (levels - 1.0) / _STEPS).astype("float32")


def write_ome_tiff(
    path: str | Path,
    probabilities: np.ndarray,
    step_um: float,
    positive: str = PCAM.classes[1],
) -> None:
    """Write a heat map as OME-TIFF of grey levels, with levels and microns per pixel.

    Args:
        path: of the file.
        probabilities: float32 (rows, columns), NaN where there is no tissue.
        step_um: side of a cell, which is a pixel of the file.
        positive: the class that the probabilities are of.

    Raises:
        InputError: the file cannot be written.
    """
    # Not above: it is not needed to read slides.
    import tifffile

    pyramid = [np.asarray(probabilities, "float32")]
    while max(pyramid[-1].shape) > _SMALLEST_PX:
        pyramid.append(_halved(pyramid[-1]))
    options = {
        "tile": (_TILE_PX, _TILE_PX), "photometric": "minisblack", "compression": "zlib",
        "software": False, "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    levels = [grey_levels(each) for each in pyramid]
    sizes = {f"PhysicalSize{axis}{end}": value for axis in "XY"
             for end, value in (("", step_um), ("Unit", "µm"))}  # fmt: skip
    # The same bytes for the same map.
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, levels[0].tobytes().hex()))
    metadata = {"axes": "YX", "UUID": name, "Name": f"probability of {positive}", **sizes}
    with written_whole(path) as temporary, tifffile.TiffWriter(temporary, ome=True) as tiff:
        for number, level in enumerate(levels):
            scale = 1e4 / (step_um * 2**number)
            first = {"metadata": metadata, "subifds": len(levels) - 1} if number == 0 else {}
            tiff.write(
                level, resolution=(scale, scale), subfiletype=int(number > 0), **options, **first
            )


def _halved(probabilities):
    """Return a map of half the size: the mean of the tissue cells of each 2×2."""
    rows, columns = (side + side % 2 for side in probabilities.shape)
    padded = np.full((rows, columns), np.nan, "float32")
    padded[: probabilities.shape[0], : probabilities.shape[1]] = probabilities
    cells = padded.reshape(rows // 2, 2, columns // 2, 2)
    tissue = np.isfinite(cells)
    count = tissue.sum(axis=(1, 3))
    total = np.where(tissue, cells, 0).sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype("float32")
