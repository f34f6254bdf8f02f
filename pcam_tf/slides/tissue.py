"""Which part of a slide is tissue: a mask at low resolution, from optical density and its colour.

Haematoxylin and eosin absorb green most. Ink, dust, coverslip edges and toolbars of screenshots
absorb another colour most, or all alike, and saturation alone would take many of them for tissue.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage import filters

from pcam_tf import stain
from pcam_tf.errors import InputError
from pcam_tf.files import printable
from pcam_tf.slides import annotations
from pcam_tf.slides.grid import Grid
from pcam_tf.slides.reader import Slide

MASK_UM = 8.0  # side of a mask pixel
_MOST_PX = 4_000_000  # of a mask; larger slides have larger mask pixels
# Optical densities (natural logarithm) of green. The threshold is Otsu's within these: above the
# noise of glass, and so low that a dark section does not hide a pale one.
_LOWEST, _HIGHEST = 0.05, 0.10
# Density of red and of blue relative to green. Measured at 8 µm: H&E is up to 1.1 and 0.8 (99 %
# of a slide's tissue), blue ink (1.3, 0.2), green (3.2, 2.1), black (1.0, 0.9), red (0.1, 0.85).
_MOST_RED, _MOST_BLUE = 1.15, 0.82
_SMALLEST_UM2 = 10_000.0  # smaller pieces are dust, smaller holes are lumens
# Glass: bright, nearly grey, but not the pure white of what was not scanned.
_DIMMEST, _MOST_COLOUR, _PURE_WHITE, USUAL_GLASS = 180, 30, 254, 245.0
_GLASS_SHARE = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Tissue:
    """Where a slide's tissue is.

    Attributes:
        mask: bool (height, width), from the slide's top left on.
        mpp: microns per mask pixel.
    """

    mask: np.ndarray
    mpp: float

    def cells(self, grid: Grid) -> np.ndarray:
        """Return which cells of a grid hold any tissue, bool (rows, columns)."""
        row, column = np.nonzero(self.mask)
        found = np.zeros((grid.rows, grid.columns), bool)
        # Of mask pixels whose centre lies in the cell, and the one in whose area its centre is.
        places = [
            np.minimum((each + 0.5) * self.mpp / grid.step_um, most - 1).astype(int)
            for each, most in ((row, grid.rows), (column, grid.columns))
        ]
        found[tuple(places)] = True
        middles = [
            np.minimum((np.arange(cells) + 0.5) * grid.step_um / self.mpp, side - 1).astype(int)
            for cells, side in zip(found.shape, self.mask.shape, strict=True)
        ]
        return found | self.mask[np.ix_(*middles)]


def find(slide: Slide) -> Tissue:
    """Return the tissue of a slide.

    Raises:
        InputError: the file is damaged.
    """
    mpp = _mask_mpp(slide)
    picture = slide.window(0, 0, *slide.size_at(mpp), mpp)
    return Tissue(mask_of(picture, mpp), mpp)


def _mask_mpp(slide):
    width, height = slide.size
    return max(MASK_UM, slide.mpp * math.sqrt(width * height / _MOST_PX), slide.mpp)


def of_outlines(path: str | Path, slide: Slide) -> Tissue:
    """Return the tissue within the polygons of a GeoJSON file, whatever their class.

    Args:
        path: of the file, in level-0 pixels, as QuPath writes it.
        slide: that it is of.

    Raises:
        InputError: the file cannot be read, or holds no polygon on the slide.
    """
    outlines, mpp = annotations.read_outlines(path, any_class=True), _mask_mpp(slide)
    width, height = slide.size_at(mpp)
    mask = annotations.tumour_mask(outlines, (height, width), mpp / slide.mpp)
    if not mask.any():
        raise InputError(f"{printable(path)} holds no polygon on the slide {slide.name}.")
    return Tissue(mask, mpp)


def mask_of(picture: np.ndarray, mpp: float) -> np.ndarray:
    """Return which pixels of a picture are tissue, bool (height, width).

    Args:
        picture: uint8 (height, width, 3), about 8 µm a pixel.
        mpp: microns per pixel of the picture.
    """
    density = stain.optical_density(picture.astype("float32"), _glass(picture))
    density = ndimage.gaussian_filter(density, (1, 1, 0))
    green = density[..., 1]
    threshold = filters.threshold_otsu(np.clip(green, 0, 1))
    tissue = is_stained(density) & (green > np.clip(threshold, _LOWEST, _HIGHEST))
    tissue = ndimage.binary_closing(np.pad(tissue, 2, "edge"), iterations=2)[2:-2, 2:-2]
    tissue = ndimage.binary_opening(np.pad(tissue, 1, "edge"))[1:-1, 1:-1]
    return _without_specks(tissue, min(_SMALLEST_UM2 / mpp**2, tissue.size / 4))


def is_stained(density: np.ndarray) -> np.ndarray:
    """Return where haematoxylin and eosin may have made a colour, bool (...).

    Args:
        density: natural optical densities (..., 3) of areas of about 8 µm.
    """
    red, green, blue = np.moveaxis(density, -1, 0)
    return (green >= _LOWEST) & (red <= _MOST_RED * green) & (blue <= _MOST_BLUE * green)


def _without_specks(mask, least_px):
    """Return a mask without pieces, then without holes, of fewer pixels."""
    for wanted in (True, False):
        pieces, _ = ndimage.label(mask == wanted)
        is_small = np.bincount(pieces.ravel()) < least_px
        is_small[0] = False  # what is not in any piece
        mask = mask ^ is_small[pieces]
    return mask


def _glass(picture):
    """Return the light behind the section, float32 (3,): of bright grey, the brighter part."""
    picture = picture[::2, ::2]  # enough to count
    dimmest, brightest = picture.min(axis=-1), picture.max(axis=-1)
    grey = (dimmest >= _DIMMEST) & (brightest - dimmest <= _MOST_COLOUR)
    grey &= dimmest < _PURE_WHITE
    if grey.mean() < _GLASS_SHARE:
        return np.full(3, USUAL_GLASS, "float32")
    return np.percentile(picture[grey], 90, axis=0).astype("float32")
