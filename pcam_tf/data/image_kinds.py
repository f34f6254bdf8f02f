"""What a picture's header says about how its pixels are stored, and which kinds are refused.

Pillow reads some TIFF files wrongly (16 bits in planes) and takes the first of several channels for
the whole picture. So TIFF files are judged by their tags before Pillow reads them.
"""

import logging
from typing import Any, NamedTuple

import numpy as np

from pcam_tf.data import image_scale

LARGEST_PX = 50_000_000
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
}
_JPEG_2000 = (33003, 33004, 33005, 34712)
_JPEG = (6, 7)
# None, CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard. Others may end the process in libtiff.
_COMPRESSIONS = (1, 2, 3, 4, 5, *_JPEG, 8, 32773, 32946, 34925, 50000)
_JPEG_2000_FILES = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_GREY, _COLOUR = (0, 1), (0, 1, 2, 3, 5, 6)
_YCBCR = 6
# Counting the pages of a file with thousands of them takes long.
_MOST_PAGES = 64


class TiffHeader(NamedTuple):
    """What the tags of a TIFF say."""

    size: tuple[int, int]  # width, height
    tags: dict[int, Any]  # of the first page
    description: str
    refused: str = ""  # why it cannot be read, or ""
    unusual: str = ""  # what to call it if Pillow does not know it
    notes: tuple[str, ...] = ()
    channel_pages: tuple[int, ...] = ()  # grey pages that are red, green and blue
    planes: np.ndarray | None = None  # three grey channels in one page, uint8 (height, width, 3)


def file_format(start: bytes) -> str | None:
    """Return "PNG", "JPEG", "TIFF" or "JPEG 2000" from a file's first 12 bytes, or None."""
    if start.startswith(_JPEG_2000_FILES):
        return "JPEG 2000"
    return next((name for sign, name in _SIGNATURES.items() if start.startswith(sign)), None)


def tiff_header(file) -> TiffHeader:
    """Return what the tags of an open TIFF file say; nothing but grey planes is decoded.

    Raises:
        Exception: a damaged file; of any kind.
    """
    # Not above: only TIFF files need it.
    import tifffile

    # It logs what is odd in a file; a file that matters is refused in one line.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        tags = {tag.code: tag.value for tag in page.tags if tag.code < 400}
        header = TiffHeader((page.imagewidth, page.imagelength), tags, str(page.description))
        header = header._replace(refused=_refused_kind(page), unusual=_unusual(page))
        if header.refused or page.imagewidth * page.imagelength > LARGEST_PX:
            return header
        header = _with_pages(header, tiff)
        if not header.refused and page.photometric in _GREY and page.samplesperpixel == 3:
            return _with_planes(header, page)
        return header


def _refused_kind(page):
    """Return why a page of a TIFF cannot be read, or ""."""
    bits = np.atleast_1d(page.tags.valueof(258, default=1)).max()
    formats = np.atleast_1d(page.tags.valueof(339, default=1))
    if not np.isin(formats, (1, 4)).all():
        return "floating-point or signed numbers"
    if bits > 8:
        return f"{bits} bits a channel"
    if page.compression in _JPEG_2000:
        return "JPEG 2000"
    if page.compression not in _COMPRESSIONS:
        return f"compression {_word(page.compression)}"
    if page.photometric == _YCBCR and page.compression not in _JPEG:
        return "YCbCr without JPEG"
    if page.photometric not in _COLOUR:
        return f"colours {_word(page.photometric)}"
    if page.photometric in _GREY and page.samplesperpixel > 3:
        return f"{page.samplesperpixel} grey channels"
    if page.photometric == 2 and page.samplesperpixel < 3:
        return f"{page.samplesperpixel} channels of colour"
    return ""


def _unusual(page):
    return (
        f"{page.samplesperpixel} channels of {np.atleast_1d(page.bitspersample).max()} bits, "
        f"colours {_word(page.photometric)}, compression {_word(page.compression)}"
    )


def _word(value):
    """Return the name of a tag's value, or the number where it has none."""
    return getattr(value, "name", str(value))


def _with_pages(header, tiff):
    """Return the header with what is to be done with further pages."""
    count = len(tiff.pages)
    pages = [tiff.pages[number] for number in range(min(count, _MOST_PAGES))]
    first, size = pages[0], header.size
    # Smaller copies for display hold nothing new.
    others = [page for page in pages[1:] if not page.is_reduced]
    left_out = count - len(pages) + len(others)
    if first.photometric in _GREY and first.samplesperpixel == 1:
        channels = image_scale.described_channels(header.description) or 1
        alike = [page for page in others if (page.imagewidth, page.imagelength) == size]
        grey = 1 + len(alike) + count - len(pages)
        if grey == channels == 3:
            refused = next(filter(None, map(_refused_kind, alike)), "")
            indices = (0, *(page.index for page in alike))
            notes = ["three grey pages read as red, green and blue"]
            notes += _left_out(len(others) - 2, count)
            return header._replace(refused=refused, channel_pages=indices, notes=tuple(notes))
        if grey > 1:
            return header._replace(refused=f"{grey} grey pages, not said to be red, green and blue")
        if channels > 1:
            return header._replace(refused=f"{channels} channels, of which one grey page is here")
    return header._replace(notes=tuple(_left_out(left_out, count)))


def _left_out(pages, count):
    return [f"{pages} of its {count} pages left out: the first was read"] if pages else []


def _with_planes(header, page):
    """Return the header with the pixels of three grey channels in one page."""
    try:
        pixels = page.asarray()
    except ValueError:  # a compression that tifffile reads with a further library only
        return header._replace(refused="three grey channels")
    pixels = pixels.reshape([side for side in pixels.shape if side != 1] or [1])
    if pixels.shape != (*header.size[::-1], 3):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape != (*header.size[::-1], 3) or pixels.dtype != np.uint8:
        return header._replace(refused="three grey channels")
    if page.photometric == 0:
        pixels = 255 - pixels
    notes = (*header.notes, "three grey channels read as red, green and blue")
    return header._replace(planes=np.ascontiguousarray(pixels), notes=notes)


def jpeg_oddity(content: bytes) -> str:
    """Return why a JPEG is of a kind that is not read (12 bits, lossless), or ""."""
    place = 2
    while place + 9 < len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits = content[place + 4]
            if bits != 8:
                return f"{bits} bits a channel"
            return "lossless JPEG" if marker in (0xC3, 0xC7, 0xCB, 0xCF) else ""
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return ""
