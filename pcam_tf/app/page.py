"""The page for pathologists: its parts, their layout, and which handler each event has.

A visitor's pictures are deleted when the visitor leaves, or after an hour.
"""

import atexit
import functools
import html
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pcam_tf.app import findings, reviews, views, visit_tables
from pcam_tf.app.findings import Reader
from pcam_tf.app.visit import Visit
from pcam_tf.errors import InputError, missing_extra

try:
    import gradio as gr
    from gradio import processing_utils
except ModuleNotFoundError as error:
    raise missing_extra(error.name, "app") from error

from pcam_tf.app.handlers import Handlers

_KEPT_SECONDS = 3600
_ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}  # two at once are both slower
_BUTTON = {"size": "sm", "min_width": 120}


def build(reader: Reader, reviews_file: str | Path | None = None) -> gr.Blocks:
    """Build the page.

    Args:
        reader: the model, see `findings.load_reader`.
        reviews_file: a CSV to which visitors' reviews are added, see `reviews`.

    Returns:
        What `serve.serve` takes. Its endpoint "/predict" answers gradio_client.

    Raises:
        InputError: the file of reviews cannot be written, is something else, or the model has
            more than two classes, for which reviews cannot be kept yet.
    """
    if reviews_file and not reader.task.is_binary:
        raise InputError("reviews are kept for models of two classes only: leave out --reviews.")
    if reviews_file:
        reviews.check(reviews_file)
    # gradio would report the start to its makers, and download what a request names by its URL.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    processing_utils.async_ssrf_protected_download = _refuse_url
    folder = Path(tempfile.mkdtemp(prefix="pcam_tf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    reader = findings.with_explanations(reader)
    handlers = Handlers(reader, folder, reviews_file)
    handlers.warm_up()
    with gr.Blocks(
        title="pcam_tf",
        analytics_enabled=False,
        delete_cache=(_KEPT_SECONDS // 6, _KEPT_SECONDS),
    ) as blocks:
        parts = _layout(reader, handlers)
        _connect(parts, handlers)
        _add_endpoint(handlers)
        blocks.unload(handlers.leave)
    return blocks


async def _refuse_url(url: str, *_) -> str:
    """Replace gradio's download of pictures that a request names by their URL."""
    raise gr.Error("Give a file, not an address.", print_exception=False)


def _layout(reader, handlers):
    """Lay the page out and return its parts by name."""

    def forget(state):  # gradio copies a bound method for each request, the model with it
        handlers.forget(state)

    parts = {"state": gr.State(None, time_to_live=_KEPT_SECONDS, delete_callback=forget)}
    gr.Markdown(views.RESEARCH_ONLY, elem_id="only")
    gr.Markdown(views.title(reader.task), elem_id="title")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            parts |= _inputs(reader, handlers.examples)
        with gr.Column(scale=3, min_width=320):
            parts |= _results()
    with gr.Accordion("This session", open=False):
        empty = visit_tables.log_table(Visit(handlers.folder))
        parts["log"] = gr.Dataframe(empty, interactive=False, wrap=True, buttons=[])
        parts["log_file"] = gr.DownloadButton("Session (CSV)", size="sm", interactive=False)
    return parts


def _inputs(reader, examples):
    parts, settings = {}, list(reader.points)
    parts["files"] = gr.File(
        label="A patch, several, or a region (PNG, JPEG, TIFF; up to 50 megapixels)",
        file_count="multiple",
        file_types=[".png", ".jpg", ".jpeg", ".tif", ".tiff"],
        height=150,
    )
    gr.Markdown("Or try a synthetic example. It is drawn by a program, not tissue:")
    with gr.Row():
        for name in examples:
            parts[f"example {name}"] = gr.Button(name, size="sm", min_width=90)
    with gr.Row():
        parts["mpp"] = gr.Number(
            label="Microns per pixel", value=reader.task.mpp, step=0.001, min_width=120
        )
        parts["again"] = gr.Button("Read again", size="md", min_width=120)
    parts["setting"] = gr.Radio(settings, value=settings[0], label="Setting")
    parts["meaning"] = gr.Markdown(reader.points[settings[0]].meaning)
    return parts


def _results():
    parts = {
        "summary": gr.HTML("<p>No picture yet.</p>", elem_id="summary"),
        "region": _viewer("region"),
        "gallery": gr.Gallery(
            label="Patches: choose one", columns=5, visible=False, height=280, buttons=[],
            interactive=False, allow_preview=False, elem_id="gallery",
        ),
        "patch": _viewer("patch"),
        "review": gr.Markdown("", elem_id="reviewed"),
    }  # fmt: skip
    with gr.Row(visible=False) as parts["review_row"]:
        parts["accept"] = gr.Button("Accept", size="md", min_width=120)
        parts["disagree"] = gr.Button("Disagree", size="md", min_width=120)
    with gr.Row(visible=False) as parts["downloads"]:
        parts["report"] = gr.DownloadButton("Report (HTML)", **_BUTTON)
        parts["predictions"] = gr.DownloadButton("Predictions (CSV)", **_BUTTON)
        parts["heat_map"] = gr.DownloadButton("Heat map (PNG)", **_BUTTON)
    return parts


def _viewer(name):
    return gr.HTML(
        None,
        html_template=views.static_text("viewer.html"),
        css_template=views.static_text("viewer.css"),
        js_on_load=views.static_text("viewer.js"),
        elem_id=name,
        visible=False,
    )


def _connect(parts, handlers):
    """Connect the events of the page's parts to their handlers."""
    options = {"api_visibility": "private", "show_progress_on": parts["summary"], **_ONE_AT_A_TIME}
    outputs = [part for name, part in parts.items() if not isinstance(part, gr.Button)]

    def connect(event, handler, *inputs):
        def named(values):
            return {parts[name]: value for name, value in values.items()}

        inputs = [parts[name] for name in (*inputs, "setting", "state")]
        event(_with_plain_errors(handler, named), inputs, outputs, **options)

    connect(parts["files"].upload, handlers.read_files, "files")
    connect(parts["again"].click, handlers.read_again, "files", "mpp")
    for name in handlers.examples:
        # A button's value is its text.
        connect(parts[f"example {name}"].click, handlers.read_example, f"example {name}")
    connect(parts["region"].select, handlers.choose_place)
    connect(parts["gallery"].select, handlers.choose_patch)
    connect(parts["setting"].change, handlers.change_setting)
    connect(parts["accept"].click, handlers.accept)
    connect(parts["disagree"].click, handlers.disagree)


def _add_endpoint(handlers):
    """Offer predictions to programs; inputs and output of this endpoint are not on the page."""
    settings = list(handlers.reader.points)
    with gr.Row(visible=False):
        inputs = [
            gr.File(label="picture"),
            gr.Number(label="mpp", value=0),
            gr.Radio(settings, value=settings[0], label="setting"),
        ]
        answer = gr.JSON(label="answer")
        function = _with_plain_errors(handlers.predict)
        gr.Button().click(function, inputs, answer, api_name="predict", **_ONE_AT_A_TIME)


def _with_plain_errors(function: Callable, convert: Callable = lambda values: values) -> Callable:
    """Return a function that tells the visitor in one line what went wrong.

    What nobody foresaw goes to the server's log.

    Args:
        function: a handler.
        convert: changes what it returns.
    """

    @functools.wraps(function)
    def handle(*arguments, **options):
        try:
            return convert(function(*arguments, **options))
        except gr.Error:
            raise
        except InputError as error:
            text = html.escape(str(error))
            raise gr.Error(text[0].upper() + text[1:], print_exception=False) from error
        except Exception as error:
            logging.getLogger(__name__).exception("the page failed")
            text = "The server could not process this. Try again, or use another picture."
            raise gr.Error(text, print_exception=False) from error

    return handle
