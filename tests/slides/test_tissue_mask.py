import json

import numpy as np
import pytest
from PIL import Image

from pcam_tf.errors import InputError
from pcam_tf.slides import reader, tissue
from pcam_tf.slides.grid import Grid, grid_over
from pcam_tf.slides.tissue import Tissue
from pcam_tf.synthetic import slide, slide_plan
from pcam_tf.task import PCAM

SIDE_PX, BLOCK = 1024, 8
MPP = BLOCK * PCAM.mpp


def drawn(plan):
    """Return a slide at low resolution, uint8 (height, width, 3), and its true mask."""
    pixels = slide.draw_window(plan, 0, 0, plan.height, plan.width)
    return np.asarray(Image.fromarray(pixels).reduce(BLOCK)), plan.tissue_mask(BLOCK)


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize(
    "options",
    [
        {"stain": "pale"},
        {"pen": True},
        {"fold": True, "stain": "dark"},
        {"stain": "pale", "pen": True, "fold": True, "seed": 3},
    ],
)
def test_tissue_of_synthetic_slides(options):
    picture, truth = drawn(slide_plan.plan_slide(SIDE_PX, radii_px=(100, 60), **options))
    found = tissue.mask_of(picture, MPP)
    assert overlap(found, truth) >= 0.93
    assert (found & ~truth).sum() < 0.05 * truth.sum()


@pytest.fixture(scope="module")
def section():
    return drawn(slide_plan.plan_slide(SIDE_PX, radii_px=(), seed=1))


FOREIGN = {
    "grey": (205, 205, 205),
    "black": (8, 8, 8),
    "dark grey": (90, 92, 95),
    "blue ink": (60, 85, 190),
    "green ink": (60, 155, 95),
    "red ink": (205, 40, 50),
    "not scanned": (255, 255, 255),
}


@pytest.mark.parametrize("colour", FOREIGN.values(), ids=FOREIGN)
def test_a_bar_of_another_colour_is_no_tissue(section, colour):
    picture, truth = section
    picture = picture.copy()
    picture[:12] = colour
    picture[:, -12:] = colour
    found = tissue.mask_of(picture, MPP)
    assert found[:10].sum() == found[:, -10:].sum() == 0
    truth = truth.copy()
    truth[:12] = truth[:, -12:] = False
    assert overlap(found, truth) >= 0.93


def test_dust_and_edges_of_a_coverslip_are_no_tissue(section):
    picture, truth = section
    picture = picture.copy()
    picture[4, :] = picture[:, 3] = (225, 210, 226)  # as pale tissue, but one pixel wide
    picture[120:124, 4:8] = (200, 130, 190)
    found = tissue.mask_of(picture, MPP)
    assert overlap(found, truth) >= 0.93
    assert found[:8].sum() == found[118:126, :10].sum() == 0


def test_a_region_that_is_all_tissue_is_tissue_and_glass_is_none(section):
    picture, truth = section
    inside = picture[45:85, 45:85]
    assert truth[45:85, 45:85].all()
    assert tissue.mask_of(inside, MPP).mean() > 0.97
    glass = 235 + np.random.default_rng(0).normal(0, 2, (90, 90, 3))
    assert not tissue.mask_of(glass.astype("uint8"), MPP).any()
    assert not tissue.mask_of(np.full((3, 4, 3), 255, "uint8"), MPP).any()


def test_cells_that_hold_tissue():
    mask = np.zeros((40, 60), bool)
    mask[8, 24] = True  # its centre is at x 196, y 68 µm
    coarse = Tissue(mask, 8.0).cells(Grid(10, 15, 32.0, 0.5))
    assert np.argwhere(coarse).tolist() == [[2, 6]]
    fine = Tissue(mask, 8.0).cells(Grid(80, 120, 4.0, 0.5))
    assert np.argwhere(fine).tolist() == [[16, 48], [16, 49], [17, 48], [17, 49]]
    full = Tissue(np.ones((40, 60), bool), 8.0)
    assert full.cells(grid_over((965, 645), 0.5, 31.0)).all()


def feature(ring, name):
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def test_a_mask_of_outlines(slide_file, tmp_path):
    square = [[400, 200], [800, 200], [800, 600], [400, 600], [400, 200]]
    content = {"type": "FeatureCollection", "features": [feature(square, "Tissue")]}
    (tmp_path / "mask.geojson").write_text(json.dumps(content))
    with reader.opened(slide_file(kind="tiff", mpp=0.4961)) as opened:
        found = tissue.of_outlines(tmp_path / "mask.geojson", opened)
        inside = np.argwhere(found.mask) * found.mpp / opened.mpp
        np.testing.assert_allclose(inside.min(axis=0), (200, 400), atol=16)
        np.testing.assert_allclose(inside.max(axis=0), (600, 800), atol=32)
        away = [[9000, 9000], [9900, 9000], [9900, 9900]]
        content["features"] = [feature(away, "Tissue")]
        (tmp_path / "mask.geojson").write_text(json.dumps(content))
        with pytest.raises(InputError, match="no polygon on the slide slide"):
            tissue.of_outlines(tmp_path / "mask.geojson", opened)


@pytest.mark.parametrize("options", [{"kind": "tiff", "mpp": 0.25}, {"kind": "strips", "mpp": 1.0}])
def test_the_tissue_of_a_file(slide_file, options):
    with reader.opened(slide_file(**options)) as opened:
        found = tissue.find(opened)
    assert found.mpp == tissue.MASK_UM
    truth = slide_plan.plan_slide(640, radii_px=(90, 60, 12)).tissue_mask(found.mpp / PCAM.mpp)
    rows, columns = (min(sides) for sides in zip(truth.shape, found.mask.shape, strict=True))
    assert overlap(found.mask[:rows, :columns], truth[:rows, :columns]) > 0.9
