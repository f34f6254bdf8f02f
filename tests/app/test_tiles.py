import io

import numpy as np
import pytest
from PIL import Image

from pcam_tf.app import tiles
from pcam_tf.errors import InputError
from pcam_tf.slides import reader
from pcam_tf.synthetic import slide_files, slide_plan


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    pytest.importorskip("imagecodecs")
    plan = slide_plan.plan_slide(640, radii_px=(90,))
    path = slide_files.write_slide(plan, tmp_path_factory.mktemp("slides") / "one.tif")
    with reader.opened(path) as slide:
        yield slide


def decoded(content):
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "JPEG" and picture.size == (tiles.TILE_PX,) * 2
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_tile_is_the_slide_at_full_resolution(slide):
    shown = decoded(tiles.TileCache().tile("one", slide, tiles.full_level(slide), 0, 0))
    there = slide.pixels(0, 0, 0, 512, 512)
    assert np.abs(shown - there).mean() < 4  # JPEG's loss; a shift by a pixel gives 10


@pytest.mark.parametrize(("level", "scale"), [(0, 2), (2, 0.5), (4, 0.125)])
def test_each_level_doubles_the_scale(slide, level, scale):
    assert tiles.full_level(slide) == 1
    shown = decoded(tiles.TileCache().tile("one", slide, level, 0, 0))
    side = round(min(512, 640 / scale))
    there = slide.window(0, 0, side, side, slide.mpp * scale)
    assert np.abs(shown[:side, :side] - there).mean() < 4
    with pytest.raises(InputError, match="at level 5"):
        tiles.TileCache().tile("one", slide, 5, 0, 0)


def test_what_lies_beyond_the_slide_is_white(slide):
    shown = decoded(tiles.TileCache().tile("one", slide, 1, 1, 0))
    assert shown[:, 640 - 512 + 8 :].min() > 240 and shown[:, : 640 - 512].min() < 240
    for column, row in ((2, 0), (0, -1)):
        with pytest.raises(InputError, match="no tile"):
            tiles.TileCache().tile("one", slide, 1, column, row)


def test_tiles_are_kept_up_to_a_size_and_forgotten_with_their_slide(slide, monkeypatch):
    drawn = []
    draw = reader.Slide.window
    monkeypatch.setattr(reader.Slide, "window", lambda *all: drawn.append(all[1:]) or draw(*all))
    size = len(tiles.TileCache().tile("one", slide, 1, 0, 0))
    cache = tiles.TileCache(kept_bytes=int(size * 1.1))
    for column in (0, 0, 1, 0):
        cache.tile("one", slide, 1, column, 0)
    assert len(drawn) == 1 + 3
    cache.forget("one")
    cache.tile("one", slide, 1, 0, 0)
    assert len(drawn) == 1 + 4
