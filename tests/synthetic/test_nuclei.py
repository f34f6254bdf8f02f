import numpy as np
import pytest
from scipy.spatial import KDTree

from pcam_tf.synthetic import nuclei, tissue

MARGIN_PX = nuclei.MARGIN_PX


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(1)
    noise = tissue.draw_noise(rng)
    nests = tissue.draw_nests(rng, noise, np.arange(60) % 2 == 1)
    host = tissue.draw_host(rng, noise, nests, np.tile([1.0, 0, 0, 0, 0], (60, 1)))
    cells = nuclei.draw_cells(
        rng, noise, nests, host, tumour_scale=np.ones(60), histiocyte_share=np.full(60, 0.1)
    )
    return nests, cells


def test_tumour_nuclei_lie_at_anchors_and_within_nests(drawn):
    nests, cells = drawn
    number = np.flatnonzero(nests.positive)
    y, x = nests.anchor_y[number], nests.anchor_x[number]
    assert tissue.at(cells.tumour_nuclei, number, y, x).all()
    assert cells.tumour_nuclei[nests.depth < -15].sum() == 0
    assert not cells.tumour_nuclei[~nests.positive, 32:64, 32:64].any()
    assert (cells.tumour_nuclei <= (cells.cover > 0.5)).all()
    assert (cells.body[cells.tumour_nuclei] > 0).mean() > 0.99


def test_a_nodes_own_cells_fill_it_and_keep_out_of_nests(drawn):
    nests, cells = drawn
    host_cover = np.where(cells.tumour_nuclei, 0, cells.cover)
    assert host_cover[nests.depth < -10].mean() > 0.4
    # What covers nests besides tumour's own nuclei is their soft edge and few lymphocytes.
    assert host_cover[nests.depth > 10].mean() < 0.15
    assert cells.cover.min() >= 0 and cells.cover.max() <= 1
    assert ((cells.haematoxylin > 0) == (cells.cover > 0)).all()


def test_bodies_share_pixels_out_to_the_nearest_cell(rng):
    padded = (1, 96 + 2 * MARGIN_PX, 96 + 2 * MARGIN_PX)
    patch, y, x = np.zeros(2, np.int64), np.array([40.0, 40.0]), np.array([40.0, 54.0])
    body = nuclei.draw_bodies(rng, padded, patch, y, x)
    assert body.shape == (1, 96, 96)
    assert body[0, 40, 36] == 1 and body[0, 40, 58] == 2
    assert body[0, 40, 44] == 1 and body[0, 40, 51] == 2
    assert body[0, 80, 80] == 0


def test_stamps_land_on_their_patch_and_the_darker_shows():
    layers = np.zeros((2, 2, 96 + 2 * MARGIN_PX, 96 + 2 * MARGIN_PX), np.float32)
    stamps = np.ones((2, 2, 3, 3), np.float32)
    stamps[1, 1] = 0.5
    patch, y, x = np.array([1, 1]), np.array([10.2, 11.0]), np.array([20.0, 19.8])
    nuclei.stamp(layers, stamps, patch, y, x, np.array([1.0, 4.0]))
    expected = np.zeros((2, 96, 96))
    expected[1, 9:12, 19:22] = 1
    expected[1, 10:13, 19:22] = 2  # half as dark a nucleus, stained four times as deep
    np.testing.assert_array_equal(layers[1][nuclei.INNER], expected)
    np.testing.assert_array_equal(layers[0][nuclei.INNER], expected > 0)


def test_lattice_is_hexagonal_and_covers_all_patches(rng):
    patch, y, x = nuclei._lattice(rng, np.array([8.0, 16.0]), 6, 0.0)
    for number, pitch in enumerate((8.0, 16.0)):
        points = np.stack([y, x], axis=1)[patch == number]
        assert points.min() > -6.5 and points.max() < 101.5
        middle = np.abs(points - 47.5).max(axis=1) < 48 + 6 - pitch
        distances, _ = KDTree(points).query(points[middle], k=7)
        np.testing.assert_allclose(distances[:, 1:], pitch, rtol=1e-3)
        corners = [[0, 0], [0, 95], [95, 0], [95, 95]]
        assert KDTree(points).query(corners)[0].max() < pitch


def test_banks_draw_what_they_are_asked_for(rng):
    grain = tissue.draw_noise(rng).fine
    look = nuclei.HOST_NUCLEI["spindle"]
    cover, haematoxylin = nuclei.draw_bank(rng, grain, **look)
    assert cover.shape == (nuclei.BANK, 19, 19)
    areas = cover.sum(axis=(1, 2))
    lowest, highest = (np.pi * look["length_px"][i] * look["width_px"][i] for i in (0, 1))
    assert lowest < areas.mean() < highest
    assert (haematoxylin >= 0.15 * cover - 1e-6).all()
    # Sorted by angle: the long axis of nucleus i points to i/256 of half a turn.
    axis = np.arange(19) - 9
    weight = cover / areas[:, None, None]
    mean_y = (weight * axis[:, None]).sum(axis=(1, 2), keepdims=True)
    mean_x = (weight * axis).sum(axis=(1, 2), keepdims=True)
    y, x = axis[:, None] - mean_y, axis - mean_x
    yy, xx, xy = ((weight * moment).sum(axis=(1, 2)) for moment in (y * y, x * x, x * y))
    angle = np.arctan2(2 * xy, xx - yy) / 2
    turn = (angle - np.linspace(0, np.pi, nuclei.BANK) + np.pi / 2) % np.pi - np.pi / 2
    assert np.abs(turn).max() < 0.2
