"""Stain normalisation of batches in Keras: for a model's first layers, or inside `tf.data`."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from pcam_tf.stain import normalization, separation

_BELOW_ALL = -1e9
# sRGB (D65) to XYZ, relative to white: IEC 61966-2-1, as scikit-image has it.
_TO_XYZ = np.float32(
    np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    / [[0.95047], [1.0], [1.08883]]
)
_TO_RGB = np.linalg.inv(_TO_XYZ)


def compiled(function: Callable) -> Callable:
    """Return a function that XLA compiles with TensorFlow; JAX compiles whole steps anyway."""
    if keras.config.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


@keras.saving.register_keras_serializable("pcam_tf")
class StainNormalization(keras.layers.Layer):
    """Gives each patch of a batch the stain of a reference; degenerate ones stay as they are.

    In `tf.data`: `batches.map(lambda each: each | {"image": layer(each["image"])})`.
    """

    def __init__(self, reference: normalization.Reference | dict, **options):
        super().__init__(**options)
        is_saved = isinstance(reference, dict)
        self.reference = normalization.from_dictionary(reference) if is_saved else reference

    def call(self, patches):
        """Return (batch, side, side, 3) of the dtype of `patches`."""
        return self._normalized(patches)

    @compiled
    def _normalized(self, patches):
        return normalize_batch(patches, self.reference)[0]

    def compute_output_shape(self, input_shape):
        """Return the shape of the batch."""
        return input_shape

    def get_config(self):
        """Return what the layer is made from."""
        return super().get_config() | {"reference": normalization.to_dictionary(self.reference)}


def normalize_batch(patches, reference: normalization.Reference) -> tuple:
    """Normalise patches, each by its own stain, as `normalization.normalize` does.

    Args:
        patches: tensor (batch, height, width, 3), 0..255; height and width have to be known.
        reference: see `normalization.fit`.

    Returns:
        The patches, of the dtype given, and bool (batch,): False where a patch is degenerate and
        was left as it is.
    """
    height, width = patches.shape[1:3]
    # Channels first: each of them is then one row of memory, which is several times as fast.
    rgb = ops.reshape(ops.cast(patches, "float32"), (-1, height * width, 3))
    rgb = ops.transpose(rgb, (0, 2, 1))
    density = np.float32(np.log(separation.LIGHT)) - ops.log(rgb + 1)
    tissue = ops.cast(ops.all(density >= separation.LEAST_DENSITY, axis=1), "float32")
    least = max(separation.LEAST_TISSUE_PX, separation.LEAST_TISSUE_SHARE * height * width)
    usable = ops.sum(tissue, axis=1) >= least
    method = _macenko if isinstance(reference, normalization.Macenko) else _reinhard
    levels, separable = method(rgb, density, tissue, reference)
    usable = ops.logical_and(usable, separable)
    levels = ops.clip(ops.round(levels), 0, 255)
    levels = ops.where(usable[:, None, None], levels, rgb)
    levels = ops.cast(ops.transpose(levels, (0, 2, 1)), patches.dtype)
    return ops.reshape(levels, ops.shape(patches)), usable


def _macenko(_, density, tissue, reference):
    count = ops.maximum(ops.sum(tissue, axis=1), 2)
    plane = _plane(density, tissue, count)
    along = ops.matmul(plane, density)
    angles = ops.arctan2(along[:, 1], along[:, 0])
    lowest = -_upper(ops.where(tissue > 0, -angles, _BELOW_ALL), count, separation.EXTREME_PERCENT)
    highest = _upper(ops.where(tissue > 0, angles, _BELOW_ALL), count, separation.EXTREME_PERCENT)
    ends = ops.stack([lowest, highest], axis=1)
    vectors = ops.matmul(ops.stack([ops.cos(ends), ops.sin(ends)], axis=-1), plane)
    is_ordered = (vectors[:, 0, 0] >= vectors[:, 1, 0])[:, None, None]
    vectors = ops.where(is_ordered, vectors, ops.flip(vectors, 1))
    angle = highest - lowest
    apart = np.radians(separation.LEAST_ANGLE_DEGREES)
    separable = ops.logical_and(angle >= apart, angle < np.pi)
    # Where they are not apart, the result is not used; the identity keeps it finite.
    safe = ops.where(separable[:, None, None], vectors, np.eye(2, 3, dtype="float32"))
    amounts = ops.matmul(_unmixing(safe), density)
    every = ops.ones_like(count) * density.shape[2]
    share = 100 - separation.STRONG_PERCENT
    strengths = ops.stack([_upper(amounts[:, dye], every, share) for dye in (0, 1)], axis=-1)
    separable = ops.logical_and(separable, ops.all(strengths >= separation.LEAST_STRENGTH, axis=-1))
    gains = np.float32(reference.strengths) / ops.maximum(strengths, separation.LEAST_STRENGTH)
    mixing = gains[:, None] * np.float32(reference.stain_vectors.T)
    return separation.LIGHT * ops.exp(-ops.matmul(mixing, amounts)) - 1, separable


def _plane(density, tissue, count):
    """Return the two main directions of the tissue's densities (batch, 2, 3), the main one last."""
    tissue = tissue[:, None]
    mean = ops.sum(density * tissue, axis=2, keepdims=True) / count[:, None, None]
    centred = (density - mean) * tissue
    covariance = ops.matmul(centred, ops.transpose(centred, (0, 2, 1)))
    plane = ops.eigh(covariance / (count - 1)[:, None, None])[1][..., 1:]
    plane = ops.transpose(plane, (0, 2, 1))
    return plane * ops.where(ops.sum(plane, axis=2, keepdims=True) < 0, -1.0, 1.0)


def _upper(values, count, percent):
    """Return the percentile 100 - `percent` of the largest `count` of each row's values, (batch,).

    Interpolated as numpy does. Only the largest few values are sorted.
    """
    most = int(percent / 100 * (values.shape[1] - 1)) + 2
    largest = ops.top_k(values, min(most, values.shape[1]))[0]
    place = percent / 100 * (count - 1)
    below = ops.cast(ops.floor(place), "int32")[:, None]
    beyond = ops.minimum(below + 1, largest.shape[1] - 1)
    part = (place - ops.floor(place))[:, None]
    first, second = (ops.take_along_axis(largest, each, axis=1) for each in (below, beyond))
    return (first * (1 - part) + second * part)[:, 0]


def _unmixing(vectors):
    """Return the pseudo-inverse (batch, 2, 3) of two unit vectors, which are not parallel."""
    first, second = vectors[:, 0], vectors[:, 1]
    cosine = ops.sum(first * second, axis=-1, keepdims=True)
    rows = [first - cosine * second, second - cosine * first]
    return ops.stack(rows, axis=1) / (1 - cosine**2)[..., None]


def _reinhard(rgb, _density, _tissue, reference):
    lab = _to_lab(rgb / 255)
    mean, deviation = ops.mean(lab, axis=2), ops.std(lab, axis=2)
    separable = ops.all(deviation >= normalization.LEAST_DEVIATION, axis=-1)
    gain = np.float32(reference.deviation) / ops.maximum(deviation, normalization.LEAST_DEVIATION)
    lab = (lab - mean[..., None]) * gain[..., None] + np.float32(reference.mean)[:, None]
    return _to_rgb(lab) * 255, separable


def _to_lab(rgb):
    linear = ops.where(rgb > 0.04045, _power((rgb + 0.055) / 1.055, 2.4), rgb / 12.92)
    xyz = ops.matmul(_TO_XYZ, linear)
    roots = ops.where(xyz > 0.008856, _power(xyz, 1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = roots[:, 0], roots[:, 1], roots[:, 2]
    return ops.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _to_rgb(lab):
    y = (ops.clip(lab[:, 0], 0, 100) + 16) / 116
    roots = ops.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], axis=1)
    roots = ops.maximum(roots, 0)
    xyz = ops.where(roots > 6 / 29, roots**3, (roots - 16 / 116) / 7.787)
    linear = ops.matmul(_TO_RGB, xyz)
    return ops.where(linear > 0.0031308, 1.055 * _power(linear, 1 / 2.4) - 0.055, 12.92 * linear)


def _power(values, exponent):
    """Return positive values to a power; by the logarithm, since TensorFlow's own is slow."""
    return ops.exp(exponent * ops.log(ops.maximum(values, 1e-6)))
