import numpy as np
import odd_pictures
import pytest

from pcam_tf import slides
from pcam_tf.errors import InputError
from pcam_tf.slides import regions


def test_glass_and_black_are_no_tissue():
    region = np.full((100, 170, 3), 240, "uint8")
    region[:32, :32] = 0
    region[64:70, 100:106] = (200, 100, 180)
    noise = np.random.default_rng(0).integers(-2, 3, region.shape)
    tissue = slides.tissue_mask((region + noise).clip(0, 255).astype("uint8"))
    assert tissue.shape == (4, 6)
    assert np.argwhere(tissue).tolist() == [[2, 3]]


@pytest.mark.parametrize("stride_px", [32, 48, 64, 96])
def test_each_cell_is_judged_by_the_patch_around_it(stride_px):
    seen, told = [], []

    def predict(patches):
        assert len(patches) <= slides.BATCH_SIZE and patches.shape[1:] == (96, 96, 3)
        seen.extend(patches)
        return patches[:, 48, 48, 0] / 255

    heat = slides.heat_map(
        predict, odd_pictures.REGION, stride_px, lambda *counts: told.append(counts)
    )
    assert heat.shape == (-(-150 // stride_px), -(-200 // stride_px)) and heat.dtype == np.float32
    assert told[-1] == (heat.size, heat.size)
    # The middle of a cell that lies inside the region is the middle of its patch.
    inside = [side // stride_px for side in odd_pictures.REGION.shape[:2]]
    for row, column in np.ndindex(*inside):
        middle = [cell * stride_px + stride_px // 2 for cell in (row, column)]
        assert heat[row, column] == pytest.approx(odd_pictures.REGION[*middle, 0] / 255)
    # The last patch reaches beyond the region, which is mirrored there.
    padded = np.pad(odd_pictures.REGION, ((96, 96), (96, 96), (0, 0)), "reflect")
    top, left = (96 + (cells - 1) * stride_px + stride_px // 2 - 48 for cells in heat.shape)
    np.testing.assert_array_equal(seen[-1], padded[top : top + 96, left : left + 96])


def test_where_there_is_no_tissue_nothing_is_predicted():
    def predict(patches):
        raise AssertionError("there is nothing to predict")

    heat = slides.heat_map(predict, np.full((100, 100, 3), 240, "uint8"))
    assert np.isnan(heat).all()


def test_large_regions_are_looked_at_in_larger_steps(monkeypatch):
    assert slides.affordable_stride(odd_pictures.REGION) == 32
    monkeypatch.setattr(regions, "MOST_CELLS", 20)
    assert slides.affordable_stride(odd_pictures.REGION) == 48
    monkeypatch.setattr(regions, "MOST_CELLS", 0)
    assert slides.affordable_stride(odd_pictures.REGION) == 96


def test_cells_and_steps_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="there is no cell"):
        slides.patch_around(odd_pictures.REGION, 5, 0)
    with pytest.raises(InputError, match="there is no cell"):
        slides.patch_around(odd_pictures.REGION, 0, -1)
    with pytest.raises(InputError, match="give a multiple of 16 px"):
        slides.heat_map(None, odd_pictures.REGION, 40)
    with pytest.raises(InputError, match="at least 96×96"):
        slides.patch_around(odd_pictures.REGION[:90], 0, 0)


def test_one_pixel_of_tumour_makes_a_cell_tumour():
    mask = np.zeros((600, 800), "uint8")
    mask[4 * 63, 4 * 64] = 1
    found = slides.covered_cells(mask, (150, 200))
    assert np.argwhere(found).tolist() == [[1, 2]]
    assert slides.covered_cells(np.ones((600, 800)), (150, 200)).shape == (5, 7)


@pytest.mark.parametrize(
    "colour", [(40, 44, 52), (90, 98, 110), (0, 120, 215), (60, 63, 65), (30, 120, 60)]
)
def test_a_toolbar_of_a_screenshot_is_no_tissue(colour):
    noise = np.random.default_rng(0).normal(0, 2, (192, 192, 1))
    bar = (np.array(colour) + noise).clip(0, 255).astype("uint8")
    assert not slides.tissue_mask(bar, 32).any() and not slides.has_tissue(bar[:96, :96])
