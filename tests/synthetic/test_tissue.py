import numpy as np
import pytest

from pcam_tf.synthetic import tissue

CENTRE = slice(32, 64)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_noise_has_unit_variance_and_the_promised_smoothness(rng):
    noise = tissue.draw_noise(rng)
    for length_px, canvas in ((11, noise.coarse), (3, noise.medium), (0.8, noise.fine)):
        assert canvas.dtype == np.float32
        assert canvas.std() == pytest.approx(1, abs=1e-4)
        # White noise under a Gaussian of width s correlates by exp(-d²/4s²) at distance d.
        for axis in (0, 1):  # rolled, so the border has to be as smooth as the middle
            neighbours = (canvas * np.roll(canvas, 1, axis)).mean()
            assert neighbours == pytest.approx(np.exp(-1 / (4 * length_px**2)), abs=0.02)
    along, across = (np.mean(noise.fibres * np.roll(noise.fibres, 4, axis)) for axis in (1, 0))
    assert along > across + 0.5


def test_cuts_are_squares_of_the_periodic_canvas_in_all_directions(rng):
    canvas = rng.permutation(512 * 512).astype(np.float32).reshape(512, 512)
    squares = tissue.cut(rng, canvas, 40, 5)
    assert squares.shape == (40, 5, 5)
    steps = set()
    for square in squares:
        (y, x), (below, _), (_, right) = (
            np.argwhere(canvas == value)[0] for value in (square[0, 0], square[1, 0], square[0, 1])
        )
        dy, dx = ((step + 1) % 512 - 1 for step in (below - y, right - x))
        rows, columns = (y + dy * np.arange(5)) % 512, (x + dx * np.arange(5)) % 512
        np.testing.assert_array_equal(square, canvas[np.ix_(rows, columns)])
        steps.add((int(dy), int(dx)))
    assert steps == {(-1, -1), (-1, 1), (1, -1), (1, 1)}


def test_a_field_is_read_at_the_nearest_pixel_and_its_border_beyond():
    field = np.arange(2 * 96 * 96).reshape(2, 96, 96)
    read = tissue.at(field, np.array([0, 1, 1]), np.array([3.4, -7.0, 50]), np.array([4.6, 2, 200]))
    np.testing.assert_array_equal(read, [field[0, 3, 5], field[1, 0, 2], field[1, 50, 95]])


def test_nests_hold_the_anchor_of_tumour_patches_and_spare_the_centre_of_others(rng):
    positive = np.arange(300) % 2 == 1
    nests = tissue.draw_nests(rng, tissue.draw_noise(rng), positive)
    assert nests.depth.dtype == np.float32
    number = np.flatnonzero(positive)
    y, x = nests.anchor_y[number], nests.anchor_x[number]
    assert (abs(y - 47.5) <= 11).all() and (abs(x - 47.5) <= 11).all()
    assert tissue.at(nests.depth, number, y, x).min() > 10
    assert nests.depth[~positive, CENTRE, CENTRE].max() < 0
    assert 0.08 < (nests.depth[~positive] > 0).any(axis=(1, 2)).mean() < 0.28


def test_holes_keep_out_of_nests_and_fat_has_them_always(rng):
    noise = tissue.draw_noise(rng)
    nests = tissue.draw_nests(rng, noise, np.arange(200) % 2 == 1)
    only_fat = np.tile([0.0, 0, 0, 0, 1], (200, 1))
    host = tissue.draw_host(rng, noise, nests, only_fat)
    assert not ((host.hole > 0) & (nests.depth > -1)).any()
    assert (host.hole[~nests.positive] > 0).any(axis=(1, 2)).mean() > 0.8
    for field in (host.stroma, host.sinus):
        assert 0 <= field.min() < field.max() <= 1
    only_cortex = np.tile([1.0, 0, 0, 0, 0], (200, 1))
    cortex = tissue.draw_host(rng, noise, nests, only_cortex)
    assert (cortex.hole > 0).any(axis=(1, 2)).mean() < 0.1
    assert cortex.stroma.mean() < 0.05


def test_fibres_run_along_their_angle(rng):
    noise = tissue.draw_noise(rng)
    nests = tissue.draw_nests(rng, noise, np.zeros(100, bool))
    host = tissue.draw_host(rng, noise, nests, np.tile([1.0, 0, 0, 0, 0], (100, 1)))
    by_y, by_x = np.gradient(host.fibres, axis=(1, 2))
    cosine, sine = np.cos(host.fibre_angle[:, None, None]), np.sin(host.fibre_angle[:, None, None])
    along, across = by_x * cosine + by_y * sine, by_y * cosine - by_x * sine
    assert (along**2).mean() < 0.6 * (across**2).mean()
