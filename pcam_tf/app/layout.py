"""The parts of the page and where they stand."""

from collections.abc import Iterable

import gradio as gr

from pcam_tf.app import slide_uploads, views
from pcam_tf.app.findings import Reader
from pcam_tf.app.pictures import POWERS

_BUTTON = {"size": "sm", "min_width": 120}
_FOLLOW_SECONDS = 1  # from look to look at the regions that are being read


def lay_out(reader: Reader, examples: Iterable[str], *, has_slides: bool) -> dict:
    """Lay the page out and return its parts by name.

    Args:
        reader: the model.
        examples: texts of their buttons.
        has_slides: whether the server has a folder of slides.
    """
    gr.Markdown(views.RESEARCH_ONLY, elem_id="only")
    gr.Markdown(views.title(reader.task), elem_id="title")
    if has_slides:
        gr.Markdown("[Whole slides of this server](viewer/)")
    parts = {}
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            parts |= _inputs(reader, examples)
        with gr.Column(scale=2, min_width=320):
            parts |= _results()
    with gr.Accordion("This session", open=False):
        gr.Markdown(
            "A row opens its patch, region or slide again, each as long as it is kept: the last "
            "hundred patches, some regions, four slides. What is being read goes on meanwhile."
        )
        parts["log"] = _rows("log")
        parts["log_file"] = gr.DownloadButton("Session (CSV)", size="sm", interactive=False)
    return parts


def _inputs(reader, examples):
    parts, settings = {}, list(reader.points)
    parts["files"] = gr.File(
        label="Pictures (PNG, JPEG, TIFF), slides (SVS, NDPI, SCN, BIF)",
        elem_id="files",
        file_count="multiple",
        file_types=[".png", ".jpg", ".jpeg", ".tif", ".tiff", *slide_uploads.SUFFIXES],
        height=150,
    )
    gr.Markdown("Or try a synthetic example. It is drawn by a program, not tissue:")
    with gr.Row():
        for name in examples:
            parts[f"example {name}"] = gr.Button(name, size="sm", min_width=90)
    parts["power"] = gr.Radio(list(POWERS), value=None, label="If a file does not say: scanned at")
    with gr.Row():
        parts["mpp"] = gr.Number(
            label="Microns per pixel", value=reader.task.mpp, step=0.001, min_width=120
        )
        parts["again"] = gr.Button("Read again", size="md", min_width=120)
    parts["setting"] = gr.Radio(settings, value=settings[0], label="Setting")
    parts["meaning"] = gr.Markdown(reader.points[settings[0]].meaning)
    return parts


def _results():
    gr.HTML('<p class="result" role="status"></p>', elem_id="pending")  # filled by pending.js
    parts = {"summary": gr.HTML("<p>No picture yet.</p>", elem_id="summary")}
    parts |= _reading_parts()
    parts |= {
        "batch": _rows("batch", visible=False),
        "region": _html("region"),
        "patch": _html("patch"),
        "review": gr.Markdown("", elem_id="reviewed"),
    }
    parts |= _review_parts()
    with gr.Row(visible=False, elem_id="downloads") as parts["downloads"]:
        parts["report"] = gr.DownloadButton("Report (HTML)", **_BUTTON)
        parts["predictions"] = gr.DownloadButton("Predictions (CSV)", **_BUTTON)
        parts["heat_map"] = gr.DownloadButton("Heat map (PNG)", **_BUTTON)
    return parts


def _reading_parts():
    """Lay out what is shown while the regions of a batch are read."""
    parts = {"timer": gr.Timer(_FOLLOW_SECONDS, active=False)}
    with gr.Row(visible=False, elem_id="reading_row") as parts["reading_row"]:
        parts["reading"] = gr.HTML("", elem_id="reading")
        parts["stop"] = gr.Button("Stop reading", size="sm", min_width=120)
    return parts


def _review_parts():
    parts = {}
    # The answer on the screen: a judgement is about this one, whatever the server holds by then.
    parts["shown"] = gr.Textbox("", visible="hidden", show_label=False, elem_id="shown")
    with gr.Column(visible=False, elem_id="review_row") as parts["review_row"]:
        with gr.Row():
            parts["accept"] = gr.Button("Accept", size="md", min_width=120)
            parts["disagree"] = gr.Button("Disagree", size="md", min_width=120)
            parts["unsure"] = gr.Checkbox(label="I am unsure", min_width=140, container=False)
        with gr.Row():
            parts["reviewer"] = gr.Textbox(
                label="Your name or initials", max_length=80, max_lines=1, min_width=140
            )
            parts["comment"] = gr.Textbox(
                label="Comment", max_length=500, max_lines=1, min_width=200, scale=2
            )
    return parts


def _html(name):
    return gr.HTML(
        None,
        html_template=views.static_text(f"{name}.html"),
        css_template=views.static_text(f"{name}.css"),
        js_on_load=views.static_text(f"{name}.js"),
        elem_id=name,
        visible=False,
    )


def _rows(name, **options):
    return gr.HTML(
        None,
        css_template=views.static_text("rows.css"),
        js_on_load=views.static_text("rows.js"),
        elem_id=name,
        **options,
    )
