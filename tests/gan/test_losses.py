"""Losses and penalties against numbers computed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pcam_tf.gan import losses, recipes


def test_the_pairing_losses_are_those_computed_by_hand():
    real, generated = np.float32([1.0, 0.0]), np.float32([0.0, 0.0])
    # log(1 + e^-1) = 0.313262, log 2 = 0.693147, log(1 + e) = 1.313262
    assert float(losses.critic_loss(real, generated)) == pytest.approx((0.313262 + 0.693147) / 2)
    assert float(losses.generator_loss(real, generated)) == pytest.approx((1.313262 + 0.693147) / 2)


def test_the_class_loss_compares_each_class_with_the_own_one():
    scores = np.float32([[1, 0, 0], [0, 1, 2]])
    labels = np.int32([0, 1])
    np.testing.assert_array_equal(losses.of_class(scores, labels), [1, 1])
    # Of the first patch log(1 + e^-1) twice; of the second log(1 + e^-1) and log(1 + e).
    expected = (3 * 0.313262 + 1.313262) / 4
    assert float(losses.class_loss(scores, labels)) == pytest.approx(expected, abs=1e-5)


def test_the_penalty_falls_to_a_tenth():
    recipe = recipes.Recipe(kimg=16.0, batch_size=16, gamma=0.4, penalty_every=2)
    weights = [recipe.penalty_weight(number) for number in (0, 500, 1000)]
    assert weights == pytest.approx([0.4, 0.22, 0.04])


def test_the_penalty_is_the_squared_gradient_of_the_scores():
    patches = keras.Input((2, 2, 1))
    weights = np.float32([[1, 2, 3, 4], [9, 9, 9, 9]]).T  # of the class, and of another
    flat = keras.layers.Flatten()(patches)
    scores = keras.layers.Dense(2, use_bias=False, name="linear")(flat * flat)
    critic = keras.Model(patches, scores)
    critic.get_layer("linear").set_weights([weights])
    given = np.float32([[1, 1, 1, 1], [0, 0, 0, 2]]).reshape(2, 2, 2, 1)
    # The score is the sum of w x², its gradient 2 w x: squares 4·(1+4+9+16) and (2·4·2)².
    found = losses.penalty(critic, tf.constant(given), tf.zeros(2, "int32"))
    assert float(found) == pytest.approx((120 + 256) / 2)
