"""Differentiable augmentation: what the critic sees of real and generated patches alike.

S. Zhao et al., "Differentiable augmentation for data-efficient GAN training", NeurIPS 2020. Colour
is the gain of each stain; translation and cutout are theirs; D4 is added, since tissue has no up
and no left. All but D4 leave half of the patches as they are, so that the generator does not learn
the changes themselves (T. Karras et al., NeurIPS 2020).
"""

import numpy as np
from keras import ops

from pcam_tf import stain

STAIN_STRENGTH = 0.2
_SHARE = 0.5
_TRANSLATION = 1 / 8
_CUTOUT = 1 / 2


def draw(rng: np.random.Generator, count: int, side_px: int) -> dict[str, np.ndarray]:
    """Return the numbers that `augmented` needs for `count` patches.

    They come from numpy, so that a step of the training depends on its seed and number alone.
    """
    changed = rng.random((3, count)) < _SHARE
    gain = 1 + rng.uniform(-STAIN_STRENGTH, STAIN_STRENGTH, (count, 3)) * changed[0][:, None]
    # Unmixing, gain and mixing of the optical densities in one matrix for each patch.
    jitter = np.linalg.inv(stain.MIXING) @ (gain[:, :, None] * stain.MIXING)
    most = max(1, round(side_px * _TRANSLATION))
    shift = rng.integers(-most, most + 1, (2, count)) * changed[1]
    places = rng.integers(0, side_px, (2, count))
    pixels = np.arange(side_px)
    hole = [np.abs(pixels - each[:, None]) < side_px * _CUTOUT / 2 for each in places]
    kept = ~(hole[0][:, :, None] & hole[1][:, None] & changed[2][:, None, None])
    return {
        "d4": rng.random((3, count)) < 0.5,
        "jitter": jitter.astype("float32"),
        "rows": _shifted(pixels, shift[0]),
        "columns": _shifted(pixels, shift[1]),
        "kept": kept[..., None].astype("float32"),
    }


def _shifted(pixels, shift):
    """Return a matrix a patch, (n, side, side), that moves rows; those from outside are 0."""
    sources = pixels + shift[:, None]
    return (sources[:, :, None] == pixels).astype("float32")


def augmented(patches, draws: dict):
    """Return patches (n, side, side, 3), -1..1, changed as `draws` says; gradients pass through."""
    patches = turned(patches, draws["d4"])
    patches = _stained(patches, draws["jitter"])
    # Grey, the middle of -1..1, comes in from outside and fills the hole.
    patches = ops.einsum("nij,njkc->nikc", draws["rows"], patches)
    patches = ops.einsum("nij,nkjc->nkic", draws["columns"], patches)
    return patches * draws["kept"]


def turned(patches, coins):
    """Return patches (n, side, side, 3) turned and reflected as coins, bool (3, n), say."""
    coins = ops.reshape(coins, (3, -1, 1, 1, 1))
    patches = ops.where(coins[0], ops.flip(patches, 1), patches)
    patches = ops.where(coins[1], ops.flip(patches, 2), patches)
    return ops.where(coins[2], ops.transpose(patches, (0, 2, 1, 3)), patches)


def _stained(patches, jitter):
    """Return patches whose optical densities are multiplied by a matrix for each patch."""
    # One and a half grey levels keep the logarithm and its gradient finite.
    light = ops.maximum((patches + 1) / 2, 0) + 0.006
    density = -ops.log(light)
    parts = [density[..., dye : dye + 1] * jitter[:, None, None, dye] for dye in range(3)]
    changed = ops.exp(-ops.minimum(ops.maximum(sum(parts), -0.006), 5.2)) - 0.006
    return 2 * changed - 1
