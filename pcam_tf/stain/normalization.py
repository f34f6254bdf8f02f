"""Stain normalisation: give a picture the stain of a reference picture.

Two methods. Macenko's changes the stain vectors and the strength of each stain (M. Macenko et al.,
ISBI 2009). Reinhard's changes the mean and the standard deviation of each channel of CIELAB
(E. Reinhard et al., Color transfer between images, IEEE Computer Graphics and Applications 2001).

A degenerate picture (blank, black, of one colour or one stain, or of few pixels) has no stain that
could be measured. It is returned unchanged, and a flag says so.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from skimage import color

from pcam_tf.errors import InputError, unknown
from pcam_tf.files import printable, write_json
from pcam_tf.stain import separation

LEAST_DEVIATION = 1.0  # CIELAB units; below, a channel holds noise rather than stain


@dataclasses.dataclass(frozen=True, eq=False)
class Macenko:
    """The stain of a picture by Macenko's method."""

    stain_vectors: np.ndarray  # float64 (2, 3): haematoxylin and eosin, of unit length
    strengths: np.ndarray  # float64 (2,): 99th percentile of each one's amount


@dataclasses.dataclass(frozen=True, eq=False)
class Reinhard:
    """The stain of a picture by Reinhard's method, in CIELAB (L 0..100)."""

    mean: np.ndarray  # float64 (3,)
    deviation: np.ndarray  # float64 (3,)


Reference = Macenko | Reinhard
METHODS = {"macenko": Macenko, "reinhard": Reinhard}
_SHAPES = {"stain_vectors": (2, 3), "strengths": (2,), "mean": (3,), "deviation": (3,)}


def fit(picture: np.ndarray, method: str = "macenko") -> Reference:
    """Measure the stain of a reference picture, uint8 (height, width, 3).

    Raises:
        InputError: an unknown method, no RGB picture, or a picture without two stains.
    """
    if method not in METHODS:
        raise unknown("method of stain normalisation", method, METHODS)
    measured = _measure(picture, METHODS[method])
    if measured is None:
        raise InputError("the reference has too little tissue, or one stain only: take another.")
    return measured


def normalize(picture: np.ndarray, reference: Reference) -> tuple[np.ndarray, bool]:
    """Give a picture the stain of a reference.

    Args:
        picture: uint8 (height, width, 3).
        reference: see `fit` and `load`.

    Returns:
        The picture, uint8, and True; or the picture unchanged and False if it is degenerate.

    Raises:
        InputError: no RGB picture.
    """
    measured = _measure(picture, type(reference))
    if measured is None:
        return np.asarray(picture), False
    if isinstance(reference, Reinhard):
        return _to_reinhard(picture, measured, reference), True
    density = separation.macenko_density(picture)
    amounts = separation.separate(density, measured.stain_vectors)
    amounts = amounts * (reference.strengths / measured.strengths)
    levels = separation.LIGHT * np.exp(-(amounts @ reference.stain_vectors)) - 1
    return _levels(levels), True


def save(path: str | Path, reference: Reference) -> None:
    """Write a reference as JSON: its method and its numbers.

    Raises:
        InputError: the file cannot be written.
    """
    write_json(path, to_dictionary(reference))


def load(path: str | Path) -> Reference:
    """Read a reference that `save` has written.

    Raises:
        InputError: there is no such file, or it holds no reference.
    """
    try:
        return from_dictionary(json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise InputError(f"there is no file {printable(path)}.") from error
    except (OSError, ValueError) as error:  # what is no JSON or no UTF-8 is a ValueError
        raise InputError(
            f"{printable(path)} holds no reference for stain normalisation."
        ) from error


def to_dictionary(reference: Reference) -> dict:
    """Return the method and the numbers of a reference, as JSON can hold them."""
    method = next(name for name, kind in METHODS.items() if isinstance(reference, kind))
    numbers = dataclasses.asdict(reference)
    return {"method": method} | {name: np.asarray(each).tolist() for name, each in numbers.items()}


def from_dictionary(content: dict) -> Reference:
    """Return the reference that `to_dictionary` has described.

    Raises:
        InputError: it is none.
    """
    try:
        kind = METHODS[content["method"]]
        numbers = {
            each.name: np.asarray(content[each.name], float) for each in dataclasses.fields(kind)
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("this is no reference for stain normalisation.") from error
    for name, values in numbers.items():
        if values.shape != _SHAPES[name] or not np.isfinite(values).all():
            raise InputError(f"{name}: give finite numbers of the shape {_SHAPES[name]}.")
    return kind(**numbers)


def _measure(picture, kind):
    """Return the stain of a picture; None if it is degenerate."""
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise InputError(
            f"a picture of shape {picture.shape} and type {picture.dtype}: give uint8 "
            "(height, width, 3)."
        )
    density = separation.macenko_density(picture)
    if kind is Reinhard:
        if separation.tissue_pixels(density) is None:
            return None
        lab = color.rgb2lab(picture).reshape(-1, 3)
        deviation = lab.std(axis=0)
        return (
            Reinhard(lab.mean(axis=0), deviation) if (deviation >= LEAST_DEVIATION).all() else None
        )
    vectors = separation.macenko_vectors(density)
    if vectors is None:
        return None
    strengths = separation.strengths(density, vectors)
    return Macenko(vectors, strengths) if (strengths >= separation.LEAST_STRENGTH).all() else None


def _to_reinhard(picture, measured, reference):
    lab = color.rgb2lab(picture)
    lab = (lab - measured.mean) * (reference.deviation / measured.deviation) + reference.mean
    lab[..., 0] = np.clip(lab[..., 0], 0, 100)
    # The same conversion as color.lab2rgb, which warns of each colour that no screen can show.
    with np.errstate(invalid="ignore"):
        return _levels(color.xyz2rgb(_lab_to_xyz(lab)) * 255)


def _lab_to_xyz(lab):
    y = (lab[..., 0] + 16) / 116
    roots = np.maximum(np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1), 0)
    shares = np.where(roots > 6 / 29, roots**3, (roots - 16 / 116) / 7.787)
    return shares * color.xyz_tristimulus_values(illuminant="D65", observer="2")


def _levels(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
