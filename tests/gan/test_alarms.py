"""Alarms of planted histories: a collapse and a vanished gradient are named."""

import pandas as pd
import pytest

from pcam_tf.gan import alarms


def history(diversity, gradient=None, layout=None):
    count = len(diversity)
    return pd.DataFrame({
        "generator_gradient": gradient or [5.0] * count,
        "diversity_tumour": diversity,
        "layout_tumour": layout or [0.1] * count,
    })  # fmt: skip


@pytest.mark.parametrize("diversity", [[0.7], [0.05, 0.5, 0.9, 0.6]])
def test_a_generator_that_varies_raises_no_alarm(diversity):
    assert alarms.alarms(history(diversity)) == []


def test_patches_that_are_near_copies_are_named():
    (line,) = alarms.alarms(history([0.1, 0.7, 0.8, 0.2]))
    assert line.startswith("collapse of tumour patches: their diversity is 0.20")


def test_patches_of_one_layout_are_named():
    (line,) = alarms.alarms(history([0.6, 0.6], layout=[0.1, 0.45]))
    assert (
        line == "collapse of tumour patches: they have one layout, with a mean correlation of 0.45"
    )


def test_a_gradient_that_vanishes_or_diverges_is_named():
    for gradient, expected in (
        (0.01, "vanishing gradient: the generator's is 0.01"),
        (75.0, "divergence: the generator's gradient is 75"),
    ):
        (line,) = alarms.alarms(history([0.8] * 2, gradient=[5.0, gradient]))
        assert line.startswith(expected)
