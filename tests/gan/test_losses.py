"""Losses and penalties against numbers computed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pcam_tf.gan import losses


def test_the_pairing_losses_are_those_computed_by_hand():
    real, generated = np.float32([1.0, 0.0]), np.float32([0.0, 0.0])
    # log(1 + e^-1) = 0.313262, log 2 = 0.693147, log(1 + e) = 1.313262
    assert float(losses.critic_loss(real, generated)) == pytest.approx((0.313262 + 0.693147) / 2)
    assert float(losses.generator_loss(real, generated)) == pytest.approx((1.313262 + 0.693147) / 2)


def test_the_class_loss_compares_each_class_with_the_own_one():
    scores = np.float32([[[1, 0, 0], [0, 0, 0]], [[0, 1, 2], [0, 0, 0]]])  # two maps each
    labels = np.int32([0, 1])
    np.testing.assert_array_equal(losses.of_class(scores, labels), [[1, 0], [1, 0]])
    # Of the first patch log(1 + e^-1) twice; of the second log(1 + e^-1) and log(1 + e); of the
    # second map log 2 four times.
    expected = (3 * 0.313262 + 1.313262 + 4 * 0.693147) / 8
    assert float(losses.class_loss(scores, labels)) == pytest.approx(expected, abs=1e-5)


def test_the_penalty_is_the_squared_gradient_of_the_scores():
    maps = [keras.Input((2, 2, 1)), keras.Input((1, 1, 1))]
    weights = np.float32([[1, 2, 3, 4], [9, 9, 9, 9]]).T  # of the class, and of another
    flat = keras.layers.Flatten()(maps[0])
    fine = keras.layers.Dense(2, use_bias=False, name="linear")(flat * flat)
    coarse = keras.ops.repeat(keras.layers.Flatten()(maps[1]) * 3, 2, axis=1)
    critic = keras.Model(maps, keras.ops.stack([fine, coarse], axis=1))
    critic.get_layer("linear").set_weights([weights])
    given = np.float32([[1, 1, 1, 1], [0, 0, 0, 2]]).reshape(2, 2, 2, 1)
    # The score of one map is the sum of w x², its gradient 2 w x: squares 4·(1+4+9+16) and
    # (2·4·2)². That of the other is 3 x, its gradient 3.
    both = [tf.constant(given), tf.ones((2, 1, 1, 1))]
    found = losses.penalty(critic, both, tf.zeros(2, "int32"))
    assert float(found) == pytest.approx(((120 + 256) / 2 + 9) / 2)
