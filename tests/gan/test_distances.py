"""KID against a direct computation; precision and recall of sets whose answer is known."""

import numpy as np
import pytest

from pcam_tf import synthetic
from pcam_tf.gan import distances, memorisation
from pcam_tf.gan.patches import centre


def test_kid_is_the_direct_double_sum():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(7, 4)), rng.normal(1, 1, size=(5, 4))

    def kernel(one, other):
        return (sum(a * b for a, b in zip(one, other, strict=True)) / 4 + 1) ** 3

    within = [
        sum(kernel(part[i], part[j]) for i in range(n) for j in range(n) if i != j) / n / (n - 1)
        for part, n in ((first, 7), (second, 5))
    ]
    between = sum(kernel(one, other) for one in first for other in second) / 35
    assert distances.kid(first, second) == pytest.approx(sum(within) - 2 * between)


def test_kid_of_one_distribution_is_about_nothing_and_of_two_is_not():
    rng = np.random.default_rng(1)
    one, same = rng.normal(size=(2, 400, 8))
    other = rng.normal(0.5, 1, size=(400, 8))
    assert abs(distances.kid(one, same)) < 0.1 < distances.kid(one, other)


def test_precision_and_recall_of_a_lost_mode_and_of_an_invented_one():
    rng = np.random.default_rng(2)
    left, right = rng.normal(0, 1, (300, 2)), rng.normal(50, 1, (300, 2))
    both = np.concatenate([left, right])
    lost = distances.precision_and_recall(both, rng.normal(0, 1, (600, 2)))
    assert lost[0] > 0.9 and lost[1] == pytest.approx(0.5, abs=0.05)
    invented = distances.precision_and_recall(rng.normal(0, 1, (600, 2)), both)
    assert invented[0] == pytest.approx(0.5, abs=0.05) and invented[1] > 0.9


def test_diversity_falls_to_nothing_with_copies():
    rng = np.random.default_rng(3)
    many = rng.normal(size=(200, 16))
    few = many[rng.integers(8, size=200)] + rng.normal(0, 0.01, (200, 16))
    assert distances.diversity(few) < 0.05 * distances.diversity(many)


def test_patches_of_one_layout_are_told_from_real_ones_whatever_their_colour():
    drawn = centre(synthetic.draw_patches(256, split="train").image, 48)
    assert abs(distances.shared_layout(drawn)) < 0.05
    rng = np.random.default_rng(4)
    recoloured = drawn[:1] * rng.uniform(0.3, 1, (64, 1, 1, 3))
    assert distances.shared_layout(recoloured.astype("uint8")) > 0.9
    similar = memorisation.signatures(drawn[:6]) @ memorisation.signatures(drawn[:6]).T
    pairs = similar[np.triu_indices(6, 1)]
    assert distances.shared_layout(drawn[:6]) == pytest.approx(pairs.mean(), abs=1e-6)
    blank = np.full_like(drawn[:6], 240)
    assert distances.shared_layout(blank) == 1
    both = np.concatenate([drawn[:6], blank])
    assert distances.shared_layout(both) == pytest.approx(pairs.mean(), abs=1e-6)
