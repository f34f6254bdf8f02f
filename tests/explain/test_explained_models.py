"""Models of any ending and precision are explained alike; what cannot be explained is said."""

import functools

import keras
import numpy as np
import pytest

from pcam_tf import explain
from pcam_tf.app import batches, findings, overlays, visit
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.explain import methods
from pcam_tf.task import PCAM, Task

Activation, Dense = keras.layers.Activation, keras.layers.Dense
THREE = Task("three", ("a", "b", "c"), side_px=96, mpp=1.0)
PATCHES = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype("float32")
# Ways to end in a sigmoid or a softmax: functions of features and number of outputs.
ENDS = {
    "activation": lambda x, k: Dense(k, activation=name_of(k), dtype="float32")(x),
    "no bias": lambda x, k: Dense(k, activation=name_of(k), use_bias=False)(x),
    "layer": lambda x, k: Activation(name_of(k), dtype="float32")(Dense(k)(x)),
    "function": lambda x, k: Activation(getattr(keras.activations, name_of(k)))(Dense(k)(x)),
    "operation": lambda x, k: getattr(keras.ops, name_of(k))(Dense(k)(x)),
    "cast operation": lambda x, k: getattr(keras.ops, name_of(k))(
        keras.ops.cast(Dense(k)(x), "float32")
    ),
}
SOFTMAX_ENDS = {
    "Softmax": lambda x, k: keras.layers.Softmax()(Dense(k)(x)),
    "Softmax, float32": lambda x, k: keras.layers.Softmax(dtype="float32")(Dense(k)(x)),
}


def name_of(outputs):
    return "sigmoid" if outputs == 1 else "softmax"


def build(end, outputs, policy="float32"):
    """Return a small model of one ending; the same weights for all."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        picture = keras.Input((96, 96, 3), dtype="float32")
        tensor = keras.layers.Rescaling(1 / 128, -1)(picture)
        tensor = keras.layers.Conv2D(8, 5, 8, "same", activation="relu")(tensor)
        tensor = keras.layers.BatchNormalization()(tensor)
        tensor = end(keras.layers.GlobalAveragePooling2D()(tensor), outputs)
        model = keras.Model(picture, tensor)
    finally:
        keras.config.set_dtype_policy(before)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.2, weight.shape) * ("bias" not in weight.name))
    model.task = PCAM if outputs == 1 else THREE
    return model


CASES = [(end, 1) for end in ENDS.values()] + [(end, 3) for end in (ENDS | SOFTMAX_ENDS).values()]


@functools.cache
def expected_of(outputs):
    plain = build(ENDS["activation"], outputs)
    return methods.logits(plain, PATCHES), explain.maps(plain, PATCHES, target=1)


@pytest.mark.parametrize(("end", "outputs"), CASES, ids=[*ENDS, *ENDS, *SOFTMAX_ENDS])
def test_every_ending_is_explained_alike_in_mixed_precision(end, outputs):
    check(end, outputs, "mixed_float16")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_layer_of_its_own_is_explained_in_any_precision(policy):
    check(ENDS["layer"], 1, policy)


def check(end, outputs, policy):
    model, (logits, expected) = build(end, outputs, policy), expected_of(outputs)
    policies = [layer.dtype_policy.name for layer in model.layers]
    np.testing.assert_allclose(methods.logits(model, PATCHES), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(explain.maps(model, PATCHES, target=1), expected, atol=1e-6)
    assert np.abs(expected).max() > 0
    # What predicts stays as it was.
    assert [layer.dtype_policy.name for layer in model.layers] == policies


def squared(x, k):
    return keras.ops.sigmoid(Dense(k)(x)) ** 2


class Opaque(keras.Model):
    """A model without a graph of layers."""

    def __init__(self):
        super().__init__()
        self.dense = Dense(1, activation="sigmoid")
        self.task = PCAM
        self(np.zeros((1, 96, 96, 3), "float32"))

    input_shape, output_shape = (None, 96, 96, 3), (None, 1)

    def call(self, patches):
        return self.dense(keras.ops.mean(patches, axis=(1, 2)))


def vectors():
    """Return a model without a feature map."""
    picture = keras.Input((96, 96, 3))
    tensor = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(picture))
    model = keras.Model(picture, Dense(1, activation="sigmoid")(Dense(4)(tensor)))
    model.task = PCAM
    return model


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (lambda: build(ENDS["layer"], 1, "mixed_float16"), explain.DEFAULT),
        (vectors, "integrated gradients"),
        (lambda: build(squared, 1), None),
        (Opaque, None),
    ],
)
def test_the_page_takes_a_method_that_works_or_says_that_there_is_none(
    make, method, recwarn, tmp_path
):
    model = make()
    point = findings.Point(0.5, "meaning")
    reader = findings.Reader(model, model, PCAM, "a model", 1.0, {"Balanced": point})
    reader = findings.with_explanations(reader)
    assert reader.method == method
    said = [str(each.message) for each in recwarn if "explains nothing" in str(each.message)]
    assert len(said) == (method is None) and not any("\n" in each for each in said)
    state = visit.Visit(tmp_path)
    patch = PATCHES[0].astype("uint8")
    picture = image_files.at_scale(patch, PCAM.mpp)
    batches.read_pictures(reader, state, [("one.png", picture)])
    value = overlays.patch_value(reader, state.chosen_patch, point)
    assert ("no explanations" in value["legend"]) == (method is None)
    alpha = overlays.patch_overlay(reader, state.chosen_patch, point).getchannel("A")
    assert (alpha.getextrema() == (0, 0)) == (method is None)


def test_another_ending_is_refused():
    with pytest.raises(InputError, match="only a model that ends in a sigmoid is explained"):
        explain.maps(build(squared, 1), PATCHES)
