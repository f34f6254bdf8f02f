"""Outlines of tumour on slides: ASAP's XML and GeoJSON, as polygons and as masks."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.files import printable
from pcam_tf.slides.grid import Grid
from pcam_tf.task import PCAM

SUFFIXES = (".xml", ".geojson", ".json")
# Groups of ASAP's files: Camelyon16's training slides have _0, _1 and _2, its test slides Tumor.
QUPATH_TUMOUR = "Tumor"  # QuPath's own class
_TUMOUR = (QUPATH_TUMOUR.lower(), PCAM.classes[1])  # either spelling
_ASAP_TUMOUR = ("_0", "_1", *_TUMOUR)
_ASAP_EXCLUDED = ("_2",)
_PARTS = 8  # of a cell's side


@dataclasses.dataclass(frozen=True)
class Outlines:
    """Polygons on a slide; each ring is float64 (n, 2), x and y in level-0 pixels."""

    polygons: list[list[np.ndarray]]  # each an outer ring, then its holes
    excluded: list[np.ndarray]  # rings that are no tumour, whatever lies below them


def read_outlines(path: str | Path, *, any_class: bool = False) -> Outlines:
    """Read the tumour outlines of an ASAP XML file or of GeoJSON as QuPath writes it.

    Of XML, the groups `_0`, `_1` and `Tumor` are tumour, and `_2` is cut out of them. Of GeoJSON,
    polygons whose classification is `Tumor` are tumour. All else is left out.

    Args:
        path: of the file.
        any_class: read all polygons of GeoJSON, such as outlines of tissue.

    Raises:
        InputError: the file cannot be read, or is neither.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_xml = path.suffix.lower() == ".xml"
        if is_xml:
            return _asap(ElementTree.fromstring(text))
        return _geojson(json.loads(text), any_class)
    except OSError as error:
        raise InputError(f"cannot read {printable(path)}: {error.strerror}.") from error
    except (ElementTree.ParseError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{printable(path)} holds no outlines: give ASAP's XML or GeoJSON."
        ) from error


def tumour_mask(outlines: Outlines, shape: tuple[int, int], pixel: float) -> np.ndarray:
    """Return which mask pixels have their centre in tumour, bool (rows, columns).

    A ring is filled where its winding number is not 0, so that rings may cross themselves.

    Args:
        outlines: in level-0 pixels.
        shape: rows and columns of the mask.
        pixel: side of a mask pixel in level-0 pixels.
    """
    mask = np.zeros(shape, bool)
    for outer, *holes in outlines.polygons:
        window = _window(outer, shape, pixel)
        inside = _filled(outer, window, pixel)
        for hole in holes:
            inside &= ~_filled(hole, window, pixel)
        mask[window] |= inside
    for ring in outlines.excluded:
        window = _window(ring, shape, pixel)
        mask[window] &= ~_filled(ring, window, pixel)
    return mask


def touched_cells(outlines: Outlines, grid: Grid) -> np.ndarray:
    """Return which cells of a grid hold tumour, bool (rows, columns).

    By PCam's rule: a bit of tumour is enough. A bit is an eighth of a cell's side here.
    """
    fine = tumour_mask(
        outlines,
        (_PARTS * grid.rows, _PARTS * grid.columns),
        grid.step_um / grid.level0_mpp / _PARTS,
    )
    return fine.reshape(grid.rows, _PARTS, grid.columns, _PARTS).any(axis=(1, 3))


def _window(ring, shape, pixel):
    """Return the slices of the rows and columns of a mask around a ring."""
    low, high = np.floor(ring.min(axis=0) / pixel) - 1, np.ceil(ring.max(axis=0) / pixel) + 1
    return tuple(
        slice(int(np.clip(first, 0, most)), int(np.clip(last, 0, most)))
        for first, last, most in zip(low[::-1], high[::-1], shape, strict=True)
    )


def _filled(ring, window, pixel):
    """Return which pixels of a window of the mask have their centre inside a ring."""
    x, y = (ring / pixel - 0.5).T  # the centre of pixel 0 is at 0
    (top, bottom), (left, right) = ((each.start, each.stop) for each in window)
    turns = np.zeros((bottom - top, right - left + 1), np.int32)
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    first = np.ceil(np.minimum(y, next_y)).astype(int)
    count = np.ceil(np.maximum(y, next_y)).astype(int) - first
    # One entry for each row whose centre an edge passes.
    edge = np.repeat(np.arange(len(x)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    share = (row - y[edge]) / (next_y - y)[edge]
    column = np.ceil(x[edge] + share * (next_x - x)[edge]).astype(int)
    seen = (row >= top) & (row < bottom)
    column = np.clip(column - left, 0, turns.shape[1] - 1)
    np.add.at(turns, (row[seen] - top, column[seen]), np.sign(next_y - y)[edge][seen].astype(int))
    return np.cumsum(turns, axis=1)[:, :-1] != 0


def _asap(root):
    if root.tag != "ASAP_Annotations":
        raise ValueError("no annotations of ASAP")
    polygons, excluded = [], []
    for annotation in root.iter("Annotation"):
        group = annotation.get("PartOfGroup", "").lower()
        points = [
            (int(float(each.get("Order", 0))), float(each.get("X")), float(each.get("Y")))
            for each in annotation.iter("Coordinate")
        ]
        ring = _ring([point[1:] for point in sorted(points, key=lambda point: point[0])])
        if ring is None:
            continue
        if group in _ASAP_TUMOUR:
            polygons.append([ring])
        elif group in _ASAP_EXCLUDED:
            excluded.append(ring)
    return Outlines(polygons, excluded)


def _geojson(content, any_class):
    if isinstance(content, dict):
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
    else:
        features = content
    polygons = []
    for feature in features:
        geometry = feature["geometry"]
        is_wanted = any_class or _class_of(feature.get("properties") or {}) in _TUMOUR
        if not (is_wanted and geometry):
            continue
        kind, parts = geometry["type"], geometry.get("coordinates", [])
        parts = {"Polygon": [parts], "MultiPolygon": parts}.get(kind, [])
        polygons += list(_rings_of(parts))
    return Outlines(polygons, [])


def _class_of(properties):
    classification = properties.get("classification") or {}
    names = classification.get("names") or [""]
    return str(classification.get("name", names[0])).lower()


def _rings_of(parts: Iterable):
    for part in parts:
        outer, *holes = [_ring(each) for each in part]
        if outer is not None:
            yield [outer, *(hole for hole in holes if hole is not None)]


def _ring(points):
    """Return a ring (n, 2); None for fewer than three points, which hold no area."""
    ring = np.asarray([point[:2] for point in points], float).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate is not a number")
    return ring if len(ring) >= 3 else None
