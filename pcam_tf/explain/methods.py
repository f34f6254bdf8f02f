"""Explanations: which pixels of a patch speak for a class, as signed maps.

Every method takes a classifier, a batch of patches and the class to explain for each patch, and
returns maps, float32 (n, side, side): above 0 speaks for the class, below 0 against it.

Methods explain the log-odds of the class against the rest, not its probability, which has almost no
slope near 0 and 1, and not its logit, which has no meaning of its own: a softmax ignores what is
added to all logits. Of two classes these are the log-odds of the sigmoid. `checks` measures whether
a method can be trusted.
"""

import math
from collections.abc import Callable

import keras
import numpy as np
import scipy.ndimage

from pcam_tf import errors
from pcam_tf.errors import InputError
from pcam_tf.explain import graph
from pcam_tf.models import classifier, engines

BATCH_SIZE = 64
BLUR_PX = 8.0  # sigma of the blur; at this sigma no nucleus can be seen
STEPS = 64  # of the path of integrated gradients
EVALUATIONS = 500  # of the model for each patch that SHAP explains


def grad_cam(model: keras.Model, patches: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return Grad-CAM maps of the last feature map before pooling, negative values kept.

    R. Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization", ICCV 2017. The maps are coarse: the step is that of the last feature map, often
    32 px of the network's input.
    """
    return _class_activation(model, patches, targets, stride=None, pooled=True)


def hires_cam(model: keras.Model, patches: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return HiResCAM maps of the last feature map with a step of 16 px.

    R. Draelos and L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks", 2020: gradients multiply the features at each place instead of
    on average, so layers before the last can be used.
    """
    return _class_activation(model, patches, targets, stride=16, pooled=False)


def fine_cam(model: keras.Model, patches: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return HiResCAM maps of the last feature map with a step of 8 px, about a nucleus."""
    return _class_activation(model, patches, targets, stride=8, pooled=False)


def integrated_gradients(
    model: keras.Model, patches: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Return gradients integrated from the blurred patch to the patch, times their difference.

    M. Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017. The sum of a map
    is the patch's log-odds minus that of the blurred patch, up to the error of the sum over
    `STEPS` steps. Channels are summed.
    """
    return np.concatenate(
        [_integrated(model, *pair) for pair in zip(patches, targets, strict=True)]
    )


def _integrated(model, patch, target):
    start = blurred(patch[None])
    shares = (np.arange(STEPS, dtype="float32") + 0.5) / STEPS
    path = start + shares[:, None, None, None] * (patch - start)
    slopes = graph.to_slopes(model)(path, np.full(STEPS, target, "int32"))
    return (np.mean(slopes, axis=0, keepdims=True) * (patch - start)).sum(axis=-1)


def shap_partition(model: keras.Model, patches: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return Owen values of nested rectangles, hidden by blurring (the `shap` package).

    S. Lundberg and S.-I. Lee, "A unified approach to interpreting model predictions", NeurIPS 2017;
    the package's PartitionExplainer. The sum of a map is the patch's log-odds minus that of the
    blurred patch. It takes about `EVALUATIONS` evaluations of the model for each patch: seconds.

    Raises:
        InputError: shap is not installed.
    """
    try:
        # Not above: it is optional, and importing it takes seconds.
        import shap
    except ImportError as error:
        raise errors.missing_extra("shap", "explain") from error

    maps = []
    for patch, hidden, target in zip(patches, blurred(patches), targets, strict=True):
        masker = shap.maskers.Image(hidden.ravel(), patch.shape)
        explainer = shap.PartitionExplainer(
            lambda batch, target=target: log_odds(model, batch, target), masker
        )
        values = explainer(patch[None], max_evals=EVALUATIONS, batch_size=BATCH_SIZE, silent=True)
        maps.append(values.values.reshape(patch.shape).sum(axis=-1))
    return np.stack(maps).astype("float32")


def attention_rollout(model: keras.Model, patches: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return how much of each token reaches the features by way of attention.

    S. Abnar and W. Zuidema, "Quantifying attention flow in transformers", ACL 2020: heads are
    averaged, the skip connection counts as much as attention, and blocks are multiplied. It knows
    neither the class nor the sign: a map is above 0 everywhere and the same for each class.

    Raises:
        InputError: the model has no attention.
    """
    del targets
    to_attention, seen_px = graph.to_attention(model)
    coarse = []
    for rows in _batches(len(patches)):
        scores, flow = to_attention(patches[rows])
        for score in reversed(scores):
            heads, flow = np.mean(score, axis=1), np.asarray(flow)
            flow = (flow + np.einsum("nq,nqk->nk", flow, heads)) / 2
        coarse.append(_token_grid(flow))
    return _enlarged(np.concatenate(coarse), seen_px, patches.shape[1])


METHODS: dict[str, Callable[[keras.Model, np.ndarray, np.ndarray], np.ndarray]] = {
    "Grad-CAM": grad_cam,
    "HiResCAM, 16 px": hires_cam,
    "HiResCAM, 8 px": fine_cam,
    "integrated gradients": integrated_gradients,
    "SHAP": shap_partition,
}
# Of transformers alone.
TOKEN_METHODS = {"attention rollout": attention_rollout}
# The most faithful of the fast ones: docs/explainability.md has the measurements.
DEFAULT = "HiResCAM, 8 px"


def maps(
    model: keras.Model, patches: np.ndarray, method: str = DEFAULT, target: int | None = None
) -> np.ndarray:
    """Return the signed maps of a method, float32 (n, side, side).

    A map explains the log-odds of a class against the rest; see this module's docstring for why.

    Args:
        model: a classifier, of any backbone, task and number of classes.
        patches: (n, side, side, 3), RGB 0..255.
        method: a key of `METHODS` or, for a transformer, of `TOKEN_METHODS`.
        target: index of the class to explain. None: the second of two classes; of more classes, the
            most probable class of each patch.

    Raises:
        InputError: no such method or class, patches of another shape, or a model that the method
            cannot explain, such as one that returns NaN.
    """
    if method not in METHODS | TOKEN_METHODS:
        raise errors.unknown("method", method, METHODS | TOKEN_METHODS)
    patches = _checked(model, patches)
    if not len(patches):
        return np.zeros((0, *patches.shape[1:3]), "float32")
    return maps_of(model, patches, method, targets(model, patches, target))


def maps_of(
    model: keras.Model, patches: np.ndarray, method: str, classes: np.ndarray
) -> np.ndarray:
    """Return the signed maps of a method for the class of each patch, see `maps`.

    Args:
        model: a classifier.
        patches: float32 (n, side, side, 3), one or more.
        method: see `maps`.
        classes: int32 (n,), such as `targets` returns.

    Raises:
        InputError: the model cannot be explained.
    """
    function = (METHODS | TOKEN_METHODS)[method]
    return _finite(np.asarray(function(model, patches, classes), "float32"), model)


def targets(model: keras.Model, patches: np.ndarray, target: int | None = None) -> np.ndarray:
    """Return the class to explain for each patch, int32 (n,): see `maps`.

    Raises:
        InputError: there is no such class.
    """
    classes = classifier.task_of(model).classes
    if target is None and len(classes) > 2:
        return logits(model, patches).argmax(axis=1).astype("int32")
    target = 1 if target is None else target
    if not 0 <= target < len(classes):
        raise InputError(f"class {target} does not exist: choose 0 to {len(classes) - 1}.")
    return np.full(len(patches), target, "int32")


def log_odds(model: keras.Model, patches: np.ndarray, target: int | None = None) -> np.ndarray:
    """Return the log-odds against the rest of a class of each patch, float32 (n,).

    Args:
        model: a classifier.
        patches: (n, side, side, 3), RGB 0..255.
        target: see `maps`.
    """
    return log_odds_of(model, patches, targets(model, patches, target))


def log_odds_of(model: keras.Model, patches: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the log-odds against the rest of the class of each patch, float32 (n,).

    Args:
        model: a classifier.
        patches: (n, side, side, 3), RGB 0..255.
        classes: int32 (n,), such as `targets` returns.
    """
    return np.asarray(graph.log_odds(logits(model, patches), classes))


def logits(model: keras.Model, patches: np.ndarray) -> np.ndarray:
    """Return what goes into the sigmoid or softmax of a classifier, float32 (n, outputs).

    Raises:
        InputError: one of them is not finite, or the model ends in something else.
    """
    patches, forward = np.asarray(patches, "float32"), graph.to_logits(model)
    found = [np.asarray(forward(patches[rows])) for rows in _batches(max(len(patches), 1))]
    return _finite(np.concatenate(found), model)


def _finite(values, model):
    """Return values of a model, or refuse them: NaN would look like a patch without evidence."""
    if not np.isfinite(values).all():
        raise InputError(
            f"{engines.described(model)} cannot be explained: what it computes is not finite."
        )
    return values


def blurred(patches: np.ndarray) -> np.ndarray:
    """Return patches (n, height, width, 3) blurred until no nucleus can be seen, float32.

    This hides a part of a patch. Unlike grey or black, a blurred patch keeps the colour of the
    stain that the model knows.
    """
    sigmas = (0, BLUR_PX, BLUR_PX, 0)
    return scipy.ndimage.gaussian_filter(np.asarray(patches, "float32"), sigmas, mode="mirror")


def _checked(model, patches):
    patches = np.asarray(patches, "float32")
    shape = classifier.task_of(model).shape
    if patches.ndim != 4 or patches.shape[1:] != shape:
        raise InputError(
            f"patches have shape {patches.shape}: give (n, {', '.join(map(str, shape))})."
        )
    return patches


def _batches(count):
    return [slice(first, first + BATCH_SIZE) for first in range(0, count, BATCH_SIZE)]


def _class_activation(model, patches, targets, *, stride, pooled):
    """Return feature maps, or tokens, weighted by their gradients, enlarged to the patch."""
    to_features, to_slopes, seen_px = graph.at_stride(model, stride)
    side_px = patches.shape[1]
    coarse = []
    for rows in _batches(len(patches)):
        features = to_features(patches[rows])
        slopes = np.asarray(to_slopes(features, targets[rows]))
        if pooled:
            slopes = slopes.mean(axis=tuple(range(1, slopes.ndim - 1)), keepdims=True)
        # The sum over the map's places is what they add to the log-odds, up to what is not linear.
        added = (np.asarray(features) * slopes).sum(axis=-1)
        coarse.append(added if added.ndim == 3 else _token_grid(added))
    return _enlarged(np.concatenate(coarse), seen_px, side_px)


def _token_grid(values):
    """Return values of tokens (n, tokens) as a grid (n, side, side): class token and registers,
    which come first, are left out."""
    side = math.isqrt(values.shape[1])
    return values[:, -side * side :].reshape(-1, side, side)


def _enlarged(coarse, seen_px, side_px):
    """Return coarse maps (n, side, side) of what the network sees as maps of the whole patch."""
    factor = seen_px / coarse.shape[1]
    # Pixels' middles to features' middles; beyond the outermost middles the map stays as it is.
    fine = scipy.ndimage.zoom(
        coarse, (1, factor, factor), order=1, mode="nearest", grid_mode=True
    ) / np.square(factor)
    border = (side_px - seen_px) // 2
    margins = (border, side_px - seen_px - border)
    return np.pad(fine, ((0, 0), margins, margins))
