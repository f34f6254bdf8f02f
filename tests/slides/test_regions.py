import numpy as np
import odd_pictures
import pytest
from PIL import Image, TiffImagePlugin

from pcam_tf import slides
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.slides import regions
from pcam_tf.task import PCAM


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("huge", "huge.png has 60 megapixels: give at most 50"),
        ("gigapixel", "gigapixel.png has far more megapixels: give at most 50"),
        ("16-bit", "save it as 8-bit RGB"),
        ("16-bit grey", "save it as 8-bit RGB"),
        ("float", "save it as 8-bit RGB"),
        ("text", "not a picture that can be read"),
        ("empty", "not a picture that can be read"),
        ("truncated", "damaged or cut short"),
        ("truncated JPEG", "damaged or cut short"),
        ("corrupt", "not a picture that can be read"),
        ("animated PNG", "is animated"),
        ("GIF", "give a PNG, JPEG or TIFF file"),
        ("animated WebP", "give a PNG, JPEG or TIFF file"),
        ("tiny", "at least 96×96 px are needed"),
    ],
)
def test_bad_uploads_are_refused_in_one_line(tmp_path, kind, message):
    path = odd_pictures.make(tmp_path, kind)
    with pytest.raises(InputError, match=message) as error:
        slides.rescaled(slides.read_region(path, path.name)[0], PCAM.mpp)
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_odd_pictures_are_read_as_what_they_show(tmp_path):
    picture = Image.fromarray(odd_pictures.REGION)
    quarters = picture.quantize(64)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise to be seen upright
    kept = np.full((150, 200, 1), 255, "uint8")
    kept[:, :100] = 0
    on_white = np.where(kept > 0, odd_pictures.REGION, 255)
    for name, written, options, expected in (
        ("grey.png", picture.convert("L"), {}, np.asarray(picture.convert("L").convert("RGB"))),
        ("palette.png", quarters, {}, np.asarray(quarters.convert("RGB"))),
        ("alpha.png", Image.fromarray(np.dstack([odd_pictures.REGION, kept])), {}, on_white),
        ("exif.png", picture, {"exif": exif}, np.rot90(odd_pictures.REGION, -1)),
        ("lzw.tif", picture, {"compression": "tiff_lzw"}, odd_pictures.REGION),
        ("pages.tif", picture, {"save_all": True, "append_images": [picture.resize((100, 75))]},
         odd_pictures.REGION),
    ):  # fmt: skip
        written.save(tmp_path / name, **options)
        found, mpp = slides.read_region(tmp_path / name)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == np.uint8 and mpp is None
    for name, mode in (("cmyk.tif", "CMYK"), ("cmyk.jpg", "CMYK"), ("plain.jpg", "RGB")):
        picture.convert(mode).save(tmp_path / name)
        found, _ = slides.read_region(tmp_path / name)
        assert np.abs(found.astype(int) - odd_pictures.REGION).mean() < 4, name


@pytest.mark.parametrize(
    ("tags", "mpp"),
    [
        ({"resolution": 25_400 / 0.25, "resolution_unit": 2}, 0.25),
        ({"resolution": 10_000 / 0.5, "resolution_unit": 3}, 0.5),
        ({"resolution": 72, "resolution_unit": 2}, None),
        ({"resolution": 20_000}, None),
        ({"description": "Aperio |AppMag = 20|MPP = 0.4990|Left = 1"}, 0.499),
        ({"description": "MPP = ..", "resolution": 20_000, "resolution_unit": 3}, None),
        ({}, None),
    ],
)
def test_only_a_plausible_scale_is_believed(tmp_path, tags, mpp):
    Image.fromarray(odd_pictures.REGION).save(tmp_path / "region.tif", **tags)
    found = slides.read_region(tmp_path / "region.tif")[1]
    assert found == (mpp and pytest.approx(mpp, rel=1e-3))


def test_a_resolution_of_nothing_is_none(tmp_path):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[282], info[296] = TiffImagePlugin.IFDRational(0, 1), 2
    Image.fromarray(odd_pictures.REGION).save(tmp_path / "region.tif", tiffinfo=info)
    assert slides.read_region(tmp_path / "region.tif")[1] is None


def test_a_region_is_brought_to_the_scale_of_the_patches():
    fine = np.kron(odd_pictures.REGION, np.ones((4, 4, 1), "uint8"))
    found = slides.rescaled(fine, PCAM.mpp / 4)
    assert found.shape == odd_pictures.REGION.shape
    assert np.abs(found.astype(int) - odd_pictures.REGION).mean() < 2
    assert slides.rescaled(odd_pictures.REGION, PCAM.mpp) is odd_pictures.REGION
    for mpp, message in ((0, "give a number from 0.1 to 5"), (np.nan, "give a number"),
                         (0.25, "at least 96×96 px")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            slides.rescaled(odd_pictures.REGION, mpp)
    with pytest.raises(InputError, match="check the number of microns per pixel"):
        slides.rescaled(np.broadcast_to(np.uint8(9), (2000, 2000, 3)), 4.9)


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


def test_messages_speak_of_the_path_where_no_name_is_given(tmp_path):
    with (
        pytest.raises(InputError, match=r"missing\.png is not a picture"),
        image_files.opened(tmp_path / "missing.png"),
    ):
        pass
