"""The plan of a synthetic slide: where tissue, tumour islands, pen, folds and dust lie.

Lengths are pixels of the drawing, at the scale of `task.PCAM`, about a micron each. Everything is
analytic, so that the truth is known at any scale.
"""

import dataclasses

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.synthetic import section
from pcam_tf.task import PCAM

# How strongly the section took the stain.
STAINS = {"usual": 1.0, "pale": 0.35, "dark": 1.5}
RADII_PX = (450, 300, 180, 120, 60, 12)  # the last is isolated cells
ISOLATED_PX = 15  # islands of a smaller radius are isolated cells
_WAVES = (2, 3, 5)
_FAR_PX = 1e4
_INK = {"blue": (0.25, 0.35, 0.80), "green": (0.25, 0.65, 0.40), "black": (0.22, 0.22, 0.24)}


@dataclasses.dataclass(frozen=True)
class Blob:
    """A closed outline around a centre, whose radius varies with the direction."""

    y: float
    x: float
    radius: float  # the mean
    heights: tuple[float, ...]  # relative, of waves 2, 3 and 5 around
    turns: tuple[float, ...]

    def radius_at(self, angle: np.ndarray) -> np.ndarray:
        """Return the radius in directions (radians)."""
        waves = zip(_WAVES, self.heights, self.turns, strict=True)
        return self.radius * (1 + sum(h * np.cos(n * angle + turn) for n, h, turn in waves))

    def depth(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return about how many px a place lies inside, negative outside; y and x broadcast."""
        away_y, away_x = np.float32(y - self.y), np.float32(x - self.x)
        return self.radius_at(np.arctan2(away_y, away_x)) - np.hypot(away_y, away_x)

    def outline(self, points: int = 180) -> np.ndarray:
        """Return the ring of the outline, float64 (points, 2): x and y."""
        angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
        radius = self.radius_at(angle)
        return np.stack([self.x + radius * np.cos(angle), self.y + radius * np.sin(angle)], axis=1)

    @property
    def reach(self) -> float:
        """The largest radius that there can be."""
        return self.radius * (1 + sum(map(abs, self.heights)))


@dataclasses.dataclass(frozen=True)
class Stroke:
    """A thick line through points (n, 2), y and x: of a pen, or a fold."""

    points: tuple[tuple[float, float], ...]
    width: float
    ink: tuple[float, float, float] = (1.0, 1.0, 1.0)  # light that passes

    def depth(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return how many px a place lies inside the line, negative outside.

        y (height, 1) and x (1, width) float32, both rising. Pieces far away are left out.
        """
        away = np.full((y.shape[0], x.shape[1]), np.float32(_FAR_PX))
        reach = self.width / 2 + 20
        for (y0, x0), (y1, x1) in zip(self.points[:-1], self.points[1:], strict=True):
            if (
                y[0, 0] < max(y0, y1) + reach and y[-1, 0] > min(y0, y1) - reach
                and x[0, 0] < max(x0, x1) + reach and x[0, -1] > min(x0, x1) - reach
            ):  # fmt: skip
                down, right = y1 - y0, x1 - x0
                along = ((y - y0) * down + (x - x0) * right) / (down**2 + right**2)
                along = np.clip(along, 0, 1)
                here = np.hypot(y - y0 - along * down, x - x0 - along * right)
                away = np.minimum(away, here)
        return self.width / 2 - away


@dataclasses.dataclass(frozen=True)
class SlidePlan:
    """What a synthetic slide shows, and its truth."""

    height: int
    width: int
    seed: int
    tissue: tuple[Blob, ...]
    islands: tuple[Blob, ...]
    pens: tuple[Stroke, ...]
    folds: tuple[Stroke, ...]
    dust: tuple[Blob, ...]
    strength: float  # of the stain
    look: section.Slide

    def tumour_outlines(self, mpp: float = PCAM.mpp) -> list[np.ndarray]:
        """Return the ring of each island, float64 (n, 2), x and y in pixels of a scale."""
        return [island.outline() * (PCAM.mpp / mpp) for island in self.islands]

    def tissue_mask(self, pixel: float) -> np.ndarray:
        """Return which pixels of a side in drawing pixels have their centre in tissue, bool."""
        y = (np.arange(int(np.ceil(self.height / pixel)))[:, None] + 0.5) * pixel
        x = (np.arange(int(np.ceil(self.width / pixel)))[None] + 0.5) * pixel
        return np.logical_or.reduce([blob.depth(y, x) > 0 for blob in self.tissue])


def plan_slide(
    side_px: int = 2048,
    *,
    radii_px: tuple[float, ...] = RADII_PX,
    stain: str = "usual",
    pen: bool = False,
    fold: bool = False,
    seed: int = 0,
) -> SlidePlan:
    """Plan a square slide of one piece of tissue with islands of tumour.

    Args:
        side_px: of the slide, 256 or more.
        radii_px: the mean radius of each island; below `ISOLATED_PX` it is isolated cells. Those
            for which there is no room within the tissue are left out.
        stain: a name of `STAINS`.
        pen: whether the glass and a part of the tissue are marked by pens.
        fold: whether the tissue is folded.
        seed: another gives another slide.

    Raises:
        InputError: another stain or a smaller slide.
    """
    if stain not in STAINS or side_px < 256:
        raise InputError(f"stain {stain!r}, side {side_px}: give one of {list(STAINS)}, 256 px.")
    rng = np.random.default_rng([seed, 77])
    middle = side_px / 2
    tissue = _blob(rng, middle, middle, 0.36 * side_px, 0.06)
    islands = []
    for radius in sorted(radii_px, reverse=True):
        island = _place(rng, tissue, islands, radius)
        islands += [island] if island else []
    dust = tuple(
        _blob(rng, *rng.uniform(0, side_px, 2), rng.uniform(2, 5), 0.1)
        for _ in range(side_px // 150)
    )
    return SlidePlan(
        side_px, side_px, seed, (tissue,), tuple(islands),
        pens=_pens(rng, side_px) if pen else (),
        folds=_folds(rng, side_px) if fold else (),
        dust=dust, strength=STAINS[stain], look=section.draw_slide(rng),
    )  # fmt: skip


def _blob(rng, y, x, radius, unevenness):
    heights = rng.uniform(-unevenness, unevenness, len(_WAVES)).tolist()
    turns = rng.uniform(0, 2 * np.pi, len(_WAVES)).tolist()
    return Blob(float(y), float(x), float(radius), tuple(heights), tuple(turns))


def _place(rng, tissue, islands, radius):
    """Return an island within the tissue, apart from the others; None if there is no room."""
    unevenness = 0.0 if radius < ISOLATED_PX else 0.08
    for _ in range(200):
        angle, away = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform()) * tissue.radius
        island = _blob(
            rng, tissue.y + away * np.sin(angle), tissue.x + away * np.cos(angle),
            radius, unevenness,
        )  # fmt: skip
        apart = all(
            np.hypot(island.y - other.y, island.x - other.x) > island.reach + other.reach + 100
            for other in islands
        )
        if apart and tissue.depth(island.y, island.x) > island.reach + 20:
            return island
    return None


def _pens(rng, side_px):
    """Return a ring of blue ink around a part of the tissue, and a black mark on the glass."""
    turn = np.linspace(0, 1.7 * np.pi, 24)
    centre, radius = side_px * rng.uniform(0.42, 0.58, 2), 0.40 * side_px
    ring = centre + radius * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    ring = tuple(map(tuple, ring.tolist()))
    mark = ((0.03 * side_px, 0.05 * side_px), (0.09 * side_px, 0.30 * side_px))
    hook = ((0.93 * side_px, 0.60 * side_px), (0.97 * side_px, 0.90 * side_px))
    width = 0.016 * side_px
    return (
        Stroke(ring, width, _INK["blue"]),
        Stroke(mark, width, _INK["black"]),
        Stroke(hook, width, _INK["green"]),
    )


def _folds(rng, side_px):
    """Return two folds across the tissue."""
    folds = []
    for _ in range(2):
        middle = rng.uniform(0.35, 0.65, 2) * side_px
        angle, half = rng.uniform(0, np.pi), 0.16 * side_px
        away = half * np.array([np.sin(angle), np.cos(angle)])
        ends = (tuple((middle - away).tolist()), tuple((middle + away).tolist()))
        folds.append(Stroke(ends, 0.012 * side_px))
    return tuple(folds)
