"""Stain separation: how much haematoxylin and eosin there is in each pixel.

Two sets of stain vectors are possible. Ruifrok and Johnston published fixed ones
(`beer_lambert.HAEMATOXYLIN`, `beer_lambert.EOSIN`). Macenko's method estimates the vectors of the
picture itself: M. Macenko et al., A method for normalizing histology slides for quantitative
analysis, IEEE International Symposium on Biomedical Imaging 2009.
"""

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.stain import beer_lambert

LIGHT = 240  # grey level of light without tissue, as Macenko's implementations assume
LEAST_DENSITY = 0.15  # a pixel with less in any channel is glass, not tissue
EXTREME_PERCENT = 1  # this share of pixels at either end is not used as a stain's direction
STRONG_PERCENT = 99  # the percentile of a stain's amounts that is called its strength
# Below these, two stains cannot be told apart, and a picture counts as degenerate.
LEAST_TISSUE_PX = 64
LEAST_TISSUE_SHARE = 0.02
LEAST_ANGLE_DEGREES = 8
LEAST_STRENGTH = 0.05


def macenko_density(rgb: np.ndarray) -> np.ndarray:
    """Return the optical density -log((rgb + 1) / 240) of each channel, float64 (..., 3).

    Raises:
        InputError: `rgb` has no last axis of 3 channels.
    """
    return beer_lambert.optical_density(np.asarray(rgb, float) + 1, LIGHT)


def tissue_pixels(density: np.ndarray) -> np.ndarray | None:
    """Return the densities of the pixels that hold tissue, float (n, 3); None if they are too few.

    At least 64 pixels and 2 % of the picture have to have a density of 0.15 in every channel.
    """
    density = density.reshape(-1, 3)
    tissue = density[(density >= LEAST_DENSITY).all(axis=-1)]
    least = max(LEAST_TISSUE_PX, LEAST_TISSUE_SHARE * len(density))
    return tissue if len(tissue) >= least else None


def macenko_vectors(density: np.ndarray) -> np.ndarray | None:
    """Return the unit stain vectors of haematoxylin and eosin of a picture, float64 (2, 3).

    Args:
        density: optical densities (..., 3), see `macenko_density`.

    Returns:
        The vectors; None for a degenerate picture, which has too little tissue or one colour only.
    """
    tissue = tissue_pixels(density)
    if tissue is None:
        return None
    plane = np.linalg.eigh(np.cov(tissue.T))[1][:, 1:]
    # The sign of an eigenvector is not defined. Light is absorbed, so the main one is positive.
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(tissue @ plane[:, 1], tissue @ plane[:, 0])
    extremes = np.percentile(angles, [EXTREME_PERCENT, 100 - EXTREME_PERCENT])
    if not LEAST_ANGLE_DEGREES <= np.degrees(extremes[1] - extremes[0]) < 180:
        return None
    vectors = np.stack([np.cos(extremes), np.sin(extremes)], axis=-1) @ plane.T
    # Haematoxylin absorbs more red light than eosin does.
    return vectors[np.argsort(-vectors[:, 0], kind="stable")]


def separate(density: np.ndarray, stain_vectors: np.ndarray | None = None) -> np.ndarray:
    """Return the amounts of haematoxylin and eosin, float64 (..., 2).

    Args:
        density: optical densities (..., 3).
        stain_vectors: (2, 3), whose least-squares fit is returned. Without them: Ruifrok and
            Johnston's, with a residual at right angles to both, which is left out.

    Raises:
        InputError: the shapes do not fit, or the two vectors are parallel.
    """
    density = np.asarray(density)
    if stain_vectors is None:
        stain_vectors = beer_lambert.MIXING[:2]
    stain_vectors = np.asarray(stain_vectors)
    if density.ndim == 0 or density.shape[-1] != 3 or stain_vectors.shape != (2, 3):
        raise InputError(
            f"densities {density.shape} and stain vectors {stain_vectors.shape} do not fit; give "
            "(..., 3) and (2, 3)."
        )
    if np.linalg.matrix_rank(stain_vectors, tol=1e-6) < 2:
        raise InputError("the two stain vectors are parallel: the stains cannot be told apart.")
    return density @ np.linalg.pinv(stain_vectors)


def strengths(density: np.ndarray, stain_vectors: np.ndarray) -> np.ndarray:
    """Return the 99th percentile of the amount of each stain over all pixels, float64 (2,)."""
    amounts = separate(density, stain_vectors).reshape(-1, 2)
    return np.percentile(amounts, STRONG_PERCENT, axis=0)
