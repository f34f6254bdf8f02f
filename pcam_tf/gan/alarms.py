"""Alarms of a training: collapse, and gradients that vanish or diverge. They read its history."""

import pandas as pd

# Mean correlation of two patches of a class. Trainings whose patches were all alike to the eye had
# 0.31 to 0.84, those of today's generator 0.00 to 0.05, real patches 0.00.
SHARED_LAYOUT = 0.25
# Of real patches' diversity. Eight patches turned and recoloured to fill a sheet are at a quarter
# or less.
COLLAPSED = 0.3
# Norm of the generator's gradient, the mean between two checks, at 48 px. Whole trainings had 5 to
# 13. It vanishes where the critic cannot tell patches apart: gamma 10 had 2.2 to 3.8 and still
# learned, gamma 1,000 had 0.5 and less. Without penalties, at ten times the critic's rate, it was
# 52 to 1,580.
VANISHED, DIVERGED = 1.0, 50.0


def alarms(history: pd.DataFrame) -> list[str]:
    """Return what is wrong at the last check of a history: a line each, none if all is well.

    Args:
        history: columns `generator_gradient` and, for each class, `diversity_<class>`, in units
            of that of as many real patches, and `layout_<class>`, see `distances.shared_layout`.
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
    gradient = last["generator_gradient"]
    if gradient > DIVERGED:
        found.append(f"divergence: the generator's gradient is {gradient:.3g}, not 5 to 13")
    elif gradient < VANISHED:
        found.append(f"vanishing gradient: the generator's is {gradient:.2g}, not 5 to 13")
    return found
