"""Alarms of a training: collapse, and gradients that vanish or diverge. They read its history."""

import numpy as np
import pandas as pd

# Mean correlation of two patches of a class. Trainings whose patches were all alike to the eye had
# 0.31 to 0.84, those of today's generator 0.00 to 0.03, real patches 0.00.
SHARED_LAYOUT = 0.25
# Of real patches' diversity. Eight patches turned and recoloured to fill a sheet are at a quarter
# or less.
COLLAPSED = 0.3
# Of the median gradient so far.
VANISHED = 0.01
_BEFORE = 3


def alarms(history: pd.DataFrame) -> list[str]:
    """Return what is wrong at the last check of a history: a line each, none if all is well.

    Args:
        history: columns `kimg`, `generator_gradient`, `critic_loss` and, for each class,
            `diversity_<class>`, in units of that of as many real patches, and `layout_<class>`, see
            `distances.shared_layout`.
    """
    found, last = [], history.iloc[-1]
    for column in history.columns[history.columns.str.startswith("layout_")]:
        if last[column] > SHARED_LAYOUT:
            found.append(
                f"collapse of {column.removeprefix('layout_')} patches: they have one layout, with "
                f"a mean correlation of {last[column]:.2f}"
            )
    for column in history.columns[history.columns.str.startswith("diversity_")]:
        if last[column] < COLLAPSED:
            found.append(
                f"collapse of {column.removeprefix('diversity_')} patches: their diversity is "
                f"{last[column]:.2f} of that of real ones"
            )
    values = history[["generator_gradient", "critic_loss"]].to_numpy("float64")
    if not np.isfinite(values).all():
        return [*found, "divergence: a loss or gradient is no number"]
    before = history["generator_gradient"].iloc[:-1]
    if len(before) >= _BEFORE and last["generator_gradient"] < VANISHED * before.median():
        found.append(
            f"vanishing gradient: the generator's is {last['generator_gradient']:.2g}, its median "
            f"was {before.median():.2g}"
        )
    return found
