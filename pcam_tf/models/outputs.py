"""What a model returns, checked before anything takes it for probabilities.

A model of anyone may end in logits, or return NaN. A probability of -13 would be ranked, averaged
and drawn like any other, and NaN means "no tissue" in a heat map: so both are refused here.
"""

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.task import Task

# Rounding of float32 and float16 may go beyond 0 or 1 by so much.
TOLERANCE = 1e-6
# By which the sum over the classes may differ from 1, as in a predictions table.
SUM_TOLERANCE = 0.01


def checked(values: np.ndarray, count: int, task: Task, name: str) -> np.ndarray:
    """Return what a model has returned as probabilities, (count, outputs), within 0..1.

    Args:
        values: the model's output for `count` patches.
        count: number of patches.
        task: the model's; it says how many outputs there are for each patch.
        name: what to call the model in a message.

    Raises:
        InputError: another shape, a value that is no number or outside 0..1, or probabilities of
            more than two classes that do not add up to 1.
    """
    values = np.asarray(values)
    if values.size != count * task.outputs or len(values) != count:
        raise InputError(
            f"{name} returns an array of shape {values.shape} for {count} patches: a classifier "
            f"of {len(task.classes)} classes returns ({count}, {task.outputs})."
        )
    values = values.reshape(count, task.outputs)
    # NaN is neither.
    wrong = ~((values >= -TOLERANCE) & (values <= 1 + TOLERANCE))
    if wrong.any():
        raise InputError(f"{name} returns {_described(values[wrong][0], task)}")
    if not task.is_binary:
        sums = values.sum(axis=1, dtype="float64")
        off = np.abs(sums - 1) > SUM_TOLERANCE
        if off.any():
            raise InputError(
                f"{name} returns values that add up to {sums[off][0]:.4g} for a patch, where "
                "probabilities add up to 1: end the model in a softmax."
            )
    return np.clip(values, 0, 1)


def _described(value, task):
    if not np.isfinite(value):
        return (
            f"{value:g} for a patch, which is no probability: the model is damaged or its "
            "training has diverged; use another."
        )
    end = "sigmoid" if task.is_binary else "softmax"
    return (
        f"{value:.4g} for a patch, which is no probability from 0 to 1: end the model in a {end}."
    )
