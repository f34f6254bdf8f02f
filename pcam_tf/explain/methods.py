"""Explanations: where in a patch a classifier sees tumour, as maps of the patch's own pixels.

Every method takes a classifier and a batch of patches and returns signed maps, float32
(n, 96, 96): above 0 speaks for tumour, below 0 against it. Methods explain the log-odds, since a
probability near 0 or 1 has no slope. Whether a method deserves trust is measured by `sanity`.
Gradients are TensorFlow's; Keras has none of its own.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
import scipy.ndimage
import tensorflow as tf
from keras import ops

from pcam_tf.errors import InputError, unknown
from pcam_tf.models.classifier import PATCH_PX

BATCH_SIZE = 64
BLUR_PX = 8.0  # sigma at which no nucleus is left to see
STEPS = 64  # of the path of integrated gradients
EVALUATIONS = 500  # of the model for each patch that SHAP explains


def grad_cam(model: keras.Model, patches: np.ndarray) -> np.ndarray:
    """Return Grad-CAM maps of the last feature map before pooling, and not cut off at 0.

    R. Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization", ICCV 2017. Coarse: a step of the map is 32 px of what the backbone sees.
    """
    return _class_activation(model, patches, stride=None, pooled=True)


def hires_cam(model: keras.Model, patches: np.ndarray) -> np.ndarray:
    """Return HiResCAM maps of the last feature map with a step of 16 px.

    R. Draelos and L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks", 2020: gradients multiply the features place by place instead of
    on average, so that layers before the last may be looked at.
    """
    return _class_activation(model, patches, stride=16, pooled=False)


def fine_cam(model: keras.Model, patches: np.ndarray) -> np.ndarray:
    """Return HiResCAM maps of the last feature map with a step of 8 px, about a nucleus."""
    return _class_activation(model, patches, stride=8, pooled=False)


def integrated_gradients(model: keras.Model, patches: np.ndarray) -> np.ndarray:
    """Return gradients integrated from the blurred patch to the patch, times their difference.

    M. Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017. The sum of a map
    is the patch's log-odds minus that of the blurred patch, up to the error of the sum over
    `STEPS` steps. Channels are summed.
    """
    patches = np.asarray(patches, "float32")
    return np.concatenate([_integrated(model, patch) for patch in patches])


def _integrated(model, patch):
    start = blurred(patch[None])
    shares = (np.arange(STEPS, dtype="float32") + 0.5) / STEPS
    path = start + shares[:, None, None, None] * (patch - start)
    _, slopes = _from_input(model)(path)
    return (np.mean(slopes, axis=0, keepdims=True) * (patch - start)).sum(axis=-1)


def shap_partition(model: keras.Model, patches: np.ndarray) -> np.ndarray:
    """Return Owen values of nested rectangles, hidden by blurring (the `shap` package).

    S. Lundberg and S.-I. Lee, "A unified approach to interpreting model predictions", NeurIPS 2017;
    the package's PartitionExplainer. The sum of a map is the patch's log-odds minus that of the
    blurred patch. About `EVALUATIONS` evaluations of the model a patch: seconds.
    """
    # Not above: importing shap compiles for seconds, and the other methods do without it.
    import shap

    patches = np.asarray(patches, "float32")
    maps = []
    for patch, hidden in zip(patches, blurred(patches), strict=True):
        masker = shap.maskers.Image(hidden.ravel(), patch.shape)
        explainer = shap.PartitionExplainer(functools.partial(log_odds, model), masker)
        found = explainer(patch[None], max_evals=EVALUATIONS, batch_size=BATCH_SIZE, silent=True)
        maps.append(found.values.reshape(patch.shape).sum(axis=-1))
    return np.stack(maps).astype("float32")


METHODS: dict[str, Callable[[keras.Model, np.ndarray], np.ndarray]] = {
    "Grad-CAM": grad_cam,
    "HiResCAM, 16 px": hires_cam,
    "HiResCAM, 8 px": fine_cam,
    "integrated gradients": integrated_gradients,
    "SHAP": shap_partition,
}
# The most faithful of those that answer at once: docs/explainability.md has the measurements.
DEFAULT = "HiResCAM, 8 px"


def maps(model: keras.Model, patches: np.ndarray, method: str = DEFAULT) -> np.ndarray:
    """Return the signed maps of a method of `METHODS`, float32 (n, 96, 96).

    Args:
        model: a classifier, of any backbone.
        patches: (n, 96, 96, 3), RGB 0..255.
        method: a key of `METHODS`.

    Raises:
        InputError: no such method, patches of another shape, or a model that it cannot explain.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    patches = np.asarray(patches, "float32")
    if patches.ndim != 4 or patches.shape[1:] != (PATCH_PX, PATCH_PX, 3):
        raise InputError(
            f"patches have shape {patches.shape}: give (n, {PATCH_PX}, {PATCH_PX}, 3)."
        )
    if not len(patches):
        return np.zeros((0, PATCH_PX, PATCH_PX), "float32")
    return np.asarray(METHODS[method](model, patches), "float32")


def log_odds(model: keras.Model, patches: np.ndarray) -> np.ndarray:
    """Return the log-odds of tumour of patches (n, 96, 96, 3), float32 (n,)."""
    patches, forward = np.asarray(patches, "float32"), _forward(model)
    return np.concatenate(
        [np.asarray(forward(patches[first:last])) for first, last in _batches(len(patches))]
    )


def blurred(patches: np.ndarray) -> np.ndarray:
    """Return patches (n, height, width, 3) without anything as small as a nucleus, float32.

    What hides a part of a patch: unlike grey or black, a blurred patch keeps the stain that the
    model knows.
    """
    sigmas = (0, BLUR_PX, BLUR_PX, 0)
    return scipy.ndimage.gaussian_filter(np.asarray(patches, "float32"), sigmas, mode="mirror")


def _batches(count):
    return [(first, min(first + BATCH_SIZE, count)) for first in range(0, count, BATCH_SIZE)]


def _class_activation(model, patches, *, stride, pooled):
    """Return feature maps weighted by their gradients, enlarged to the patch."""
    to_features, to_slopes, seen_px = _at_stride(model, stride)
    found = []
    for first, last in _batches(len(patches)):
        features = to_features(patches[first:last])
        _, slopes = to_slopes(features)
        features, slopes = np.asarray(features), np.asarray(slopes)
        if pooled:
            slopes = slopes.mean(axis=(1, 2), keepdims=True)
        # The sum over the map's places is what they add to the log-odds, up to what is not linear.
        found.append((features * slopes).sum(axis=-1))
    coarse = np.concatenate(found)
    factor = seen_px / coarse.shape[1]
    # Pixels' middles to features' middles; beyond the outermost middles the map stays as it is.
    fine = scipy.ndimage.zoom(
        coarse, (1, factor, factor), order=1, mode="nearest", grid_mode=True
    ) / np.square(factor)
    border = (PATCH_PX - seen_px) // 2
    return np.pad(fine, ((0, 0), (border, PATCH_PX - seen_px - border), (border,) * 2))


# Building and tracing take seconds; a page that answers at once needs them done before. Weights are
# shared with the model, so a model that is trained on or shuffled is explained as it is then.
@functools.lru_cache(maxsize=8)
def _graph(model):
    """Return a classifier's input, and each of its layers with the tensor that goes into it.

    Nested models are opened: their own tensors belong to a graph that is cut off from the model's.
    """
    patches = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype)
    calls = []
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
        keras.models.clone_model(
            model,
            input_tensors=keras.tree.map_structure(lambda _: tensor, model.input),
            clone_function=lambda layer: layer,
            call_function=call,
        )
    return outputs[-1]


@functools.lru_cache(maxsize=8)
def _at_stride(model, stride):
    """Return functions of patches to features and of features to slopes, and the side seen."""
    head, patches, before_head = _ends(model)
    _, calls = _graph(model)
    seen_px = looked_at_px = PATCH_PX
    for layer, tensor in calls:
        if isinstance(layer, keras.layers.CenterCrop):
            seen_px = looked_at_px = layer.compute_output_shape(tensor.shape)[1]
        if isinstance(layer, keras.layers.Resizing):
            looked_at_px = layer.compute_output_shape(tensor.shape)[1]
    side = 0 if stride is None else -(-looked_at_px // stride)
    spatial = [
        tensor
        for _, tensor in calls
        if len(getattr(tensor, "shape", ())) == 4 and tensor is not patches
    ]
    # The last of that side lies on every path to the head, but for exotic backbones.
    for features in reversed([each for each in spatial if each.shape[1] >= side]):
        try:
            after = keras.Model(features, before_head)
        except ValueError:
            continue
        before = keras.Model(patches, features)
        forward = _compiled(before, functools.partial(before, training=False))
        return forward, _with_slopes(after, head), seen_px
    raise InputError("this model has no feature map (batch, height, width, channels) to explain.")


def _compiled(model, function):
    """Return a function of a batch of what `model` takes, compiled once for batches of any size."""
    signature = tf.TensorSpec(model.input.shape, model.input.dtype)
    return tf.function(function, input_signature=[signature])


@functools.lru_cache(maxsize=8)
def _from_input(model):
    head, patches, before_head = _ends(model)
    return _with_slopes(keras.Model(patches, before_head), head)


@functools.lru_cache(maxsize=8)
def _forward(model):
    head, patches, before_head = _ends(model)
    before = keras.Model(patches, before_head)
    return _compiled(before, functools.partial(_linear, before, head))


def _ends(model):
    """Return a classifier's last layer, its input, and what goes into the last layer.

    Raises:
        InputError: the last layer is not one unit with a sigmoid.
    """
    patches, calls = _graph(model)
    head, before_head = calls[-1]
    if not isinstance(head, keras.layers.Dense) or head.activation is not keras.activations.sigmoid:
        raise InputError("only a model that ends in Dense(1, activation='sigmoid') is explained.")
    return head, patches, before_head


def _linear(before, head, tensor):
    """Return the log-odds (n,): the head without its sigmoid, which would flatten all slopes."""
    features = ops.cast(before(tensor, training=False), "float32")
    return (ops.matmul(features, head.kernel) + head.bias)[:, 0]


def _with_slopes(before, head):
    """Return the function of a tensor to log-odds (n,) and their slopes, like the tensor."""

    def value_and_slopes(tensor):
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = _linear(before, head, tensor)
        return value, tape.gradient(value, tensor)

    return _compiled(before, value_and_slopes)
