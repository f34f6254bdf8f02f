"""Features of fields of any size: plain colour and texture, or a frozen backbone."""

from collections.abc import Sequence

import keras
import numpy as np
import scipy.ndimage
from PIL import Image

from pcam_tf import stain
from pcam_tf.errors import InputError

BATCH = 32
# The stain that fields are normalised to: fixed, so that no field decides about another. The
# strengths are those that Macenko's own implementation has as its reference.
STAIN = stain.normalization.Macenko(stain.MIXING[:2], np.array([1.9705, 1.0308]))


def plain_features(field: np.ndarray) -> np.ndarray:
    """Return 32 numbers of colour and texture, float32.

    Mean and standard deviation of each of RGB and of each stain's density (12), quartiles of RGB
    (9), quartiles of haematoxylin (3), and of haematoxylin at four scales the mean strength of the
    detail and its skewness (8).

    Args:
        field: (height, width, 3) uint8.
    """
    rgb = field.astype("float64")
    densities = stain.optical_density(field) @ np.linalg.inv(stain.MIXING)
    haematoxylin = densities[..., 0]
    values = [np.r_[each.mean((0, 1)), each.std((0, 1))] for each in (rgb, densities)]
    values.append(np.percentile(rgb, (25, 50, 75), axis=(0, 1)).ravel())
    values.append(np.percentile(haematoxylin, (25, 50, 75)))
    for sigma_px in (1, 2, 4, 8):
        finer = scipy.ndimage.gaussian_filter(haematoxylin, sigma_px / 2)
        detail = finer - scipy.ndimage.gaussian_filter(haematoxylin, sigma_px)
        strength = detail.std()
        skewness = ((detail - detail.mean()) ** 3).mean() / max(strength, 1e-9) ** 3
        values.append([strength, skewness])
    return np.concatenate(values).astype("float32")


def whole_fields(extractor: keras.Model, fields: Sequence[np.ndarray]) -> np.ndarray:
    """Return features of whole fields, float32 (fields, features): fully convolutional.

    Args:
        extractor: see `models.field_models.field_extractor`.
        fields: (height, width, 3), RGB 0..255, of any sizes. Nothing is stretched.
    """
    return np.stack(by_shape(extractor, fields))


def by_shape(model: keras.Model, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what a model makes of each array; arrays of one shape are batched."""
    shapes = [each.shape for each in arrays]
    found = [None] * len(arrays)
    for shape in sorted(set(shapes)):
        rows = [row for row, each in enumerate(shapes) if each == shape]
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            batch = np.stack([arrays[row] for row in part]).astype("float32")
            for row, each in zip(part, model.predict_on_batch(batch), strict=True):
                found[row] = each
    return found


def crops(field: np.ndarray, side_px: int) -> np.ndarray:
    """Return the fewest square crops that cover a field evenly, (crops, side, side, 3).

    Raises:
        InputError: the field is smaller than a crop.
    """
    if min(field.shape[:2]) < side_px:
        height, width = field.shape[:2]
        raise InputError(f"a field of {height}×{width} px is smaller than a crop of {side_px} px.")
    places = [
        np.linspace(0, length - side_px, -(-length // side_px)).round().astype(int)
        for length in field.shape[:2]
    ]
    return np.stack([
        field[y : y + side_px, x : x + side_px] for y in places[0] for x in places[1]
    ])  # fmt: skip


def resized(fields: Sequence[np.ndarray], scale: float) -> list[np.ndarray]:
    """Return fields whose sides are multiplied by `scale`, Lanczos."""
    return [
        np.asarray(
            Image.fromarray(field).resize(
                [round(side * scale) for side in field.shape[1::-1]], Image.Resampling.LANCZOS
            )
        )
        for field in fields
    ]


def stain_jittered(fields: Sequence[np.ndarray], strength: float, seed: int) -> list[np.ndarray]:
    """Return fields with each stain's density scaled by a draw from 1 ± `strength`.

    The residual of the separation is kept, and the background stays white.
    """
    unmixing = np.linalg.inv(stain.MIXING)
    generator = np.random.default_rng(seed)
    changed = []
    for field in fields:
        gains = np.append(generator.uniform(1 - strength, 1 + strength, 2), 1.0)
        densities = stain.optical_density(field) @ unmixing * gains
        changed.append(stain.transmitted(densities @ stain.MIXING))
    return changed
