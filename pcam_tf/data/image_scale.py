"""The microns per pixel that the header of a picture states, whoever wrote it.

Known are OME-XML, ImageJ's and Aperio's descriptions, and the resolution of TIFF, PNG and JPEG.
"""

import html
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pcam_tf.errors import InputError

# What a microscope can mean. The 72 or 96 dots an inch that programs write of their own accord
# would be hundreds of microns a pixel.
PLAUSIBLE_MPP = (0.1, 5.0)
# Numbers that differ by less are the same, written with fewer digits.
_TOLERANCE = 0.02
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, DESCRIPTION = 282, 283, 296, 270
INCH, CENTIMETRE = 25_400.0, 10_000.0
_TAG_UNITS = {2: INCH, 3: CENTIMETRE}
_UNITS = {
    "µm um micron microns micrometer micrometers micrometre micrometres": 1.0,
    "nm nanometer nanometers nanometre nanometres": 1e-3,
    "å angstrom angstroms": 1e-4,
    "mm millimeter millimeters millimetre millimetres": 1e3,
    "cm centimeter centimeters centimetre centimetres": CENTIMETRE,
    "m meter meters metre metres": 1e6,
    'in inch inches "': INCH,
}
MICRONS_IN_UNIT = {word: size for words, size in _UNITS.items() for word in words.split()}
_NO_UNIT = ("", "pixel", "pixels", "px", "reference frame", "null")


class Stated(NamedTuple):
    """What one part of a header says: numbers, or why there are none."""

    where: str  # "description" or "resolution"
    x: float | None = None  # microns per pixel; None: it cannot be read
    y: float | None = None
    text: str = ""  # as it is written, where that is more telling than the number


def chosen(described: Stated | None, resolution: Stated | None) -> tuple[float | None, list[str]]:
    """Return the microns per pixel to go by, or None, and notes about what is doubtful.

    The description comes before the resolution, which programs write without being asked.
    """
    notes = []
    for stated in (described, resolution):
        notes += _doubts(stated) if stated else []
    if described and resolution and _is_plausible(resolution.x):
        if not _is_plausible(described.x):
            notes.append(f"its resolution states {resolution.x:.4g}: give that if it is right")
        elif not math.isclose(described.x, resolution.x, rel_tol=_TOLERANCE):
            notes.append(
                f"its description states {described.x:.4g} microns per pixel and its resolution "
                f"{resolution.x:.4g}: the description counts"
            )
    first = described or resolution
    return (first.x if first and _is_plausible(first.x) else None), notes


def _doubts(stated):
    """Return the notes about one part of a header."""
    low, high = PLAUSIBLE_MPP
    written = f" ({stated.text})" if stated.text else ""
    if stated.x is None:
        return [f"its {stated.where} states a scale that cannot be read{written}: not used"]
    if not _is_plausible(stated.x):
        return [
            f"its {stated.where} states {stated.x:.4g} microns per pixel{written}, which is not "
            f"from {low:g} to {high:g} as a microscope's: not used"
        ]
    if stated.y and not math.isclose(stated.x, stated.y, rel_tol=_TOLERANCE):
        return [
            f"its {stated.where} states {stated.x:.4g} microns per pixel across and "
            f"{stated.y:.4g} down: the first counts for both"
        ]
    return []


def check_mpp(mpp: float) -> None:
    """Refuse microns per pixel that no microscope has.

    Raises:
        InputError: the line names the range.
    """
    if not _is_plausible(mpp):
        low, high = PLAUSIBLE_MPP
        raise InputError(f"{mpp:g} microns per pixel: give a number from {low:g} to {high:g}.")


def _is_plausible(mpp):
    low, high = PLAUSIBLE_MPP
    return mpp is not None and low <= mpp <= high


def of_tags(tags: Mapping[int, Any], description: str) -> tuple[float | None, list[str]]:
    """Return the microns per pixel of TIFF tags, and notes, see `chosen`.

    Args:
        tags: values by the numbers of tags, of a TIFF page or of EXIF.
        description: the text of the tag ImageDescription.
    """
    imagej = _of_imagej(description, tags)
    if imagej:  # its resolution is in the unit of the description, whatever the tag says
        return chosen(imagej, None)
    return chosen(_of_ome(description) or _of_aperio(description), _of_resolution(tags))


def of_dots(x: float, y: float, microns: float, text: str) -> tuple[float | None, list[str]]:
    """Return the microns per pixel of dots in a unit of so many microns, and notes."""
    sizes = [microns / each if each else None for each in (x, y)]
    return chosen(None, Stated("resolution", *sizes, text))


def _of_resolution(tags):
    """Return what the resolution of a TIFF states; without a unit it is in inches."""
    x, y = (_ratio(tags.get(tag)) for tag in (X_RESOLUTION, Y_RESOLUTION))
    unit = tags.get(RESOLUTION_UNIT, 2)
    if X_RESOLUTION not in tags or (unit not in _TAG_UNITS and x == 1):
        return None
    if unit not in _TAG_UNITS:
        return Stated("resolution", text=f"{tags_number(x)} without a unit")
    if not x:
        return Stated("resolution", text=f"{tags_number(x)}")
    word = "inch" if unit == 2 else "cm"
    sizes = [_TAG_UNITS[unit] / each if each else None for each in (x, y)]
    return Stated("resolution", *sizes, f"{x:.6g} dots per {word}")


def tags_number(value: float | None) -> str:
    """Return a number of a tag as text."""
    return "no number" if value is None else f"{value:.6g}"


def _ratio(value):
    """Return a rational number of a tag as a float, or None."""
    try:
        if isinstance(value, tuple):
            value = value[0] / value[1]
        value = float(value)
    except (TypeError, ValueError, ZeroDivisionError, IndexError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def number(text: str) -> float | None:
    """Return a number from text, with a point or a comma, with or without an exponent."""
    found = re.match(r"\s*([-+]?[\d.,]*\d[.,]?(?:[eE][-+]?\d+)?)", text)
    if not found:
        return None
    digits = found[1].rstrip(".,")
    if "," in digits:  # the last separator is the decimal one
        decimal = max(digits.rfind(","), digits.rfind("."))
        digits = re.sub("[.,]", "", digits[:decimal]) + "." + digits[decimal + 1 :]
    try:
        value = float(digits)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _microns(unit):
    """Return the microns in a unit, or None; QuPath and ImageJ write µ in several ways."""
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), unit)
    unit = html.unescape(unit).strip().replace("\u03bc", "µ").replace("\xc2", "").lower()
    return MICRONS_IN_UNIT.get(unit)


def _of_aperio(text):
    found = re.search(r"\bMPP\s*[=:]\s*([^|;\s]*)", text, re.IGNORECASE)
    if not found:
        return None
    mpp = number(found[1])
    return Stated("description", mpp, None, "" if mpp else f"MPP = {found[1][:20]}")


def ome_pixels(text: str) -> dict[str, str]:
    """Return the attributes of the first `Pixels` of an OME-XML description; {} without one."""
    found = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", text)
    if not found:
        return {}
    pairs = re.findall(r"""([\w:]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""", found[1])
    return {name: double or single for name, double, single in pairs}


def _of_ome(text):
    pixels = ome_pixels(text)
    sizes = []
    for axis in "XY":
        written = pixels.get(f"PhysicalSize{axis}")
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if written is None or unit.strip().lower() in _NO_UNIT:
            sizes.append(None)
            continue
        size, microns = number(written), _microns(unit)
        if axis == "X" and not (size and microns):
            return Stated("description", text=f"PhysicalSizeX {written[:20]} {unit[:20]}")
        sizes.append(size * microns if size and microns else None)
    return Stated("description", *sizes) if sizes[0] else None


def _of_imagej(text, tags):
    found = re.search(r"^unit=(.*)$", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    if not found or found[1].strip().lower() in _NO_UNIT:
        return None
    microns = _microns(found[1])
    x, y = (_ratio(tags.get(tag)) for tag in (X_RESOLUTION, Y_RESOLUTION))
    if not (microns and x):
        return Stated("description", text=f"unit {found[1][:20]}, resolution {tags_number(x)}")
    return Stated("description", microns / x, microns / y if y else None)


def described_channels(text: str) -> int | None:
    """Return how many channels an OME-XML or ImageJ description speaks of, or None."""
    imagej = re.search(r"^channels=(\d+)", text, re.MULTILINE) if "ImageJ=" in text[:7] else None
    written = imagej[1] if imagej else ome_pixels(text).get("SizeC", "")
    return int(written) if written.isdigit() else None
