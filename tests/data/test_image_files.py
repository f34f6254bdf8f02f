"""Pictures as users have them: every scale, kind and damage, and the right answer to each."""

import io
import zlib

import numpy as np
import odd_pictures
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from pcam_tf import prediction
from pcam_tf.app import findings, results, turns
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.task import BREAKHIS, PCAM

REGION = odd_pictures.REGION


def read_unscaled(path):
    """Return the pixels of a file, and the microns per pixel that it states or None."""
    with image_files.opened(path) as file:
        return file.pixels(), file.mpp


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
        image_files.read(path, name=path.name)
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
        found, mpp = read_unscaled(tmp_path / name)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == np.uint8 and mpp is None
    for name, mode in (("cmyk.tif", "CMYK"), ("cmyk.jpg", "CMYK"), ("plain.jpg", "RGB")):
        picture.convert(mode).save(tmp_path / name)
        found, _ = read_unscaled(tmp_path / name)
        assert np.abs(found.astype(int) - odd_pictures.REGION).mean() < 4, name


@pytest.mark.parametrize(
    ("tags", "mpp"),
    [
        ({"resolution": 25_400 / 0.25, "resolution_unit": 2}, 0.25),
        ({"resolution": 10_000 / 0.5, "resolution_unit": 3}, 0.5),
        ({"resolution": 72, "resolution_unit": 2}, None),
        ({"resolution": 20_000}, 1.27),
        ({"description": "Aperio |AppMag = 20|MPP = 0.4990|Left = 1"}, 0.499),
        ({"description": "MPP = ..", "resolution": 20_000, "resolution_unit": 3}, None),
        ({}, None),
    ],
)
def test_only_a_plausible_scale_is_believed(tmp_path, tags, mpp):
    Image.fromarray(odd_pictures.REGION).save(tmp_path / "region.tif", **tags)
    found = read_unscaled(tmp_path / "region.tif")[1]
    assert found == (mpp and pytest.approx(mpp, rel=1e-3))


def test_a_resolution_of_nothing_is_none(tmp_path):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[282], info[296] = TiffImagePlugin.IFDRational(0, 1), 2
    Image.fromarray(odd_pictures.REGION).save(tmp_path / "region.tif", tiffinfo=info)
    assert read_unscaled(tmp_path / "region.tif")[1] is None


def test_a_region_is_brought_to_the_scale_of_the_patches():
    fine = np.kron(odd_pictures.REGION, np.ones((4, 4, 1), "uint8"))
    found = image_files.rescaled(fine, PCAM.mpp / 4)
    assert found.shape == odd_pictures.REGION.shape
    assert np.abs(found.astype(int) - odd_pictures.REGION).mean() < 2
    assert image_files.rescaled(odd_pictures.REGION, PCAM.mpp) is odd_pictures.REGION
    for mpp, message in ((0, "give a number from 0.1 to 5"), (np.nan, "give a number"),
                         (0.25, "at least 96×96 px")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            image_files.rescaled(odd_pictures.REGION, mpp)
    with pytest.raises(InputError, match="check the number of microns per pixel"):
        image_files.rescaled(np.broadcast_to(np.uint8(9), (2000, 2000, 3)), 4.9)


def test_messages_speak_of_the_path_where_no_name_is_given(tmp_path):
    with (
        pytest.raises(InputError, match=r"missing\.png is not a picture"),
        image_files.opened(tmp_path / "missing.png"),
    ):
        pass


FINE = np.kron(REGION, np.ones((4, 4, 1), "uint8"))
OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/'
    '2016-06"><Image ID="Image:0"><Pixels DimensionOrder="XYCZT" SizeC="3" %s/></Image></OME>'
)
PER_MICRON, PER_INCH, PER_CM = (4, 1), (101_600, 1), (40_000, 1)  # 0.25 microns per pixel


def tiff(description="", x=None, y=None, unit=None):
    """Return the bytes of a TIFF of `FINE` with a description and a resolution."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if description:
        tags.tagtype[270], tags[270] = 2, description.encode("utf-8")
    for tag, value in ((282, x), (283, y or x)):
        if value:
            tags[tag] = TiffImagePlugin.IFDRational(*value)
    if unit:
        tags[296] = unit
    file = io.BytesIO()
    Image.fromarray(FINE).save(file, "tiff", tiffinfo=tags, compression="tiff_adobe_deflate")
    return file.getvalue()


def ome(sizes):
    return tiff(OME % sizes, (72, 1), unit=2)


def imagej(unit, x=PER_MICRON, tag_unit=1):
    return tiff(f"ImageJ=1.53t\nunit={unit}\nmin=0.0\n", x, unit=tag_unit)


def saved(suffix, **options):
    file = io.BytesIO()
    Image.fromarray(FINE).save(file, suffix, **options)
    return file.getvalue()


def png_of(x, unit=1):
    """Return the bytes of a PNG with a chunk pHYs, in pixels per metre."""
    content = saved("png")
    chunk = b"pHYs" + x.to_bytes(4, "big") * 2 + bytes([unit])
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    return content[:33] + (9).to_bytes(4, "big") + chunk + crc + content[33:]


SCALES = {
    "inch": (tiff(x=PER_INCH, unit=2), 0.25, ""),
    "cm": (tiff(x=PER_CM, unit=3), 0.25, ""),
    "no unit tag is inch": (tiff(x=PER_INCH), 0.25, ""),
    "unit none": (tiff(x=PER_INCH, unit=1), None, "without a unit"),
    "tifffile's default": (tiff(x=(1, 1), unit=1), None, ""),
    "72 dpi": (tiff(x=(72, 1), unit=2), None, "72 dots per inch"),
    "x and y": (tiff(x=PER_CM, y=(20_000, 1), unit=3), 0.25, "across and 0.5 down"),
    "zero": (tiff(x=(0, 1), unit=3), None, "cannot be read"),
    "Aperio": (tiff("Aperio |AppMag = 40|MPP = 0.2500|Left = 1"), 0.25, ""),
    "Aperio comma": (tiff("Aperio |MPP = 0,2500|Left = 1"), 0.25, ""),
    "Aperio exponent": (tiff("Aperio |MPP = 2.5e-1|Left = 1"), 0.25, ""),
    "Aperio exponent sign": (tiff("Aperio |MPP=+2.5E-01"), 0.25, ""),
    "Aperio no zero": (tiff("Aperio |MPP = .25|"), 0.25, ""),
    "Aperio unit": (tiff("Aperio |MPP = 0.25µm|"), 0.25, ""),
    "Aperio no number": (tiff("Aperio |MPP = none|"), None, "MPP = none"),
    "Aperio, 0.5 in tags": (tiff("MPP = 0.25", (20_000, 1), unit=3), 0.25, "0.5: the description"),
    "Aperio, 0.251 in tags": (tiff("MPP = 0.25", (39_850, 1), unit=3), 0.25, ""),
    "Aperio no number, tags": (tiff("MPP = ?", PER_CM, unit=3), None, "0.25: give that"),
    "OME µm": (ome('PhysicalSizeX="0.25" PhysicalSizeXUnit="µm"'), 0.25, "72 dots"),
    "OME Greek mu": (ome('PhysicalSizeX="0.25" PhysicalSizeXUnit="\u03bcm"'), 0.25, "72 dots"),
    "OME entity": (ome('PhysicalSizeX="0.25" PhysicalSizeXUnit="&#181;m"'), 0.25, "72 dots"),
    "OME default unit": (ome('PhysicalSizeX="0.25"'), 0.25, "72 dots"),
    "OME nm": (ome('PhysicalSizeX="250.0" PhysicalSizeXUnit="nm"'), 0.25, "72 dots"),
    "OME mm": (ome('PhysicalSizeX="2.5E-4" PhysicalSizeXUnit="mm"'), 0.25, "72 dots"),
    "OME x and y": (ome('PhysicalSizeX="0.25" PhysicalSizeY="0.5"'), 0.25, "across and 0.5 down"),
    "OME pixel": (ome('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"'), None, "72 dots"),
    "OME furlong": (ome('PhysicalSizeX="1" PhysicalSizeXUnit="fur"'), None, "1 fur"),
    "ImageJ micron": (imagej("micron"), 0.25, ""),
    "ImageJ um": (imagej("um"), 0.25, ""),
    "ImageJ µm": (imagej("µm"), 0.25, ""),
    "ImageJ escape": (imagej(r"\u00B5m"), 0.25, ""),
    "ImageJ mm": (imagej("mm", (4000, 1)), 0.25, ""),
    "ImageJ cm": (imagej("cm", PER_CM, 3), 0.25, ""),
    "ImageJ nm": (imagej("nm", (4, 1000)), 0.25, ""),
    "ImageJ inch": (imagej("inch", PER_INCH, 2), 0.25, ""),
    "ImageJ pixel": (imagej("pixel", (1, 1)), None, ""),
    "ImageJ furlong": (imagej("furlong"), None, "unit furlong"),
    "PNG": (png_of(4_000_000), 0.25, ""),
    "PNG screen": (png_of(3780), None, "96"),
    "PNG aspect only": (png_of(4, 0), None, ""),
    "JPEG cm": (saved("jpeg", dpi=(50_800, 50_800)), 0.5, ""),
    "JPEG screen": (saved("jpeg", dpi=(300, 300)), None, "300 dots per inch"),
    "JPEG silent": (saved("jpeg"), None, ""),
    "silent": (saved("tiff"), None, ""),
}


class Mean:
    """An engine whose probability is the mean of the red channel."""

    task = PCAM

    def predict_on_batch(self, patches):
        return patches[..., 0].mean(axis=(1, 2))[:, None].astype("float32") / 255


@pytest.mark.parametrize("kind", SCALES)
def test_a_stated_scale_is_obeyed_and_doubts_are_said(kind):
    content, mpp, note = SCALES[kind]
    found = image_files.read(content)
    assert found.is_assumed == (mpp is None)
    assert found.mpp == pytest.approx(mpp or PCAM.mpp, rel=1e-3)
    assert found.pixels.shape[1] == round(800 * (mpp or PCAM.mpp) / PCAM.mpp)
    doubts = [each for each in found.notes if "rescaled" not in each]
    assert any("rescaled" in each for each in found.notes) == (mpp is not None)
    assert (note in " ".join(doubts)) if note else not doubts
    given = image_files.read(content, mpp=0.5)
    assert (given.mpp, given.is_assumed, given.pixels.shape[1]) == (0.5, False, 412)


@pytest.mark.parametrize("kind", ["inch", "Aperio comma", "ImageJ micron", "OME nm", "PNG"])
def test_command_line_and_page_read_the_same(tmp_path, kind, recwarn):
    content, _, _ = SCALES[kind]
    path = tmp_path / f"one.{'png' if kind == 'PNG' else 'tif'}"
    path.write_bytes(content)
    for mpp in (None, 0.5):
        table = prediction.predict_images(Mean(), [path], mpp=mpp)
        reader = findings.Reader(None, Mean(), PCAM, "a model", 1.0, {})
        picture = image_files.read(path, PCAM, mpp)
        patch = results.patch_result(reader, "one", picture.pixels, turns.Work()).patch
        assert table["probability"][0] == pytest.approx(patch[..., 0].mean() / 255, abs=1e-6)


def by_tifffile(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def joined_by_page(**options):
    """Return red, green and blue as three grey pages."""
    return by_tifffile(REGION.transpose(2, 0, 1), photometric="minisblack", **options)


def pages(*each):
    file = io.BytesIO()
    first, *others = map(Image.fromarray, each)
    first.save(file, "tiff", save_all=True, append_images=others)
    return file.getvalue()


def jpeg_of_12_bits():
    content = bytearray(saved("jpeg"))
    content[content.index(b"\xff\xc0") + 4] = 12
    return bytes(content)


def retagged(values):
    """Return a TIFF whose tags say something else than is true."""
    file = io.BytesIO(by_tifffile(REGION, photometric="rgb"))
    with tifffile.TiffFile(file) as tiff_file:
        places = {tag.code: tag.valueoffset for tag in tiff_file.pages[0].tags}
    content = bytearray(file.getvalue())
    for tag, value in values.items():
        content[places[tag] : places[tag] + 2] = value.to_bytes(2, "little")
    return bytes(content)


WIDE = REGION.astype("uint16") * 257
PLANES = REGION.transpose(2, 0, 1)
READ = {
    "planes": (by_tifffile(PLANES, photometric="rgb", planarconfig="separate"), ""),
    "planes deflated": (
        by_tifffile(PLANES, photometric="rgb", planarconfig="separate", compression="zlib"), ""),
    "BigTIFF": (by_tifffile(REGION, photometric="rgb", bigtiff=True), ""),
    "big endian": (by_tifffile(REGION, photometric="rgb", byteorder=">"), ""),
    "OME channels": (
        joined_by_page(ome=True, metadata={"axes": "CYX"}), "read as red, green and blue"),
    "ImageJ channels": (
        joined_by_page(imagej=True, metadata={"axes": "CYX"}), "read as red, green and blue"),
    "grey planes": (
        by_tifffile(PLANES, photometric="minisblack", planarconfig="separate"),
        "read as red, green and blue"),
    "three grey channels": (
        by_tifffile(REGION, photometric="minisblack", planarconfig="contig"),
        "read as red, green and blue"),
    "pages": (pages(REGION, 255 - REGION, REGION[:9]), "2 of its 3 pages left out"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_channels_and_pages_are_read_as_colours(kind):
    content, note = READ[kind]
    found = image_files.read(content)
    np.testing.assert_array_equal(found.pixels, REGION)
    assert (note in " ".join(found.notes)) if note else not found.notes


KIND = r"is of a kind that cannot be read \(%s.*\): save it as 8-bit RGB"
REFUSED = {
    "uint16": (by_tifffile(WIDE, photometric="rgb"), KIND % "16 bits"),
    "uint16 planes": (
        by_tifffile(WIDE.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        KIND % "16 bits"),
    "float": (by_tifffile(REGION / np.float32(255), photometric="rgb"), KIND % "floating-point"),
    "signed": (by_tifffile((REGION // 2).astype("int8"), photometric="rgb"), KIND % "floating"),
    "grey pages": (joined_by_page(metadata=None), KIND % "3 grey pages"),
    "ImageJ stack": (
        joined_by_page(imagej=True, metadata={"axes": "ZYX"}), KIND % "3 grey pages"),
    "channels elsewhere": (
        by_tifffile(REGION[..., 0], description=OME % "", metadata=None),
        KIND % "3 channels, of which one"),
    "five channels": (
        by_tifffile(np.zeros((5, 150, 200), "uint8"), photometric="minisblack",
                    planarconfig="separate"), KIND % "5 grey channels"),
    "JPEG 2000 in TIFF": (retagged({259: 33005}), KIND % "JPEG 2000"),
    "unknown compression": (retagged({259: 50002}), KIND % "compression"),
    "YCbCr": (retagged({262: 6}), KIND % "YCbCr without JPEG"),
    "CIELab": (retagged({262: 8}), KIND % "colours CIELAB"),
    "12-bit JPEG": (jpeg_of_12_bits(), KIND % "12 bits"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), KIND % "JPEG 2000"),
    "WebP": (saved("webp"), "another format"),
    "cut TIFF": (by_tifffile(REGION, photometric="rgb")[:5000], "damaged or cut short"),
    "cut JPEG": (saved("jpeg")[:3000], "damaged or cut short"),
    "huge TIFF": (retagged({256: 20_000, 257: 3_000}), "one.tif has 60 megapixels"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_for_what_it_is(kind):
    content, message = REFUSED[kind]
    with pytest.raises(InputError, match=message) as error:
        image_files.read(content, name="one.tif")
    assert "\n" not in str(error.value) and str(error.value).startswith("one.tif ")
    if "damaged" not in message:
        with pytest.raises(InputError, match=message):
            image_files.check(content, name="one.tif")


def test_sizes_are_checked_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files.Opened, "pixels", lambda _: pytest.fail("decoded"))
    path = tmp_path / "large.png"
    odd_pictures.huge_png(path, 7000, 7000)
    with pytest.raises(InputError, match="would have 196 megapixels"):
        image_files.read(path, mpp=2 * PCAM.mpp)
    with pytest.raises(InputError, match="at least 96"):
        image_files.read(saved("png"), mpp=0.1)


def test_a_task_without_a_scale_is_refused_in_a_line():
    with pytest.raises(InputError, match="the task breakhis states no microns per pixel"):
        image_files.scaled_size((300, 300), 0.5, "x.png", BREAKHIS)
