"""What a training minimises, and how: loss, class weights, learning rate, optimizer."""

from collections.abc import Callable

import keras
import numpy as np

from pcam_tf.task import Task
from pcam_tf.training import distillation
from pcam_tf.training.recipes import Recipe


def loss_of(recipe: Recipe, task: Task) -> Callable:
    """Return the loss of a recipe: cross-entropy to the labels, smoothed, or to the teachers.

    It takes labels, integers (batch,), and the model's outputs, see `classifier.build`.
    """
    if recipe.teachers:
        return distillation.cross_entropy
    if task.is_binary:
        return keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing)

    def cross_entropy(labels, probabilities):
        labels = keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32")
        return keras.losses.categorical_crossentropy(
            keras.ops.one_hot(labels, task.outputs),
            probabilities,
            label_smoothing=recipe.label_smoothing,
        )

    return cross_entropy


def class_weights(labels: np.ndarray, classes: int) -> dict[int, float]:
    """Return a weight for each class, inverse to its frequency in labels (n,); their mean is 1."""
    counts = np.bincount(labels, minlength=classes)
    return {label: len(labels) / (classes * max(count, 1)) for label, count in enumerate(counts)}


def learning_rate(
    recipe: Recipe, peak: float, steps: int
) -> keras.optimizers.schedules.CosineDecay:
    """Return the schedule of a phase: a linear rise to the peak, then a cosine down to 0.

    Args:
        recipe: says how long the rise is.
        peak: the largest rate.
        steps: of the whole phase.
    """
    warm_up = round(recipe.warm_up * steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / 100, max(steps - warm_up, 1), warmup_target=peak, warmup_steps=warm_up
    )


def optimizer(recipe: Recipe, peak: float, steps: int) -> keras.optimizers.Optimizer:
    """Return AdamW with `learning_rate` and the running average of the weights.

    Biases and the scales of BatchNormalization are not decayed. Under mixed precision the loss is
    scaled: gradients below 6e-8 would be 0 in float16. Keras does that itself only for models that
    are of that policy as a whole.
    """
    chosen = keras.optimizers.AdamW(
        learning_rate(recipe, peak, steps),
        weight_decay=recipe.weight_decay,
        use_ema=True,
        ema_momentum=recipe.averaging,
    )
    chosen.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return keras.optimizers.LossScaleOptimizer(chosen) if recipe.mixed_precision else chosen
