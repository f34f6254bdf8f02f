import errno
import gc
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import scanner_files
from PIL import Image

from pcam_tf.errors import InputError
from pcam_tf.slides import reader
from pcam_tf.task import PCAM

pytest.importorskip("openslide")

FILES = [
    ({"kind": "tiff", "mpp": 0.25}, "generic-tiff", 2),
    ({"kind": "tiff", "mpp": 0.4961, "unit": "INCH"}, "generic-tiff", 2),
    ({"kind": "tiff", "mpp": 1.0}, "generic-tiff", 1),
    ({"kind": "svs", "mpp": 0.25, "levels": 1}, "aperio", 1),
    ({"kind": "ome", "mpp": 0.25}, "ome-tiff", 2),
    ({"kind": "strips", "mpp": 0.4961, "levels": 1, "unit": "INCH"}, "tiff", 1),
]


@pytest.mark.parametrize(("options", "kind", "levels"), FILES)
def test_every_kind_shows_the_same_window_at_the_task_s_scale(
    slide_file, drawing, options, kind, levels
):
    with reader.opened(slide_file(**options)) as slide:
        assert (slide.backend.format, len(slide.backend.sizes)) == (kind, levels)
        assert slide.mpp == pytest.approx(options["mpp"])
        assert np.abs(np.subtract(slide.size_at(PCAM.mpp), 640)).max() <= 1
        window = slide.window(200, 150, 256, 256, PCAM.mpp)
    moved = [
        np.abs(window.astype(float) - drawing[150 + dy : 406 + dy, 200 + dx : 456 + dx]).mean()
        for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
    ]
    assert moved[0] < 6
    assert min(moved[1:]) > moved[0] + 2, "shifted"


SCANNERS = [
    (scanner_files.write_dicom, "slide.dcm", "dicom", 1, (0, 0)),
    (scanner_files.write_philips, "slide.tiff", "philips", 2, (0, 0)),
    (scanner_files.write_leica, "slide.scn", "leica", 2, scanner_files.LEICA_OFFSET),
]


@pytest.mark.parametrize(
    ("write", "name", "kind", "levels", "origin"), SCANNERS, ids=[each[2] for each in SCANNERS]
)
def test_files_of_scanners_show_what_was_scanned(
    tmp_path, drawing, write, name, kind, levels, origin
):
    write(tmp_path / name, drawing[:, :600], 0.5)
    with reader.opened(tmp_path / name) as slide:
        assert (slide.backend.format, len(slide.backend.sizes)) == (kind, levels)
        assert (slide.size, slide.backend.origin) == ((600, 640), origin)
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
        pixels = slide.pixels(0, 150, 200, 256, 256)
        half = slide.window(75, 100, 128, 128, 1.0)
    assert np.abs(pixels.astype(int) - drawing[200:456, 150:406]).mean() < 4
    expected = np.asarray(Image.fromarray(drawing).reduce(2))[100:228, 75:203]
    assert np.abs(half.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("kind", ["tiff", "ome"])
def test_a_slide_that_nobody_closes_is_closed(slide_file, kind):
    """Python warns of open files that are forgotten; here a warning is a failure."""
    slide = reader.open_slide(slide_file(kind=kind, mpp=0.25))
    assert slide.pixels(0, 0, 0, 9, 9).shape == (9, 9, 3)
    del slide
    gc.collect()


def test_windows_fit_together_and_are_mirrored_beyond_the_border(slide_file):
    with reader.opened(slide_file(kind="tiff", mpp=0.4961)) as slide:
        whole = slide.window(100, 100, 300, 200, PCAM.mpp).astype(int)
        part = slide.window(180, 150, 100, 100, PCAM.mpp)
        assert np.abs(whole[50:150, 80:180] - part).max() <= 2
        width, height = slide.size_at(PCAM.mpp)
        beyond = slide.window(width - 40, -30, 60, 60, PCAM.mpp)
        np.testing.assert_array_equal(beyond[1:30], beyond[59:30:-1])
        np.testing.assert_array_equal(beyond[:, 40:59], beyond[:, 38:19:-1])
        with pytest.raises(InputError, match="nothing at"):
            slide.window(0, height, 10, 10, PCAM.mpp)


def test_what_is_seen_in_the_mirror_is_the_slide_not_the_window(tmp_path, drawing):
    Image.fromarray(drawing).save(tmp_path / "part.png")
    with reader.opened(tmp_path / "part.png", PCAM.mpp) as slide:
        window = slide.window(620, 0, 96, 50, PCAM.mpp)  # 20 px lie within the slide
    columns = reader.mirrored(np.arange(620, 716), 640)
    assert columns[-1] == 640 - 2 - 75
    np.testing.assert_array_equal(window, drawing[:50, columns])


@pytest.mark.parametrize("kind", ["tiled", "strips"])
def test_grey_slides_are_read(tmp_path, drawing, kind):
    import tifffile

    options = {"tile": (256, 256)} if kind == "tiled" else {"rowsperstrip": 16}
    path, resolution = tmp_path / f"{kind}.ome.tif", (20_000, 20_000)  # a centimetre
    tifffile.imwrite(
        path, drawing[..., 0], resolution=resolution, resolutionunit="CENTIMETER", **options
    )
    with reader.opened(path, 0.5) as slide:
        pixels = slide.pixels(0, 10, 20, 30, 40)
    np.testing.assert_array_equal(pixels, np.repeat(drawing[20:60, 10:40, :1], 3, axis=-1))


@pytest.mark.parametrize("kind", ["tiff", "svs"])
def test_small_levels_are_read_as_they_are_stored(slide_file, kind):
    with reader.opened(slide_file(kind=kind, mpp=0.25)) as slide:
        whole = slide.pixels(1, 0, 0, *slide.backend.sizes[1])
        np.testing.assert_array_equal(slide.pixels(1, 203, 301, 90, 70), whole[301:371, 203:293])


def test_large_windows_are_read_in_parts(slide_file, monkeypatch):
    with reader.opened(slide_file(kind="strips", mpp=0.4961, levels=1)) as slide:
        thumbnail = slide.thumbnail(200)
        monkeypatch.setattr(reader, "_MOST_AT_ONCE", 300_000)
        assert thumbnail.shape == (200, 200, 3)
        assert np.abs(slide.thumbnail(200).astype(int) - thumbnail).max() <= 12


def test_tiles_of_a_deep_zoom_pyramid(slide_file):
    with reader.opened(slide_file(kind="tiff", mpp=0.4961)) as slide:
        deepest = slide.deepest_level
        assert 2 ** (deepest - 1) < max(slide.size) <= 2**deepest
        np.testing.assert_array_equal(
            slide.tile(deepest, 1, 2), slide.pixels(0, 256, 512, 256, 256)
        )
        columns = -(-slide.size[0] // 512)
        last = slide.tile(deepest - 1, columns - 1, 0)
        assert last.shape == (256, -(-slide.size[0] // 2) - 256 * (columns - 1), 3)
        assert slide.tile(0, 0, 0).shape == (1, 1, 3)
        for place in ((deepest, 99, 0), (deepest + 1, 0, 0)):
            with pytest.raises(InputError):
                slide.tile(*place)


def test_the_last_tile_may_be_less_than_half_a_pixel(tmp_path, drawing):
    Image.fromarray(drawing[:, :513]).save(tmp_path / "narrow.png")
    with reader.opened(tmp_path / "narrow.png", 0.5) as slide:
        assert slide.size_at(1.0)[0] == 256
        assert slide.tile(slide.deepest_level - 1, 1, 0).shape == (256, 1, 3)


class FakeSlide:
    """What OpenSlide returns for a slide of which a part was scanned."""

    level_dimensions = ((400, 300), (100, 75))
    level_downsamples = (1.0, 4.0)

    def __init__(self, **properties):
        self.properties = {f"openslide.{name.replace('_', '-')}": value
                           for name, value in properties.items()}  # fmt: skip

    def read_region(self, place, level, size):
        step = self.level_downsamples[level]
        y, x = np.mgrid[: size[1], : size[0]] * step
        pixels = np.stack([(place[0] + x) / 2, (place[1] + y) / 2, 0 * x, 0 * x + 255], axis=-1)
        pixels[0, 0] = 0
        return Image.fromarray(pixels.astype("uint8"))

    def close(self):
        pass


def test_bounds_are_the_origin_and_what_was_not_scanned_is_white():
    file = FakeSlide(bounds_x="40", bounds_y="80", bounds_width="200", bounds_height="100",
                     mpp_x="0.25", mpp_y="0.25", vendor="mirax")  # fmt: skip
    backend = reader.openslide_backend(file)
    assert backend.sizes == ((200, 100), (50, 25))
    assert (backend.origin, backend.mpp, backend.format) == ((40, 80), 0.25, "mirax")
    pixels = backend.read(1, 5, 10, 4, 4)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [(40 + 20 + 4) // 2, (80 + 40 + 4) // 2, 0]


SCALES = [
    ({"mpp_x": "0.25", "mpp_y": "0.25"}, 0.25, ""),
    ({"mpp_x": "0.25", "mpp_y": "0.5"}, 0.25, "the first counts"),
    ({"mpp_x": "352.8", "mpp_y": "352.8"}, None, "not used"),
    ({"objective_power": "40"}, None, "objective is 40×"),
    ({}, None, ""),
]


@pytest.mark.parametrize(("properties", "mpp", "note"), SCALES)
def test_the_scale_of_a_header(properties, mpp, note):
    backend = reader.openslide_backend(FakeSlide(**properties))
    assert backend.mpp == mpp
    assert note in " ".join(backend.notes)


def test_a_picture_is_a_slide_of_one_level(tmp_path, drawing):
    Image.fromarray(drawing).save(tmp_path / "part.png")
    with pytest.raises(InputError, match=r"part\.png states no scale that can be used: give --mpp"):
        reader.open_slide(tmp_path / "part.png")
    with reader.opened(tmp_path / "part.png", PCAM.mpp) as slide:
        assert (slide.size, slide.name, slide.backend.format) == ((640, 640), "part", "png")
        window = slide.window(10, 20, 100, 50, PCAM.mpp)
        np.testing.assert_array_equal(window, drawing[20:70, 10:110])
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(drawing[:200]).save(tmp_path / "turned.jpg", exif=exif)
    with reader.opened(tmp_path / "turned.jpg", 0.5) as slide:
        assert slide.size == (200, 640)
        assert slide.pixels(0, 0, 0, 200, 640).shape == (640, 200, 3)


def truncated(path, source):
    path.write_bytes(source.read_bytes()[:3000])


BAD = [
    ("no_slide.svs", lambda path, _: path.write_bytes(b"hello" * 9), "no slide that can be read"),
    ("empty.tif", lambda path, _: path.write_bytes(b""), "no slide that can be read"),
    ("folder.svs", lambda path, _: path.mkdir(), "Is a directory"),
    ("missing.svs", lambda path, _: None, "No such file"),
    ("short.tif", truncated, "damaged or not whole"),
    ("pointer.svs", lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1"),
     "Git LFS pointer"),
    ("sixteen.tif", lambda path, _: tiff(path, np.zeros((64, 64, 3), "uint16")), "3 channels of"),
    ("planes.tif", lambda path, _: tiff(path, np.zeros((3, 64, 64), "uint8"), "separate"),
     "channels in planes"),
]  # fmt: skip


def tiff(path, pixels, planes="contig"):
    import tifffile

    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig=planes, metadata=None)


@pytest.mark.parametrize(("name", "make", "message"), BAD, ids=[each[0] for each in BAD])
def test_bad_files_are_refused_in_one_line(tmp_path, slide_file, name, make, message):
    make(tmp_path / name, slide_file(kind="ome", mpp=0.25))
    with pytest.raises(InputError, match=message) as error:
        reader.open_slide(tmp_path / name, 0.5)
    assert "\n" not in str(error.value)


def test_the_content_counts_not_the_name(tmp_path, slide_file, drawing):
    (tmp_path / "named.png").write_bytes(slide_file(kind="svs", mpp=0.25, levels=1).read_bytes())
    with reader.opened(tmp_path / "named.png") as slide:
        assert (slide.backend.format, slide.mpp) == ("aperio", 0.25)
    Image.fromarray(drawing).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.svs")
    with reader.opened(tmp_path / "picture.svs", 0.5) as slide:
        assert (slide.backend.format, slide.size) == ("png", (640, 640))


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", denied)  # root may read all files
    with pytest.raises(InputError, match=r"slide\.svs is no slide .*\(Permission denied\)"):
        reader.open_slide(tmp_path / "slide.svs")


@pytest.mark.parametrize("silenced", [False, True])
def test_a_file_that_ends_before_its_last_level_is_refused(
    tmp_path, slide_file, monkeypatch, silenced
):
    import tifffile

    log = logging.getLogger("tifffile")
    monkeypatch.setattr(log, "disabled", silenced)
    monkeypatch.setattr(log, "level", logging.CRITICAL if silenced else logging.NOTSET)

    source = slide_file(kind="tiff", mpp=0.25)
    with tifffile.TiffFile(source) as file:
        end = file.pages[1].offset
    (tmp_path / "short.tif").write_bytes(source.read_bytes()[:end])
    with pytest.raises(InputError, match=r"short\.tif is damaged .*a level is missing"):
        reader.open_slide(tmp_path / "short.tif")


@pytest.mark.parametrize("mpp", [0, -1, 300, float("nan")])
def test_absurd_scales_are_refused(slide_file, mpp):
    with pytest.raises(InputError, match="microns per pixel: give a number"):
        reader.open_slide(slide_file(kind="tiff", mpp=0.25), mpp)


@pytest.mark.parametrize("kind", ["tiff", "ome"])
def test_damage_within_a_file_is_said_where_it_is_read(tmp_path, slide_file, kind):
    content = bytearray(slide_file(kind=kind, mpp=0.25).read_bytes())
    half = len(content) // 2
    content[2000:half] = bytes(half - 2000)
    (tmp_path / "damaged.tif").write_bytes(content)
    with (
        pytest.raises(InputError, match="damaged"),
        reader.opened(tmp_path / "damaged.tif") as slide,
    ):
        slide.window(0, 0, 640, 640, 0.3)
