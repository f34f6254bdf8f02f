"""The files of a visit to download: tables, the heat map as a picture, and the report."""

import datetime
from pathlib import Path

from PIL import Image

from pcam_tf import prediction
from pcam_tf.app import findings, overlays, results, views, visit_tables
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.results import PatchResult, RegionResult
from pcam_tf.app.visit import Visit
from pcam_tf.files import written_whole

_LOG = "session.csv"
_REPORT_PX = 1000  # largest side of the heat map in a report


def write(reader: Reader, state: Visit, point: Point, setting: str) -> dict[str, Path]:
    """Write a visit's files into the visitor's folder.

    Args:
        reader: the model.
        state: the visit.
        point: at which classes are called.
        setting: its name.

    Returns:
        The files of `predictions`, `report` and `log`, and for a region of `heat_map`.

    Raises:
        InputError: the folder cannot be written to.
        turns.Stopped: the visit has ended.
    """
    state.check()
    names = {"predictions": "predictions.csv", "report": "report.html", "log": _LOG}
    if state.region:
        names["heat_map"] = "heat_map.png"
    files = {key: state.folder / name for key, name in names.items()}
    prediction.write(visit_tables.predictions_table(reader, state), files["predictions"])
    write_log(state)
    pictures = []
    if state.region:
        picture = _heat_map(reader, state.region, point)
        with written_whole(files["heat_map"]) as temporary:
            picture.save(temporary, compress_level=1)
        picture.thumbnail((_REPORT_PX, _REPORT_PX))
        pictures.append(("Heat map", picture))
    pictures += _patch_pictures(reader, state, point)
    text = report(_rows(reader, state, point, setting), pictures, views.notices(state))
    with written_whole(files["report"]) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return files


def write_log(state: Visit) -> Path:
    """Write the log of a visit into the visitor's folder.

    Raises:
        InputError: the folder cannot be written to.
        turns.Stopped: the visit has ended.
    """
    state.check()
    file = state.folder / _LOG
    prediction.write(visit_tables.log_table(state), file)
    return file


def _heat_map(reader, region, point):
    overlay = overlays.region_overlay(reader, region, point)
    return overlays.over_region(region.pixels(), overlay, region.stride_px)


def _patch_pictures(reader, state, point):
    patch, task = state.chosen_patch, reader.task
    if patch is None:
        return []
    overlay = overlays.patch_overlay(reader, patch, point)
    if not results.is_explained(reader, patch):
        return [("The patch", overlays.over_patch(patch.patch, overlay, task, 0))]
    explained = task.classes[results.explained_class(reader, patch, point)]
    about = "; the prediction is about its centre square" if task.centre_px else ""
    return [
        (f"The patch{about}", overlays.over_patch(patch.patch, overlay, task, 0)),
        (
            f"Explanation: orange supports {explained}, blue opposes it",
            overlays.over_patch(patch.patch, overlay, task),
        ),
    ]


def _rows(reader, state, point, setting):
    rows, items = [], state.batch.items
    if state.item:
        items = [item for item in (state.region, state.chosen_patch) if item]
    for item in items:
        if isinstance(item, RegionResult):
            rows.append(_row_of_region(reader, item, point.of_cells))
        elif isinstance(item, PatchResult):
            rows.append(_row_of_patch(reader, item, point))
    rule = findings.rule(reader, point.of_cells if state.region else point)
    return [
        *rows,
        ("Setting", f"{setting}: {rule}"),
        ("Error rates", point.meaning),
        ("Model", reader.name),
        ("Date", now()),
    ]


def _row_of_region(reader, region, point):
    shares = findings.shares_sentence(reader, region.probabilities, point)
    return "Region", f"{region.name}. {shares}."


def _row_of_patch(reader, patch, point):
    if not patch.has_tissue:
        return patch.name, f"No tissue. {views.NOTHING_STAINED}"
    point = point.of_cells if visit_tables.is_of_cells(patch) else point
    call = f"Called {findings.call(reader, patch.probabilities, point)}."
    probability = findings.probability_sentence(reader, patch.probabilities)
    said = views.review_sentence(reader, patch.review) if patch.review else ""
    return patch.name, " ".join(filter(None, (call, probability, said)))


def now() -> str:
    """Return date and time, with the zone."""
    return datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def report(
    rows: list[tuple[str, str]], pictures: list[tuple[str, Image.Image]], notices: list[str]
) -> str:
    """Return a result as HTML that needs no other file, for the screen or for paper.

    Args:
        rows: a name and a value each.
        pictures: a caption and a picture each.
        notices: warnings.
    """
    return views.template("report.html").render(
        title="The model's prediction",
        rows=rows,
        pictures=[(caption, overlays.data_url(picture)) for caption, picture in pictures],
        notices=notices,
        research_only=views.RESEARCH_ONLY,
    )
