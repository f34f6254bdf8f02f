"""A copy computes what the model does, whatever its layers made of their weights before."""

import keras
import numpy as np

from pcam_tf.models import copies
from pcam_tf.training import batch_normalization, record

PATCHES = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype("float32")


def normalising(mean, variance):
    """Return a network whose first layer has been given a mean and a variance."""
    patches = keras.Input((8, 8, 3))
    normalise = keras.layers.Normalization(axis=-1)
    tensor = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(normalise(patches)))
    model = keras.Model(patches, tensor)
    normalise.set_weights([np.full(3, mean), np.full(3, variance), *normalise.get_weights()[2:]])
    normalise.finalize_state()
    return model


def test_copies_and_given_weights_normalise_as_the_model_does():
    model, other = normalising(100.0, 900.0), normalising(0.0, 1.0)
    expected = model.predict_on_batch(PATCHES)
    copies.set_weights(other, model.get_weights())
    fused = batch_normalization.fused(model)
    for same in (other, fused, copies.copied(model)):
        np.testing.assert_allclose(same.predict_on_batch(PATCHES), expected, rtol=1e-4, atol=1e-5)
    before = model.get_weights()
    other.layers[-2].kernel.assign_add(keras.ops.ones_like(other.layers[-2].kernel))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_copy_in_float32_keeps_operations_that_are_no_layers():
    patches = keras.Input((8, 8, 3))
    tensor = keras.layers.Conv2D(4, 3, dtype="mixed_float16")(patches)
    model = keras.Model(patches, keras.layers.ReLU(6.0, dtype="mixed_float16")(tensor + 3.0) / 6.0)
    copy = copies.copied(model, record._in_float32)
    assert {each.compute_dtype for each in copy.layers if each.weights} == {"float32"}
    expected = np.asarray(model.predict_on_batch(PATCHES / 255), "float32")
    np.testing.assert_allclose(copy.predict_on_batch(PATCHES / 255), expected, atol=0.02)
