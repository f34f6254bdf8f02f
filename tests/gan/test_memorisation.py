"""Planted copies, turned and recoloured, are always found; patches of other slides are not."""

import numpy as np
import pytest
from tiny_generator import features

from pcam_tf import synthetic
from pcam_tf.gan import memorisation, patches


@pytest.fixture(scope="module")
def drawn():
    """Return 256 training and 128 held-out patches of other slides, 48 px."""
    return [
        patches.centre(synthetic.draw_patches(count, split=split).image, 48)
        for split, count in (("train", 256), ("validation", 128))
    ]


def test_every_planted_copy_is_found_and_its_original_named(drawn):
    training, held_out = drawn
    copies = memorisation.disguised(training[:128], np.random.default_rng(1))
    similar, row = memorisation.nearest(copies, training)
    assert similar.min() > memorisation.COPY_CORRELATION
    assert np.array_equal(row, np.arange(128))
    assert memorisation.nearest(held_out, training)[0].max() < memorisation.COPY_CORRELATION


def test_the_check_counts_copies_and_measures_itself(drawn):
    training, held_out = drawn

    def crude(images):
        return features(patches.centre(images, 32))

    copies = memorisation.disguised(training[:5], np.random.default_rng(2))
    found = memorisation.check(
        np.concatenate([copies, held_out[:20]]),
        training,
        held_out[20:],
        crude,
        crude(training),
        copied=np.arange(5, 65),
    )
    assert found.patches == {"generated": 25, "planted": 60, "held_out": 108}
    assert found.by_pixels == {"generated": 5, "planted": 60, "held_out": 0}
    assert found.by_features["held_out"] == 1  # 0.2 % of them, rounded up
    assert (found.nearest[:5] > memorisation.COPY_CORRELATION).all()


def test_a_disguise_changes_every_patch(drawn):
    training, _ = drawn
    changed = memorisation.disguised(training[:32], np.random.default_rng(3))
    apart = np.abs(changed.astype(int) - training[:32]).mean(axis=(1, 2, 3))
    assert apart.min() > 2 and changed.dtype == np.uint8
