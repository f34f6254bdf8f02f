"""Outlines and cells of a heat map as files: GeoJSON for QuPath, XML for ASAP."""

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
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
    outlined = (
        _line(_area_feature(number, area, heat, size, positive))
        for number, area in enumerate(areas, 1)
    )
    _write_lines(path, itertools.chain(outlined, _cell_lines(heat, size, positive)))


def write_tissue(path: str | Path, tissue: Tissue, slide: Slide) -> None:
    """Write a tissue mask as GeoJSON: an annotation of the class Tissue for each piece.

    It can be edited in QuPath and read again, see `tissue.of_outlines`.

    Raises:
        InputError: the file cannot be written.
    """
    step_px = tissue.mpp / slide.mpp
    pieces = measure.regionprops(measure.label(tissue.mask, connectivity=2))
    properties = {
        "objectType": "annotation",
        "classification": {"name": "Tissue", "color": _GREEN},
    }
    _write_lines(
        path,
        (
            _line(_feature(rings_px(each, step_px, slide.size), properties))
            for each in (rings_around(piece.image, piece.bbox[:2]) for piece in pieces)
        ),
    )


def _line(feature):
    return json.dumps(feature, ensure_ascii=False)


def _write_lines(path, lines):
    """Write features as they come, a line each."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        comma = "\n"
        for line in lines:
            file.write(comma + line)
            comma = ",\n"
        file.write("\n]}\n")


def _cell_lines(heat, size, positive) -> Iterator[str]:
    """Yield each tissue cell as a line of JSON; there may be a million of them."""
    found = heat.probabilities
    edges = [
        np.round(np.clip(np.arange(cells + 1) * _step_px(heat), 0, side), _DECIMALS).tolist()
        for cells, side in zip(found.shape[::-1], size, strict=True)
    ]
    name = json.dumps(f"probability of {positive}", ensure_ascii=False)
    for row, column in np.argwhere(np.isfinite(found)).tolist():
        (left, right), (top, bottom) = edges[0][column : column + 2], edges[1][row : row + 2]
        yield (
            '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [['
            f"[{left}, {top}], [{right}, {top}], [{right}, {bottom}], [{left}, {bottom}], "
            f'[{left}, {top}]]]}}, "properties": {{"objectType": "tile", "measurements": '
            f"{{{name}: {found[row, column]:.6f}}}}}}}"
        )


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
