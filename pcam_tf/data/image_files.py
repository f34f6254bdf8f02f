"""Pictures from outside: refused by their headers where they must be, then read as RGB."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from pcam_tf.errors import InputError
from pcam_tf.files import is_pointer

LARGEST_PX = 50_000_000
# Pillow opens dozens of formats, and each reader is a way in.
FORMATS = ("PNG", "JPEG", "TIFF")
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# What a microscope can mean. The 72 or 96 dots an inch that programs write of their own accord
# would be hundreds of microns a pixel.
PLAUSIBLE_MPP = (0.1, 5.0)
_X_RESOLUTION, _RESOLUTION_UNIT, _DESCRIPTION = 282, 296, 270
_MICRONS_IN_UNIT = {2: 25_400.0, 3: 10_000.0}  # inch, centimetre


@contextlib.contextmanager
def opened(path: str | Path, name: str | None = None) -> Iterator[Image.Image]:
    """Yield a picture whose header has been checked and whose pixels have not been decoded yet.

    Whatever the block raises while it decodes becomes an InputError as well.

    Args:
        path: a PNG, JPEG or TIFF file; of a TIFF with several pages, the first is meant.
        name: what to call it in messages; its path if left out.

    Raises:
        InputError: no such picture, or one that is animated, too large to decode, has more than
            8 bits a channel, or is damaged.
    """
    name = name or str(path)
    if is_pointer(path):
        raise InputError(f"{name} is a Git LFS pointer, not the picture: run `git lfs pull`.")
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > LARGEST_PX:
                raise _too_large(name, f"{width * height / 1e6:.0f}")
            if picture.format == "PNG" and getattr(picture, "is_animated", False):
                raise InputError(f"{name} is animated: save the one picture that is meant.")
            # Pillow calls 48-bit colour RGB as well, and would cut it to 8 bits a channel.
            if picture.mode not in _EIGHT_BIT_MODES or ";16" in str(picture.tile):
                mode = f"mode {picture.mode} or more than 8 bits a channel"
                raise InputError(f"{name} has {mode}: save it as 8-bit RGB.")
            yield picture
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, "far more") from error
    except Exception as error:  # what Pillow raises for a damaged file differs by format
        # Pillow's message may contain the path, which a server must not show to visitors.
        what = "damaged or cut short" if "truncated" in str(error) else "damaged or another format"
        raise InputError(
            f"{name} is not a picture that can be read ({what}): give a PNG, JPEG or TIFF file."
        ) from error


def _too_large(name, megapixels):
    return InputError(
        f"{name} has {megapixels} megapixels: give at most {LARGEST_PX / 1e6:.0f}, such as a part "
        "of the slide."
    )


def as_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, the right way up, on white where it is transparent.

    Grey, palette and CMYK pictures are converted; colour profiles are not looked at.
    """
    picture = ImageOps.exif_transpose(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def microns_per_pixel(picture: Image.Image) -> float | None:
    """Return the scale that a TIFF file states, or None where there is none to be believed."""
    tags = getattr(picture, "tag_v2", {})
    stated = re.search(r"\bMPP *= *([0-9.]+)", str(tags.get(_DESCRIPTION, "")))
    try:
        if stated:  # Aperio's way
            found = float(stated[1])
        else:
            found = _MICRONS_IN_UNIT[tags[_RESOLUTION_UNIT]] / float(tags[_X_RESOLUTION])
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return None
    low, high = PLAUSIBLE_MPP
    return found if low <= found <= high else None
