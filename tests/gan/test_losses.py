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


def test_the_penalty_is_the_squared_gradient_of_the_scores():
    patches = keras.Input((2, 2, 1))
    labels = keras.Input((), dtype="int32")
    weights = np.float32([1, 2, 3, 4])
    flat = keras.layers.Flatten()(patches)
    scores = keras.layers.Dense(1, use_bias=False, name="linear")(flat * flat)[:, 0]
    critic = keras.Model([patches, labels], scores + 0 * keras.ops.cast(labels, "float32"))
    critic.get_layer("linear").set_weights([weights[:, None]])
    given = np.float32([[1, 1, 1, 1], [0, 0, 0, 2]]).reshape(2, 2, 2, 1)
    # The score is the sum of w x², its gradient 2 w x: squares 4·(1+4+9+16) and (2·4·2)².
    found = losses.penalty(critic, tf.constant(given), tf.zeros(2, "int32"))
    assert float(found) == pytest.approx((120 + 256) / 2)
