"""The values of the page's parts for what a visit shows, by the names of the parts."""

import gradio as gr

from pcam_tf.app import judgements, overlays, rows, views, visit_files, visit_tables
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.visit import Visit


def point_of(reader: Reader, state: Visit) -> Point:
    """Return the operating point in use; a place of a region or slide is read in one view."""
    point, patch = reader.points[state.setting], state.chosen_patch
    return point.of_cells if patch and visit_tables.is_of_cells(patch) else point


def of_visit(reader: Reader, state: Visit) -> dict:
    """Return the values of all parts that a visit's answer concerns."""
    with state.lock:
        if not state.batch.items:
            return empty("No picture yet.")
        point = point_of(reader, state)
        values = (_of_slide if state.slide else _of_results)(reader, state)
        return values | _tables(reader, state) | _review(reader, state) | of_reading(state) | {
            "summary": views.summary(reader, state, point),
            "setting": state.setting,
            "meaning": point.meaning,
        }  # fmt: skip


def of_reading(state: Visit) -> dict:
    """Return what is shown while regions of a batch are read."""
    is_reading = state.reading is not None
    return {
        "reading_row": gr.update(visible=is_reading),
        "reading": state.progress,
        "timer": gr.Timer(active=is_reading),
    }


def of_batch(reader: Reader, state: Visit) -> dict:
    """Return the values that change while regions of a batch are read; what is open stays."""
    with state.lock:
        values = _tables(reader, state) | of_reading(state)
        if state.chosen is None and state.batch.items:
            values["summary"] = views.summary(reader, state, point_of(reader, state))
            values |= _downloads(reader, state)
        return values


def of_files(reader: Reader, state: Visit) -> dict:
    """Return the values that a review changes: the log, and the files to download."""
    with state.lock:
        values = {} if state.slide else _downloads(reader, state)
        return values | _tables(reader, state)


def _tables(reader, state):
    point, several = reader.points[state.setting], len(state.batch.items) > 1
    return {
        "batch": _shown(lambda: rows.batch(reader, state, point), several),
        "log": rows.history(state),
        "log_file": gr.update(value=str(visit_files.write_log(state)), interactive=True),
    }


def _shown(make, is_shown):
    return gr.update(value=make() if is_shown else None, visible=bool(is_shown))


def _of_slide(reader, state):
    value = views.region_value(state.slide, state.setting)
    return empty("") | {"region": gr.update(value=value, visible=True)}


def _of_results(reader, state):
    point, region, patch = point_of(reader, state), state.region, state.chosen_patch
    # Of a region the viewer shows the place.
    is_alone = patch and not region
    return _downloads(reader, state) | {
        "region": _shown(lambda: views.region_value(region, state.setting), region),
        "patch": _shown(lambda: overlays.patch_value(reader, patch, point), is_alone),
    }


def _downloads(reader, state):
    is_region = state.region is not None
    if not (state.batch.patches or state.batch.regions):
        return {"downloads": gr.update(visible=False)}
    files = visit_files.write(reader, state, point_of(reader, state), state.setting)
    return {
        "downloads": gr.update(visible=True),
        "predictions": str(files["predictions"]),
        "report": str(files["report"]),
        "heat_map": gr.update(
            value=str(files["heat_map"]) if is_region else None, visible=is_region
        ),
    }


def _review(reader, state):
    answer = judgements.answer(state, point_of(reader, state))
    return {
        "shown": answer.token if answer else "",
        "review_row": gr.update(visible=bool(answer)),
        "review": views.question(reader, state.chosen_patch, answer) if answer else "",
    }


def empty(reason: str) -> dict:
    """Return the values of a page without an answer, and the reason why there is none."""
    nothing = gr.update(value=None, visible=False)
    return {
        "summary": views.refusal(reason) if reason else "",
        "region": nothing,
        "batch": nothing,
        "patch": nothing,
        "shown": "",
        "review_row": gr.update(visible=False),
        "review": "",
        "downloads": gr.update(visible=False),
        "reading_row": gr.update(visible=False),
        "reading": "",
        "timer": gr.Timer(active=False),
    }
