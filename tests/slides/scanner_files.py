"""Slides as scanners write them, with the least that OpenSlide asks for."""

import io
import struct

import numpy as np
import tifffile
from PIL import Image

TILE_PX = 256
LEICA_OFFSET = (300, 200)  # x, y of what was scanned
_WSI, _JPEG, _UID = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.2.4.50", "1.2.826.0.1.1"
_LONG = ("OB", "SQ")


def write_philips(path, pixels, mpp):
    """Write a TIFF of Philips' of two levels."""
    spacing = '<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" '
    spacing += 'PMSVR="IDoubleArray">"{0:.7f}" "{0:.7f}"</Attribute>'
    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{spacing.format(mpp * each / 1000)}'
        "</DataObject>"
        for each in (1, 2)
    )
    array = 'PMSVR="IDataObjectArray"><Array>'
    text = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        f'<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" {array}'
        '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE" '
        'Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute>'
        f'{spacing.format(mpp / 1000)}<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" '
        f'Group="0x1001" Element="0x8B01" {array}{levels}</Array></Attribute></DataObject>'
        "</Array></Attribute></DataObject>"
    )
    _write_levels(path, pixels, text, software="Philips DP v1.0")


def write_leica(path, pixels, mpp):
    """Write an SCN of Leica's of two levels, which lies at `LEICA_OFFSET` on the glass."""
    height, width = pixels.shape[:2]
    x, y = (round(each * mpp * 1000) for each in LEICA_OFFSET)
    size = 'sizeX="{}" sizeY="{}"'.format(*(round(each * mpp * 1000) for each in (width, height)))
    levels = "".join(
        f'<dimension sizeX="{width // step}" sizeY="{height // step}" r="{level}" ifd="{level}"/>'
        for level, step in enumerate((1, 2))
    )
    text = (
        '<?xml version="1.0" encoding="utf-8"?><scn '
        'xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c" '
        f'uuid="urn:uuid:1" sizeX="{10 * x}" sizeY="{10 * y}"><barcode>1</barcode><image name="i" '
        'uuid="urn:uuid:2"><creationDate>2020-01-01T00:00:00Z</creationDate><device '
        f'model="Leica SCN400" version="1"/><pixels sizeX="{width}" sizeY="{height}">{levels}'
        f'</pixels><view {size} offsetX="{x}" offsetY="{y}" spacingZ="1000"/><scanSettings>'
        "<objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield"
        "</illuminationSource></illuminationSettings></scanSettings></image></collection></scn>"
    )
    scale = {"resolution": (10_000 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    _write_levels(path, pixels, text, software=False, **scale)


def _write_levels(path, pixels, text, software, **options):
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(2):
            file.write(
                np.asarray(Image.fromarray(pixels).reduce(2**level)),
                tile=(TILE_PX,) * 2, compression="jpeg", photometric="rgb", metadata=None,
                description=None if level else text, software=None if level else software,
                subfiletype=level, **options,
            )  # fmt: skip


def write_dicom(path, pixels, mpp):
    """Write a DICOM slide of one level."""
    height, width = pixels.shape[:2]
    frames = [
        _jpeg(pixels[top : top + TILE_PX, left : left + TILE_PX])
        for top in range(0, height, TILE_PX) for left in range(0, width, TILE_PX)
    ]  # fmt: skip
    starts = np.cumsum([0] + [len(frame) + 8 for frame in frames[:-1]]).astype("<u4").tobytes()
    spacing = f"{mpp / 1000:.7f}"
    measures = _items(0x28, 0x9110, _element(0x28, 0x30, "DS", f"{spacing}\\{spacing}"))
    meta = b"".join([
        _element(2, 1, "OB", b"\0\1"), _element(2, 2, "UI", _WSI),
        _element(2, 3, "UI", f"{_UID}.1"), _element(2, 0x10, "UI", _JPEG),
        _element(2, 0x12, "UI", f"{_UID}.9"),
    ])  # fmt: skip
    data = b"".join([
        _element(8, 8, "CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"), _element(8, 0x16, "UI", _WSI),
        _element(8, 0x18, "UI", f"{_UID}.1"), _element(8, 0x60, "CS", "SM"),
        _element(0x20, 0xD, "UI", f"{_UID}.2"), _element(0x20, 0xE, "UI", f"{_UID}.3"),
        _element(0x20, 0x9311, "CS", "TILED_FULL"), _element(0x28, 2, "US", 3),
        _element(0x28, 4, "CS", "YBR_FULL_422"), _element(0x28, 6, "US", 0),
        _element(0x28, 8, "IS", str(len(frames))), _element(0x28, 0x10, "US", TILE_PX),
        _element(0x28, 0x11, "US", TILE_PX), _element(0x28, 0x100, "US", 8),
        _element(0x28, 0x101, "US", 8), _element(0x28, 0x102, "US", 7),
        _element(0x28, 0x103, "US", 0), _element(0x48, 6, "UL", width),
        _element(0x48, 7, "UL", height), _items(0x48, 0x105, _element(0x48, 0x106, "SH", "1")),
        _element(0x48, 0x303, "UL", 1), _items(0x5200, 0x9229, measures),
        struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF), _item(starts),
        *map(_item, frames), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    ])  # fmt: skip
    path.write_bytes(bytes(128) + b"DICM" + _element(2, 0, "UL", len(meta)) + meta + data)


def _jpeg(tile):
    full = np.full((TILE_PX, TILE_PX, 3), 255, "uint8")
    full[: tile.shape[0], : tile.shape[1]] = tile
    content = io.BytesIO()
    Image.fromarray(full).save(content, "JPEG", quality=90)
    return content.getvalue() + bytes(content.tell() % 2)


def _element(group, number, kind, value):
    """Return a data element of DICOM, explicit and little endian."""
    if isinstance(value, str):
        value = value.encode() + (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    elif isinstance(value, int):
        value = struct.pack("<H" if kind == "US" else "<I", value)
    length = struct.pack("<HI", 0, len(value)) if kind in _LONG else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind.encode() + length + value


def _item(content):
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _items(group, number, content):
    return _element(group, number, "SQ", _item(content))
