"""Augmentation of training batches, as Keras layers: D4 symmetry, stain jitter, small shifts.

Every layer takes and returns a batch of raw patches, float (batch, height, width, 3), RGB 0..255,
draws anew for each patch, and does nothing outside training. None is ever saved in a classifier.
"""

import keras
import numpy as np
from keras import ops

from pcam_tf import stain


class _RandomLayer(keras.layers.Layer):
    """A layer that changes patches in training only and draws from a seeded generator."""

    def __init__(self, seed: int, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, patches, training=False):
        return self._augmented(patches) if training else patches

    def compute_output_shape(self, input_shape):
        return input_shape

    def _uniform(self, shape, low, high):
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.generator)


class RandomD4(_RandomLayer):
    """One of the square's eight symmetries (dihedral group D4): tissue has no up and no left.

    Needs square patches.
    """

    def _augmented(self, patches):
        coins = self._uniform((3, ops.shape(patches)[0], 1, 1, 1), 0.0, 1.0) < 0.5
        patches = ops.where(coins[0], ops.flip(patches, axis=1), patches)
        patches = ops.where(coins[1], ops.flip(patches, axis=2), patches)
        return ops.where(coins[2], ops.transpose(patches, (0, 2, 1, 3)), patches)


class RandomStain(_RandomLayer):
    """Stain jitter: each stain's optical density times 1 ± strength, plus ± strength / 4.

    After D. Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a
    reference to train distilled stain-invariant convolutional networks", IEEE TMI 2018: patches are
    unmixed into haematoxylin, eosin and a residual (Ruifrok & Johnston 2001), each is scaled and
    shifted by its own draw, and they are mixed again. The shift is a quarter of theirs in relation
    to the gain, since a shift tints the white background as well.
    """

    def __init__(self, seed: int, strength: float, **options):
        super().__init__(seed, **options)
        self.strength = strength
        stains = np.stack([stain.HAEMATOXYLIN, stain.EOSIN])
        residual = np.cross(*stains)
        self.mixing = np.vstack([stains, residual / np.linalg.norm(residual)]).astype("float32")
        self.unmixing = np.linalg.inv(self.mixing)

    def _augmented(self, patches):
        batch = ops.shape(patches)[0]
        gain = self._uniform((batch, 1, 1, 3), 1 - self.strength, 1 + self.strength)
        shift = self._uniform((batch, 1, 1, 3), -self.strength / 4, self.strength / 4)
        # One grey level is added so that black has a finite optical density.
        optical_density = -ops.log((ops.cast(patches, "float32") + 1) / 256)
        densities = ops.matmul(optical_density, self.unmixing) * gain + shift
        jittered = 256 * ops.exp(-ops.matmul(densities, self.mixing)) - 1
        return ops.cast(ops.clip(jittered, 0, 255), patches.dtype)


class RandomShift(_RandomLayer):
    """A shift by up to `largest_px` whole pixels along each axis, the border mirrored.

    Kept to a few pixels: the label is about the centre 32×32 px only.
    """

    def __init__(self, seed: int, largest_px: int, **options):
        super().__init__(seed, **options)
        self.largest_px = largest_px

    def _augmented(self, patches):
        batch, side = ops.shape(patches)[0], patches.shape[1]
        edge = self.largest_px + 0.5
        shift = ops.round(self._uniform((batch, 2, 1), -edge, edge))
        source = ops.arange(side, dtype="float32") + shift
        source = (side - 1) - ops.abs((side - 1) - ops.abs(source))
        # A product with a matrix of ones and zeros picks rows and columns, on every backend and
        # under XLA, where gathering or an image transform is slow or missing.
        picked = ops.one_hot(ops.cast(source, "int32"), side, dtype=patches.dtype)
        patches = ops.einsum("bih,bhwc->biwc", picked[:, 0], patches)
        return ops.einsum("bjw,biwc->bijc", picked[:, 1], patches)


def layers(*, seed: int, stain_strength: float, shift_px: int) -> list[keras.layers.Layer]:
    """Return the augmentation of a recipe, in the order of application.

    Args:
        seed: makes the draws repeatable.
        stain_strength: relative range of each stain's gain, 0..1; 0 leaves the stain alone.
        shift_px: the largest shift along each axis; 0 leaves the patches in place.
    """
    augmentation = [RandomD4(seed, name="random_d4")]
    if stain_strength:
        augmentation.append(RandomStain(seed + 1, stain_strength, name="random_stain"))
    if shift_px:
        augmentation.append(RandomShift(seed + 2, shift_px, name="random_shift"))
    return augmentation
