"""All that a finished heat map is written as, for viewers, for readers and for `froc`."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pcam_tf import figures
from pcam_tf.figures import html_report, slide_pictures
from pcam_tf.files import written_whole
from pcam_tf.slides import heat_map_files, lesions, outline_files
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.slides.reader import Slide
from pcam_tf.slides.tissue import Tissue
from pcam_tf.slides.tumour_areas import TumourArea, tumour_areas
from pcam_tf.task import PCAM, Task

HEAT_MAP, OVERVIEW, REPORT = "heat_map.ome.tif", "overview.png", "report.html"
OUTLINES, ASAP, LESIONS = "tumour.geojson", "tumour.xml", "lesions.csv"
THUMBNAIL, TISSUE, TISSUE_OUTLINES = "thumbnail.jpg", "tissue.jpg", "tissue.geojson"
_THUMBNAIL_PX = 1600
_SHOWN = 12  # areas and candidates in the report
_FIELD_SIDES = 2  # side of a candidate's picture, in sides of a patch
_SPREAD_UM = 1000.0  # between the candidates in the report, so that they are of several areas


@dataclasses.dataclass(frozen=True)
class Findings:
    """What is called tumour on a slide.

    Attributes:
        threshold: the probability from which on a cell is called.
        areas: that hang together, the largest first.
        candidates: see `lesions.candidates`.
        tissue_mm2: area of the cells with tissue.
        tumour_mm2: area of the called cells.
    """

    threshold: float
    areas: list[TumourArea]
    candidates: pd.DataFrame
    tissue_mm2: float
    tumour_mm2: float


def findings_of(heat: HeatMap, threshold: float) -> Findings:
    """Return what is called tumour on a heat map from a threshold on."""
    areas = tumour_areas(heat.probabilities, threshold)
    cell_mm2 = heat.grid.step_um**2 / 1e6
    return Findings(
        threshold,
        areas,
        lesions.candidates(heat),
        cell_mm2 * int(np.isfinite(heat.probabilities).sum()),
        cell_mm2 * sum(area.cells for area in areas),
    )


def write_all(
    folder: str | Path,
    slide: Slide,
    heat: HeatMap,
    tissue: Tissue,
    threshold: float,
    *,
    task: Task = PCAM,
    asap: bool = False,
) -> Findings:
    """Write pictures, outlines, lesion candidates and the report of a heat map into a folder.

    Args:
        folder: of the slide's results.
        slide: the open slide.
        heat: its heat map.
        tissue: where the slide's tissue is.
        threshold: the probability from which on a cell is called tumour.
        task: that the model answers.
        asap: also write the outlines as ASAP's XML.

    Returns:
        What is called tumour.

    Raises:
        InputError: a file cannot be written, or the slide is damaged.
    """
    folder, positive = Path(folder), task.classes[1]
    found = findings_of(heat, threshold)
    heat_map_files.write_ome_tiff(folder / HEAT_MAP, heat.probabilities, heat.grid.step_um)
    outlined = (heat, found.areas, slide.size, positive)
    outline_files.write_geojson(folder / OUTLINES, *outlined)
    if asap:
        outline_files.write_asap(folder / ASAP, *outlined)
    lesions.write_candidates(folder / LESIONS, found.candidates, slide.size)
    thumbnail = slide.thumbnail(_THUMBNAIL_PX)
    um_per_px = slide.mpp * slide.size[0] / thumbnail.shape[1]
    _save_picture(folder / THUMBNAIL, thumbnail)
    masked = slide_pictures.tissue_picture(thumbnail, tissue.mask, tissue.mpp / um_per_px)
    _save_picture(folder / TISSUE, masked)
    outline_files.write_tissue(folder / TISSUE_OUTLINES, tissue, slide)
    overview = slide_pictures.overview(
        thumbnail,
        heat.probabilities,
        [area.rings for area in found.areas],
        step_um=heat.grid.step_um,
        um_per_px=um_per_px,
        threshold=threshold,
        title=heat.name,
        positive=positive,
    )
    figures.save(overview, folder / OVERVIEW)
    page = _report(slide, heat, found, overview, task)
    with written_whole(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return found


def _save_picture(path, pixels):
    with written_whole(path) as temporary:
        Image.fromarray(pixels).save(temporary, quality=90)


def _report(slide, heat, found, overview, task):
    """Return the page: overview, areas, candidates."""
    positive, share = task.classes[1], found.tumour_mm2 / max(found.tissue_mm2, 1e-12)
    width, height = slide.size
    introduction = (
        f"{width:,} × {height:,} px, {slide.mpp:g} microns per pixel. {found.tissue_mm2:.2f} mm² "
        f"of tissue, of which {found.tumour_mm2:.2f} mm² ({100 * share:.1f} %) are called "
        f"{positive}: cells with a probability of {found.threshold:.3f} or more."
    )
    warning = (
        "Outlines and candidates are a model's, not a diagnosis. On a slide nearly all tissue is "
        f"normal, so many of them are false alarms. A cell is {heat.grid.step_um:.0f} microns wide."
    )
    sections = [
        html_report.section(
            "Overview", [], overview, f"the slide, and its heat map with outlines of {positive}",
            kind="jpeg",
        ),
        html_report.section(
            _areas_title(len(found.areas)),
            list(_area_rows(heat, found.areas[:_SHOWN], positive)),
            text=f"Cells called {positive} that touch. The centre is in level-0 pixels.",
        ),
        _candidate_section(slide, heat, found, task),
    ]  # fmt: skip
    return html_report.document(heat.name, introduction, warning, sections)


def _areas_title(count):
    if count > _SHOWN:
        return f"The largest of {count:,} areas"
    return "1 area" if count == 1 else f"{count or 'No'} areas"


def _area_rows(heat, areas, positive):
    step_px = heat.grid.step_um / heat.grid.level0_mpp
    for number, area in enumerate(areas, 1):
        low, high = area.rings[0].min(axis=0), area.rings[0].max(axis=0)
        x, y = (low + high) / 2 * step_px
        yield {
            "area": f"{positive} {number}",
            "mm²": f"{area.cells * heat.grid.step_um**2 / 1e6:.3f}",
            "longer side, µm": f"{max(high - low) * heat.grid.step_um:,.0f}",
            "mean probability": f"{area.mean:.2f}",
            "highest": f"{area.highest:.2f}",
            "centre x, y": f"{x:,.0f}, {y:,.0f}",
        }


def _candidate_section(slide, heat, found, task):
    """Return the section with pictures of the most probable lesion candidates."""
    shown = lesions.candidates(heat, apart_um=_SPREAD_UM).head(_SHOWN)
    side = _FIELD_SIDES * task.side_px
    fields = [
        slide.window(
            *(round(each * slide.mpp / task.mpp - side / 2) for each in (row.x, row.y)),
            side, side, task.mpp,
        )
        for row in shown.itertuples()
    ]  # fmt: skip
    figure = slide_pictures.candidate_gallery(
        fields,
        [f"{n}: {each:.2f}" for n, each in zip(itertools.count(1), shown["confidence"])],
        cell_px=heat.grid.step_um / task.mpp,
        um_per_px=task.mpp,
    )
    rows = [
        {
            "place": str(number),
            "probability": f"{row.confidence:.3f}",
            "x": f"{row.x:,.0f}",
            "y": f"{row.y:,.0f}",
        }
        for number, row in enumerate(shown.itertuples(), 1)
    ]
    return html_report.section(
        "Places to look at first" if rows else "No lesion candidate",
        rows,
        figure if rows else None,
        "the surroundings of lesion candidates, and their probabilities",
        text="The most probable cells (the squares), at least a millimetre apart. "
        f"{LESIONS} holds all {len(found.candidates)} lesion candidates: peaks at least "
        f"{lesions.APART_UM:.0f} microns apart, with a probability of {lesions.LOWEST} or more. "
        "Coordinates are level-0 pixels.",
        kind="jpeg",
    )
