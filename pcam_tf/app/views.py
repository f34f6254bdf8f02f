"""What the page says of a visit: texts, HTML, the JSON answer, and the files to download."""

import datetime
import html
import importlib.resources
import re
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from pcam_tf import prediction
from pcam_tf.app import findings, overlays, visit, visit_tables
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.reviews import Review
from pcam_tf.app.visit import Answer, OwnSlide, PatchResult, RegionResult, Visit
from pcam_tf.files import written_whole
from pcam_tf.task import PCAM, Task

RESEARCH_ONLY = "Research use only. Not for diagnosis."
NOTHING_STAINED = "Nothing in this patch is stained, so there is no prediction."
_NEUTRAL = "#767676"  # the colour where nothing is called
_REPORT_PX = 1000  # largest side of the heat map in a report


def static_text(name: str) -> str:
    """Return the content of a file in `static/`."""
    folder = importlib.resources.files("pcam_tf.app") / "static"
    return (folder / name).read_text(encoding="utf-8")


def title(task: Task) -> str:
    """Return the page's title and what the model answers, as Markdown."""
    side, centre = (round(px * task.mpp) for px in (task.side_px, task.centre_px or task.side_px))
    question = (
        f"Is there {task.classes[1]} in this tissue?"
        if task.is_binary
        else f"Which class is this tissue: {_enumerated(task.classes)}?"
    )
    tissue = "lymph-node tissue" if task == PCAM else "tissue"
    part = f"the centre square, {centre} microns wide, of " if task.centre_px else ""
    return (
        f"# {question}\nA model reads {tissue} stained with haematoxylin and eosin. Its answer is "
        f"about {part}a patch that is {side} microns wide."
    )


def _enumerated(names):
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def region_value(shown: RegionResult | OwnSlide, setting: str) -> dict:
    """Return what shows a region or slide in the viewer: its address, and the setting in use."""
    return {"address": f"viewer/{shown.key}?embedded=true", "setting": setting}


def slide_summary(name: str) -> str:
    """Return what the page says of a slide that the visitor gave, as HTML."""
    return (
        '<div class="result" role="status">'
        f"{_headline(_NEUTRAL, f'A whole slide: {name}')}"
        '<p>"Read", below the picture, makes its heat map. That is deleted with this visit: save '
        "results from there.</p></div>"
    )


def summary(reader: Reader, state: Visit, point: Point) -> str:
    """Return the result of a visit as HTML."""
    lines, patch = [], state.chosen_patch
    if state.region:
        region, mpp = state.region, reader.task.mpp
        places = int(np.isfinite(region.probabilities).all(axis=-1).sum())
        shares = findings.shares(region.probabilities, point.of_cells)
        sentence = findings.shares_sentence(reader, region.probabilities, point.of_cells)
        rule = findings.rule(reader, point.of_cells)
        lines += [
            _headline(_colour(reader, shares), sentence),
            f"<p>{places:,} places, one every {region.stride_px * mpp:.0f} µm; "
            f"{html.escape(rule)}.</p>",
        ]
    elif patch:
        lines += _patch_lines(reader, patch, point)
    elif len(state.patches) > 1:
        lines.append(_several(reader, state, point))
        lines.append("<p>Choose one to see it closely.</p>")
    lines += [f"<p>Setting: {html.escape(state.setting)}.</p>"] if state.setting else []
    lines += [f'<p class="notice">{html.escape(each)}</p>' for each in notices(state)]
    return f'<div class="result" role="status">{"".join(lines)}</div>'


def _patch_lines(reader, patch, point):
    if not patch.has_tissue:
        text = f"{NOTHING_STAINED} {patch.name}."
        return [_headline(_NEUTRAL, "No tissue"), f"<p>{html.escape(text)}</p>"]
    index = int(findings.calls(patch.probabilities, point))
    rule = findings.rule(reader, point)
    probability = findings.probability_sentence(reader, patch.probabilities)
    text = f"{probability} {rule[0].upper()}{rule[1:]}. {patch.name}."
    colour = overlays.colours(reader.task)[index]
    return [
        _headline(colour, f"Called {reader.task.classes[index]}"),
        f"<p>{_bold_first_percent(html.escape(text))}</p>",
    ]


def _bold_first_percent(text):
    return re.sub(r"((above |below )?\d+ %)", r"<strong>\1</strong>", text, count=1)


def _several(reader, state, point):
    stained = [patch.probabilities for patch in state.patches if patch.has_tissue]
    empty, colour, parts = len(state.patches) - len(stained), _NEUTRAL, []
    if stained:
        called = findings.calls(np.stack(stained), point)
        counts = np.bincount(called, minlength=len(reader.task.classes))
        stated = [1] if reader.task.is_binary else np.flatnonzero(counts)
        parts = [f"{counts[k]} called {reader.task.classes[k]}" for k in stated]
        colour = _colour(reader, counts)
    parts += [f"{empty} without tissue"] if empty else []
    return _headline(colour, f"{len(state.patches)} patches: {', '.join(parts)}")


def _colour(reader, counts):
    """Return the colour of the second of two classes if any is called so, else the largest's."""
    index = int(counts[1] > 0) if reader.task.is_binary else int(np.argmax(counts))
    return overlays.colours(reader.task)[index]


def _headline(colour, text):
    return f'<p class="call" style="border-color: {colour}">{html.escape(text)}</p>'


def notices(state: Visit) -> list[str]:
    """Return warnings: unusual pictures, an unknown scale, large steps."""
    # The viewer says of a region's place what there is to say of it.
    shown = state.region or state.chosen_patch
    lines = [shown.notice] if shown else []
    return [line for line in [*lines, *state.notes] if line]


def refusal(reason: str) -> str:
    """Return why there is no answer, as HTML."""
    text = html.escape(reason[0].upper() + reason[1:])
    return f'<div class="result" role="status"><p>{text}</p></div>'


def question(reader: Reader, patch: PatchResult, answer: Answer) -> str:
    """Return the question to the reviewer, or the answer if there is one."""
    if patch.review:
        return review_sentence(reader, patch.review)
    part, call = findings.labelled_part(reader.task), reader.task.classes[answer.call]
    return f'The model calls the {part} {call} (setting "{answer.setting}"). Do you accept that?'


def review_sentence(reader: Reader, review: Review) -> str:
    """Return what the reviewer says, and of which call; it holds at any setting."""
    label, call = (reader.task.classes[index] for index in (review.label, review.call))
    who = f"The reviewer ({review.reviewer})" if review.reviewer else "The reviewer"
    sure = " but is unsure" if review.unsure else ""
    verdict = "agrees" if review.agrees else "disagrees"
    text = f'{who} {verdict}{sure}: {label}. The model called {call} at "{review.setting}".'
    return f"{text} Comment: {review.comment}" if review.comment else text


def as_json(reader: Reader, state: Visit, point: Point) -> dict:
    """Return a result for programs: of `kind` "patch" or "region".

    The `call` of a patch without tissue is "no tissue", and its probability null.
    """
    common = {"threshold": point.threshold, "notes": state.notes, "model": reader.name}
    if state.region:
        point = point.of_cells
        common["threshold"] = point.threshold
        content = {"kind": "region", **_region_json(reader, state.region, point)}
        notice = state.region.notice
    else:
        patch = state.patches[0]
        content, notice = {"kind": "patch", **_patch_json(reader, patch, point)}, patch.notice
    return common | content | {"unlike_training": notice, "research_use_only": RESEARCH_ONLY}


def _patch_json(reader, patch, point):
    key = "probability" if reader.task.is_binary else "probabilities"
    if not patch.has_tissue:
        return {key: None, "call": findings.NO_TISSUE}
    if reader.task.is_binary:
        value = float(patch.probabilities[1])
    else:
        value = dict(zip(reader.task.classes, patch.probabilities.tolist(), strict=True))
    return {key: value, "call": findings.call(reader, patch.probabilities, point)}


def _region_json(reader, region, point):
    shares = findings.shares(region.probabilities, point).tolist()
    maps = [
        [[None if np.isnan(cell) else round(float(cell), 4) for cell in row] for row in cells]
        for cells in np.moveaxis(region.probabilities, -1, 0)
    ]
    steps, classes = {"stride_px": region.stride_px}, reader.task.classes
    if reader.task.is_binary:
        return {"tumour_share": shares[1], **steps, "heat_map": maps[1]}
    return {
        "shares": dict(zip(classes, shares, strict=True)),
        **steps,
        "heat_maps": dict(zip(classes, maps, strict=True)),
    }


def write_files(reader: Reader, state: Visit, point: Point, setting: str) -> dict[str, Path]:
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
    """
    names = {"predictions": "predictions.csv", "report": "report.html", "log": "session.csv"}
    if state.region:
        names["heat_map"] = "heat_map.png"
    files = {key: state.folder / name for key, name in names.items()}
    prediction.write(visit_tables.predictions_table(reader, state), files["predictions"])
    prediction.write(visit_tables.log_table(state), files["log"])
    pictures = []
    if state.region:
        picture = _heat_map(reader, state.region, point)
        with written_whole(files["heat_map"]) as temporary:
            picture.save(temporary, compress_level=1)
        picture.thumbnail((_REPORT_PX, _REPORT_PX))
        pictures.append(("Heat map", picture))
    pictures += _patch_pictures(reader, state, point)
    text = report(_rows(reader, state, point, setting), pictures, notices(state))
    with written_whole(files["report"]) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return files


def _heat_map(reader, region, point):
    overlay = overlays.region_overlay(reader, region, point)
    return overlays.over_region(region.pixels(), overlay, region.stride_px)


def _patch_pictures(reader, state, point):
    patch, task = state.chosen_patch, reader.task
    if patch is None:
        return []
    overlay = overlays.patch_overlay(reader, patch, point)
    if not visit.is_explained(reader, patch):
        return [("The patch", overlays.over_patch(patch.patch, overlay, task, 0))]
    explained = task.classes[visit.explained_class(reader, patch, point)]
    about = "; the prediction is about its centre square" if task.centre_px else ""
    return [
        (f"The patch{about}", overlays.over_patch(patch.patch, overlay, task, 0)),
        (
            f"Explanation: orange supports {explained}, blue opposes it",
            overlays.over_patch(patch.patch, overlay, task),
        ),
    ]


def _rows(reader, state, point, setting):
    rows, point = [], point.of_cells if state.region else point
    rule = findings.rule(reader, point)
    if state.region:
        shares = findings.shares_sentence(reader, state.region.probabilities, point)
        rows += [("Region", f"{state.region.name}. {shares}.")]
    patches = state.patches if state.chosen is None else [state.chosen_patch]
    for patch in patches:
        if not patch.has_tissue:
            rows.append((patch.name, f"No tissue. {NOTHING_STAINED}"))
            continue
        call = f"Called {findings.call(reader, patch.probabilities, point)}."
        probability = findings.probability_sentence(reader, patch.probabilities)
        said = review_sentence(reader, patch.review) if patch.review else ""
        parts = (call, probability, said)
        rows.append((patch.name, " ".join(filter(None, parts))))
    return [
        *rows,
        ("Setting", f"{setting}: {rule}"),
        ("Error rates", point.meaning),
        ("Model", reader.name),
        ("Date", now()),
    ]


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
    # Every value is escaped: the name of a picture is the user's.
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).from_string(static_text("report.html"))
    return template.render(
        title="The model's prediction",
        rows=rows,
        pictures=[(caption, overlays.data_url(picture)) for caption, picture in pictures],
        notices=notices,
        research_only=RESEARCH_ONLY,
    )
