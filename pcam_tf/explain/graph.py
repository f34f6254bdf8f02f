"""A classifier as the functions that explanations need: logits, and slopes of log-odds.

Gradients are TensorFlow's; Keras has none of its own. A function takes seconds to build and trace,
so it is kept for the next call. It shares its weights with the model: a model that was trained
further is explained as it is now. It computes in float32, also where the model itself computes in
mixed precision.
"""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from pcam_tf.errors import InputError


def log_odds(logits, targets):
    """Return the log-odds of a class against the rest, (n,).

    Args:
        logits: (n, 1) of the second of two classes, or (n, classes).
        targets: int32 (n,), the index of a class for each patch.
    """
    if logits.shape[-1] == 1:
        return logits[:, 0] * ops.cast(2 * targets - 1, logits.dtype)
    chosen = ops.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    # The logit of the chosen class drops out of the sum over the rest.
    return ops.sum(logits * chosen, axis=-1) - ops.logsumexp(logits - 1e9 * chosen, axis=-1)


@functools.lru_cache(maxsize=8)
def to_logits(model: keras.Model):
    """Return the function of patches (n, side, side, 3) to logits (n, outputs), float32.

    Raises:
        InputError: the model does not end in a sigmoid of one unit or a softmax of several.
    """
    head, patches, before_head = _ends(model)
    before = keras.Model(patches, before_head)
    return _compiled(model, before, lambda tensor: head(before(tensor, training=False)))


@functools.lru_cache(maxsize=8)
def to_slopes(model: keras.Model):
    """Return the function of patches and targets (n,) to slopes of log-odds, like the patches.

    Raises:
        InputError: as `to_logits`.
    """
    head, patches, before_head = _ends(model)
    return _slopes(model, keras.Model(patches, before_head), head)


@functools.lru_cache(maxsize=8)
def at_stride(model: keras.Model, stride: int | None):
    """Split a classifier at its last feature map with a step of `stride` px, or at its last.

    A transformer is split at the tokens that enter its last block, whatever their step: after it,
    only the class token may reach the head.

    Returns:
        The function of patches to the feature map (n, height, width, channels) or to tokens
        (n, tokens, channels); the function of those and targets (n,) to slopes of log-odds, like
        them; and the side in pixels of the part of a patch that the network sees.

    Raises:
        InputError: the model has neither, or as `to_logits`.
    """
    head, patches, before_head = _ends(model)
    _, calls = _opened(model)
    seen_px = network_px = patches.shape[1]
    for layer, tensor in calls:
        if isinstance(layer, keras.layers.CenterCrop):
            seen_px = network_px = layer.compute_output_shape(tensor.shape)[1]
        if isinstance(layer, keras.layers.Resizing):
            network_px = layer.compute_output_shape(tensor.shape)[1]
    side = 0 if stride is None else -(-network_px // stride)
    maps = [each for each in _feature_maps(calls) if each.shape[1] >= side]
    # The last of that side lies on every path to the head, but for unusual backbones.
    for features in reversed(maps or _token_maps(calls)):
        try:
            after = keras.Model(features, before_head)
        except ValueError:
            continue
        before = keras.Model(patches, features)
        forward = _compiled(model, before, functools.partial(before, training=False))
        return forward, _slopes(model, after, head), seen_px
    raise InputError(
        "Grad-CAM and HiResCAM need a feature map (batch, height, width, channels) or the tokens "
        "of Keras's MultiHeadAttention, which this model does not have: choose integrated "
        "gradients or SHAP."
    )


@functools.lru_cache(maxsize=8)
def to_attention(model: keras.Model):
    """Return what a classifier's attention attends to.

    Returns:
        The function of patches to the scores of each block's attention, (n, heads, tokens, tokens),
        and last the share of each of the last tokens in the features, (n, tokens); and the side in
        pixels of the part of a patch that the network sees.

    Raises:
        InputError: the model has no layer of Keras's MultiHeadAttention.
    """
    patches, calls = _opened(model)
    attending = [pair for pair in calls if isinstance(pair[0], keras.layers.MultiHeadAttention)]
    if not attending:
        raise InputError("attention rollout needs a transformer: this model has no attention.")
    layers, tokens = zip(*attending, strict=True)
    before = keras.Model(patches, [*tokens, _shares(calls, tokens[-1])])

    def attention(patches):
        *seen, shares = before(patches, training=False)
        return [_scores(*pair) for pair in zip(layers, seen, strict=True)], shares

    crops = [layer for layer, _ in calls if isinstance(layer, keras.layers.CenterCrop)]
    return _compiled(model, before, attention), crops[-1].height if crops else patches.shape[1]


def _scores(layer, tokens):
    """Return the shares with which a layer attends from each token to each other."""
    weights = {"/".join(each.path.split("/")[-2:]): each for each in layer.weights}

    def projected(name):
        values = ops.einsum("ntw,whd->nhtd", tokens, weights[f"{name}/kernel"])
        bias = weights.get(f"{name}/bias")
        return values if bias is None else values + ops.expand_dims(bias, 1)

    query, key = projected("query"), projected("key")
    products = ops.einsum("nhqd,nhkd->nhqk", query, key)
    return ops.softmax(products / float(np.sqrt(query.shape[-1])), axis=-1)


def _shares(calls, tokens):
    """Return the share of each token in the features: of the class token, learned, or equal."""
    by_name = {getattr(layer, "name", ""): tensor for layer, tensor in calls}
    if isinstance(by_name.get("pool"), list):
        return ops.squeeze(by_name["pool"][0], -1)
    count = tokens.shape[1]
    shares = np.full(count, 1 / count, "float32")
    if "class_token" in by_name:
        shares = np.eye(count, dtype="float32")[0]
    return 0 * tokens[:, :, 0] + shares


def _token_maps(calls):
    """Return the tokens that enter the last block of a transformer, alone in a list; or none."""
    blocks = [
        index
        for index, (layer, _) in enumerate(calls)
        if isinstance(layer, keras.layers.MultiHeadAttention)
    ]
    if not blocks:
        return []
    norms = [
        tensor
        for layer, tensor in calls[: blocks[-1]]
        if isinstance(layer, keras.layers.LayerNormalization)
    ]
    return norms[-1:]


def _feature_maps(calls):
    """Return the feature maps among the tensors of a model; none if it goes on with tokens."""
    ranks = [len(getattr(tensor, "shape", ())) for _, tensor in calls]
    # What comes before the first layer with weights is the patch, cropped and scaled.
    first = next((index for index, (layer, _) in enumerate(calls) if layer.weights), 0) + 1
    maps = [index for index, rank in enumerate(ranks) if rank == 4 and index >= first]
    if not maps or 3 in ranks[maps[-1] :]:
        return []
    return [calls[index][1] for index in maps]


def _ends(model):
    """Return the head (a function to logits), a classifier's input, and what goes into the head.

    What the sigmoid or softmax takes is explained: behind it, all slopes are flat. It may be the
    activation of the last Dense layer, a layer of its own, or an operation.
    """
    patches, calls = _opened(model)
    last, before_last = calls[-1]
    name = "sigmoid" if model.output_shape[-1] == 1 else "softmax"
    if _is_activation(last, name):
        return lambda logits: ops.cast(logits, "float32"), patches, before_last
    expected = getattr(keras.activations, name)
    if isinstance(last, keras.layers.Dense) and last.activation is expected:
        return functools.partial(_dense, last), patches, before_last
    raise InputError(
        f"only a model that ends in a {name} is explained: Dense({model.output_shape[-1]}, "
        f"activation='{name}'), or a layer Activation('{name}')."
    )


def _is_activation(layer, name):
    """Return whether a layer or an operation computes nothing but a sigmoid or a softmax."""
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is getattr(keras.activations, name)
    # `keras.layers.Softmax`, and the operations that `keras.ops` makes of a Keras tensor.
    over_classes = getattr(layer, "axis", -1) in (-1, 1)
    return type(layer).__name__ == name.capitalize() and over_classes


def _dense(layer, features):
    """Return what a Dense layer computes before its activation, float32."""
    logits = ops.matmul(ops.cast(features, "float32"), ops.cast(layer.kernel, "float32"))
    return logits if layer.bias is None else logits + ops.cast(layer.bias, "float32")


@contextlib.contextmanager
def _in_float32(model):
    """Let all layers of a model compute in float32: slopes of float16 vanish or overflow."""
    changed = [
        (layer, layer.dtype_policy)
        for layer in model._flatten_layers()  # nested ones too; Keras has no public way
        if layer.compute_dtype in ("float16", "bfloat16")
    ]
    try:
        for layer, _ in changed:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


@functools.lru_cache(maxsize=8)
def _opened(model):
    """Return a classifier's input, and each of its layers with the tensor that goes into it.

    Nested models are opened: their own tensors belong to a graph that is cut off from the model's.
    """
    patches = keras.Input(model.inputs[0].shape[1:], dtype="float32")
    calls = []
    with _in_float32(model):
        _replay(model, patches, calls)
    return patches, calls


def _replay(model, tensor, calls):
    """Call the layers of a model, the same ones, anew on `tensor`; return the last one's output."""
    outputs = []

    def call(layer, tensor, *rest, **options):
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            outputs.append(_replay(layer, tensor, calls))
        else:
            calls.append((layer, tensor))
            outputs.append(layer(tensor, *rest, **options))
        return outputs[-1]

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            tensor = call(layer, tensor)
    else:
        # Keras clones no subclasses, as keras-hub's networks are.
        keras.models.clone_model(
            keras.Model(model.inputs, model.outputs),
            input_tensors=keras.tree.map_structure(lambda _: tensor, model.inputs),
            clone_function=lambda layer: layer,
            call_function=call,
        )
    return outputs[-1]


def _compiled(classifier, model, function, *more):
    """Return a function of a batch of what `model` takes, compiled once for batches of any size."""
    signature = [tf.TensorSpec(model.input.shape, model.input.dtype), *more]
    compiled = tf.function(function, input_signature=signature)

    def call(*arguments):
        with _in_float32(classifier):  # it is the first call that compiles
            return compiled(*arguments)

    return call


def _slopes(classifier, before, head):
    """Return the function of a tensor and targets (n,) to the slopes of log-odds."""

    def slopes(tensor, targets):
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = log_odds(head(before(tensor, training=False)), targets)
        return tape.gradient(value, tensor)

    return _compiled(classifier, before, slopes, tf.TensorSpec((None,), "int32"))
