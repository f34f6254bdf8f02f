"""All that a finished heat map is written as, for viewers, for readers and for `froc`."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from pcam_tf import figures, files
from pcam_tf.errors import InputError
from pcam_tf.figures import slide_pictures
from pcam_tf.files import write_json, written_whole
from pcam_tf.slides import (
    findings,
    heat_map_files,
    heat_maps,
    lesions,
    outline_files,
    reader,
    slide_report,
    slide_runs,
    tissue,
)
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.slides.reader import Slide
from pcam_tf.slides.tissue import Tissue
from pcam_tf.task import PCAM, Task, from_json

HEAT_MAP, OVERVIEW, REPORT = "heat_map.ome.tif", "overview.png", "report.html"
OUTLINES, ASAP, FINDINGS = "tumour.geojson", "tumour.xml", "findings.json"
THUMBNAIL, TISSUE, TISSUE_OUTLINES = "thumbnail.jpg", "tissue.jpg", "tissue.geojson"
NAMES = (
    heat_maps.CELLS, heat_maps.RUN, HEAT_MAP, OVERVIEW, REPORT, OUTLINES, ASAP, FINDINGS, THUMBNAIL,
    TISSUE, TISSUE_OUTLINES, lesions.FILE,
)  # fmt: skip
SLIDES = "slides.csv"  # of all slides, beside their folders
_COLUMNS = (
    "tissue_mm2", "tumour_mm2", "areas", "largest_area_mm2", "candidates", "highest_probability",
)  # fmt: skip
_THUMBNAIL_PX = 1600


def complete(
    path: str | Path,
    folder: str | Path,
    heat: HeatMap,
    threshold: float,
    *,
    mpp: float | None = None,
    mask: str | Path | None = None,
    asap: bool = False,
) -> None:
    """Write the outputs of a heat map that are not there yet, see `write_all`.

    Args:
        path: of the slide.
        folder: of its results.
        heat: its heat map, as `slide_runs.run` returns it.
        threshold: the probability from which on a cell is called tumour.
        mpp: microns per pixel of level 0; None: as the file states.
        mask: GeoJSON whose polygons are the tissue; None: it is found.
        asap: also write the outlines as ASAP's XML.

    Raises:
        InputError: a file cannot be written, the slide is damaged, or another process uses the
            folder, or has put another heat map there.
    """
    busy = f"{folder} is in use by another process."
    with files.locked(Path(folder) / slide_runs.LOCK, busy):
        if heat_maps.read(folder).settings != heat.settings:
            raise InputError(f"{folder} was written by another process: give the command again.")
        if are_written(folder, threshold, asap=asap):
            return
        with reader.opened(path, mpp) as slide:
            found = tissue.of_outlines(mask, slide) if mask else tissue.find(slide)
            asked = from_json(heat.settings["task"])
            write_all(folder, slide, heat, found, threshold, task=asked, asap=asap)


def write_all(
    folder: str | Path,
    slide: Slide,
    heat: HeatMap,
    tissue: Tissue,
    threshold: float,
    *,
    task: Task = PCAM,
    asap: bool = False,
) -> findings.Findings:
    """Write pictures, outlines, lesion candidates and the report of a heat map into a folder.

    Args:
        folder: of the slide's results, which holds its `cells.csv`.
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
    write_json(folder / FINDINGS, {})  # not of these outputs any more
    found = findings.findings_of(heat, threshold)
    heat_map_files.write_ome_tiff(
        folder / HEAT_MAP, heat.probabilities, heat.grid.step_um, positive
    )
    outlined = (heat, found.areas, slide.size, positive)
    outline_files.write_geojson(folder / OUTLINES, *outlined)
    if asap:
        outline_files.write_asap(folder / ASAP, *outlined)
    else:
        (folder / ASAP).unlink(missing_ok=True)  # of another threshold
    lesions.write_candidates(folder / lesions.FILE, found.candidates, slide.size)
    outline_files.write_tissue(folder / TISSUE_OUTLINES, tissue, slide)
    thumbnail = slide.thumbnail(_THUMBNAIL_PX)
    _save_picture(folder / THUMBNAIL, thumbnail)
    step = tissue.mpp / (slide.mpp * slide.size[0] / thumbnail.shape[1])
    _save_picture(folder / TISSUE, slide_pictures.tissue_picture(thumbnail, tissue.mask, step))
    figure = overview(slide, thumbnail, heat, found, positive)
    figures.save(figure, folder / OVERVIEW)
    page = slide_report.page(slide, heat, found, figure, task)
    with written_whole(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    # Last: it says that the others are there.
    write_json(folder / FINDINGS, _described(folder, threshold, asap) | {
        "tissue_mm2": round(found.tissue_mm2, 6),
        "tumour_mm2": round(found.tumour_mm2, 6),
        "areas": len(found.areas),
        "largest_area_mm2": round(found.largest_mm2, 6),
        "candidates": len(found.candidates),
        "highest_probability": round(float(np.nanmax(heat.probabilities)), 6),
    })  # fmt: skip
    return found


def are_written(folder: str | Path, threshold: float, *, asap: bool = False) -> bool:
    """Return whether a folder holds the outputs of its heat map at a threshold."""
    folder = Path(folder)
    try:
        content = json.loads((folder / FINDINGS).read_text(encoding="utf-8"))
        return _described(folder, threshold, asap).items() <= content.items()
    except (OSError, ValueError, AttributeError):
        return False


def _described(folder, threshold, asap):
    """Return what the outputs in a folder depend on."""
    cells = hashlib.sha256((folder / heat_maps.CELLS).read_bytes()).hexdigest()
    return {"threshold": threshold, "asap": asap, "cells_sha256": cells}


def write_slides_table(output: str | Path) -> None:
    """Write `slides.csv` into a folder of results, see `slides_table`; nothing without slides.

    Raises:
        InputError: it cannot be written.
    """
    table = slides_table(output)
    if len(table):
        with written_whole(Path(output) / SLIDES) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")


def slides_table(output: str | Path) -> pd.DataFrame:
    """Return a row for each slide whose outputs are in a folder of results.

    Columns: `slide`, `width`, `height`, `mpp`, as `froc` reads them, then those of `findings.json`.
    """
    rows = []
    for path in sorted(Path(output).glob(f"*/{FINDINGS}")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not (found and are_written(path.parent, found["threshold"], asap=found["asap"])):
                continue  # being written, or of an earlier heat map
            run = json.loads((path.parent / heat_maps.RUN).read_text(encoding="utf-8"))
            width, height = run["slide"]["size_px"]
            row = {
                "slide": run["name"], "width": width, "height": height, "mpp": run["slide"]["mpp"],
                **{name: found[name] for name in _COLUMNS},
            }  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):  # being predicted anew, or damaged
            continue
        rows.append(row)
    return pd.DataFrame(rows, columns=["slide", "width", "height", "mpp", *_COLUMNS])


def overview(
    slide: Slide,
    thumbnail: np.ndarray,
    heat: HeatMap,
    found: findings.Findings,
    positive: str = PCAM.classes[1],
) -> Figure:
    """Return the figure of a slide beside its heat map, see `slide_pictures.overview`."""
    return slide_pictures.overview(
        thumbnail,
        heat.probabilities,
        [area.rings for area in found.areas],
        step_um=heat.grid.step_um,
        um_per_px=slide.mpp * slide.size[0] / thumbnail.shape[1],
        threshold=found.threshold,
        title=heat.name,
        positive=positive,
    )


def _save_picture(path, pixels):
    with written_whole(path) as temporary:
        Image.fromarray(pixels).save(temporary, quality=90)
