"""Areas of tumour on a heat map: what hangs together above a threshold, as polygons with holes."""

import dataclasses

import numpy as np
from skimage import measure


@dataclasses.dataclass(frozen=True)
class TumourArea:
    """Cells at or above a threshold that touch each other, corners included."""

    rings: list[np.ndarray]  # float64 (n, 2), x and y in cells: the outer ring, then the holes
    cells: int
    mean: float  # probability
    highest: float


def numbered_areas(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the number of the area that each cell belongs to, int (rows, columns); 0: none.

    Args:
        probabilities: float32 (rows, columns), NaN where there is no tissue.
        threshold: from which on a cell belongs to an area.
    """
    return measure.label(np.nan_to_num(probabilities, nan=-np.inf) >= threshold, connectivity=2)


def tumour_areas(probabilities: np.ndarray, threshold: float) -> list[TumourArea]:
    """Return the areas of a heat map, the largest first.

    The centre of a cell lies within an area exactly if its probability is at least the threshold.

    Args:
        probabilities: float32 (rows, columns), NaN where there is no tissue.
        threshold: of the probability.
    """
    areas = []
    for region in measure.regionprops(numbered_areas(probabilities, threshold)):
        values = probabilities[region.slice][region.image]
        rings = rings_around(region.image, region.bbox[:2])
        mean, highest = float(values.mean(dtype="float64")), float(values.max())
        areas.append(TumourArea(rings, len(values), mean, highest))
    return sorted(areas, key=lambda area: -area.cells)


def rings_around(mask: np.ndarray, corner: tuple[int, int] = (0, 0)) -> list[np.ndarray]:
    """Return the rings of a mask whose cells all touch: the outer one, then the holes.

    They run along the borders of cells and cut corners off, so that none touches itself or
    another. The outer ring has a positive area, as GeoJSON wants, a hole a negative one.

    Args:
        mask: bool (rows, columns), one piece; cells that touch by a corner belong together.
        corner: row and column of its first cell.

    Returns:
        Each float64 (n, 2), x and y in cells; the last point is not the first again.
    """
    found = measure.find_contours(np.pad(mask, 1).astype("uint8"), 0.5, fully_connected="high")
    rings = []
    for contour in found:
        ring = contour[:-1, ::-1] - 0.5 + np.array(corner[::-1])  # padded by 1, centres at 0.5
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        rings.append(ring[_cross(before, after) != 0])
    rings.sort(key=lambda ring: -abs(signed_area(ring)))
    return [
        ring if (signed_area(ring) > 0) == (number == 0) else ring[::-1]
        for number, ring in enumerate(rings)
    ]


def signed_area(ring: np.ndarray) -> float:
    """Return the area of a ring (n, 2); negative if it runs the other way round."""
    return float(_cross(ring, np.roll(ring, -1, axis=0)).sum() / 2)


def _cross(one, other):
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
