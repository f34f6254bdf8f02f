import numpy as np
import pytest
from PIL import Image

from pcam_tf.slides import reader, small_levels


@pytest.fixture
def counted(monkeypatch):
    """Make slides of 640 px large, and count the pixels that are read of them."""
    monkeypatch.setattr(small_levels, "_LARGE_PX", 100_000)
    monkeypatch.setattr(small_levels, "_MOST_PX", 7_000)
    monkeypatch.setattr(small_levels, "_AT_ONCE_PX", 640 * 40)
    monkeypatch.setattr(small_levels, "_kept", type(small_levels._kept)())
    pixels, own = [], reader._picture

    def picture(path):
        backend = own(path)

        def read(level, x, y, width, height):
            pixels.append(width * height)
            return backend.read(level, x, y, width, height)

        return backend._replace(read=read)

    monkeypatch.setattr(reader, "_picture", picture)
    return pixels


def test_a_large_slide_is_decoded_once_for_all_that_looks_at_the_whole(counted, tmp_path, drawing):
    drawing = drawing[:633]
    Image.fromarray(drawing).save(tmp_path / "slide.png")
    for _ in range(2):
        with reader.opened(tmp_path / "slide.png", 0.5) as slide:
            assert slide.backend.sizes == ((640, 633), (80, 80))
            thumbnail = slide.thumbnail(60)
            window = slide.window(20, 30, 20, 10, 5.0)
    assert sum(counted) == 640 * 633
    expected = np.asarray(Image.fromarray(drawing).resize((60, 59), Image.Resampling.BOX))
    assert np.abs(thumbnail.astype(int) - expected).mean() < 4
    part = drawing[300:400, 200:400].reshape(10, 10, 20, 10, 3).mean(axis=(1, 3))
    moved = [np.abs(window[:, 1:-1] - part[:, 1 + dx : 19 + dx]).mean() for dx in (-1, 0, 1)]
    assert moved[1] < 12 and moved[1] < min(moved[0], moved[2])


def test_a_changed_file_is_read_anew(counted, tmp_path, drawing):
    Image.fromarray(drawing).save(tmp_path / "slide.png")
    with reader.opened(tmp_path / "slide.png", 0.5) as slide:
        before = slide.thumbnail(60)
    Image.fromarray(255 - drawing).save(tmp_path / "slide.png")
    with reader.opened(tmp_path / "slide.png", 0.5) as slide:
        assert np.abs(slide.thumbnail(60).astype(int) - before).mean() > 30


def test_patches_are_read_from_the_file(counted, tmp_path, drawing):
    Image.fromarray(drawing).save(tmp_path / "slide.png")
    with reader.opened(tmp_path / "slide.png", 0.5) as slide:
        np.testing.assert_array_equal(slide.window(10, 20, 96, 96, 0.5), drawing[20:116, 10:106])
    assert sum(counted) == (96 + 8) ** 2  # with the margin of the resampling


def test_small_slides_and_pyramids_have_their_own_levels_only(slide_file):
    with reader.opened(slide_file(kind="tiff", mpp=0.25)) as slide:
        assert len(slide.backend.sizes) == 2
