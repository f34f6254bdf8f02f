"""Cells for the tissue of `tissue`: banks of drawn nuclei, where cells lie, and their stamps.

A cell is a patch's number and a place (y, x) in it, in pixels from the patch's corner and up to a
nucleus beyond its border, so that cells reach into a patch from outside. Arrays of cells are (M,).
"""

from typing import NamedTuple

import numpy as np

from pcam_tf.synthetic.tissue import (
    MIDDLE_PX,
    PATCH_PX,
    Host,
    Nests,
    Noise,
    at,
    cut,
    log_normal,
    per_patch,
)

BANK = 256  # different nuclei of each kind in a chunk
MARGIN_PX = 25  # room around a patch for the stamps of cells that reach into it
INNER = (..., slice(MARGIN_PX, -MARGIN_PX), slice(MARGIN_PX, -MARGIN_PX))

# What `draw_bank` draws; lengths and widths are half axes. Tumour nuclei are larger, more varied
# and less even inside; of a lymph node's own, lymphocytes are round and dark, histiocytes pale.
TUMOUR_NUCLEI = {
    "size_px": 25, "length_px": (5.4, 9.4), "width_px": (4.2, 7.0), "irregular": 0.08,
    "rim": 1.5, "inside": (0.4, 1.35), "chromatin": 0.28, "nucleoli": 0.9,
}  # fmt: skip
HOST_NUCLEI = {
    "lymphocyte": {
        "size_px": 13, "length_px": (3.4, 4.4), "width_px": (3.1, 3.9), "irregular": 0.06,
        "rim": 1.35, "inside": (0.95, 1.45), "chromatin": 0.22, "nucleoli": 0.1,
    },
    "histiocyte": {
        "size_px": 15, "length_px": (4.2, 5.6), "width_px": (3.0, 3.9), "irregular": 0.10,
        "rim": 1.0, "inside": (0.5, 0.9), "chromatin": 0.2, "nucleoli": 0.25,
    },
    "spindle": {
        "size_px": 19, "length_px": (5.0, 8.5), "width_px": (1.2, 2.1), "irregular": 0.06,
        "rim": 1.2, "inside": (0.9, 1.4), "chromatin": 0.15, "nucleoli": 0.0,
        "sorted_by_angle": True,
    },
}  # fmt: skip


class Cells(NamedTuple):
    """All cells of N patches, as fields (N, 96, 96)."""

    cover: np.ndarray  # float32: share of a pixel that is nucleus
    haematoxylin: np.ndarray  # float32: the haematoxylin in that share
    tumour_nuclei: np.ndarray  # bool
    body: np.ndarray  # int32: number of the tumour cell whose cytoplasm a pixel is, 0 for none


def draw_cells(
    rng: np.random.Generator,
    noise: Noise,
    nests: Nests,
    host: Host,
    *,
    tumour_scale: np.ndarray,
    histiocyte_share: np.ndarray,
) -> Cells:
    """Fill the nests with tumour cells and the tissue around them with a lymph node's own.

    `tumour_scale` (N,) is the distance between tumour cells relative to the usual,
    `histiocyte_share` (N,) the share of histiocytes among the cells of lymphoid tissue.
    """
    padded_px = PATCH_PX + 2 * MARGIN_PX
    layers = np.zeros((2, len(nests.depth), padded_px, padded_px), np.float32)

    patch, y, x = _place_tumour_cells(rng, nests, tumour_scale)
    body = draw_bodies(rng, layers.shape[1:], patch, y, x)
    bank = draw_bank(rng, noise.fine, **TUMOUR_NUCLEI)
    which = rng.integers(BANK, size=len(patch))
    stamp(layers, bank[:, which], patch, y, x, log_normal(rng, len(patch), 0.22))
    tumour_nuclei = layers[0][INNER] > 0.5

    patch, y, x, kind, angle = _place_host_cells(rng, nests, tumour_nuclei, host, histiocyte_share)
    banks = {name: draw_bank(rng, noise.fine, **look) for name, look in HOST_NUCLEI.items()}
    for name, bank in banks.items():
        of_kind = np.flatnonzero(kind == name)
        which = rng.integers(BANK, size=len(of_kind))
        if name == "spindle":  # along the fibres, give or take
            turn = angle[of_kind] + rng.normal(0, 0.15, len(of_kind))
            which = (turn / np.pi * BANK).astype(np.int64) % BANK
        gain = log_normal(rng, len(of_kind), 0.18)
        stamp(layers, bank[:, which], patch[of_kind], y[of_kind], x[of_kind], gain)
    cover, haematoxylin = layers[INNER]
    return Cells(cover=cover, haematoxylin=haematoxylin, tumour_nuclei=tumour_nuclei, body=body)


def draw_bank(
    rng: np.random.Generator, grain: np.ndarray, *, size_px, length_px, width_px, irregular, rim,
    inside, chromatin, nucleoli, sorted_by_angle=False,
) -> np.ndarray:  # fmt: skip
    """Draw nuclei as ellipses with a wavy outline; return cover and haematoxylin (2, BANK, s, s).

    `rim` and `inside` are haematoxylin under the membrane and within it, `chromatin` the relative
    strength of the grain, `nucleoli` the haematoxylin that nucleoli add. A bank `sorted_by_angle`
    holds directions from 0 to π in order.
    """
    draw = lambda low, high: per_patch(rng.uniform(low, high, BANK))  # noqa: E731
    axis = np.arange(size_px, dtype=np.float32) - size_px // 2
    y, x = axis[:, None] - draw(-0.5, 0.5), axis[None, :] - draw(-0.5, 0.5)
    angle = per_patch(np.linspace(0, np.pi, BANK)) if sorted_by_angle else draw(0, np.pi)
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
    dark *= 1 + chromatin * cut(rng, grain, BANK, size_px)
    for _ in range(2):
        away = ((along - draw(-0.5, 0.5)) ** 2) * length**2
        away += ((across - draw(-0.5, 0.5)) ** 2) * width**2
        dark += draw(-0.6, 1).clip(0) * nucleoli * np.exp(-away / (2 * 0.9**2))
    return np.stack([cover, cover * np.maximum(dark, 0.15)])


def stamp(layers: np.ndarray, nuclei: np.ndarray, patch, y, x, gain: np.ndarray) -> None:
    """Stamp nuclei (2, M, s, s) onto the padded layers, cover and haematoxylin times `gain`.

    Where nuclei overlap, the darker shows.
    """
    cover, haematoxylin = layers.reshape(2, -1)
    places = _stamp_places(layers.shape[1:], nuclei.shape[-1], patch, y, x)
    np.maximum.at(cover, places, nuclei[0].ravel())
    np.maximum.at(haematoxylin, places, (nuclei[1] * per_patch(gain)).ravel())


def _stamp_places(padded: tuple, size_px: int, patch, y, x) -> np.ndarray:
    """Return the flat places in a (padded) array of square stamps centred on (y, x) of patches."""
    offsets = np.arange(size_px) - size_px // 2 + MARGIN_PX
    rows = patch[:, None] * padded[1] + np.rint(y).astype(np.int64)[:, None] + offsets
    columns = np.rint(x).astype(np.int64)[:, None] + offsets
    return (rows[:, :, None] * padded[2] + columns[:, None, :]).ravel()


def _lattice(rng: np.random.Generator, pitch_px: np.ndarray, reach_px: float, jitter: float):
    """Return patch, y, x of points on shaken hexagonal lattices that cover the patches.

    Points lie up to `reach_px` beyond the border; `jitter` is in units of the pitch.
    """
    half = int(np.ceil((PATCH_PX / 2 + reach_px) * np.sqrt(2) / pitch_px.min() / 0.86))
    row, column = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, 1, -1)
    shape = (len(pitch_px), row.size)
    pitch = pitch_px[:, None]
    y = (row * 0.866 + jitter * rng.standard_normal(shape, np.float32)) * pitch
    x = (column + row % 2 / 2 + jitter * rng.standard_normal(shape, np.float32)) * pitch
    angle = rng.uniform(0, 2 * np.pi, (len(pitch_px), 1)).astype(np.float32)
    turned_y = MIDDLE_PX + np.cos(angle) * y + np.sin(angle) * x
    turned_x = MIDDLE_PX + np.cos(angle) * x - np.sin(angle) * y
    reach = PATCH_PX / 2 + reach_px
    near = (abs(turned_y - MIDDLE_PX) < reach) & (abs(turned_x - MIDDLE_PX) < reach)
    return np.nonzero(near)[0], turned_y[near], turned_x[near]


def _place_tumour_cells(rng: np.random.Generator, nests: Nests, tumour_scale: np.ndarray):
    """Return patch, y, x of tumour cells: one at each anchor, the others well within nests."""
    pitch = 15.5 * tumour_scale * rng.uniform(0.88, 1.2, len(tumour_scale))
    patch, y, x = _lattice(rng, pitch, 9, 0.15)
    from_centre = np.maximum(abs(y - MIDDLE_PX), abs(x - MIDDLE_PX))
    # A normal patch's nuclei stay out of its centre, half of which is 16 px, a long nucleus 11.
    keep = (at(nests.depth, patch, y, x) > 3.5) & (nests.positive[patch] | (from_centre >= 16 + 11))
    from_anchor = np.hypot(y - nests.anchor_y[patch], x - nests.anchor_x[patch])
    keep &= from_anchor > 0.8 * pitch[patch]
    anchored = np.flatnonzero(nests.positive)
    return (
        np.concatenate([anchored, patch[keep]]),
        np.concatenate([nests.anchor_y[anchored], y[keep]]),
        np.concatenate([nests.anchor_x[anchored], x[keep]]),
    )


def draw_bodies(
    rng: np.random.Generator, padded: tuple, patch, y, x, reach_px: tuple = (11, 14)
) -> np.ndarray:
    """Share the pixels out among the tumour cells nearest to them; return cell numbers from 1.

    `reach_px` are the shortest and the longest half axis of a cell.
    """
    size_px = 29
    axis = np.arange(size_px, dtype=np.float32) - size_px // 2
    reach = rng.uniform(*reach_px, (2, len(patch), 1)).astype(np.float32)
    away_y, away_x = (axis / reach) ** 2
    nearness = 1000 * (1 - np.sqrt(away_y[:, :, None] + away_x[:, None, :]))
    # Nearness in the high bits, the cell's number in the low ones: the maximum keeps the nearest.
    packed = np.maximum(nearness, 0).astype(np.int32) << 16
    packed += np.arange(1, len(patch) + 1, dtype=np.int32)[:, None, None] * (nearness >= 1)
    nearest = np.zeros(padded, np.int32)
    np.maximum.at(nearest.ravel(), _stamp_places(padded, size_px, patch, y, x), packed.ravel())
    return nearest[INNER] & 0xFFFF


def _place_host_cells(
    rng: np.random.Generator,
    nests: Nests,
    tumour_nuclei: np.ndarray,
    host: Host,
    histiocyte_share: np.ndarray,
):
    """Return patch, y, x, kind and direction of the lymph node's own cells."""
    patch, y, x = _lattice(rng, rng.uniform(7.4, 8.8, len(nests.depth)), 6, 0.16)
    stroma, sinus = at(host.stroma, patch, y, x), at(host.sinus, patch, y, x)
    # Cells thin out where stroma or sinus begin, and few enter a nest.
    lymphoid = (1 - stroma) * (1 - sinus)
    lymphocytes = host.filled[patch] * lymphoid + 0.10 * stroma + 0.16 * sinus * (1 - stroma)
    histiocytes = histiocyte_share[patch] * lymphoid + 0.14 * sinus * (1 - stroma)
    spindles = 0.17 * stroma + 0.02
    outside_nests, in_tissue = at(nests.depth, patch, y, x) <= -1, at(host.hole, patch, y, x) < -2.5
    room = np.where(outside_nests, 1.0, 0.03) * in_tissue
    for dy, dx in ((0, 0), (3, 0), (-3, 0), (0, 3), (0, -3)):
        room[at(tumour_nuclei, patch, y + dy, x + dx)] = 0
    shares = np.cumsum([lymphocytes * (1 - histiocytes), histiocytes, spindles], axis=0)
    drawn = rng.random(len(patch)) * np.maximum(shares[-1], 1)
    kind = np.array([*HOST_NUCLEI, ""])[(drawn > shares).sum(axis=0)]
    keep = (rng.random(len(patch)) < room) & (kind != "")
    patch, y, x, kind = patch[keep], y[keep], x[keep], kind[keep]
    angle = host.fibre_angle[patch]
    dy, dx = 3 * np.sin(angle), 3 * np.cos(angle)
    rise = at(host.wave, patch, y + dy, x + dx) - at(host.wave, patch, y - dy, x - dx)
    return patch, y, x, kind, angle - np.arctan(7 * rise / 6)
