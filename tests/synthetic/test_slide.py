import dataclasses

import numpy as np
import pytest

from pcam_tf.errors import InputError
from pcam_tf.synthetic import slide, slide_plan

PLAN = slide_plan.plan_slide(640, radii_px=(70, 45, 12), pen=True, fold=True)


@pytest.fixture(scope="module")
def drawn():
    """Return a square of the slide with its islands."""
    return slide.draw_window(PLAN, 128, 128, 384, 384)


def test_any_window_shows_the_same_tissue(drawn):
    part = slide.draw_window(PLAN, 230, 190, 90, 110)
    np.testing.assert_array_equal(part, drawn[102:192, 62:172])


def test_islands_lie_apart_within_the_tissue_down_to_isolated_cells():
    assert [island.radius for island in PLAN.islands] == [70, 45, 12]
    (tissue,) = PLAN.tissue
    for island in PLAN.islands:
        x, y = island.outline().T
        assert (tissue.depth(y, x) > 0).all()
        for other in PLAN.islands:
            assert other is island or (other.depth(y, x) < -50).all()


def test_tumour_nuclei_are_drawn_in_islands_and_nowhere_else():
    """Tumour alone differs between a slide and the same without islands."""
    without = dataclasses.replace(PLAN, islands=())
    y, x = np.float32(np.arange(128, 512))[:, None], np.float32(np.arange(128, 512))[None]
    depth = np.max([island.depth(y, x) for island in PLAN.islands], axis=0)
    changed = np.abs(
        slide.draw_window(PLAN, 128, 128, 384, 384).astype(int)
        - slide.draw_window(without, 128, 128, 384, 384)
    ).max(-1)
    assert (changed[depth > 3] > 10).mean() > 0.7
    assert (changed[depth < -15] > 10).mean() < 0.001
    for island in PLAN.islands:
        middle = changed[int(island.y) - 133 : int(island.y) - 123, int(island.x) - 128]
        assert middle.max() > 10


def test_glass_tissue_pen_and_fold_have_their_colours(drawn):
    glass = slide.draw_window(PLAN, 0, 320, 8, 8)
    assert glass.min() > 200
    (pen, *_), (fold, *_) = PLAN.pens, PLAN.folds
    y, x = np.float32(np.arange(640))[:, None], np.float32(np.arange(640))[None]
    whole = slide.draw_window(PLAN, 0, 0, 640, 640).astype(float)
    tissue = PLAN.tissue[0].depth(y, x)
    blue = whole[(pen.depth(y, x) > 2) & (tissue < -20)].mean(axis=0)
    assert blue[2] > blue[0] + 60
    folded = (fold.depth(y, x) > 2) & (tissue > 10)
    assert whole[folded].mean() < whole[tissue > 10].mean() - 30


def test_pale_tissue_is_paler_and_dark_tissue_darker():
    means = [
        slide.draw_window(
            slide_plan.plan_slide(640, radii_px=(), stain=stain), 256, 256, 128, 128
        ).mean()
        for stain in ("pale", "usual", "dark")
    ]
    assert means[0] > means[1] + 30 > means[2] + 40


def test_what_cannot_be_drawn_is_refused():
    for options in ({"stain": "red"}, {"side_px": 100}):
        with pytest.raises(InputError, match="give one of"):
            slide_plan.plan_slide(**options)
