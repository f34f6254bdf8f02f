"""The two networks: a class-conditional generator of patches and its critic.

The generator is a stack of convolutions. What is drawn for a patch as a whole, and its class, scale
and shift the channels of the layers (E. Perez et al., "FiLM", AAAI 2018); what is drawn for each
place enters as maps (as the noise of T. Karras et al., CVPR 2019). Nothing else has a place: with a
learned map at the start, all patches of a class came to have one layout, and borders of zeros tell
a place as well, so borders are mirrored. At last the patch is turned as drawn, since the critic
cannot see in which way all patches lie: it sees each in a drawn turn.

The critic sees maps of patches (`projection`) and has a score of each map for each class. It also
sees how much patches of a group differ (T. Karras et al., ICLR 2018).
"""

import dataclasses
import itertools
import math

import keras
from keras import ops

from pcam_tf.errors import InputError
from pcam_tf.gan import augmentation

# Each resolution of the generator has twice the side of the one before.
_DOUBLINGS = 4
# Drawn numbers, above 0 or not, that turn a patch: the first ones.
TURNS = 3
# Numbers that are drawn for each place, from the smallest resolution to half the side.
_LOCAL = (32, 16, 8, 4)
# Patches whose variation the critic sees together: of one class, all real or all generated.
GROUP = 4
# Channels of a head of the critic, and the side up to which it makes maps smaller.
_HEAD_WIDTHS, _HEAD_SIDE = (64, 80), 6


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of both networks.

    Attributes:
        side_px: side of a generated patch.
        classes: number of classes.
        overall: numbers drawn for each patch as a whole.
        width: channels of the generator at the full side; they double with each halving.
    """

    side_px: int = 48
    classes: int = 2
    overall: int = 64
    width: int = 16

    def __post_init__(self):
        if self.side_px < 2**_DOUBLINGS or self.side_px % 2**_DOUBLINGS:
            raise InputError(
                f"a generator of {self.side_px} px cannot be built: choose a multiple of "
                f"{2**_DOUBLINGS}."
            )

    @property
    def local(self) -> list[tuple[int, int, int]]:
        """Height, width and channels of the maps of drawn numbers, the smallest first."""
        sides = [self.side_px // 2**each for each in range(_DOUBLINGS, 0, -1)]
        return [(side, side, count) for side, count in zip(sides, _LOCAL, strict=True)]

    @property
    def latents(self) -> int:
        """How many numbers are drawn for a patch."""
        return TURNS + self.overall + sum(map(math.prod, self.local))


def generator(shape: Shape, seed: int = 0) -> keras.Model:
    """Return the untrained generator: latents (n, latents) and labels (n,) int32 to patches.

    Patches are float32 (n, side, side, 3), -1..1. All weights that are drawn depend on `seed`.
    """
    seeds = _Seeds(seed)
    latents = keras.Input((shape.latents,), name="latents")
    labels = keras.Input((), dtype="int32", name="labels")
    turns, overall, local = _parts(latents, shape)
    embedded = keras.layers.Dense(
        shape.overall, use_bias=False, kernel_initializer=seeds.normal(1.0)
    )(ops.one_hot(labels, shape.classes))
    style = keras.layers.Dense(2 * shape.overall, kernel_initializer=seeds.he())(
        keras.layers.Concatenate()([overall, embedded])
    )
    style = _activated(style)
    widths = [shape.width * 2**each for each in range(_DOUBLINGS)][::-1]
    tensor = keras.layers.Conv2D(widths[0], 1, kernel_initializer=seeds.he())(local[0])
    for width, drawn in zip(widths, [*local[1:], None], strict=True):
        tensor = keras.layers.UpSampling2D(2)(tensor)
        if drawn is not None:
            tensor = keras.layers.Concatenate()([tensor, drawn])
        for _ in range(2):
            tensor = _styled(tensor, width, style, seeds)
    patches = ops.tanh(_mirrored(tensor, 3, seeds.normal(0.03)))
    patches = augmentation.turned(patches, ops.transpose(turns) > 0)
    return _renamed(keras.Model([latents, labels], patches, name="generator"))


def critic(maps: list[keras.KerasTensor], classes: int, seed: int = 0) -> keras.Model:
    """Return the untrained critic of maps of patches: a list of them to (n, maps, classes).

    Scores are float32, higher for what looks like a real patch of the class; only differences
    count. Every `GROUP` patches that follow each other are of one class, and n is a multiple of it.

    Args:
        maps: the outputs of `projection.projection`.
        classes: number of classes.
        seed: of all weights that are drawn.
    """
    seeds = _Seeds(seed + 1000)
    inputs = [keras.Input(each.shape[1:], name=f"map_{n}") for n, each in enumerate(maps)]
    scores = [_scores(each, classes, seeds) for each in inputs]
    return _renamed(keras.Model(inputs, ops.stack(scores, axis=1), name="critic"))


def _scores(tensor, classes, seeds):
    """Return the scores of one map, (n, classes): means over its places."""
    narrow, wide = _HEAD_WIDTHS
    while tensor.shape[1] > _HEAD_SIDE:
        tensor = _activated(_convolved(tensor, narrow, 4, seeds.he(), strides=2))
    tensor = _activated(_convolved(tensor, wide, 3, seeds.he()))
    tensor = _activated(_convolved(_with_variation(tensor), wide, 1, seeds.he()))
    # The last layer has no weights that classes share: with such, a critic scored all alike.
    initializer = seeds.normal((9 * wide) ** -0.5)
    return keras.layers.GlobalAveragePooling2D()(
        _convolved(tensor, classes, 3, initializer, use_bias=False)
    )


def _with_variation(tensor):
    """Return a tensor with one channel more: the mean deviation within each group of patches."""
    groups = ops.reshape(tensor, (-1, GROUP, *tensor.shape[1:]))
    squares = ops.square(groups - ops.mean(groups, axis=1, keepdims=True))
    deviation = ops.mean(ops.sqrt(ops.mean(squares, axis=1) + 1e-8), axis=(1, 2, 3))
    deviation = ops.reshape(ops.repeat(deviation, GROUP, axis=0), (-1, 1, 1, 1))
    return ops.concatenate([tensor, deviation * ops.ones_like(tensor[..., :1])], axis=-1)


def _parts(latents, shape):
    """Return what is drawn: how patches are turned, for patches as a whole, and maps of places."""
    *ends, _ = itertools.accumulate([TURNS, shape.overall, *map(math.prod, shape.local)])
    turns, overall, *local = ops.split(latents, ends, axis=1)
    return (
        turns,
        overall,
        [keras.layers.Reshape(each)(part) for each, part in zip(shape.local, local, strict=True)],
    )


def _styled(tensor, width, style, seeds):
    """Return a convolution of a tensor, normalised, its channels scaled and shifted by `style`."""
    tensor = _mirrored(tensor, width, seeds.he(), use_bias=False)
    tensor = keras.layers.BatchNormalization(center=False, scale=False, momentum=0.95)(tensor)
    gain, shift = (_for_channels(style, width, seeds) for _ in range(2))
    return _activated(tensor * (1 + gain) + shift)


def _for_channels(style, width, seeds):
    dense = keras.layers.Dense(width, kernel_initializer=seeds.normal(style.shape[1] ** -0.5))
    return keras.layers.Reshape((1, 1, width))(dense(style))


def _mirrored(tensor, width, initializer, **options):
    """Return a convolution of 3 px of a tensor whose border is mirrored."""
    tensor = ops.pad(tensor, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    return keras.layers.Conv2D(width, 3, kernel_initializer=initializer, **options)(tensor)


def _convolved(tensor, width, side, initializer, **options):
    return keras.layers.Conv2D(
        width, side, padding="same", kernel_initializer=initializer, **options
    )(tensor)


def _activated(tensor):
    return keras.layers.LeakyReLU(0.2)(tensor)


def _renamed(model):
    """Return the model with layers whose names do not depend on what was built before it.

    TensorFlow orders sums by names, and so rounds them in another way under other names.
    """
    numbers = itertools.count()

    def renamed(layer):
        config = layer.get_config() | {"name": f"{model.name}_{next(numbers)}"}
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=renamed)


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
