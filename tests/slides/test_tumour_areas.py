import numpy as np
import pytest

from pcam_tf.slides import annotations
from pcam_tf.slides.tumour_areas import rings_around, signed_area, tumour_areas


def mask_of(areas, shape):
    return annotations.tumour_mask(
        annotations.Outlines([area.rings for area in areas], []), shape, 1
    )


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_the_centre_of_a_cell_lies_within_an_area_exactly_if_it_is_called(share):
    rng = np.random.default_rng(0)
    heat = rng.uniform(size=(40, 53)).astype("float32")
    heat[rng.uniform(size=heat.shape) < 0.2] = np.nan
    areas = tumour_areas(heat, 1 - share)
    np.testing.assert_array_equal(mask_of(areas, heat.shape), heat >= 1 - share)
    assert sum(area.cells for area in areas) == (heat >= 1 - share).sum()
    assert [area.cells for area in areas] == sorted((a.cells for a in areas), reverse=True)


def test_no_ring_touches_itself_or_another():
    rng = np.random.default_rng(1)
    heat = rng.uniform(size=(30, 30))
    rings = [ring for area in tumour_areas(heat, 0.5) for ring in area.rings]
    points = np.concatenate(rings)
    assert len(np.unique(points, axis=0)) == len(points)


def test_a_ring_with_a_hole_and_an_area_within_it():
    heat = np.zeros((9, 9), "float32")
    heat[1:8, 1:8] = 0.9
    heat[2:7, 2:7] = 0.1
    heat[4, 4] = 0.8
    outer, inner = tumour_areas(heat, 0.5)
    assert (len(outer.rings), len(inner.rings)) == (2, 1)
    assert signed_area(outer.rings[0]) > 0 > signed_area(outer.rings[1])
    assert (outer.cells, inner.cells) == (24, 1)
    assert (outer.mean, inner.highest) == pytest.approx((0.9, 0.8))
    assert outer.rings[0].min() == 1 and outer.rings[0].max() == 8
    assert len(outer.rings[0]) == 8  # four sides, four cut corners


def test_cells_that_touch_by_a_corner_are_one_area():
    (area,) = tumour_areas(np.eye(3), 0.5)
    assert (area.cells, len(area.rings)) == (3, 1)


def test_there_is_no_area_without_a_cell_at_the_threshold():
    assert tumour_areas(np.full((3, 3), np.nan), 0.0) == []
    assert len(tumour_areas(np.full((3, 3), 0.5), 0.5)) == 1


def test_rings_start_at_the_corner_that_is_given():
    (ring,) = rings_around(np.ones((2, 4), bool), (10, 20))
    assert (ring.min(axis=0).tolist(), ring.max(axis=0).tolist()) == ([20, 10], [24, 12])
