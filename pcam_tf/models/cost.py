"""What a network costs: multiply-adds for one patch, by layer."""

import math

import keras

# Layers that multiply nothing worth counting: they move, add, scale or compare values.
_FREE = (
    keras.layers.InputLayer,
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.CenterCrop,
    keras.layers.Cropping1D,
    keras.layers.Dropout,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Identity,
    keras.layers.LayerNormalization,
    keras.layers.MaxPooling2D,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.Resizing,
    keras.layers.Softmax,
    keras.layers.ZeroPadding2D,
)


def multiply_adds(model: keras.Model) -> int:
    """Return the multiply-adds of a forward pass of one patch; 2 FLOPs each.

    Convolutions, dense layers, attention and products of tensors are counted. Normalisations,
    activations and poolings are not.

    Raises:
        TypeError: the model has a layer of another kind.
    """
    return sum(_of_layer(layer) for layer in model.layers)


def _of_layer(layer):
    if isinstance(layer, keras.layers.MultiHeadAttention):
        tokens, width = layer.output.shape[1:]
        # Query, key, value and projection; scores of all pairs, and their weighted sums.
        return tokens * 4 * width * width + 2 * tokens * tokens * width
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Dot):
        shares, tokens = (each.shape for each in layer.input)
        return math.prod(shares[1:]) * tokens[-1]
    if isinstance(layer, _FREE) or not any(len(weight.shape) in (2, 4) for weight in layer.weights):
        return 0
    raise TypeError(f"the multiply-adds of {layer.name}, a {type(layer).__name__}, are unknown")
