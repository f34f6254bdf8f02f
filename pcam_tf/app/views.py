"""What the page says of a visit: texts, HTML, and the JSON answer."""

import functools
import html
import importlib.resources
import re

import jinja2
import numpy as np

from pcam_tf.app import findings, overlays, pictures
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.judgements import Answer
from pcam_tf.app.results import PatchResult, RegionResult
from pcam_tf.app.reviews import Review
from pcam_tf.app.visit import OwnSlide, Pending, Visit
from pcam_tf.task import PCAM, Task

RESEARCH_ONLY = "Research use only. Not for diagnosis."
NOTHING_STAINED = "Nothing in this patch is stained, so there is no prediction."
_NEUTRAL = "#767676"  # the colour where nothing is called


def static_text(name: str) -> str:
    """Return the content of a file in `static/`."""
    folder = importlib.resources.files("pcam_tf.app") / "static"
    return (folder / name).read_text(encoding="utf-8")


@functools.cache
def template(name: str) -> jinja2.Template:
    """Return a template of `static/`; every value is escaped, since names are the user's."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(static_text(name))


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
    if state.slide:
        return slide_summary(state.slide.name)
    if state.region:
        region, mpp = state.region, reader.task.mpp
        places = int(np.isfinite(region.probabilities).all(axis=-1).sum())
        shares = findings.shares(region.probabilities, point.of_cells)
        sentence = findings.shares_sentence(reader, region.probabilities, point.of_cells)
        rule = findings.rule(reader, point.of_cells)
        lines += [
            _headline(_colour(reader, shares), sentence),
            f"<p>{html.escape(region.name)}: {places:,} places, one every "
            f"{region.stride_px * mpp:.0f} µm; {html.escape(rule)}.</p>",
        ]
    elif patch:
        lines += _patch_lines(reader, patch, point)
    else:
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
    patches, others = state.batch.patches, _counts_of_others(state.batch)
    if not patches:
        return _headline(_NEUTRAL, others)
    stained = [patch.probabilities for patch in patches if patch.has_tissue]
    empty, colour, parts = len(patches) - len(stained), _NEUTRAL, []
    if stained:
        called = findings.calls(np.stack(stained), point)
        counts = np.bincount(called, minlength=len(reader.task.classes))
        stated = [1] if reader.task.is_binary else np.flatnonzero(counts)
        parts = [f"{counts[k]} called {reader.task.classes[k]}" for k in stated]
        colour = _colour(reader, counts)
    parts += [f"{empty} without tissue"] if empty else []
    number = f"{len(patches)} patch{'es' if len(patches) > 1 else ''}"
    line = _headline(colour, f"{number}: {', '.join(parts)}")
    return f"{line}<p>{others}</p>" if others else line


def _counts_of_others(batch):
    """Return how many regions, slides and pictures that are not read there are."""
    pending = [item for item in batch.items if isinstance(item, Pending)]
    waiting = sum(item.is_waiting for item in pending)
    counts = {
        ("region", "regions"): len(batch.regions),
        ("whole slide", "whole slides"): sum(isinstance(each, OwnSlide) for each in batch.items),
        ("still to be read",) * 2: waiting,
        ("left out",) * 2: len(pending) - waiting,
    }
    return ", ".join(f"{n} {names[n != 1]}" for names, n in counts.items() if n)


def _colour(reader, counts):
    """Return the colour of the second of two classes if any is called so, else the largest's."""
    index = int(counts[1] > 0) if reader.task.is_binary else int(np.argmax(counts))
    return overlays.colours(reader.task)[index]


def _headline(colour, text):
    return f'<p class="call" style="border-color: {colour}">{html.escape(text)}</p>'


def notices(state: Visit) -> list[str]:
    """Return warnings: unusual pictures, an unknown scale, large steps, what was left out."""
    shown = state.region or state.chosen_patch
    if shown is None:
        results = [*state.batch.patches, *state.batch.regions]
        return pictures.notes_of_all(each.notes for each in results) + state.batch.notes
    # The viewer says of a region's place what there is to say of it.
    left_out = state.batch.notes if len(state.batch.items) == 1 else []
    return [*filter(None, [shown.notice]), *shown.notes, *left_out]


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
    notes = list((state.region or state.chosen_patch).notes)
    common = {"threshold": point.threshold, "notes": notes, "model": reader.name}
    if state.region:
        point = point.of_cells
        common["threshold"] = point.threshold
        content = {"kind": "region", **_region_json(reader, state.region, point)}
        notice = state.region.notice
    else:
        patch = state.chosen_patch
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
