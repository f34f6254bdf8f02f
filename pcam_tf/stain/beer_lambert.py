"""The Beer–Lambert model of stained tissue: what each dye absorbs adds up in optical density.

Densities here use natural logarithms, so light that passes density 1 is 1/e of what fell on it.
"""

import numpy as np

from pcam_tf.errors import InputError


def _unit(vector: list[float]) -> np.ndarray:
    return np.asarray(vector) / np.linalg.norm(vector)


# Absorption of red, green and blue light by each dye, of unit length: A. C. Ruifrok and
# D. A. Johnston, Quantification of histochemical staining by color deconvolution, Analytical and
# Quantitative Cytology and Histology 23 (2001), table 1.
HAEMATOXYLIN = _unit([0.65, 0.70, 0.29])
EOSIN = _unit([0.07, 0.99, 0.11])
# Both, and a residual at right angles to them: rows by which any colour is mixed, and unmixed.
MIXING = np.vstack([HAEMATOXYLIN, EOSIN, _unit(np.cross(HAEMATOXYLIN, EOSIN))])


def optical_density(rgb: np.ndarray, background: float | np.ndarray = 255) -> np.ndarray:
    """Return the natural optical density -log(rgb / background) of each channel, float (..., 3).

    `rgb` (..., 3) holds grey levels 0..255; level 0 is read as 1, the darkest that a camera of
    256 levels can tell from nothing, so the density stays finite. `background` is the level of
    the light without tissue: one number, or an array that broadcasts against `rgb`. Pixels
    brighter than it get a negative density, so that noise around zero keeps its mean.

    Raises:
        InputError: `rgb` has no last axis of 3 channels, or `background` is not positive.
    """
    rgb = np.asarray(rgb)
    if rgb.ndim == 0 or rgb.shape[-1] != 3:
        raise InputError(f"rgb has shape {rgb.shape}; give red, green, blue on the last axis.")
    return np.log(_positive(background)) - np.log(np.maximum(rgb, 1.0))


def transmitted(optical_density: np.ndarray, background: float | np.ndarray = 255) -> np.ndarray:
    """Return the picture behind `optical_density` (..., 3): background · exp(-density), uint8.

    The inverse of the function `optical_density` for grey levels 1..255; levels beyond 0..255
    are clipped.

    Raises:
        InputError: `background` is not positive.
    """
    levels = _positive(background) * np.exp(-np.asarray(optical_density))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def mix(
    densities: np.ndarray, stain_vectors: np.ndarray, background: float | np.ndarray = 255
) -> np.ndarray:
    """Return the picture (..., 3), uint8, of tissue that holds `densities` of two stains.

    `densities` (..., 2) says how much haematoxylin and eosin there is in a pixel, and
    `stain_vectors` (2, 3), or (..., 2, 3) to broadcast, what a unit of each absorbs.

    Raises:
        InputError: the shapes do not end in 2 and (2, 3), or `background` is not positive.
    """
    densities, stain_vectors = np.asarray(densities), np.asarray(stain_vectors)
    if densities.ndim == 0 or densities.shape[-1] != 2 or stain_vectors.shape[-2:] != (2, 3):
        raise InputError(
            f"densities {densities.shape} and stain_vectors {stain_vectors.shape} do not fit; "
            "give (..., 2) and (2, 3)."
        )
    haematoxylin, eosin = densities[..., :1], densities[..., 1:]
    density = haematoxylin * stain_vectors[..., 0, :] + eosin * stain_vectors[..., 1, :]
    return transmitted(density, background)


def _positive(background: float | np.ndarray) -> np.ndarray:
    background = np.asarray(background)
    if not np.all(background > 0):
        raise InputError("background must be above 0; give the grey level of light without tissue.")
    return background
