import functools

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from pcam_tf import synthetic
from pcam_tf.studies import robustness
from pcam_tf.training import augmentation, jpeg, recipes

SIDE = 12
BATCH = 64


def patches(batch=BATCH, side=SIDE):
    return np.random.default_rng(0).uniform(0, 255, (batch, side, side, 3)).astype("float32")


def affine(seed, rotation_degrees=0, scaling=1, shift_px=0):
    return augmentation.RandomAffine(
        seed, rotation_degrees=rotation_degrees, scaling=scaling, shift_px=shift_px
    )


def scanner(seed, brightness=0.0, blur_px=0.0, jpeg_quality=100):
    return augmentation.RandomScanner(
        seed, brightness=brightness, blur_px=blur_px, jpeg_quality=jpeg_quality
    )


@functools.cache
def tissue(count=8):
    return synthetic.draw_patches(count, split="test").image


def symmetries(patch):
    """Return the eight symmetries of a square, the way numpy turns and mirrors it."""
    turned = [np.rot90(patch, turns) for turns in range(4)]
    return turned + [np.fliplr(each) for each in turned]


def eagerly(layer, batch):
    return np.asarray(layer(batch, training=True))


def in_a_pipeline(layer, batch):
    pipeline = tf.data.Dataset.from_tensors(batch).map(lambda each: layer(each, training=True))
    return next(pipeline.as_numpy_iterator())


def jitted(layer, batch):
    return tf.function(lambda each: layer(each, training=True), jit_compile=True)(batch).numpy()


ways = pytest.mark.parametrize("apply", [eagerly, in_a_pipeline, jitted])
every_layer = pytest.mark.parametrize(
    "make",
    [
        lambda seed: augmentation.RandomD4(seed),
        lambda seed: augmentation.RandomStain(seed, 0.3),
        lambda seed: affine(seed, 30, 1.2, 3),
        lambda seed: scanner(seed, brightness=0.2, blur_px=1.0),
    ],
    ids=["d4", "stain", "affine", "scanner"],
)


@ways
def test_d4_draws_each_of_the_eight_symmetries_and_no_other(apply):
    batch = patches()
    views = apply(augmentation.RandomD4(0), batch)
    drawn = []
    for patch, view in zip(batch, views, strict=True):
        same = [np.array_equal(view, each) for each in symmetries(patch)]
        assert sum(same) == 1
        drawn.append(same.index(True))
    assert set(drawn) == set(range(8))


def test_d4_draws_the_symmetries_equally_often():
    marked = np.zeros((4000, 2, 2, 1), "float32")
    marked[:, 0, 0], marked[:, 0, 1] = 1, 2
    views = eagerly(augmentation.RandomD4(1), marked).reshape(4000, 4)
    _, counts = np.unique(views, axis=0, return_counts=True)
    # 500 each, with a standard deviation of 21.
    assert len(counts) == 8 and abs(counts - 500).max() < 105


@ways
def test_an_affine_view_is_what_scipy_makes_of_the_same_draws(apply):
    rotation, scaling, shift = 45, 1.3, 4
    batch = patches()
    draws = np.random.default_rng(1).uniform(-1, 1, (4, BATCH, 1, 1)).astype("float32")
    layer = affine(0, rotation, scaling, shift)
    layer._uniform = lambda shape, low, high: draws
    views = apply(layer, batch)
    for patch, view, (turn, zoom, down, right) in zip(
        batch, views, draws[..., 0, 0].T, strict=True
    ):
        angle, scale = np.radians(turn * rotation), scaling**zoom
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
        centre = np.full(2, (SIDE - 1) / 2)
        offset = centre - matrix @ centre + np.array([down, right]) * shift
        expected = [
            scipy.ndimage.affine_transform(
                patch[..., channel].astype(float), matrix, offset, order=1, mode="mirror"
            )
            for channel in range(3)
        ]
        np.testing.assert_allclose(view, np.stack(expected, -1), atol=0.02)


def test_an_affine_view_draws_each_of_its_four_numbers_for_each_patch():
    layer, drawn = affine(0, 45, 1.3, 4), []
    uniform = layer._uniform
    layer._uniform = lambda *arguments: drawn.append(uniform(*arguments)) or drawn[-1]
    tf.config.run_functions_eagerly(True)  # else a trace would be recorded, not numbers
    try:
        eagerly(layer, patches())
    finally:
        tf.config.run_functions_eagerly(False)
    draws = np.asarray(drawn[0]).reshape(4, BATCH)
    assert draws.min() >= -1 and draws.max() <= 1 and np.ptp(draws, axis=1).min() > 1.7
    assert len(np.unique(draws)) == draws.size


def test_a_shift_by_whole_pixels_keeps_them_as_they_are():
    layer = affine(0, shift_px=2)
    layer._uniform = lambda shape, low, high: np.float32([0, 0, 1, -0.5]).reshape(4, 1, 1, 1)
    batch = patches(3)
    views = eagerly(layer, batch)
    np.testing.assert_allclose(views[:, : SIDE - 2, 1:], batch[:, 2:, : SIDE - 1], atol=1e-3)


def test_an_affine_view_without_range_changes_nothing():
    batch = patches(4)
    np.testing.assert_allclose(eagerly(affine(0), batch), batch, atol=1e-3)


@ways
def test_stain_jitter_stays_within_what_a_camera_can_see_and_is_finite(apply):
    batch = patches(6)
    batch[0], batch[1], batch[2, ..., 0], batch[3, ..., 2] = 0, 255, 0, 255
    views = apply(augmentation.RandomStain(0, 0.9), batch)
    assert np.isfinite(views).all()
    assert views.min() >= 0 and views.max() <= 255
    assert np.abs(views - batch).mean() > 3


def test_stain_jitter_without_strength_changes_nothing():
    levels = np.arange(256, dtype="float32")
    batch = np.stack([np.roll(levels, shift) for shift in (0, 85, 170)], -1).reshape(1, 16, 16, 3)
    np.testing.assert_allclose(eagerly(augmentation.RandomStain(0, 0.0), batch), batch, atol=0.01)


def test_stain_jitter_scales_and_shifts_the_density_of_each_stain():
    strength = 0.2
    layer = augmentation.RandomStain(0, strength)
    np.testing.assert_allclose(np.linalg.norm(layer.mixing, axis=1), 1, rtol=1e-6)
    densities = np.random.default_rng(0).uniform(0.2, 0.8, (BATCH, 8, 8, 3)) * [1, 1, 0.1]
    batch = (256 * np.exp(-densities @ layer.mixing) - 1).astype("float32")
    assert batch.min() > 20  # nothing is clipped
    views = eagerly(layer, batch)
    jittered = -np.log((views + 1) / 256) @ np.linalg.inv(layer.mixing.astype(float))
    gains, shifts = [], []
    for row in range(BATCH):
        for dye in range(2):
            before, after = densities[row, ..., dye].ravel(), jittered[row, ..., dye].ravel()
            gain, shift = np.polyfit(before, after, 1)
            np.testing.assert_allclose(gain * before + shift, after, atol=1e-3)
            gains.append(gain)
            shifts.append(shift)
    # Drawn for each patch and stain from the whole range.
    assert len(np.unique(np.round(gains, 4))) > BATCH
    assert 0.8 - 2e-3 < min(gains) < 0.83 and 1.17 < max(gains) < 1.2 + 2e-3
    assert -0.052 < min(shifts) < -0.04 and 0.04 < max(shifts) < 0.052
    assert abs(np.corrcoef(gains[::2], gains[1::2])[0, 1]) < 0.5


def test_stain_jitter_moves_a_patch_as_a_whole():
    batch = np.repeat(patches(1), BATCH, axis=0)
    views = eagerly(augmentation.RandomStain(0, 0.3), batch)
    # The same patch comes out differently each time, ...
    assert len(np.unique(views.reshape(BATCH, -1).round(2), axis=0)) == BATCH
    # ... but equal pixels of one patch stay equal.
    uniform = np.broadcast_to(np.float32([180, 120, 160]), (BATCH, SIDE, SIDE, 3))
    uniform_views = eagerly(augmentation.RandomStain(0, 0.3), np.array(uniform))
    assert np.ptp(uniform_views, axis=(1, 2)).max() < 1e-3


@every_layer
def test_nothing_happens_outside_training(make):
    batch = patches(4)
    np.testing.assert_array_equal(np.asarray(make(0)(batch, training=False)), batch)
    np.testing.assert_array_equal(np.asarray(make(0)(batch)), batch)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), make(0)])
    np.testing.assert_array_equal(model.predict_on_batch(batch), batch)


@every_layer
@ways
def test_a_seed_repeats_its_draws_and_the_next_batch_has_others(make, apply):
    batch = patches(16)
    one, again = make(5), make(5)
    first, second = apply(one, batch), apply(one, batch)
    assert first.dtype == np.float32 and first.shape == batch.shape
    np.testing.assert_array_equal(first, apply(again, batch))
    np.testing.assert_array_equal(second, apply(again, batch))
    assert np.any(first != second)
    assert np.any(first != apply(make(6), batch))


@every_layer
def test_the_last_batch_may_be_smaller(make):
    pipeline = tf.data.Dataset.from_tensor_slices(patches(5)).batch(3)
    layer = make(0)
    shapes = [view.shape for view in pipeline.map(lambda batch: layer(batch, training=True))]
    assert shapes == [(3, SIDE, SIDE, 3), (2, SIDE, SIDE, 3)]


def test_a_recipe_leaves_out_what_it_does_not_want():
    def names(**options):
        recipe = recipes.Recipe(preset="a test", **{"stain_strength": 0, "shift_px": 0} | options)
        return [type(layer).__name__ for layer in augmentation.layers_of(recipe, seed=0)]

    assert names(stain_strength=0.1, shift_px=4) == ["RandomD4", "RandomStain", "RandomAffine"]
    assert names(scaling=1.1) == ["RandomD4", "RandomAffine"]
    assert names(rotation_degrees=5) == ["RandomD4", "RandomAffine"]
    assert names(jpeg_quality=60) == ["RandomD4", "RandomScanner"]
    assert names() == ["RandomD4"]


def test_the_layers_of_a_recipe_draw_independently():
    layers = augmentation.layers_of(recipes.preset("cpu"), seed=0)
    draws = [np.asarray(layer._uniform((8,), 0.0, 1.0)) for layer in layers]
    assert len(np.unique(draws)) == 24


@pytest.mark.parametrize("quality", [20, 50, 85])
def test_jpeg_is_what_pillow_writes(quality):
    originals = tissue()
    expected = robustness.shifted(originals, "JPEG quality", quality).astype("float32")
    qualities = np.full(len(originals), quality, "float32")
    ours = np.asarray(jpeg.compressed(originals.astype("float32"), qualities))
    # Pillow smooths the chroma as it enlarges it, and rounds pixels before and after, by about 0.5.
    assert np.abs(ours - expected).mean() < 0.35 * np.abs(originals - expected).mean() + 0.5


def test_jpeg_uses_the_quality_of_each_patch():
    originals = np.repeat(tissue(1), 3, axis=0).astype("float32")
    lost = np.abs(np.asarray(jpeg.compressed(originals, np.float32([95, 60, 15]))) - originals)
    assert lost[0].mean() < lost[1].mean() < lost[2].mean()


def test_blur_is_scipys_away_from_the_border():
    originals = tissue(2).astype("float32")
    ours = np.asarray(augmentation._blurred(originals, np.float32([0, 1.5])))
    np.testing.assert_allclose(ours[0], originals[0], atol=1e-3)
    expected = scipy.ndimage.gaussian_filter(originals[1], (1.5, 1.5, 0))
    np.testing.assert_allclose(ours[1, 8:-8, 8:-8], expected[8:-8, 8:-8], atol=0.05)


@ways
def test_a_scanner_changes_exposure_focus_and_compression_of_some_patches(apply):
    originals = np.repeat(tissue(1), 32, axis=0).astype("float32")
    exposed = apply(scanner(0, brightness=0.3), originals).mean(axis=(1, 2, 3))
    assert exposed.min() < 0.9 * originals[0].mean() and exposed.max() > 1.05 * originals[0].mean()
    for options in ({"blur_px": 1.5}, {"jpeg_quality": 30}):
        views = apply(scanner(1, **options), originals)
        same = np.abs(views - originals).max(axis=(1, 2, 3)) < 1e-2
        assert 6 <= same.sum() <= 26, options


@pytest.mark.parametrize("number", range(3))
def test_whole_grey_levels_are_rounded_not_cut_off(number):
    patches = np.random.default_rng(0).integers(60, 200, (4, 32, 32, 3)).astype("uint8")

    def augmented(values):
        layers = [
            augmentation.RandomStain(1, 0.1),
            augmentation.RandomAffine(1, rotation_degrees=10, scaling=1.2, shift_px=2),
            augmentation.RandomScanner(1, brightness=0.1, blur_px=2.0, jpeg_quality=100),
        ]
        return np.asarray(layers[number](values, training=True))

    whole, exact = augmented(patches), augmented(patches.astype("float32"))
    assert whole.dtype == np.uint8
    assert whole.mean() == pytest.approx(exact.mean(), abs=0.1)


def test_surroundings_come_from_the_patch_before_and_the_middle_stays():
    patches = np.stack([np.full((16, 16, 3), value, "float32") for value in (10, 20, 30)])
    layer = augmentation.RandomSurroundings(0, share=1.0)
    changed = np.asarray(layer(patches, training=True))
    assert (changed[:, 4:12, 4:12, 0] == np.reshape([10, 20, 30], (3, 1, 1))).all()
    for edge in (changed[:, :4], changed[:, 12:], changed[:, :, :4], changed[:, :, 12:]):
        assert (edge[..., 0] == np.reshape([30, 10, 20], (3, 1, 1))).all()
    np.testing.assert_array_equal(layer(patches, training=False), patches)
    never = augmentation.RandomSurroundings(0, share=0.0)
    np.testing.assert_array_equal(never(patches, training=True), patches)
