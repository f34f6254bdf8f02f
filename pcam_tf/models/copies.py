"""Copies of networks, and the weights of one network for another."""

from collections.abc import Callable

import keras
import numpy as np


def copied(
    model: keras.Model, layer_of: Callable[[keras.layers.Layer], keras.layers.Layer] | None = None
) -> keras.Model:
    """Return a copy of a functional model that has weights of its own, with the same values.

    Args:
        model: what is copied, nested models too.
        layer_of: from a layer to the one in its place, with weights of the same shapes; None for
            layers of the same kinds.
    """
    copy = keras.models.clone_model(model, clone_function=layer_of, recursive=layer_of is not None)
    set_weights(copy, model.get_weights())
    return copy


def set_weights(model: keras.Model, weights: list[np.ndarray]) -> None:
    """Set all weights of a model, and what layers compute from them once, before it predicts.

    Keras's own `set_weights` leaves `Normalization` computing with its old mean and variance.

    Raises:
        ValueError: the weights are of another model.
    """
    model.set_weights(weights)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
