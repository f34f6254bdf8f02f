"""Drawn fields of six tumours that differ in architecture alone, by patient with its own stain.

Every field is scaled to the mean colour of its patient, and patients of all subtypes draw it from
the same distribution: colour tells the patient, only the arrangement of cells tells the subtype.
No field copies a real one, and the subtypes are cartoons of growth patterns, not of diagnoses.

Lengths are pixels.
"""

from collections.abc import Iterator

import numpy as np
import scipy.ndimage
import scipy.spatial

from pcam_tf import stain
from pcam_tf.task import Task

TASK = Task(
    "synthetic-subtypes",
    ("tubules", "papillae", "mucin_lakes", "sheets", "lobules", "single_files"),
    side_px=128,
    mpp=None,
    group="case",
)
FIELD_PX = (144, 216)  # height, width
_NUCLEUS_PX = 2.6
_MATCHING_STEPS = 8


def draw_fields(
    cases_per_class: int = 4, fields_per_case: int = 6, seed: int = 0
) -> Iterator[dict]:
    """Yield fields, one case after the other.

    A field depends on `seed`, its class, its case and its number alone.

    Yields:
        Dictionaries of `id`, `image` (144, 216, 3) uint8, `label` (of `TASK`), `group` and
        `patient` (the case) and `magnification` (100).
    """
    for label, name in enumerate(TASK.classes):
        for case in range(cases_per_class):
            patient = np.random.default_rng([seed, label, case])
            look = _draw_patient(patient)
            for number in range(fields_per_case):
                rng = np.random.default_rng([seed, label, case, number + 1])
                group = f"{name}-{case}"
                yield {
                    "id": f"{group}-{number}",
                    "image": _draw(rng, name, *look),
                    "label": label,
                    "group": group,
                    "patient": group,
                    "magnification": 100,
                }


def _draw_patient(rng):
    """Return a patient's stain vectors (2, 3), mean transmission (3,) and scale of the pattern."""
    vectors = stain.MIXING[:2] * rng.uniform(0.9, 1.1, (2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    densities = rng.uniform((0.25, 0.2), (0.45, 0.4))
    return vectors, np.exp(-densities @ vectors), rng.uniform(0.85, 1.15)


def _draw(rng, name, vectors, transmission, scale):
    """Return one field: the pattern's densities, matched to the patient's mean colour."""
    epithelium, stroma = _PATTERNS[name](rng, scale)
    nuclei = _nuclei(rng, epithelium, name)
    grain = scipy.ndimage.gaussian_filter(rng.standard_normal(FIELD_PX), 1.5)
    fibres = _waves(rng, stroma.shape, 5)[1]
    haematoxylin = 0.9 * nuclei + 0.12 * epithelium + 0.05 * stroma + 0.02
    eosin = 0.25 * epithelium + stroma * (0.5 + 0.15 * fibres) + 0.02
    densities = np.stack([haematoxylin, eosin], axis=-1) * np.exp(0.3 * grain)[..., None]
    gains = np.ones(2)
    for _ in range(_MATCHING_STEPS):  # towards the patient's mean colour
        light = np.exp(-(densities * gains) @ vectors).mean(axis=(0, 1))
        missing = np.log(light / transmission) @ np.linalg.pinv(vectors)
        mean = (densities * gains).mean(axis=(0, 1))
        gains *= np.clip(1 + missing / mean, 0.5, 2)
    noise = rng.normal(0, 2, (*FIELD_PX, 3))
    picture = stain.mix(densities * gains, vectors)
    return np.clip(picture + noise, 0, 255).round().astype("uint8")


def _grid():
    return np.mgrid[: FIELD_PX[0], : FIELD_PX[1]].astype("float64")


def _centres(rng, pitch_px, jitter=0.2):
    """Return points of a shaken hexagonal lattice that covers a field and its border, (m, 2)."""
    rows, columns = np.mgrid[-2 : FIELD_PX[0] / pitch_px + 3, -2 : FIELD_PX[1] / pitch_px + 3]
    points = np.stack([rows * 0.87, columns + (rows % 2) / 2], axis=-1).reshape(-1, 2)
    points += rng.normal(0, jitter, points.shape) + rng.uniform(-0.5, 0.5, 2)
    return points * pitch_px


def _distance(points):
    """Return the distance of each pixel to the nearest point, (height, width)."""
    pixels = np.moveaxis(_grid(), 0, -1).reshape(-1, 2)
    return scipy.spatial.cKDTree(points).query(pixels)[0].reshape(FIELD_PX)


def _waves(rng, shape, pitch_px):
    """Return wavy stripes: the signed distance from the middle of a stripe, and its sine."""
    rows, columns = _grid()
    bend = 14 * scipy.ndimage.gaussian_filter(rng.standard_normal(shape), 14) * 14
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * rows + np.sin(angle) * columns + bend
    phase = along / pitch_px + rng.uniform(0, 1)
    return (phase - np.round(phase)) * pitch_px, np.sin(2 * np.pi * phase)


def _between(values, low, high):
    return np.clip(np.minimum(values - low, high - values) + 0.5, 0, 1)


def _tubules(rng, scale):
    distance = _distance(_centres(rng, 36 * scale))
    ring = _between(distance, 6 * scale, 13 * scale)
    return ring, _between(distance, 13 * scale, 1e3)


def _papillae(rng, scale):
    across = np.abs(_waves(rng, FIELD_PX, 34 * scale)[0])
    return _between(across, 4 * scale, 11 * scale), _between(across, -1, 4 * scale)


def _mucin_lakes(rng, scale):
    islands = _between(_distance(_centres(rng, 52 * scale, 0.3)), -1, 11 * scale)
    walls = _between(np.abs(_waves(rng, FIELD_PX, 110 * scale)[0]), -1, 7 * scale)
    return islands * (1 - walls), walls


def _sheets(rng, scale):
    clefts = _between(np.abs(_waves(rng, FIELD_PX, 120 * scale)[0]), -1, 4 * scale)
    return 1 - clefts, clefts


def _lobules(rng, scale):
    nests = _between(_distance(_centres(rng, 17 * scale, 0.1)), -1, 6.5 * scale)
    lobes = _between(_distance(_centres(rng, 74 * scale, 0.15)), -1, 27 * scale)
    return nests * lobes, 1 - nests * lobes


def _single_files(rng, scale):
    files = _between(np.abs(_waves(rng, FIELD_PX, 15 * scale)[0]), -1, 2.6 * scale)
    return files, 1 - files


_PATTERNS = {
    "tubules": _tubules,
    "papillae": _papillae,
    "mucin_lakes": _mucin_lakes,
    "sheets": _sheets,
    "lobules": _lobules,
    "single_files": _single_files,
}


def _nuclei(rng, epithelium, name):
    """Return nuclei in the epithelium and a few in the rest, 0..1."""
    points = _centres(rng, 7.5)
    inside = points[((points >= 0) & (points < np.array(FIELD_PX) - 0.5)).all(axis=1)]
    at = np.clip(inside.round().astype(int), 0, np.array(FIELD_PX) - 1)
    chance = np.where(epithelium[at[:, 0], at[:, 1]] > 0.5, 0.95, 0.05)
    kept = inside[rng.random(len(inside)) < chance]
    return _between(_distance(kept), -1, _NUCLEUS_PX) if len(kept) else np.zeros(FIELD_PX)
