"""Fields of patches: they teach a network to read whole fields, see `models.dense`.

In a patch alone, the network's filters meet an empty border; in a field they meet the tissue
beyond. In a mosaic each patch has other patches around it, and its label stays that of the patch.
Other patches end the tissue at a seam, which real fields do not have. So some patches lie in a
block with their own mirror images, across which the tissue goes on.
"""

import keras
from keras import ops

from pcam_tf.models import dense


def mixed(model: keras.Model, side: int) -> keras.Model:
    """Return a classifier of patches, half of which it predicts within fields.

    Args:
        model, side: as in `probabilities`.
    """
    patches = keras.Input(model.input_shape[1:])
    return keras.Model(patches, probabilities(model, patches, side))


def probabilities(model: keras.Model, patches, side: int):
    """Return a classifier's probabilities of a batch of patches, half of them within fields.

    Every other mosaic's worth of them is mirrored.

    Args:
        model: the classifier, see `dense.build`; the result trains its weights.
        patches: symbolic tensor (batch, side_px, side_px, 3), RGB 0..255. Its first half is
            predicted patch by patch, and so is what fills no mosaic at the end of an epoch.
        side: patches a side of a field, even.

    Returns:
        A symbolic tensor (batch, outputs), in the order of the patches. A mirrored patch has the
        mean of its four images.

    Raises:
        InputError: the network cannot predict fields.
    """
    side_px = model.input_shape[1]
    read = dense.build(model, side * side_px, side, side_px)
    alone, fields = _Fields(side)(patches)
    return _Answers(side)(patches, model(alone), read(fields))


class _Fields(keras.layers.Layer):
    """From patches to those that stay alone and to fields, (n, side · side_px, …, 3)."""

    def __init__(self, side: int, **options):
        super().__init__(**options)
        self.side = side

    def call(self, patches):
        number, each = ops.shape(patches)[0], self.side**2
        mosaics, mirrored = _numbers(number, self.side)
        alone = number - (mosaics + mirrored) * each
        # BatchNormalization makes NaN of no field: the first patches fill one then.
        places = ops.arange(alone, alone + ops.maximum(mosaics, 1) * each) % number
        blocks = patches[number - mirrored * each :]
        blocks = ops.concatenate([blocks, ops.flip(blocks, 2)], axis=2)
        blocks = ops.concatenate([blocks, ops.flip(blocks, 1)], axis=1)
        plain = _mosaics(ops.take(patches, places, axis=0), self.side)
        return patches[:alone], ops.concatenate([plain, _mosaics(blocks, self.side // 2)])

    def compute_output_shape(self, shape):
        return (None, *shape[1:]), (None, self.side * shape[1], self.side * shape[2], 3)


class _Answers(keras.layers.Layer):
    """From the probabilities of patches alone and of cells of fields to those of all patches."""

    def __init__(self, side: int, **options):
        super().__init__(**options)
        self.side = side

    def call(self, patches, alone, cells):
        side, outputs = self.side, alone.shape[-1]
        mosaics, _ = _numbers(ops.shape(patches)[0], side)
        blocks = cells[ops.maximum(mosaics, 1) :]
        blocks = ops.reshape(blocks, (-1, side // 2, 2, side // 2, 2, outputs))
        parts = [cells[:mosaics], ops.mean(blocks, axis=(2, 4))]
        return ops.concatenate([alone, *[ops.reshape(part, (-1, outputs)) for part in parts]])

    def compute_output_shape(self, patches_shape, alone_shape, cells_shape):
        return (None, alone_shape[-1])


def _numbers(number, side):
    """Return how many fields' worth of patches lie in mosaics, and how many are mirrored."""
    fields = number // (2 * side**2)
    return fields - fields // 2, fields // 2


def _mosaics(tiles, side):
    """Lay tiles side by side, (n · side², side_px, …, 3) to (n, side · side_px, …, 3)."""
    side_px = tiles.shape[1]
    rows = ops.reshape(tiles, (-1, side, side, side_px, side_px, 3))
    rows = ops.transpose(rows, (0, 1, 3, 2, 4, 5))
    return ops.reshape(rows, (-1, side * side_px, side * side_px, 3))
