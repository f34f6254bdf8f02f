"""Augmentation of training batches, as Keras layers: symmetry, stain, small turns, other scanners.

Every layer takes and returns a batch of raw patches, float (batch, height, width, 3), RGB 0..255,
draws anew for each patch, and does nothing outside training. None is ever saved in a classifier.

With TensorFlow each layer is a kernel or two that XLA compiles, two to seven times as fast as a
kernel for each operation. One kernel for all would be slower: XLA then works out again, for every
pixel that is looked up, what was made of it before.
"""

import keras
import numpy as np
from keras import ops

from pcam_tf import stain
from pcam_tf.stain import layer
from pcam_tf.training import jpeg
from pcam_tf.training.recipes import Recipe


class _RandomLayer(keras.layers.Layer):
    """A layer that changes patches in training only and draws from a seeded generator."""

    def __init__(self, seed: int, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, patches, training=False):
        if not training:
            return patches
        dtype = keras.backend.standardize_dtype(patches.dtype)
        if "int" not in dtype:
            return self._augmented(patches)
        # A cast to whole grey levels cuts off the decimals, which darkens patches.
        augmented = self._augmented(ops.cast(patches, "float32"))
        return ops.cast(ops.clip(ops.round(augmented), 0, 255), dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def _uniform(self, shape, low, high):
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.generator)


class RandomD4(_RandomLayer):
    """One of the square's eight symmetries (dihedral group D4): tissue has no up and no left.

    Needs square patches.
    """

    @layer.compiled
    def _augmented(self, patches):
        coins = self._uniform((3, ops.shape(patches)[0], 1, 1, 1), 0.0, 1.0) < 0.5
        patches = ops.where(coins[0], ops.flip(patches, 1), patches)
        patches = ops.where(coins[1], ops.flip(patches, 2), patches)
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
        self.mixing = stain.MIXING.astype("float32")
        self.unmixing = np.linalg.inv(self.mixing)

    @layer.compiled
    def _augmented(self, patches):
        batch = ops.shape(patches)[0]
        gain = self._uniform((batch, 1, 1, 3), 1 - self.strength, 1 + self.strength)
        shift = self._uniform((batch, 1, 1, 3), -self.strength / 4, self.strength / 4)
        # One grey level is added so that black has a finite optical density.
        optical_density = -ops.log((ops.cast(patches, "float32") + 1) / 256)
        # Unmixing, gain and mixing in one matrix for each patch: a third faster.
        jitter = ops.matmul(self.unmixing * gain, self.mixing)
        # Written out, the product of so small matrices is one loop with all that surrounds it.
        parts = [
            optical_density[..., dye : dye + 1] * jitter[:, :, dye : dye + 1] for dye in range(3)
        ]
        optical_density = sum(parts) + ops.matmul(shift, self.mixing)
        jittered = 256 * ops.exp(-optical_density) - 1
        return ops.cast(ops.clip(jittered, 0, 255), patches.dtype)


class RandomAffine(_RandomLayer):
    """A small turn, scaling and shift about the centre, bilinear, the border mirrored.

    The angle is drawn from ± `rotation_degrees`, the scaling from 1 / `scaling` to `scaling` and
    the shift from ± `shift_px` along each axis: a few pixels only, since the label is about the
    centre 32×32 px.
    """

    def __init__(
        self, seed: int, *, rotation_degrees: float, scaling: float, shift_px: float, **options
    ):
        super().__init__(seed, **options)
        self.rotation_degrees, self.scaling = rotation_degrees, scaling
        self.shift_px = shift_px

    def _augmented(self, patches):
        y, x = self._sources(patches)
        if self.rotation_degrees:
            return _sampled(patches, y, x)
        # Whole rows are looked up, which costs a third of looking up pixels.
        for source in (y, x):
            patches = _transposed(_sampled_rows(patches, source))
        return patches

    @layer.compiled
    def _sources(self, patches):
        """Return the row and the column that each pixel comes from, float32 (batch, height, width),
        or where nothing is turned of each row and column, (batch, height) and (batch, width)."""
        batch, height, width = ops.shape(patches)[0], *patches.shape[1:3]
        draws = self._uniform((4, batch, 1, 1), -1.0, 1.0)
        angle = draws[0] * float(np.radians(self.rotation_degrees))
        zoom = ops.exp(draws[1] * float(np.log(self.scaling)))
        middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
        y = ops.reshape(ops.arange(height, dtype="float32"), (1, height, 1)) - middle_y
        x = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, width)) - middle_x
        if self.rotation_degrees:
            cosine, sine = ops.cos(angle), ops.sin(angle)
            y, x = cosine * y - sine * x, sine * y + cosine * x
        source_y = y / zoom + draws[2] * self.shift_px + middle_y
        source_x = x / zoom + draws[3] * self.shift_px + middle_x
        if not self.rotation_degrees:
            source_y, source_x = source_y[:, :, 0], source_x[:, 0]
        return _mirrored(source_y, height), _mirrored(source_x, width)


class RandomSurroundings(_RandomLayer):
    """The surroundings of another patch: the label is about the centre, so it stays right.

    A patch keeps the middle half of its rows and columns and gets the rest from the patch before it
    in the batch (CutMix, S. Yun et al., ICCV 2019, with a fixed square).
    """

    def __init__(self, seed: int, share: float, **options):
        super().__init__(seed, **options)
        self.share = share

    def _augmented(self, patches):
        batch, (height, width) = ops.shape(patches)[0], patches.shape[1:3]
        middle = np.zeros((1, height, width, 1), bool)
        middle[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = True
        untouched = self._uniform((batch, 1, 1, 1), 0.0, 1.0) >= self.share
        return ops.where(ops.logical_or(middle, untouched), patches, ops.roll(patches, 1, axis=0))


class RandomScanner(_RandomLayer):
    """Another scanner: exposure, focus and compression, each drawn anew for each patch.

    Brightness is multiplied by 1 ± `brightness`. Half of the patches are blurred by a Gaussian
    whose sigma is drawn up to `blur_px`, and half are compressed as baseline JPEG does (ITU-T T.81,
    chroma at half resolution, the tables of its annex K) at a quality drawn from `jpeg_quality` to
    100. TensorFlow's own JPEG takes one picture at a time and runs neither under XLA nor on JAX.
    Sides must be multiples of 16 px.
    """

    def __init__(
        self, seed: int, *, brightness: float, blur_px: float, jpeg_quality: int, **options
    ):
        super().__init__(seed, **options)
        self.brightness, self.blur_px, self.jpeg_quality = brightness, blur_px, jpeg_quality

    @layer.compiled
    def _augmented(self, patches):
        dtype, batch = patches.dtype, ops.shape(patches)[0]
        draws = self._uniform((5, batch), 0.0, 1.0)
        exposure = 1 + self.brightness * (2 * draws[0] - 1)
        patches = ops.cast(patches, "float32") * ops.reshape(exposure, (-1, 1, 1, 1))
        patches = ops.clip(patches, 0, 255)
        if self.blur_px:
            patches = _blurred(patches, ops.where(draws[1] < 0.5, self.blur_px * draws[2], 0.0))
        if self.jpeg_quality < 100:
            quality = self.jpeg_quality + (100 - self.jpeg_quality) * draws[3]
            compressed = ops.reshape(draws[4] < 0.5, (-1, 1, 1, 1))
            patches = ops.where(compressed, jpeg.compressed(patches, quality), patches)
        return ops.cast(patches, dtype)


def _blurred(patches, sigma_px):
    """Return patches (b, side, side, c) blurred by Gaussians of `sigma_px` (b,)."""
    along = np.arange(patches.shape[1])
    squares = ops.convert_to_tensor(np.square(along[:, None] - along[None]), "float32")
    # At a sigma of nothing the weights come out as the identity, which is what is meant.
    widths = 2 * ops.square(ops.maximum(sigma_px, 0.05))
    weights = ops.exp(-squares / ops.reshape(widths, (-1, 1, 1)))
    weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    patches = ops.einsum("bij,bjkc->bikc", weights, patches)
    return ops.einsum("bij,bkjc->bkic", weights, patches)


def _mirrored(positions, side):
    """Return positions beyond the border, to whichever side, mirrored back to 0..side - 1."""
    period = 2 * (side - 1)
    positions = ops.mod(positions, period)
    return ops.minimum(positions, period - positions)


@layer.compiled
def _sampled_rows(patches, y):
    """Return patches (b, h, w, c) with rows from `y` (b, h), bilinear."""
    batch, (height, width, channels) = ops.shape(patches)[0], patches.shape[1:]
    top = ops.minimum(ops.floor(y), height - 2)
    down = ops.expand_dims(y - top, -1)
    first = ops.reshape(ops.arange(batch, dtype="int32") * height, (batch, 1))
    rows = ops.reshape(patches, (-1, width * channels))
    upper = ops.take(rows, first + ops.cast(top, "int32"), axis=0)
    lower = ops.take(rows, first + ops.cast(top, "int32") + 1, axis=0)
    return ops.reshape(upper + (lower - upper) * down, ops.shape(patches))


@layer.compiled
def _transposed(patches):
    return ops.transpose(patches, (0, 2, 1, 3))


@layer.compiled
def _sampled(patches, y, x):
    """Return patches (b, h, w, c) at positions `y` and `x` (b, h, w), bilinear.

    By gathers, which every backend has, and XLA as well; TensorFlow's image transforms do not run
    under XLA, which is how a GPU trains.
    """
    height, width = patches.shape[1:3]
    top = ops.minimum(ops.floor(y), height - 2)
    left = ops.minimum(ops.floor(x), width - 2)
    down, right = ops.expand_dims(y - top, -1), ops.expand_dims(x - left, -1)
    top, left = ops.cast(top, "int32"), ops.cast(left, "int32")

    def row(y):
        near, far = _gathered(patches, y, left), _gathered(patches, y, left + 1)
        return near + (far - near) * right

    upper, lower = row(top), row(top + 1)
    return upper + (lower - upper) * down


def _gathered(patches, y, x):
    """Return the pixels of patches (b, h, w, c) at rows `y` and columns `x`, int32 (b, h, w)."""
    batch, (height, width, channels) = ops.shape(patches)[0], patches.shape[1:]
    first = ops.reshape(ops.arange(batch, dtype="int32") * (height * width), (batch, 1, 1))
    pixels = ops.reshape(patches, (-1, channels))
    return ops.take(pixels, first + y * width + x, axis=0)


def layers_of(recipe: Recipe, *, seed: int) -> list[keras.layers.Layer]:
    """Return the augmentation of a recipe, in the order of application.

    Args:
        recipe: says which layers there are, and how strong they are.
        seed: makes the draws repeatable.
    """
    augmentation = [RandomD4(seed, name="random_d4")]
    if recipe.stain_strength:
        augmentation.append(RandomStain(seed + 1, recipe.stain_strength, name="random_stain"))
    if recipe.rotation_degrees or recipe.scaling != 1 or recipe.shift_px:
        affine = RandomAffine(
            seed + 2,
            rotation_degrees=recipe.rotation_degrees,
            scaling=recipe.scaling,
            shift_px=recipe.shift_px,
            name="random_affine",
        )
        augmentation.append(affine)
    if recipe.surroundings:
        augmentation.append(
            RandomSurroundings(seed + 4, recipe.surroundings, name="random_surroundings")
        )
    if recipe.brightness or recipe.blur_px or recipe.jpeg_quality < 100:
        scanner = RandomScanner(
            seed + 3,
            brightness=recipe.brightness,
            blur_px=recipe.blur_px,
            jpeg_quality=recipe.jpeg_quality,
            name="random_scanner",
        )
        augmentation.append(scanner)
    return augmentation
