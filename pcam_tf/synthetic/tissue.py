"""Tissue before it is stained: random fields, nests of carcinoma, and the lymph node around them.

`nuclei` places cells in this tissue, and `section` stains it.
A field is float32 (N, 96, 96), one row a patch; lengths are pixels, about a micron each. A patch
is the sum of what `rng` yields in order: to swap two lines that draw is to draw other patches.
"""

from typing import NamedTuple

import numpy as np

from pcam_tf.task import PCAM

PATCH_PX = PCAM.side_px
MIDDLE_PX = (PATCH_PX - 1) / 2
Y_PX = (np.arange(PATCH_PX, dtype=np.float32) - MIDDLE_PX)[:, None]  # from the patch's middle
X_PX = Y_PX.T

_CANVAS_PX = 512  # the periodic noise that a chunk's patches are cut from
_NOWHERE_PX = -200  # depth in a nest or hole where there is none

# How deep in tumour a patch's middle lies, or an island's anchor: lowest and highest.
_NEST_DEPTHS_PX = {"full": (6, 22), "edge": (6, 20), "island": (13, 24), "outside": (-34, -20)}

# Host tissue: share of lymphocyte places filled, how much of it is stroma and sinus (shift of a
# noise of unit variance), chance that it holds fat or the tissue's edge.
_HOST_TISSUES = np.float32(
    [
        [0.95, -2.6, -2.6, 0.04],  # cortex
        [0.80, -1.1, -1.0, 0.10],  # paracortex
        [0.65, 0.9, -1.6, 0.20],  # capsule and trabeculae
        [0.60, -0.9, 0.5, 0.10],  # sinus
        [0.70, -0.3, -1.3, 1.00],  # fat
    ]
)


class Noise(NamedTuple):
    """Periodic Gaussian canvases of unit variance, float32 (512, 512), to `cut` fields from."""

    coarse: np.ndarray  # the scale of compartments
    medium: np.ndarray  # of cytoplasm
    fine: np.ndarray  # of chromatin
    camera: np.ndarray  # no scale at all
    fibres: np.ndarray  # long along the second axis, thin along the first; variance about 2


class Nests(NamedTuple):
    """Nests of tumour in N patches, and the point of each tumour patch that is surely tumour."""

    depth: np.ndarray  # field: about how many px inside a nest, negative outside
    positive: np.ndarray  # bool (N,): tumour in the centre; other patches keep theirs clear of it
    anchor_y: np.ndarray  # float32 (N,); 0, a corner, in a normal patch
    anchor_x: np.ndarray


class Host(NamedTuple):
    """The lymph node's own tissue in N patches."""

    stroma: np.ndarray  # field 0..1
    sinus: np.ndarray  # field 0..1
    hole: np.ndarray  # field: about how many px inside a fat cell or beyond the tissue's edge
    fibres: np.ndarray  # field of noise drawn out along the fibres
    wave: np.ndarray  # field of noise that bends the fibres
    fibre_angle: np.ndarray  # float32 (N,), radians
    filled: np.ndarray  # float32 (N,): share of lymphocyte places filled


def draw_noise(rng: np.random.Generator) -> Noise:
    """Draw the canvases of one chunk."""
    return Noise(
        coarse=_canvas(rng, 11, 11),
        medium=_canvas(rng, 3, 3),
        fine=_canvas(rng, 0.8, 0.8),
        camera=_canvas(rng, 0, 0),
        fibres=_canvas(rng, 14, 0.9) + _canvas(rng, 10, 2.2),
    )


def _canvas(rng: np.random.Generator, along_px: float, across_px: float) -> np.ndarray:
    """Return periodic Gaussian noise of unit variance, smooth over the given lengths."""
    white = rng.standard_normal((_CANVAS_PX, _CANVAS_PX), dtype=np.float32)
    across = np.fft.fftfreq(_CANVAS_PX).astype(np.float32)[:, None] * across_px
    along = np.fft.rfftfreq(_CANVAS_PX).astype(np.float32)[None] * along_px
    smooth = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-2 * np.pi**2 * (across**2 + along**2)))
    smooth = smooth.astype(np.float32) - smooth.mean()
    return smooth / smooth.std()


def cut(
    rng: np.random.Generator, canvas: np.ndarray, count: int, size_px: int = PATCH_PX
) -> np.ndarray:
    """Return `count` squares cut from the canvas at random places and directions, float32."""
    start = rng.integers(_CANVAS_PX, size=(2, count, 1))
    step = rng.choice([-1, 1], size=(2, count, 1))
    rows, columns = (start + step * np.arange(size_px)) % _CANVAS_PX
    return canvas.ravel()[rows[:, :, None] * _CANVAS_PX + columns[:, None, :]]


def per_patch(values: np.ndarray) -> np.ndarray:
    """Return one float32 value a patch as (N, 1, 1), to broadcast against fields."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def log_normal(rng: np.random.Generator, count: int, sd: float) -> np.ndarray:
    """Return `count` factors around 1 whose logarithm has the given standard deviation."""
    return np.exp(sd * rng.standard_normal(count))


def at(field: np.ndarray, patch: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the field of each patch at the pixel nearest to (y, x), the border beyond it."""
    rows = np.clip(np.rint(y), 0, PATCH_PX - 1).astype(np.int64)
    columns = np.clip(np.rint(x), 0, PATCH_PX - 1).astype(np.int64)
    return field[patch, rows, columns]


def draw_nests(rng: np.random.Generator, noise: Noise, positive: np.ndarray) -> Nests:
    """Draw nests so that `positive` patches (bool, (N,)), and no others, have tumour in the centre.

    A tumour patch is filled, crossed by a nest's edge or holds an island; some normal patches have
    tumour outside their centre.
    """
    count = len(positive)
    kind = np.where(
        positive,
        rng.choice(["full", "edge", "island"], p=[0.45, 0.38, 0.17], size=count),
        rng.choice(["none", "outside"], p=[0.82, 0.18], size=count),
    )
    anchor_y, anchor_x = rng.uniform(-11, 11, (2, count)).astype(np.float32)
    away = np.hypot(Y_PX - per_patch(anchor_y), X_PX - per_patch(anchor_x))
    angle = rng.uniform(0, 2 * np.pi, count)
    slope = np.isin(kind, ["edge", "outside"])
    level = np.zeros(count)
    for name, (low, high) in _NEST_DEPTHS_PX.items():
        level = np.where(kind == name, rng.uniform(low, high, count), level)
    depth = per_patch(slope * np.cos(angle)) * X_PX + per_patch(slope * np.sin(angle)) * Y_PX
    depth += per_patch(level) - per_patch(kind == "island") * away
    depth += 6 * cut(rng, noise.coarse, count) + 0.5 * cut(rng, noise.medium, count)
    # A label must rest on something to see: each tumour patch has a cell's worth at its anchor.
    depth[positive] = np.maximum(depth[positive], 11 - away[positive])
    # The curve |y|⁴ + |x|⁴ = r⁴ clears the corners of the centre square from r = 19.03 on.
    outside = kind == "outside"
    depth[outside] = np.minimum(depth[outside], np.sqrt(np.sqrt(Y_PX**4 + X_PX**4)) - 20.5)
    depth[kind == "none"] = _NOWHERE_PX
    return Nests(
        depth=depth,
        positive=positive,
        anchor_y=np.where(positive, anchor_y + MIDDLE_PX, 0),
        anchor_x=np.where(positive, anchor_x + MIDDLE_PX, 0),
    )


def draw_host(
    rng: np.random.Generator, noise: Noise, nests: Nests, tissue_shares: np.ndarray
) -> Host:
    """Draw the lymph node around the nests; `tissue_shares` (N, 5) are how likely each kind is."""
    count = len(nests.depth)
    cumulative = np.cumsum(tissue_shares, axis=1)
    kind = (rng.random((count, 1)) > cumulative[:, :-1]).sum(axis=1)
    filled, stroma_shift, sinus_shift, hole_chance = _HOST_TISSUES[kind].T
    wave = cut(rng, noise.coarse, count)
    stroma = cut(rng, noise.coarse, count) + per_patch(stroma_shift)
    sinus = cut(rng, noise.coarse, count) + per_patch(sinus_shift)
    hole = _draw_holes(rng, wave, hole_chance)
    fibres, fibre_angle = _draw_fibres(rng, noise.fibres, wave)
    return Host(
        stroma=np.clip(2.0 * stroma + 0.5, 0, 1),
        sinus=np.clip(2.0 * sinus + 0.5, 0, 1),
        hole=np.minimum(hole, -nests.depth - 1),
        fibres=fibres,
        wave=wave,
        fibre_angle=fibre_angle,
        filled=filled,
    )


def _draw_holes(rng: np.random.Generator, wave: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return the depth in fat cells and, beyond the tissue's edge, in a hole too large to be round.

    A patch has holes with its `chance` (N,); `wave` makes their outlines uneven.
    """
    depth = np.full_like(wave, _NOWHERE_PX)
    has_holes = np.flatnonzero(rng.random(len(wave)) < chance)
    count, wobble = len(has_holes), 1.5 * wave[has_holes]
    nearest = second = depth[has_holes]
    for _ in range(4):
        edge = rng.random(count) < 0.08
        angle = rng.uniform(0, 2 * np.pi, count)
        edge_y, edge_x = rng.uniform(410, 445, count) * [np.sin(angle), np.cos(angle)]
        fat_y, fat_x = rng.uniform(-58, 58, (2, count))
        y, x = np.where(edge, edge_y, fat_y), np.where(edge, edge_x, fat_x)
        radius = np.where(edge, 400, rng.uniform(14, 38, count))
        inside = per_patch(radius) - np.hypot(Y_PX - per_patch(y), X_PX - per_patch(x)) + wobble
        second = np.maximum(second, np.minimum(nearest, inside))
        nearest = np.maximum(nearest, inside)
    # Fat cells press against each other with a thin septum between, and never merge.
    depth[has_holes] = np.minimum(nearest, nearest - second - 1.5)
    return depth


def _draw_fibres(rng: np.random.Generator, canvas: np.ndarray, wave: np.ndarray) -> tuple:
    """Return the fibres, which run along one direction a patch bent by `wave`, and its angle."""
    count = len(wave)
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    cosine, sine = np.cos(per_patch(angle)), np.sin(per_patch(angle))
    along = cosine * X_PX + sine * Y_PX + per_patch(rng.uniform(0, _CANVAS_PX, count))
    across = cosine * Y_PX - sine * X_PX + 7 * wave
    across += per_patch(rng.uniform(0, _CANVAS_PX, count))
    rows = across.astype(np.int64) % _CANVAS_PX
    return canvas.ravel()[rows * _CANVAS_PX + along.astype(np.int64) % _CANVAS_PX], angle
