import numpy as np
import pytest

from pcam_tf import stain
from pcam_tf.errors import InputError


def test_stain_vectors_are_unit_and_keep_the_published_ratios():
    for vector, published in (
        (stain.HAEMATOXYLIN, [0.65, 0.70, 0.29]),
        (stain.EOSIN, [0.07, 0.99, 0.11]),
    ):
        assert np.linalg.norm(vector) == pytest.approx(1)
        np.testing.assert_allclose(vector / vector[1], np.divide(published, published[1]))


@pytest.mark.parametrize("background", [255, 240, np.array([250.0, 240.0, 245.0])])
def test_transmitted_inverts_optical_density(background):
    rgb = np.random.default_rng(0).integers(1, 256, (5, 7, 3), dtype=np.uint8)
    back = stain.transmitted(stain.optical_density(rgb, background), background)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, rgb)


def test_density_is_natural_finite_and_signed():
    grey = np.full((1, 3), 100, np.uint8)
    np.testing.assert_allclose(stain.optical_density(grey, 100 * np.e), 1)
    assert stain.optical_density(np.zeros(3, np.uint8)) == pytest.approx(np.log(255))
    assert (stain.optical_density(np.full(3, 250), 240) < 0).all()


def test_mix_multiplies_the_light_that_each_stain_lets_through():
    vectors = np.stack([stain.HAEMATOXYLIN, stain.EOSIN])
    densities = np.random.default_rng(1).uniform(0, 1.5, (4, 6, 2))
    through = [np.exp(-np.multiply.outer(densities[..., i], vectors[i])) for i in range(2)]
    np.testing.assert_allclose(
        stain.mix(densities, vectors, 240), 240 * through[0] * through[1], atol=0.51
    )
    np.testing.assert_array_equal(stain.mix(np.zeros((2, 2)), vectors, 240), 240)


def test_mix_takes_stain_vectors_for_each_patch():
    rng = np.random.default_rng(2)
    densities, vectors = rng.uniform(0, 1, (3, 4, 4, 2)), rng.uniform(0, 1, (3, 2, 3))
    together = stain.mix(densities, vectors[:, None, None])
    for i in range(3):
        np.testing.assert_array_equal(together[i], stain.mix(densities[i], vectors[i]))


def test_bad_shapes_and_backgrounds_are_refused():
    with pytest.raises(InputError, match="last axis"):
        stain.optical_density(np.zeros((4, 4)))
    with pytest.raises(InputError, match="background"):
        stain.optical_density(np.zeros((4, 3)), 0)
    with pytest.raises(InputError, match="do not fit"):
        stain.mix(np.zeros((4, 3)), np.zeros((2, 3)))
