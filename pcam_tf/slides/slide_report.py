"""The report of a slide: one page with the overview, the largest areas, and places to look at."""

import itertools

from matplotlib.figure import Figure

from pcam_tf.figures import html_report, slide_pictures
from pcam_tf.slides import lesions
from pcam_tf.slides.findings import Findings
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.slides.reader import Slide
from pcam_tf.task import Task

_SHOWN = 12  # areas, and candidates
_FIELD_SIDES = 2  # side of a candidate's picture, in sides of a patch
_SPREAD_UM = 1000.0  # between the candidates that are shown, so that they are of several areas


def page(slide: Slide, heat: HeatMap, found: Findings, overview: Figure, task: Task) -> str:
    """Return the report of a slide as a self-contained page.

    Args:
        slide: the open slide, from which the places are read.
        heat: its heat map.
        found: what is called tumour on it.
        overview: see `slide_pictures.overview`.
        task: that the model answers.

    Raises:
        InputError: the slide is damaged.
    """
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
            "x": f"{min(row.x, slide.size[0] - 1):,.0f}",
            "y": f"{min(row.y, slide.size[1] - 1):,.0f}",
        }
        for number, row in enumerate(shown.itertuples(), 1)
    ]
    return html_report.section(
        "Places to look at first" if rows else "No lesion candidate",
        rows,
        figure if rows else None,
        "the surroundings of lesion candidates, and their probabilities",
        text="The most probable cells (the squares), at least a millimetre apart. "
        f"{lesions.FILE} holds all {len(found.candidates)} lesion candidates: peaks at least "
        f"{lesions.APART_UM:.0f} microns apart, with a probability of {lesions.LOWEST} or more. "
        "Coordinates are level-0 pixels.",
        kind="jpeg",
    )
