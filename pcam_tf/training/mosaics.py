"""Mosaics of patches: they teach a network to read whole fields, see `models.dense`.

In a patch alone, the network's filters meet an empty border; in a field they meet the tissue
beyond. In a mosaic each patch has other patches around it, and its label stays that of the patch.
"""

import keras
from keras import ops

from pcam_tf.models import dense


def mixed(model: keras.Model, side: int) -> keras.Model:
    """Return a classifier of patches, half of which it predicts within mosaics.

    Args:
        model, side: as in `probabilities`.
    """
    patches = keras.Input(model.input_shape[1:])
    return keras.Model(patches, probabilities(model, patches, side))


def probabilities(model: keras.Model, patches, side: int):
    """Return a classifier's probabilities of a batch of patches, half of them within mosaics.

    Args:
        model: the classifier, see `dense.build`; the result trains its weights.
        patches: symbolic tensor (batch, side_px, side_px, 3), RGB 0..255. Its first half is
            predicted patch by patch, and so is what fills no mosaic at the end of an epoch.
        side: patches a side of a mosaic.

    Returns:
        A symbolic tensor (batch, outputs), in the order of the patches.

    Raises:
        InputError: the network cannot predict fields.
    """
    side_px = model.input_shape[1]
    fields = dense.build(model, side * side_px, side, side_px)
    split = _Split(side)(patches)
    alone, within = model(split[0]), fields(split[1])
    return ops.concatenate([alone, ops.reshape(within, (-1, model.output_shape[-1]))])


class _Split(keras.layers.Layer):
    """From patches to those that stay alone and to mosaics, (n, side · side_px, …, 3)."""

    def __init__(self, side: int, **options):
        super().__init__(**options)
        self.side = side

    def call(self, patches):
        side, side_px = self.side, patches.shape[1]
        mosaics = ops.shape(patches)[0] // (2 * side**2)
        alone = ops.shape(patches)[0] - mosaics * side**2
        within = ops.reshape(patches[alone:], (-1, side, side, side_px, side_px, 3))
        within = ops.transpose(within, (0, 1, 3, 2, 4, 5))
        return patches[:alone], ops.reshape(within, (-1, side * side_px, side * side_px, 3))

    def compute_output_shape(self, shape):
        return (None, *shape[1:]), (None, self.side * shape[1], self.side * shape[2], 3)
