"""Training on all GPUs of one machine, by `tf.distribute.MirroredStrategy` and Keras's `fit`.

A batch is as large as on one device and is divided among the replicas, one a GPU. Gradients, and
the statistics of BatchNormalization, are those of the whole batch. On one device nothing here does
anything.
"""

import contextlib
from collections.abc import Sequence

import keras
import tensorflow as tf

from pcam_tf.errors import InputError, unknown

NAMES = ("one", "mirrored")
# Distance between the seeds of two replicas; a model has far fewer random layers.
_SEED_DISTANCE = 100_000


def open_strategy(name: str) -> tf.distribute.Strategy | None:
    """Return a strategy for training; call this before TensorFlow computes anything.

    Args:
        name: "one": one device, the first GPU where there is one. "mirrored": all GPUs of this
            machine.

    Returns:
        A strategy of `tf.distribute`, or None for one device.

    Raises:
        InputError: there is no such strategy.
    """
    if name == "multi-worker":
        raise InputError(
            "training on several machines is not supported: use --strategy mirrored for the GPUs "
            "of one machine; predictions can be divided among machines by predict --shard."
        )
    if name not in NAMES:
        raise unknown("strategy", name, NAMES)
    return tf.distribute.MirroredStrategy() if name == "mirrored" else None


def scope(strategy: tf.distribute.Strategy | None) -> contextlib.AbstractContextManager:
    """Return the context in which the variables of a model are made for all replicas."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def set_seeds(variables: Sequence[keras.Variable], seed: int, epoch: int) -> None:
    """Set the state of each generator of random numbers for an epoch (from 0).

    Every epoch draws from its own seeds, so that a resumed run draws the same numbers. They are a
    million apart, since each draw within an epoch increases a state by one. Replicas have different
    seeds as well, so that their patches are augmented differently.
    """
    for index, variable in enumerate(variables):
        if variable.path.endswith("seed_generator_state"):
            # With several replicas the variable consists of one for each.
            states = getattr(variable.value, "values", [variable])
            for replica, state in enumerate(states):
                state.assign([seed + index + _SEED_DISTANCE * replica, 1_000_000 * (epoch + 1)])


def synchronise_batch_normalization(model: keras.Model) -> None:
    """Let BatchNormalization use the statistics of the whole batch, not those of a replica's part.

    Nested models are included.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
        elif isinstance(layer, keras.Model):
            synchronise_batch_normalization(layer)
