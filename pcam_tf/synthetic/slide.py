"""A synthetic slide drawn window by window: any window shows the same tissue.

Cells lie on shaken lattices whose randomness is a hash of the place, and textures are periodic, so
nothing but the plan is kept in memory. Lengths are pixels at the scale of `task.PCAM`.
"""

import functools
from typing import NamedTuple

import numpy as np

from pcam_tf import stain
from pcam_tf.synthetic import nuclei, section, tissue
from pcam_tf.synthetic.slide_plan import ISOLATED_PX, SlidePlan
from pcam_tf.synthetic.tissue import Host

_EDGE_PX = nuclei.MARGIN_PX  # cells and blur reach so far into a window
_CLEAR_PX = -40  # tissue and ink are surely further away
_CELL_PITCH_PX, _HOST_PITCH_PX = 15.5, 8.0
_CELL_STREAM, _HOST_STREAM = 10, 20  # of numbers drawn from places


class _Kit(NamedTuple):
    """What all windows of a slide are drawn with."""

    noise: tissue.Noise
    tumour: np.ndarray  # bank of nuclei
    host: dict[str, np.ndarray]


@functools.lru_cache(maxsize=2)
def _kit(seed: int) -> _Kit:
    rng = np.random.default_rng([seed, 78])
    noise = tissue.draw_noise(rng)
    tumour = nuclei.draw_bank(rng, noise.fine, **nuclei.TUMOUR_NUCLEI)
    banks = nuclei.HOST_NUCLEI.items()
    return _Kit(noise, tumour, {k: nuclei.draw_bank(rng, noise.fine, **v) for k, v in banks})


def draw_window(plan: SlidePlan, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Return a window of a slide, uint8 (height, width, 3)."""
    kit = _kit(plan.seed)
    rows = np.arange(top - _EDGE_PX, top + height + _EDGE_PX)
    columns = np.arange(left - _EDGE_PX, left + width + _EDGE_PX)
    y, x = np.float32(rows)[:, None], np.float32(columns)[None]
    depth = _deepest(plan.tissue, y, x)
    light = _light(plan, kit, rows, columns)
    light *= _ink(plan, y, x)
    light = light[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX]
    if depth.max() < _CLEAR_PX:
        return np.rint(np.clip(light, 0, 255)).astype("uint8")
    densities = _densities(plan, kit, rows, columns, depth)
    densities = densities[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX]
    return stain.mix(densities, plan.look.stain_vectors, light)


def _deepest(blobs, y, x):
    """Return the greatest depth in any of the blobs, float32; far outside where there is none."""
    depth = np.full((y.shape[0], x.shape[1]), np.float32(10 * _CLEAR_PX))
    for blob in blobs:
        reach = blob.reach - _CLEAR_PX
        if (
            y[0, 0] < blob.y + reach and y[-1, 0] > blob.y - reach
            and x[0, 0] < blob.x + reach and x[0, -1] > blob.x - reach
        ):  # fmt: skip
            depth = np.maximum(depth, blob.depth(y, x))
    return depth


def _texture(canvas, rows, columns, shift=0):
    side = len(canvas)
    return canvas[np.ix_((rows + shift) % side, (columns + 3 * shift) % side)]


def _light(plan, kit, rows, columns):
    """Return the light behind the section, float32 (height, width, 3): glass, noise, dust."""
    noise = [_texture(kit.noise.camera, rows, columns, 17 * each) for each in range(3)]
    light = plan.look.background * (1 + 0.012 * np.stack(noise, axis=-1))
    for speck in plan.dust:
        near = _deepest((speck,), np.float32(rows)[:, None], np.float32(columns)[None])
        light *= (1 - 0.6 * np.clip(near + 0.5, 0, 1))[..., None]
    return np.float32(light)


def _ink(plan, y, x):
    """Return the share of light that passes the ink of pens, float32 (height, width, 3) or 1."""
    passed = np.float32(1)
    for pen in plan.pens:
        cover = np.clip(pen.depth(y, x) / 3 + 0.5, 0, 1)[..., None]
        if cover.any():
            passed = passed * (1 + cover * (np.float32(pen.ink) - 1))
    return passed


def _densities(plan, kit, rows, columns, tissue_depth):
    """Return haematoxylin and eosin of a window and its margin, float32 (height, width, 2)."""
    y, x = np.float32(rows)[:, None], np.float32(columns)[None]
    nest = _deepest(plan.islands, y, x)
    host = _host(kit, rows, columns, tissue_depth, nest)
    grain = _texture(kit.noise.fine, rows, columns)[None]
    cloud = _texture(kit.noise.medium, rows, columns, 5)[None]
    layers, body, tones = _cells(plan, kit, rows, columns, nest, host)
    stains = section.stain_host(np.random.default_rng([plan.seed, 79]), host, grain, cloud)
    cytoplasm = section.granular_cytoplasm(
        body, tones, -0.3, plan.look.cytoplasm[None], grain, cloud
    )
    inside = np.clip(nest / 1.2 + 0.5, 0, 1)
    present = np.clip(tissue_depth + 0.5, 0, 1)
    cover, nuclear = layers
    between = [
        (outer + inside * (inner - outer))[0].clip(0) * present * (1 - cover)
        for outer, inner in zip(stains, cytoplasm, strict=True)
    ]
    densities = np.stack([between[0] + nuclear, between[1] + 0.3 * cover])
    densities *= (plan.strength * plan.look.gains)[:, None, None]
    for fold in plan.folds:  # the tissue lies there three times
        densities *= 1 + 1.5 * np.clip(fold.depth(y, x) / 4 + 0.5, 0, 1)
    return section.blur(np.float32(densities)[:, None], np.float32([plan.look.blur_px]))[0]


def _host(kit, rows, columns, tissue_depth, nest):
    """Return the lymph node's tissue of a window, as fields of one patch."""
    slow = _texture(kit.noise.coarse, rows // 6, columns // 6, 101)  # compartments
    wave = _texture(kit.noise.coarse, rows, columns, 31)
    stroma = np.clip(2 * (0.6 * wave + slow - 1.1) + 0.5, 0, 1)
    rim = np.clip(1 - tissue_depth / 30, 0, 1)  # the capsule
    sinus = _texture(kit.noise.coarse, rows, columns, 57) * 0.6 - slow - 1.3
    fibre_rows = rows[:, None] + np.rint(7 * wave).astype(int)
    side = len(kit.noise.fibres)
    fibres = kit.noise.fibres[fibre_rows % side, np.broadcast_to(columns % side, wave.shape)]
    fields = np.maximum(stroma, rim), np.clip(2 * sinus + 0.5, 0, 1)
    hole = np.minimum(-tissue_depth, -nest - 1)
    return Host(
        *(np.float32(field)[None] for field in (*fields, hole, fibres, wave)),
        fibre_angle=np.zeros(1, "float32"),
        filled=np.float32([0.8]),
    )


def _hashed(plan, rows, columns, stream):
    """Return numbers 0..1 that depend on the seed, a place of a lattice and a stream alone."""
    mixed = np.uint64(plan.seed * 1_000_003 + stream)
    with np.errstate(over="ignore"):
        for part in (rows, columns):
            mixed = (mixed ^ np.asarray(part).astype("int64").view("uint64")) * np.uint64(
                0x9E3779B97F4A7C15
            )
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(11)).astype("float64") / 2**53


def _lattice(plan, pitch, stream, rows, columns):
    """Return y, x of the points of a shaken lattice in a window, and what hashes are drawn from."""
    pitch_y = 0.866 * pitch
    row, column = np.meshgrid(
        np.arange(rows[0] // pitch_y - 1, rows[-1] // pitch_y + 2).astype("int64"),
        np.arange(columns[0] // pitch - 1, columns[-1] // pitch + 2).astype("int64"),
        indexing="ij",
    )
    row, column = row.ravel(), column.ravel()
    shake = [0.5 * (_hashed(plan, row, column, stream + each) - 0.5) for each in (0, 1)]
    y = (row + shake[0]) * pitch_y
    x = (column + row % 2 / 2 + shake[1]) * pitch
    draw = lambda each: _hashed(plan, row, column, stream + each)  # noqa: E731
    # Only whole stamps: those of points beyond the margin do not reach the window.
    near = (y >= rows[0] + 1) & (y <= rows[-1] - 1) & (x >= columns[0] + 1) & (x <= columns[-1] - 1)
    return y[near], x[near], lambda each: draw(each)[near]


def _cells(plan, kit, rows, columns, nest, host):
    """Return cover and haematoxylin (2, height, width), bodies (1, height, width), their tones."""
    edge = nuclei.MARGIN_PX
    shape = (len(rows) + 2 * edge, len(columns) + 2 * edge)
    layers = np.zeros((2, 1, *shape), "float32")
    y, x, draw = _lattice(plan, _CELL_PITCH_PX, _CELL_STREAM, rows, columns)
    numbers = np.stack([draw(each) for each in (2, 3, 4, 5)])
    keep = _value(nest, rows, columns, y, x) > 5
    y, x, numbers = y[keep], x[keep], numbers[:, keep]
    for island in plan.islands:
        is_here = rows[0] < island.y < rows[-1] and columns[0] < island.x < columns[-1]
        if island.radius < ISOLATED_PX and is_here:  # one cell is surely in its middle
            y, x = np.append(y, island.y), np.append(x, island.x)
            numbers = np.append(numbers, np.full((4, 1), 0.5), axis=1)
    body = _put_tumour(kit, layers, y - rows[0], x - columns[0], numbers)
    tones = np.exp(0.24 * (np.concatenate([[[0], [0]], numbers[2:]], axis=1).T - 0.5))
    tones[0] = 0.7
    _put_host(plan, kit, layers, rows, columns, nest, host)
    return layers[:, 0, edge:-edge, edge:-edge], body, tones


def _value(field, rows, columns, y, x):
    return field[
        np.clip(np.rint(y - rows[0]).astype(int), 0, len(rows) - 1),
        np.clip(np.rint(x - columns[0]).astype(int), 0, len(columns) - 1),
    ]


def _put_tumour(kit, layers, y, x, numbers):
    """Stamp tumour nuclei onto the layers, and return whose cytoplasm each pixel is."""
    patch = np.zeros(len(y), int)
    which = (numbers[0] * nuclei.BANK).astype(int)
    gain = np.exp(0.44 * (numbers[1] - 0.5) * 1.7)
    nuclei.stamp(layers, kit.tumour[:, which], patch, y, x, gain)
    # The same reach for every cell: a draw here would depend on the window.
    reach = np.random.default_rng(0)
    return nuclei.draw_bodies(reach, layers.shape[1:], patch, y, x, reach_px=(12.5, 12.5))


def _put_host(plan, kit, layers, rows, columns, nest, host):
    """Stamp lymphocytes, histiocytes and spindle cells of stroma onto the layers."""
    y, x, draw = _lattice(plan, _HOST_PITCH_PX, _HOST_STREAM, rows, columns)
    at = functools.partial(_value, rows=rows, columns=columns, y=y, x=x)
    stroma, sinus = at(host.stroma[0]), at(host.sinus[0])
    lymphoid = (1 - stroma) * (1 - sinus)
    cells = 0.8 * lymphoid + 0.10 * stroma + 0.16 * sinus * (1 - stroma)
    pale = plan.look.histiocyte_share * lymphoid + 0.14 * sinus * (1 - stroma)
    shares = np.cumsum([cells * (1 - pale), pale, 0.17 * stroma + 0.02], axis=0)
    kind = np.array([*kit.host, ""])[(draw(2) * np.maximum(shares[-1], 1) > shares).sum(axis=0)]
    # Few enter a nest.
    room = np.where(at(nest) <= -1, 1.0, 0.03) * (at(host.hole[0]) < -2.5)
    kept = (draw(3) < room) & (kind != "")
    turn = np.arctan2(np.gradient(host.wave[0], axis=1), 1 / 7)
    for name, bank in kit.host.items():
        chosen = kept & (kind == name)
        which = draw(4)[chosen]
        if name == "spindle":  # along the fibres, give or take
            which = (at(-turn)[chosen] + 0.15 * (which - 0.5)) / np.pi % 1
        stamps = bank[:, (which * nuclei.BANK).astype(int) % nuclei.BANK]
        gain = np.exp(0.6 * (draw(5)[chosen] - 0.5))
        patch = np.zeros(chosen.sum(), int)
        nuclei.stamp(layers, stamps, patch, y[chosen] - rows[0], x[chosen] - columns[0], gain)
