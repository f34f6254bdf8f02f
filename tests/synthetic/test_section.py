import numpy as np
import pytest
from scipy import ndimage

from pcam_tf import stain
from pcam_tf.synthetic import section, tissue


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def slides():
    return [section.draw_slide(np.random.default_rng(number)) for number in range(3)]


def test_slides_are_joined_by_number(slides):
    joined = section.slides_of(slides, np.array([2, 0, 2, 1]))
    assert joined.stain_vectors.shape == (4, 2, 3)
    for row, number in enumerate((2, 0, 2, 1)):
        for values, value in zip(joined, slides[number], strict=True):
            np.testing.assert_array_equal(values[row], value)
    np.testing.assert_allclose(joined.tissue_shares.sum(axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(joined.stain_vectors, axis=-1), 1, atol=1e-6)


def test_blur_is_a_gaussian_of_each_patchs_width(rng):
    densities = rng.random((2, 3, 96, 96), np.float32)
    blurred = section.blur(densities, np.array([0.3, 0.6, 0.8]))
    assert blurred.shape == (3, 96, 96, 2) and blurred.dtype == np.float32
    for patch, blur_px in enumerate((0.3, 0.6, 0.8)):
        for which in range(2):
            expected = ndimage.gaussian_filter(
                densities[which, patch], blur_px, radius=2, mode="nearest"
            )
            np.testing.assert_allclose(blurred[patch, ..., which], expected, atol=1e-5)


def test_the_photograph_is_the_beer_lambert_model_under_light(rng, slides):
    which = np.arange(60) % 3
    joined = section.slides_of(slides, which)
    densities = rng.uniform(0, 0.5, (60, 1, 1, 2)).astype(np.float32)
    densities = np.broadcast_to(densities, (60, 96, 96, 2))
    image = section.photograph(rng, tissue.draw_noise(rng), densities, joined)
    assert image.shape == (60, 96, 96, 3) and image.dtype == np.uint8
    ideal = stain.mix(
        densities, joined.stain_vectors[:, None, None], joined.background[:, None, None]
    )
    np.testing.assert_allclose(image.mean(axis=(0, 1, 2)), ideal.mean(axis=(0, 1, 2)), rtol=0.01)
    noise = image.astype(float) / ideal - 1
    assert 0.008 < noise.std(axis=(1, 2)).mean() < 0.03
