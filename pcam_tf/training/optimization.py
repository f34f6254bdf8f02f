"""What a training minimises, and how: loss, class weights, learning rate, optimizer."""

import functools
import re
from collections.abc import Callable

import keras
import numpy as np

from pcam_tf.errors import InputError
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


# What variables of one block share in their path: block3, layers_0, stage_1/block_0.
_BLOCK = re.compile(r"(?:block|layer|stage)s?_?(\d+[a-z]?)")


def layer_rates(model: keras.Model, decay: float) -> dict[int, float]:
    """Return the factor of the learning rate of each variable that is not 1, by its `id`.

    The head has 1, the last block `decay`, the one before `decay` squared, and so on down to what
    comes before the first block (H. Bao, L. Dong and F. Wei, "BEiT", ICLR 2022). Blocks are
    recognised by the names of variables.

    Args:
        model: a classifier; what is trainable in it counts.
        decay: above 0, up to 1.

    Raises:
        InputError: the network has no blocks that can be recognised.
    """
    if decay == 1:
        return {}
    depths, current = [], None
    for variable in model.trainable_variables:
        block = tuple(_BLOCK.findall(variable.path)) or (current and ())
        depths.append(depths[-1] + (block != current) if depths else 0)
        current = block
    if current is None:
        raise InputError("the backbone has no blocks: leave the layer decay at 1.")
    pairs = zip(model.trainable_variables, depths, strict=True)
    return {
        id(variable): decay ** (depths[-1] - depth)
        for variable, depth in pairs
        if depth < depths[-1]
    }


class DecayedAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate differs from variable to variable, see `layer_rates`."""

    def __init__(self, *arguments, rates, **options):
        super().__init__(*arguments, **options)
        self._rates, self._whole_decay = rates, self.weight_decay

    def build(self, variables):
        """Note the factor of each variable, then do as AdamW does."""
        self._factors = [self._rates.get(id(variable), 1.0) for variable in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """Update a variable at its own rate."""
        factor = self._factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)

    def _apply_weight_decay(self, variables):
        """Decay each variable at its own rate, too."""
        # Replicas share this optimiser and run by turns: none may read what another has set.
        for variable in variables:
            factor = self._factors[self._get_variable_index(variable)]
            self.weight_decay = self._whole_decay * factor
            super()._apply_weight_decay([variable])
        self.weight_decay = self._whole_decay


def optimizer(
    recipe: Recipe, peak: float, steps: int, rates: dict[int, float] | None = None
) -> keras.optimizers.Optimizer:
    """Return AdamW with `learning_rate` and the running average of the weights.

    With `rates`, see `layer_rates`, variables have rates of their own. Biases and the scales of
    BatchNormalization are not decayed. Under mixed precision the loss is scaled: gradients below
    6e-8 would be 0 in float16. Keras does that itself only for models that are of that policy as a
    whole.
    """
    kind = functools.partial(DecayedAdamW, rates=rates) if rates else keras.optimizers.AdamW
    chosen = kind(
        learning_rate(recipe, peak, steps),
        weight_decay=recipe.weight_decay,
        use_ema=True,
        ema_momentum=recipe.averaging,
    )
    chosen.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return keras.optimizers.LossScaleOptimizer(chosen) if recipe.mixed_precision else chosen
