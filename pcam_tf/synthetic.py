"""Procedural H&E patches with known ground truth, readable as TFDS's `patch_camelyon`.

Lymph node at 10× (0.97 mpp) with and without nests of carcinoma, drawn as densities of two stains
and photographed by the Beer–Lambert model of `stain.py`. Every pixel's stains and whether it is
tumour are known, so explanations and stain separation can be held against the truth. No patch
copies a real one. A number learnt here says that the code works, not that it finds cancer.

Lengths are pixels, about a micron each.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils
from tqdm import tqdm

from pcam_tf import stain
from pcam_tf.errors import InputError, unknown

PATCH_PX = 96
CENTRE = slice(32, 64)  # PCam labels a patch by these rows and columns alone
SLIDES = {"train": range(12), "validation": range(12, 16), "test": range(16, 22)}
_ID_PREFIXES = {"train": "train", "validation": "valid", "test": "test"}  # as tfds names PCam's

_CHUNK = 128  # patches drawn at once: few enough for memory, enough to share a bank of nuclei
_CANVAS_PX = 512  # the periodic noise that a chunk's patches are cut from
_MARGIN_PX = 25  # room around a patch for the stamps of cells that reach into it
_AXIS_PX = np.arange(PATCH_PX, dtype=np.float32) - (PATCH_PX - 1) / 2

# Host tissue: share of lymphocyte places filled, how much of it is stroma and sinus (shift of a
# noise of unit variance), chance that it holds fat or the tissue's edge.
_TISSUES = np.float32(
    [
        [0.95, -2.6, -2.6, 0.04],  # cortex
        [0.80, -1.1, -1.0, 0.10],  # paracortex
        [0.65, 0.9, -1.6, 0.20],  # capsule and trabeculae
        [0.60, -0.9, 0.5, 0.10],  # sinus
        [0.70, -0.3, -1.3, 1.00],  # fat
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patches:
    """N patches and all that is true of them, as arrays with one row a patch.

    Up to vignetting (a few per cent) and noise, `image` is
    `stain.mix(densities, stain_vectors[:, None, None], background[:, None, None])`.
    """

    image: np.ndarray  # uint8 (N, 96, 96, 3)
    label: np.ndarray  # int64 (N,): 1 where the centre 32×32 px hold tumour
    tumour_mask: np.ndarray  # bool (N, 96, 96)
    tumour_nuclei: np.ndarray  # bool (N, 96, 96), within tumour_mask
    densities: np.ndarray  # float32 (N, 96, 96, 2): haematoxylin, eosin, after the lens's blur
    slide: np.ndarray  # int64 (N,), one of SLIDES[split]
    stain_vectors: np.ndarray  # float32 (N, 2, 3), the slide's
    background: np.ndarray  # float32 (N, 3), the slide's grey level of light without tissue


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Slide:
    stain_vectors: np.ndarray
    gains: np.ndarray  # strength of each stain
    background: np.ndarray
    blur_px: float
    tissue_shares: np.ndarray  # of _TISSUES
    tumour_scale: float  # size of tumour cells relative to the usual
    histiocyte_share: float
    cytoplasm: np.ndarray  # densities of tumour cytoplasm


def draw_patches(count: int, *, split: str, seed: int = 0) -> Patches:
    """Draw the first `count` patches of `split`, about half of them tumour.

    Patch i depends on `seed`, `split` and i alone, not on `count`. The splits' slides are
    disjoint. Memory is about 120 KB a patch, twice that while joining; `draw_chunks` bounds it.

    Raises:
        InputError: an unknown split, or a count or seed below what can be drawn.
    """
    chunks = list(draw_chunks(count, split=split, seed=seed))
    names = [field.name for field in dataclasses.fields(Patches)]
    return Patches(**{name: np.concatenate([getattr(c, name) for c in chunks]) for name in names})


def draw_chunks(count: int, *, split: str, seed: int = 0) -> Iterator[Patches]:
    """Yield the patches of `draw_patches` in order, at most 128 at a time.

    Raises:
        InputError: an unknown split, or a count or seed below what can be drawn.
    """
    if split not in SLIDES:
        raise unknown("split", split, SLIDES)
    if count < 1 or seed < 0:
        raise InputError(f"count {count}, seed {seed}: count must be above 0, seed 0 or above.")
    slides = [_draw_slide(seed, slide) for slide in SLIDES[split]]
    for chunk, first in enumerate(range(0, count, _CHUNK)):
        patches = _draw_chunk(split, slides, seed=seed, chunk=chunk)
        wanted = slice(min(_CHUNK, count - first))
        yield Patches(**{name: array[wanted] for name, array in vars(patches).items()})


def _draw_slide(seed: int, slide: int) -> _Slide:
    """Draw what a laboratory, its scanner and the patient give to all patches of one slide."""
    rng = np.random.default_rng([seed, len(SLIDES), slide])
    vectors = np.stack([stain.HAEMATOXYLIN, stain.EOSIN]) + rng.normal(0, 0.03, (2, 3))
    # Laboratories and scanners range from blue and magenta to brown and salmon.
    warmth = rng.uniform(0, 1)
    vectors += np.multiply(warmth, [[-0.04, 0.06, 0.30], [0.04, -0.10, 0.30]])
    vectors[1] += rng.uniform(0.02, 0.12), -0.05, 0.12
    vectors = np.maximum(vectors, 0.01)
    return _Slide(
        stain_vectors=np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)),
        gains=np.float32(rng.uniform([0.8, 0.75], [1.15, 1.3])),
        background=np.float32(rng.uniform(226, 247) + rng.uniform(-4, 4, 3)),
        blur_px=rng.uniform(0.40, 0.75),
        tissue_shares=rng.dirichlet([7, 7, 4, 2.5, 1.5]),
        tumour_scale=rng.uniform(0.9, 1.12),
        histiocyte_share=rng.uniform(0.03, 0.12),
        cytoplasm=np.float32(rng.uniform([0.15, 0.32], [0.30, 0.50])),
    )


def _draw_chunk(split: str, slides: list[_Slide], *, seed: int, chunk: int) -> Patches:
    """Draw one whole chunk of `split`: tissue, then cells, then the photograph."""
    rng = np.random.default_rng([seed, list(SLIDES).index(split), chunk])
    # One of each class in every pair, so that any number of patches is balanced.
    positive = rng.permuted(np.tile([False, True], (_CHUNK // 2, 1)), axis=1).ravel()
    which = rng.integers(len(slides), size=_CHUNK)
    of_slide = {
        field.name: np.stack([np.asarray(getattr(slide, field.name)) for slide in slides])[which]
        for field in dataclasses.fields(_Slide)
    }
    noise = {
        "coarse": _canvas(rng, 11, 11),
        "medium": _canvas(rng, 3, 3),
        "fine": _canvas(rng, 0.8, 0.8),
        "camera": _canvas(rng, 0, 0),
        "fibres": _canvas(rng, 14, 0.9) + _canvas(rng, 10, 2.2),
    }
    nest, outside, anchors = _draw_nests(rng, noise, positive)
    tissue = _draw_tissue(rng, noise, nest, of_slide)
    cells = _draw_cells(rng, noise, nest, outside, anchors, tissue, of_slide)
    densities = _compose(rng, noise, nest, tissue, cells, of_slide)
    mask = (nest > 0) | cells["tumour_nuclei"]
    return Patches(
        image=_photograph(rng, noise, densities, of_slide),
        label=mask[:, CENTRE, CENTRE].any(axis=(1, 2)).astype(np.int64),
        tumour_mask=mask,
        tumour_nuclei=cells["tumour_nuclei"],
        densities=densities,
        slide=np.asarray(SLIDES[split])[which],
        stain_vectors=of_slide["stain_vectors"],
        background=of_slide["background"],
    )


def _canvas(rng: np.random.Generator, along_px: float, across_px: float) -> np.ndarray:
    """Return periodic Gaussian noise of unit variance, smooth over the given lengths."""
    white = rng.standard_normal((_CANVAS_PX, _CANVAS_PX), dtype=np.float32)
    across = np.fft.fftfreq(_CANVAS_PX).astype(np.float32)[:, None] * across_px
    along = np.fft.rfftfreq(_CANVAS_PX).astype(np.float32)[None] * along_px
    smooth = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-2 * np.pi**2 * (across**2 + along**2)))
    smooth = smooth.astype(np.float32) - smooth.mean()
    return smooth / smooth.std()


def _cut(rng: np.random.Generator, canvas: np.ndarray, count: int, size_px: int = PATCH_PX):
    """Return `count` squares cut from the canvas at random places and directions, float32."""
    start = rng.integers(_CANVAS_PX, size=(2, count, 1))
    step = rng.choice([-1, 1], size=(2, count, 1))
    rows, columns = (start + step * np.arange(size_px)) % _CANVAS_PX
    return canvas.ravel()[rows[:, :, None] * _CANVAS_PX + columns[:, None, :]]


def _per_patch(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _draw_nests(rng: np.random.Generator, noise: dict, positive: np.ndarray):
    """Return how deep each pixel lies in a tumour nest, whose centre is clear, and the anchors.

    The depth is roughly in pixels: float32 (N, 96, 96), above 0 inside. A tumour patch has tumour
    about its anchor; anchors are patch, y, x of these points.
    """
    count = len(positive)
    y, x = _AXIS_PX[:, None], _AXIS_PX[None, :]
    kind = np.where(
        positive,
        rng.choice(["full", "edge", "island"], p=[0.45, 0.38, 0.17], size=count),
        rng.choice(["none", "outside"], p=[0.82, 0.18], size=count),
    )
    anchor_y, anchor_x = rng.uniform(-11, 11, (2, count, 1, 1)).astype(np.float32)
    away = np.hypot(y - anchor_y, x - anchor_x)
    angle = rng.uniform(0, 2 * np.pi, count)
    slope = np.where(np.isin(kind, ["edge", "outside"]), 1, 0)
    level = np.select(
        [kind == "full", kind == "edge", kind == "island", kind == "outside"],
        [
            rng.uniform(6, 22, count),
            rng.uniform(6, 20, count),
            rng.uniform(13, 24, count),
            rng.uniform(-34, -20, count),
        ],
        default=-200,
    )
    depth = _per_patch(slope * np.cos(angle)) * x + _per_patch(slope * np.sin(angle)) * y
    depth += _per_patch(level) - _per_patch(kind == "island") * away
    depth += 6 * _cut(rng, noise["coarse"], count) + 0.5 * _cut(rng, noise["medium"], count)
    # A label must rest on something to see: each tumour patch has a cell's worth at its anchor.
    depth = np.maximum(depth, np.where(_per_patch(positive) > 0, 11 - away, -200))
    # The curve |y|⁴ + |x|⁴ = r⁴ clears the corners of the centre square from r = 19.03 on.
    clear = np.sqrt(np.sqrt(y**4 + x**4)) - 20.5
    outside = kind == "outside"
    depth[outside] = np.minimum(depth[outside], clear)
    depth[kind == "none"] = -200
    anchored = np.flatnonzero(positive)
    middle = (PATCH_PX - 1) / 2
    anchors = (anchored, middle + anchor_y[anchored, 0, 0], middle + anchor_x[anchored, 0, 0])
    return depth.astype(np.float32), ~positive, anchors


def _draw_tissue(rng: np.random.Generator, noise: dict, nest: np.ndarray, of_slide: dict) -> dict:
    """Return the host tissue as maps 0..1 of stroma, sinus and holes, and the fibres in it."""
    count = len(nest)
    cumulative = np.cumsum(of_slide["tissue_shares"], axis=1)
    kind = (rng.random((count, 1)) > cumulative[:, :-1]).sum(axis=1)
    filled, stroma_shift, sinus_shift, hole_chance = _TISSUES[kind].T
    wave = _cut(rng, noise["coarse"], count)
    stroma = _cut(rng, noise["coarse"], count) + _per_patch(stroma_shift)
    sinus = _cut(rng, noise["coarse"], count) + _per_patch(sinus_shift)

    # Fat cells, and at times the edge of the tissue: a hole too large to see as round.
    hole = np.full_like(nest, -200)
    has_holes = np.flatnonzero(rng.random(count) < hole_chance)
    wobble = 1.5 * wave[has_holes]
    nearest = second = hole[has_holes]
    for _ in range(4):
        edge = rng.random(len(has_holes)) < 0.08
        angle = rng.uniform(0, 2 * np.pi, len(has_holes))
        distance = rng.uniform(410, 445, len(has_holes))
        centre_y, centre_x = np.where(
            edge,
            distance * [np.sin(angle), np.cos(angle)],
            rng.uniform(-58, 58, (2, len(has_holes))),
        )
        away = np.hypot(_AXIS_PX[:, None] - _per_patch(centre_y), _AXIS_PX - _per_patch(centre_x))
        radius = np.where(edge, 400, rng.uniform(14, 38, len(has_holes)))
        inside = _per_patch(radius) - away + wobble
        second = np.maximum(second, np.minimum(nearest, inside))
        nearest = np.maximum(nearest, inside)
    # Fat cells press against each other with a thin septum between, and never merge.
    hole[has_holes] = np.minimum(nearest, nearest - second - 1.5)
    hole = np.minimum(hole, -nest - 1)

    # Fibres run along one direction a patch, bent by the wave.
    angle = _per_patch(rng.uniform(0, np.pi, count))
    y, x = _AXIS_PX[:, None], _AXIS_PX[None, :]
    along = np.cos(angle) * x + np.sin(angle) * y + _per_patch(rng.uniform(0, _CANVAS_PX, count))
    across = np.cos(angle) * y - np.sin(angle) * x + 7 * wave
    across += _per_patch(rng.uniform(0, _CANVAS_PX, count))
    rows = across.astype(np.int64) % _CANVAS_PX
    fibres = noise["fibres"].ravel()[rows * _CANVAS_PX + along.astype(np.int64) % _CANVAS_PX]
    return {
        "stroma": np.clip(2.0 * stroma + 0.5, 0, 1),
        "sinus": np.clip(2.0 * sinus + 0.5, 0, 1),
        "hole": hole,
        "fibres": fibres,
        "wave": wave,
        "fibre_angle": angle[:, 0, 0],
        "filled": filled,
    }


def _draw_cells(
    rng: np.random.Generator,
    noise: dict,
    nest: np.ndarray,
    outside: np.ndarray,
    anchors: tuple,
    tissue: dict,
    of_slide: dict,
) -> dict:
    """Place and stamp all nuclei; return how they cover the patches, and the tumour cells.

    `cover` and `haematoxylin` are float32 (N, 96, 96): the share of a pixel that is nucleus and
    the haematoxylin in that share; `tumour_nuclei` is bool; `cell` numbers the tumour cell whose
    cytoplasm a pixel is, 0 where there is none.
    """
    padded = (len(nest), PATCH_PX + 2 * _MARGIN_PX, PATCH_PX + 2 * _MARGIN_PX)
    cover, haematoxylin = np.zeros((2, *padded), np.float32)
    inner = (slice(None), slice(_MARGIN_PX, -_MARGIN_PX), slice(_MARGIN_PX, -_MARGIN_PX))

    def stamp(bank, which, patch, y, x, gain):
        target = _stamp_indices(padded, bank[0].shape[-1], patch, y, x)
        np.maximum.at(cover.ravel(), target, bank[0][which].ravel())
        np.maximum.at(haematoxylin.ravel(), target, (bank[1][which] * _per_patch(gain)).ravel())

    patch, y, x = _place_tumour_cells(rng, nest, outside, anchors, of_slide)
    cell = _draw_cell_bodies(rng, padded, patch, y, x)[inner]
    tumour_bank = _bank(
        rng, noise, size_px=25, length_px=(5.4, 9.4), width_px=(4.2, 7.0), irregular=0.08,
        rim=1.5, inside=(0.4, 1.35), chromatin=0.28, nucleoli=0.9,
    )  # fmt: skip
    stamp(tumour_bank, rng.integers(_BANK, size=len(patch)), patch, y, x, _spread(rng, patch, 0.22))
    tumour_nuclei = cover[inner] > 0.5

    patch, y, x, kind, angle = _place_host_cells(rng, nest, tumour_nuclei, tissue, of_slide)
    for name, bank in _host_banks(rng, noise).items():
        of_kind = kind == name
        which = rng.integers(_BANK, size=of_kind.sum())
        if name == "spindle":  # its bank is sorted by direction
            turn = angle[of_kind] + rng.normal(0, 0.15, of_kind.sum())
            which = (turn / np.pi * _BANK).astype(np.int64) % _BANK
        gain = _spread(rng, which, 0.18)
        stamp(bank, which, patch[of_kind], y[of_kind], x[of_kind], gain)
    return {
        "cover": cover[inner],
        "haematoxylin": haematoxylin[inner],
        "tumour_nuclei": tumour_nuclei,
        "cell": cell,
    }


def _spread(rng: np.random.Generator, like: np.ndarray, sd: float) -> np.ndarray:
    return np.exp(sd * rng.standard_normal(len(like)))


def _stamp_indices(padded: tuple, size_px: int, patch, y, x) -> np.ndarray:
    """Return the flat places in a (padded) array of square stamps centred on (y, x) of patches."""
    offsets = np.arange(size_px) - size_px // 2 + _MARGIN_PX
    rows = patch[:, None] * padded[1] + np.rint(y).astype(np.int64)[:, None] + offsets
    columns = np.rint(x).astype(np.int64)[:, None] + offsets
    return (rows[:, :, None] * padded[2] + columns[:, None, :]).ravel()


_BANK = 256  # different nuclei of each kind in a chunk


def _bank(
    rng: np.random.Generator, noise: dict, *, size_px, length_px, width_px, irregular, rim, inside,
    chromatin, nucleoli, sorted_by_angle=False,
):  # fmt: skip
    """Draw nuclei as ellipses with a wavy outline; return cover and haematoxylin (_BANK, s, s).

    `rim` and `inside` are haematoxylin under the membrane and within it, `chromatin` the relative
    strength of the grain, `nucleoli` the haematoxylin that nucleoli add.
    """
    draw = lambda low, high: _per_patch(rng.uniform(low, high, _BANK))  # noqa: E731
    axis = np.arange(size_px, dtype=np.float32) - size_px // 2
    y, x = axis[:, None] - draw(-0.5, 0.5), axis[None, :] - draw(-0.5, 0.5)
    angle = _per_patch(np.linspace(0, np.pi, _BANK)) if sorted_by_angle else draw(0, np.pi)
    length, width = draw(*length_px), draw(*width_px)
    along = (np.cos(angle) * x + np.sin(angle) * y) / length
    across = (np.cos(angle) * y - np.sin(angle) * x) / width
    turn = np.arctan2(across, along)
    outline = 1.0
    for waves in (2, 3, 5):
        outline += draw(-irregular, irregular) * np.cos(waves * turn + draw(0, 2 * np.pi))
    depth = (outline - np.hypot(along, across)) * np.minimum(width, length)
    cover = np.clip(depth / 1.1 + 0.5, 0, 1)
    inner = draw(*inside)
    dark = inner + (rim - inner) * np.exp(-(np.maximum(depth - 0.4, 0) ** 2) / 1.3)
    dark *= 1 + chromatin * _cut(rng, noise["fine"], _BANK, size_px)
    for _ in range(2):
        away = (along - draw(-0.5, 0.5)) ** 2 * length**2 + (
            across - draw(-0.5, 0.5)
        ) ** 2 * width**2
        dark += draw(-0.6, 1).clip(0) * nucleoli * np.exp(-away / (2 * 0.9**2))
    return cover, cover * np.maximum(dark, 0.15)


def _host_banks(rng: np.random.Generator, noise: dict) -> dict:
    """Return the nuclei of a lymph node's own cells by kind."""
    return {
        "lymphocyte": _bank(
            rng, noise, size_px=13, length_px=(3.4, 4.4), width_px=(3.1, 3.9), irregular=0.06,
            rim=1.35, inside=(0.95, 1.45), chromatin=0.22, nucleoli=0.1,
        ),
        "histiocyte": _bank(
            rng, noise, size_px=15, length_px=(4.2, 5.6), width_px=(3.0, 3.9), irregular=0.10,
            rim=1.0, inside=(0.5, 0.9), chromatin=0.2, nucleoli=0.25,
        ),
        "spindle": _bank(
            rng, noise, size_px=19, length_px=(5.0, 8.5), width_px=(1.2, 2.1), irregular=0.06,
            rim=1.2, inside=(0.9, 1.4), chromatin=0.15, nucleoli=0.0, sorted_by_angle=True,
        ),
    }  # fmt: skip


def _lattice(rng: np.random.Generator, pitch_px: np.ndarray, reach_px: float, jitter: float):
    """Return patch, y, x of points on shaken hexagonal lattices that cover the patches."""
    half = int(np.ceil((PATCH_PX / 2 + reach_px) * np.sqrt(2) / pitch_px.min() / 0.86))
    row, column = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, 1, -1)
    shape = (len(pitch_px), row.size)
    pitch = pitch_px[:, None]
    y = (row * 0.866 + jitter * rng.standard_normal(shape, np.float32)) * pitch
    x = (column + row % 2 / 2 + jitter * rng.standard_normal(shape, np.float32)) * pitch
    angle = rng.uniform(0, 2 * np.pi, (len(pitch_px), 1)).astype(np.float32)
    middle = (PATCH_PX - 1) / 2
    turned_y = middle + np.cos(angle) * y + np.sin(angle) * x
    turned_x = middle + np.cos(angle) * x - np.sin(angle) * y
    near = (abs(turned_y - middle) < PATCH_PX / 2 + reach_px) & (
        abs(turned_x - middle) < PATCH_PX / 2 + reach_px
    )
    return np.nonzero(near)[0], turned_y[near], turned_x[near]


def _at(field: np.ndarray, patch, y, x) -> np.ndarray:
    """Return the field of each patch at the pixel nearest to (y, x), the border beyond it."""
    rows = np.clip(np.rint(y), 0, PATCH_PX - 1).astype(np.int64)
    columns = np.clip(np.rint(x), 0, PATCH_PX - 1).astype(np.int64)
    return field[patch, rows, columns]


def _place_tumour_cells(rng, nest, outside, anchors, of_slide):
    """Return patch, y, x of tumour cells: one at each anchor, the others well within nests."""
    pitch = 15.5 * of_slide["tumour_scale"] * rng.uniform(0.88, 1.2, len(nest))
    patch, y, x = _lattice(rng, pitch, 9, 0.15)
    middle = (PATCH_PX - 1) / 2
    from_centre = np.maximum(abs(y - middle), abs(x - middle))
    keep = (_at(nest, patch, y, x) > 3.5) & ~(outside[patch] & (from_centre < 16 + 11))
    anchor_y, anchor_x = np.zeros((2, len(nest)))
    anchor_y[anchors[0]], anchor_x[anchors[0]] = anchors[1:]
    keep &= np.hypot(y - anchor_y[patch], x - anchor_x[patch]) > 0.8 * pitch[patch]
    return tuple(
        np.concatenate([at, others[keep]])
        for at, others in zip(anchors, (patch, y, x), strict=True)
    )


def _draw_cell_bodies(rng, padded, patch, y, x) -> np.ndarray:
    """Share the pixels out among the tumour cells nearest to them; return cell numbers from 1."""
    size_px = 29
    axis = np.arange(size_px, dtype=np.float32) - size_px // 2
    reach = rng.uniform(11, 14, (2, len(patch), 1)).astype(np.float32)
    away_y, away_x = (axis / reach) ** 2
    nearness = 1000 * (1 - np.sqrt(away_y[:, :, None] + away_x[:, None, :]))
    # Nearness in the high bits, the cell's number in the low ones: the maximum keeps the nearest.
    packed = np.maximum(nearness, 0).astype(np.int32) << 16
    packed += np.arange(1, len(patch) + 1, dtype=np.int32)[:, None, None] * (nearness >= 1)
    nearest = np.zeros(padded, np.int32)
    np.maximum.at(nearest.ravel(), _stamp_indices(padded, size_px, patch, y, x), packed.ravel())
    return nearest & 0xFFFF


def _place_host_cells(rng, nest, tumour_nuclei, tissue, of_slide):
    """Return patch, y, x, kind and direction of the lymph node's own cells."""
    patch, y, x = _lattice(rng, rng.uniform(7.4, 8.8, len(nest)), 6, 0.16)
    stroma, sinus, hole, depth = (
        _at(field, patch, y, x)
        for field in (tissue["stroma"], tissue["sinus"], tissue["hole"], nest)
    )
    # Cells thin out where stroma or sinus begin, and few lymphocytes enter a nest.
    lymphoid = (1 - stroma) * (1 - sinus)
    lymphocytes = tissue["filled"][patch] * lymphoid + 0.10 * stroma + 0.16 * sinus * (1 - stroma)
    histiocytes = of_slide["histiocyte_share"][patch] * lymphoid + 0.14 * sinus * (1 - stroma)
    spindles = 0.17 * stroma + 0.02
    room = np.where(depth > -1, 0.03, 1.0) * (hole < -2.5)
    for dy, dx in ((0, 0), (3, 0), (-3, 0), (0, 3), (0, -3)):
        room[_at(tumour_nuclei, patch, y + dy, x + dx)] = 0
    shares = np.cumsum([lymphocytes * (1 - histiocytes), histiocytes, spindles], axis=0)
    drawn = rng.random(len(patch)) * np.maximum(shares[-1], 1)
    kind = np.array(["lymphocyte", "histiocyte", "spindle", ""])[(drawn > shares).sum(axis=0)]
    keep = (rng.random(len(patch)) < room) & (kind != "")
    patch, y, x, kind = patch[keep], y[keep], x[keep], kind[keep]
    angle = tissue["fibre_angle"][patch]
    dy, dx = 3 * np.sin(angle), 3 * np.cos(angle)
    rise = _at(tissue["wave"], patch, y + dy, x + dx) - _at(tissue["wave"], patch, y - dy, x - dx)
    return patch, y, x, kind, angle - np.arctan(7 * rise / 6)


def _compose(rng, noise, nest, tissue, cells, of_slide) -> np.ndarray:
    """Return the densities of both stains, float32 (N, 96, 96, 2), as the lens shows them."""
    count = len(nest)
    grain, cloud = _cut(rng, noise["fine"], count), _cut(rng, noise["medium"], count)
    fibres, stroma, sinus = tissue["fibres"], tissue["stroma"], tissue["sinus"]
    strength = _per_patch(rng.uniform(0.25, 0.70, count))  # how dense a patch's collagen is

    eosin = 0.34 + 0.07 * grain + 0.08 * cloud
    haematoxylin = 0.30 + 0.05 * grain + 0.05 * cloud
    matrix_tone = _per_patch(_spread(rng, nest, 0.3))
    eosin, haematoxylin = eosin * matrix_tone, haematoxylin * matrix_tone
    eosin += sinus * (0.13 + 0.06 * cloud + 0.05 * fibres - eosin)
    haematoxylin += sinus * (0.07 - haematoxylin)
    eosin += stroma * (strength * (1 + 0.30 * fibres + 0.12 * cloud) - eosin)
    haematoxylin += stroma * (0.10 + 0.04 * fibres - haematoxylin)

    # Tumour cytoplasm: each cell its own tone, granular, with membranes between.
    inside = np.clip(nest / 1.2 + 0.5, 0, 1)
    tones = np.exp(0.14 * rng.standard_normal((cells["cell"].max() + 1, 2), np.float32))
    tones[0] = 0.7
    tone = tones[cells["cell"]]
    membrane = np.zeros_like(nest)
    membrane[:, 1:] += cells["cell"][:, 1:] != cells["cell"][:, :-1]
    membrane[:, :, 1:] += cells["cell"][:, :, 1:] != cells["cell"][:, :, :-1]
    texture = 1 + 0.16 * grain + 0.10 * cloud
    # Membranes are dark lines in some tumours, pale clefts in others.
    pale = _per_patch(rng.uniform(-0.5, 0.5, count))
    cytoplasm = of_slide["cytoplasm"] * np.exp(rng.normal(0, 0.3, (count, 2)))
    edges = 1 + pale * np.minimum(membrane, 1)
    haematoxylin += inside * (_per_patch(cytoplasm[:, 0]) * tone[..., 0] * texture - haematoxylin)
    eosin += inside * (_per_patch(cytoplasm[:, 1]) * tone[..., 1] * texture * edges - eosin)
    # Nests shrink when the tissue is fixed: a cleft opens around some.
    cleft = _per_patch(rng.uniform(-0.8, 0.9, count).clip(0)) * np.exp(-((nest + 1.5) ** 2) / 2)
    # Some tumours fall apart into single cells with clear gaps between.
    gaps = np.clip(
        1.5 * (_cut(rng, noise["medium"], count) - _per_patch(rng.uniform(0.2, 2.4, count))), 0, 0.9
    )
    matrix = (1 - cleft) * (1 - inside * gaps) * np.clip(0.5 - tissue["hole"], 0, 1)
    wall = (0.2 + 0.06 * cloud).clip(0) * np.exp(-((tissue["hole"] + 0.8) ** 2) / 1.2)

    unevenness = 1 + 0.06 * tissue["wave"]
    covered = cells["cover"]
    ink = _per_patch(_spread(rng, nest, 0.2))  # how deep the section's nuclei took the stain
    densities = np.empty((2, *nest.shape), np.float32)
    densities[0] = haematoxylin.clip(0) * matrix * (1 - covered) + ink * cells["haematoxylin"]
    densities[1] = (eosin.clip(0) * matrix + wall) * (1 - covered) + 0.3 * covered
    densities *= unevenness
    for stain_index in range(2):
        gains = of_slide["gains"][:, stain_index] * _spread(rng, nest, 0.22)
        densities[stain_index] *= _per_patch(gains)
    blur_px = of_slide["blur_px"] + abs(rng.normal(0, 0.15, count))
    return np.moveaxis(_blur(densities, blur_px), 0, -1).copy()


def _blur(densities: np.ndarray, blur_px: np.ndarray) -> np.ndarray:
    """Blur (2, N, 96, 96) with a Gaussian of its own width for each patch, five taps an axis."""
    taps = np.exp(-np.float32([0, 1, 4])[:, None] / (2 * np.float32(blur_px) ** 2))
    taps /= taps[0] + 2 * taps[1] + 2 * taps[2]
    middle, near, far = (_per_patch(tap) for tap in taps)
    p = np.pad(densities, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    p = (
        middle * p[:, :, 2:-2]
        + near * (p[:, :, 1:-3] + p[:, :, 3:-1])
        + far * (p[:, :, :-4] + p[:, :, 4:])
    )
    return (
        middle * p[..., 2:-2]
        + near * (p[..., 1:-3] + p[..., 3:-1])
        + far * (p[..., :-4] + p[..., 4:])
    )


def _photograph(rng, noise, densities, of_slide) -> np.ndarray:
    """Return the uint8 picture of `densities` under a slightly uneven, noisy light."""
    count = len(densities)
    y, x = _AXIS_PX[:, None] / PATCH_PX, _AXIS_PX / PATCH_PX
    tilt_y, tilt_x, vignette = rng.normal(0, 0.012, (3, count, 1, 1)).astype(np.float32)
    light = (1 + tilt_y * y + tilt_x * x - abs(vignette) * (y**2 + x**2))[..., None]
    light = light * of_slide["background"][:, None, None]
    for channel in range(3):
        light[..., channel] *= 1 + 0.012 * _cut(rng, noise["camera"], count)
    return stain.mix(densities, of_slide["stain_vectors"][:, None, None], light)


@dataclasses.dataclass(eq=False, kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """How many patches of each split to draw, and from which seed."""

    seed: int
    train: int
    validation: int
    test: int


def config_of(*, seed: int, train: int, validation: int, test: int) -> SyntheticConfig:
    """Return a config whose name tells its seed and sizes, so that no two share a directory."""
    return SyntheticConfig(
        name=f"seed{seed}_{train}_{validation}_{test}",
        description=f"{train}/{validation}/{test} patches of seed {seed}.",
        seed=seed, train=train, validation=validation, test=test,
    )  # fmt: skip


class SyntheticPatchCamelyon(tfds.core.GeneratorBasedBuilder):
    """Synthetic lymph-node patches with the features of TFDS's `patch_camelyon`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it from the class)
    BUILDER_CONFIGS = [  # noqa: RUF012 (likewise)
        SyntheticConfig(
            name="smoke",
            description="Enough to train on in minutes.",
            seed=0, train=2048, validation=512, test=1024,
        ),
    ]  # fmt: skip

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Procedural H&E lymph-node patches, with and without tumour; none is real.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(
                        shape=(PATCH_PX, PATCH_PX, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SLIDES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        count, row = getattr(self.builder_config, split), 0
        with tqdm(total=count, desc=f"drawing {split}", unit="patch") as bar:
            for patches in draw_chunks(count, split=split, seed=self.builder_config.seed):
                for image, label in zip(patches.image, patches.label, strict=True):
                    name = f"{_ID_PREFIXES[split]}_{row}"
                    yield row, {"id": name, "image": image, "label": int(label)}
                    row += 1
                bar.update(len(patches.image))


def builder(
    data_dir: str | Path, config: str | SyntheticConfig = "smoke"
) -> SyntheticPatchCamelyon:
    """Return a prepared builder under `data_dir`, drawing its patches first if need be.

    Reaches no network. A preparation that is killed leaves nothing that a later call would read.

    Raises:
        InputError: there is no config of that name, or `data_dir` cannot be written.
    """
    names = list(SyntheticPatchCamelyon.builder_configs)
    if isinstance(config, str) and config not in names:
        raise unknown("synthetic config", config, names)
    try:
        prepared = SyntheticPatchCamelyon(data_dir=str(Path(data_dir).expanduser()), config=config)
        # TFDS prints to standard output, which belongs to our commands' results.
        with contextlib.redirect_stdout(io.StringIO()), _without_tfds_bars():
            prepared.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write synthetic patches to {data_dir}: {reason}; choose a writable folder."
        ) from error
    return prepared


@contextlib.contextmanager
def _without_tfds_bars() -> Iterator[None]:
    shown = tqdm_utils._active
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.display_progress_bar(shown)
