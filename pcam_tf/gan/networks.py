"""The two networks: a class-conditional generator of patches and its critic.

Plain strided convolutions (A. Radford et al., ICLR 2016) with residual convolutions between them
and no normalisation, as in R3GAN (N. Huang et al., NeurIPS 2024): that paper shows that no
normalisation is needed with its loss. The critic has a score for each class, the product of its
features with an embedding of the class (T. Miyato and M. Koyama, ICLR 2018), and it sees how much
patches of a group differ (T. Karras et al., ICLR 2018). Without the latter, all patches of a class
were alike for 30,000 patches and more.
"""

import dataclasses

import keras
from keras import ops

from pcam_tf.errors import InputError

# Each resolution has half the side of the one before, down to the first one of the generator.
_HALVINGS = 4
_MOST_DOUBLINGS = 3
# Patches whose variation the critic sees together: of one class, all real or all generated.
GROUP = 4


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of both networks.

    Attributes:
        side_px: side of a generated patch.
        classes: number of classes.
        latents: numbers drawn for each patch.
        width: channels at half the side; they double with each halving, up to eight times.
    """

    side_px: int = 64
    classes: int = 2
    latents: int = 64
    width: int = 32

    def __post_init__(self):
        if self.side_px < 2**_HALVINGS or self.side_px % 2**_HALVINGS:
            raise InputError(
                f"a generator of {self.side_px} px cannot be built: choose a multiple of "
                f"{2**_HALVINGS}."
            )

    @property
    def channels(self) -> list[int]:
        """Channels of each resolution, from half the side to the smallest."""
        return [self.width * 2 ** min(number, _MOST_DOUBLINGS) for number in range(_HALVINGS)]


def generator(shape: Shape, seed: int = 0) -> keras.Model:
    """Return the untrained generator: latents (n, latents) and labels (n,) int32 to patches.

    Patches are float32 (n, side, side, 3), -1..1. All weights that are drawn depend on `seed`.
    """
    seeds = _Seeds(seed)
    latents = keras.Input((shape.latents,), name="latents")
    labels = keras.Input((), dtype="int32", name="labels")
    embedded = _embedded(labels, shape.classes, shape.latents, seeds.normal(1.0))
    tensor = keras.layers.Concatenate()([latents, embedded])
    channels = shape.channels[::-1]
    side = shape.side_px // 2**_HALVINGS
    tensor = keras.layers.Dense(side**2 * channels[0], kernel_initializer=seeds.he())(tensor)
    tensor = _activated(keras.layers.Reshape((side, side, channels[0]))(tensor))
    for width in channels[1:]:
        tensor = keras.layers.Conv2DTranspose(
            width, 4, strides=2, padding="same", kernel_initializer=seeds.he()
        )(tensor)
        tensor = _residual(_activated(tensor), width, seeds)
    tensor = keras.layers.Conv2DTranspose(
        3, 4, strides=2, padding="same", kernel_initializer=seeds.normal(0.02)
    )(tensor)
    return keras.Model([latents, labels], ops.tanh(tensor), name="generator")


def critic(shape: Shape, seed: int = 0) -> keras.Model:
    """Return the untrained critic: patches (n, side, side, 3), -1..1, to scores (n, classes).

    Scores are float32, higher for what looks like a real patch of the class; only differences
    count. Every `GROUP` patches that follow each other are of one class, and n is a multiple of it.
    """
    seeds = _Seeds(seed + 1000)
    patches = keras.Input((shape.side_px, shape.side_px, 3), name="patches")
    tensor = patches
    for number, width in enumerate(shape.channels):
        tensor = keras.layers.Conv2D(
            width, 4, strides=2, padding="same", kernel_initializer=seeds.he()
        )(tensor)
        tensor = _activated(tensor)
        if number < len(shape.channels) - 1:
            tensor = _residual(tensor, width, seeds)
    tensor = keras.layers.Flatten()(_with_variation(tensor))
    features = keras.layers.Dense(2 * shape.channels[-1], kernel_initializer=seeds.he())(tensor)
    features = _activated(features)
    # No weights that classes share: with such, the critic came to score both classes alike.
    initializer = seeds.normal(features.shape[-1] ** -0.5)
    scores = keras.layers.Dense(shape.classes, use_bias=False, kernel_initializer=initializer)
    return keras.Model(patches, scores(features), name="critic")


def _with_variation(tensor):
    """Return a tensor with one channel more: the mean deviation within each group of patches."""
    groups = ops.reshape(tensor, (-1, GROUP, *tensor.shape[1:]))
    squares = ops.square(groups - ops.mean(groups, axis=1, keepdims=True))
    deviation = ops.mean(ops.sqrt(ops.mean(squares, axis=1) + 1e-8), axis=(1, 2, 3))
    deviation = ops.reshape(ops.repeat(deviation, GROUP, axis=0), (-1, 1, 1, 1))
    return ops.concatenate([tensor, deviation * ops.ones_like(tensor[..., :1])], axis=-1)


def _embedded(labels, classes, width, initializer):
    """Return a vector for the class of each patch, (n, width)."""
    layer = keras.layers.Dense(width, use_bias=False, kernel_initializer=initializer, name="class")
    return layer(ops.one_hot(labels, classes))


def _residual(tensor, width, seeds):
    """Return a tensor plus a convolution of it, which starts small, as in Fixup."""
    added = keras.layers.Conv2D(
        width, 3, padding="same", kernel_initializer=seeds.normal(0.1 / (3 * width**0.5))
    )(tensor)
    return _activated(keras.layers.Add()([tensor, added]))


def _activated(tensor):
    return keras.layers.LeakyReLU(0.2)(tensor)


class _Seeds:
    """Initialisers, each with a seed of its own."""

    def __init__(self, first: int):
        self.next = first * 100

    def he(self):
        self.next += 1
        return keras.initializers.HeNormal(seed=self.next)

    def normal(self, deviation: float):
        self.next += 1
        return keras.initializers.RandomNormal(0.0, deviation, seed=self.next)
