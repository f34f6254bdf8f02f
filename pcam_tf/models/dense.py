"""A classifier over whole fields: one pass of the backbone, a probability for every cell of a grid.

Patch by patch, a heat map with a step of a third of a patch computes the features of every place
nine times. The backbone is convolutional, so the features of a field are computed once, and each
cell gets the mean of those that its patch covers (after H. Lin et al., "Fast ScanNet: fast and
dense analysis of multi-gigapixel whole-slide images for cancer metastasis detection", IEEE TMI
2019). Features then also know the tissue beyond the patch's border, which patches never show: a
model has to be trained on it, see `training.mosaics`.
"""

import keras
import numpy as np
from keras import ops

from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier

# What lies farther beyond a patch hardly matters to its cell.
_SEEN_BEYOND_PX = 32


def build(model: keras.Model, field_px: int, cells: int, stride_px: int) -> keras.Model:
    """Return a classifier over fields; it shares its weights with the classifier of patches.

    Args:
        model: a classifier whose backbone ends in a feature map, see `classifier.build`. It may
            resize patches, and does not crop them.
        field_px: side of a field at the task's scale.
        cells: cells a side; the grid lies in the middle of the field.
        stride_px: side of a cell, the step from patch to patch.

    Returns:
        A model from fields, (batch, field_px, field_px, 3), RGB 0..255, to float32 probabilities,
        (batch, cells, cells, outputs). Cell (i, j) has those of the patch in whose middle it lies.

    Raises:
        InputError: the network is no such one, or the field is not a whole number of features.
    """
    task, (step_px, shift_px) = classifier.task_of(model), feature_grid(model)
    features = field_px / step_px
    if features != round(features):
        raise InputError(f"fields have a multiple of {step_px:g} px a side, not {field_px} px.")
    starts = np.arange(round(features)) * step_px + shift_px
    first = (field_px - cells * stride_px + stride_px - task.side_px) / 2
    windows = first + np.arange(cells)[:, None] * stride_px
    overlap = np.minimum(windows + task.side_px, starts + step_px) - np.maximum(windows, starts)
    shares = np.maximum(overlap, 0).astype("float32")
    shares /= shares.sum(axis=1, keepdims=True)
    fields = keras.Input((field_px, field_px, 3), dtype="float32", name="field")
    feature_map = _feature_map(model, fields)
    # Rows, then columns: (batch, width, channels, height), (batch, channels, cells, width). LiteRT
    # cannot run Keras's einsum on batches of any size.
    pooled = ops.matmul(ops.transpose(feature_map, (0, 2, 3, 1)), shares.T)
    pooled = ops.matmul(ops.transpose(pooled, (0, 2, 3, 1)), shares.T)
    tensor = ops.reshape(ops.transpose(pooled, (0, 2, 3, 1)), (-1, feature_map.shape[-1]))
    for layer in classifier.head_layers(model):
        tensor = layer(tensor)
    return keras.Model(fields, ops.reshape(tensor, (-1, cells, cells, task.outputs)), name="dense")


def field_px(model: keras.Model, cells: int, stride_px: int) -> int:
    """Return the smallest side of a field that shows enough beyond the patches of its cells.

    Args:
        model, cells, stride_px: see `build`.

    Raises:
        InputError: the network cannot predict fields.
    """
    feature_px, _ = feature_grid(model)
    least = (cells - 1) * stride_px + classifier.task_of(model).side_px + 2 * _SEEN_BEYOND_PX
    return next(side for side in range(least, 2 * least) if (side / feature_px).is_integer())


def feature_grid(model: keras.Model) -> tuple[float, float]:
    """Return how the features of a classifier lie in a field, in pixels at the task's scale.

    Returns:
        The side of the square that one feature stands for, and how far right and down of the
        field's corner the first square lies: padding shifts it.

    Raises:
        InputError: the network cannot predict fields.
    """
    scale, places = 1.0, {id(model.input): (1, 0.0)}
    for layer in _backbone(model):
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        if isinstance(layer, keras.layers.Resizing):
            scale = layer.height / layer.input.shape[1]
        place = _place(layer, max(places[id(source)] for source in sources))
        places[id(layer.output)] = place
    step, shift = place
    return step / scale, shift / scale


def _backbone(model):
    """Return the layers between the patches and the pooled features."""
    features = model.get_layer(backbones.FEATURES_LAYER)
    name = getattr(model, "file", model.name)
    if not isinstance(features, keras.layers.GlobalAveragePooling2D):
        raise InputError(
            f"{name} has no feature map, so it cannot predict whole fields: predict patch by patch."
        )
    layers = model.layers[1 : model.layers.index(features)]
    if any(isinstance(layer, keras.layers.CenterCrop) for layer in layers):
        raise InputError(
            f"{name} sees a crop of its patches, so it cannot predict whole fields: predict patch "
            "by patch."
        )
    return layers


def _feature_map(model, fields):
    """Connect the backbone to fields; layers with weights are shared."""
    tensors = {id(model.input): fields}
    for layer in _backbone(model):
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        given = [tensors[id(source)] for source in sources]
        if isinstance(layer, keras.layers.Resizing):
            side = round(fields.shape[1] * layer.height / layer.input.shape[1])
            tensor = keras.layers.Resizing(side, side)(fields)
        else:
            tensor = layer(given if len(given) > 1 else given[0])
        tensors[id(layer.output)] = tensor
    return tensor


def _place(layer, place):
    """Return the step and the shift of a layer's output, in pixels, from those of its input."""
    step, shift = place
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return step, shift - step * layer.padding[0][0]
    kernel = getattr(layer, "kernel_size", getattr(layer, "pool_size", None))
    stride = layer.strides[0] if kernel else 1
    if stride == 1:
        return place
    before = (kernel[0] - stride) // 2 if layer.padding == "same" else 0
    return step * stride, shift + step * ((kernel[0] - stride) / 2 - before)
