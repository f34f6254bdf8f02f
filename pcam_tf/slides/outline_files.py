"""Outlines and cells of a heat map as files: GeoJSON for QuPath, XML for ASAP."""

import itertools
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from skimage import measure

from pcam_tf.figures import style
from pcam_tf.files import written_whole
from pcam_tf.slides import annotations
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.slides.reader import Slide
from pcam_tf.slides.tissue import Tissue
from pcam_tf.slides.tumour_areas import TumourArea, rings_around
from pcam_tf.task import PCAM

_DECIMALS = 2  # of level-0 pixels
_TUMOUR, _GREEN = (
    [round(255 * part) for part in mpl.colors.to_rgb(each)] for each in (style.TUMOUR, style.GREEN)
)


def class_name(positive: str) -> str:
    """Return what viewers call the second class of a task: QuPath has a class Tumor."""
    return annotations.QUPATH_TUMOUR if positive == PCAM.classes[1] else positive


def rings_px(
    rings: Sequence[np.ndarray], step_px: float, size: tuple[int, int]
) -> list[np.ndarray]:
    """Return rings, float64 (n, 2), x and y in level-0 pixels of a slide.

    Args:
        rings: in cells of a grid, or in pixels of a mask.
        step_px: side of one in level-0 pixels.
        size: width and height of the slide; the last cells may reach beyond it.
    """
    within = (np.round(np.clip(ring * step_px, 0, size), _DECIMALS) for ring in rings)
    within = (ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)] for ring in within)
    return [ring for ring in within if len(ring) >= 3]


def write_geojson(
    path: str | Path,
    heat: HeatMap,
    areas: list[TumourArea],
    size: tuple[int, int],
    positive: str = PCAM.classes[1],
) -> None:
    """Write areas and cells as a FeatureCollection that QuPath opens.

    An area is an annotation of the class Tumor, a cell is a tile without a class, so that programs
    that look for tumour find the outlines only. Coordinates are level-0 pixels.

    Args:
        path: of the file.
        heat: the heat map.
        areas: of tumour on it.
        size: width and height of the slide in level-0 pixels.
        positive: the class that the probabilities are of.

    Raises:
        InputError: the file cannot be written.
    """
    areas = (
        _area_feature(number, area, heat, size, positive) for number, area in enumerate(areas, 1)
    )
    _write_features(path, itertools.chain(areas, _cell_features(heat, size, positive)))


def write_tissue(path: str | Path, tissue: Tissue, slide: Slide) -> None:
    """Write a tissue mask as GeoJSON: an annotation of the class Tissue for each piece.

    It can be edited in QuPath and read again, see `tissue.of_outlines`.

    Raises:
        InputError: the file cannot be written.
    """
    step_px = tissue.mpp / slide.mpp
    _write_features(path, (
        _feature(
            rings_px(rings_around(piece.image, piece.bbox[:2]), step_px, slide.size),
            {"objectType": "annotation", "classification": {"name": "Tissue", "color": _GREEN}},
        )
        for piece in measure.regionprops(measure.label(tissue.mask, connectivity=2))
    ))  # fmt: skip


def _write_features(path, features):
    """Write features as they come, a line each."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        comma = "\n"
        for feature in features:
            file.write(comma + json.dumps(feature, ensure_ascii=False))
            comma = ",\n"
        file.write("\n]}\n")


def _cell_features(heat, size, positive):
    step_px = _step_px(heat)
    for row, column in np.argwhere(np.isfinite(heat.probabilities)):
        left, right = np.clip(np.array([column, column + 1]) * step_px, 0, size[0])
        top, bottom = np.clip(np.array([row, row + 1]) * step_px, 0, size[1])
        square = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        probability = round(float(heat.probabilities[row, column]), 6)
        properties = {
            "objectType": "tile",
            "measurements": {f"probability of {positive}": probability},
        }
        yield _feature([np.round(square, _DECIMALS)], properties)


def _step_px(heat):
    return heat.grid.step_um / heat.grid.level0_mpp


def _area_feature(number, area, heat, size, positive):
    properties = {
        "objectType": "annotation",
        "name": f"{positive} {number}",
        "classification": {"name": class_name(positive), "color": _TUMOUR},
        "isLocked": False,
        "measurements": {
            "cells of the heat map": area.cells,
            "area of these cells, mm²": round(area.cells * heat.grid.step_um**2 / 1e6, 6),
            f"mean probability of {positive}": round(area.mean, 6),
            f"highest probability of {positive}": round(area.highest, 6),
        },
    }
    # QuPath keeps an object's id, which has to be a UUID; the same for the same result.
    name = f"{heat.name} {positive} {number}"
    identity = {"id": str(uuid.uuid5(uuid.NAMESPACE_OID, name))}
    return identity | _feature(rings_px(area.rings, _step_px(heat), size), properties)


def _feature(rings, properties):
    closed = [np.concatenate([ring, ring[:1]]).tolist() for ring in rings]
    geometry = {"type": "Polygon", "coordinates": closed}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write_asap(
    path: str | Path,
    heat: HeatMap,
    areas: list[TumourArea],
    size: tuple[int, int],
    positive: str = PCAM.classes[1],
) -> None:
    """Write areas as ASAP's XML: outer rings in the group Tumor, holes in the group `_2`.

    A hole is cut out of all tumour, as in Camelyon16's files, so areas within a hole are lost here.
    GeoJSON keeps them.

    Raises:
        InputError: the file cannot be written.
    """
    root = ElementTree.Element("ASAP_Annotations")
    parent, group = ElementTree.SubElement(root, "Annotations"), class_name(positive)
    colour = mpl.colors.to_hex(style.TUMOUR).upper()
    for number, area in enumerate(areas, 1):
        for part, ring in enumerate(rings_px(area.rings, _step_px(heat), size)):
            hole = f" hole {part}" if part else ""
            annotation = ElementTree.SubElement(
                parent, "Annotation", Name=f"{positive} {number}{hole}", Type="Polygon",
                PartOfGroup="_2" if part else group, Color=colour,
            )  # fmt: skip
            points = ElementTree.SubElement(annotation, "Coordinates")
            for order, (x, y) in enumerate(ring.tolist()):
                ElementTree.SubElement(
                    points, "Coordinate", Order=str(order), X=f"{x:.2f}", Y=f"{y:.2f}"
                )
    groups = ElementTree.SubElement(root, "AnnotationGroups")
    for name in (group, "_2"):
        ElementTree.SubElement(groups, "Group", Name=name, PartOfGroup="None", Color=colour)
    ElementTree.indent(root)
    with written_whole(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)
