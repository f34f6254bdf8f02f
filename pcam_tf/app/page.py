"""The page for pathologists: what it is built of, and which handler each event has.

A visitor's pictures are deleted when the visitor leaves, or after an hour without use; see
`private_files`.
"""

import dataclasses
import functools
import html
import logging
import os
from collections.abc import Callable
from pathlib import Path

from pcam_tf.app import (
    findings,
    region_views,
    reviews,
    slide_pages,
    turns,
)
from pcam_tf.app.findings import Reader
from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.errors import InputError, missing_extra

try:
    import fastapi
    import gradio as gr
    from gradio import processing_utils
except ModuleNotFoundError as error:
    raise missing_extra(error.name, "app") from error

from pcam_tf.app import layout
from pcam_tf.app.handlers import Handlers

_PENDING_JS = {
    name: f"(...values) => {{ window.pcamPending?.({name!r}); return values; }}"
    for name in ("read", "answer", "answered", "unread", "failed", "removed")
}
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # or the start would be reported to gradio's makers
    # Or 10,000 events would be kept, and counted by pandas after each one.
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
    "GRADIO_TEMP_DIR": "",
}
_FAILED = "The server could not process this. Try again, or use another picture."


@dataclasses.dataclass
class Page:
    """A page that can be served.

    Attributes:
        blocks: what gradio serves.
        handlers: of its events.
        environment: of the process before the page was built.
        routers: further routes, of fastapi.
        ending: called when the page is closed, the last one first.
        sweeping: called by `sweep`, after the handlers' own.
    """

    blocks: gr.Blocks
    handlers: Handlers
    environment: dict[str, str]
    routers: list[fastapi.APIRouter] = dataclasses.field(default_factory=list)
    ending: list[Callable[[], None]] = dataclasses.field(default_factory=list)
    sweeping: list[Callable[[], None]] = dataclasses.field(default_factory=list)

    def sweep(self) -> None:
        """Delete what nobody has used for long."""
        self.handlers.sweep()
        for sweep in self.sweeping:
            sweep()
        known = self.blocks.upload_file_set
        known -= {path for path in list(known) if not Path(path).exists()}

    def close(self) -> None:
        """End the server and delete the files of all visitors."""
        while self.ending:
            self.ending.pop()()
        self.handlers.files.close()
        for name in _ENVIRONMENT:
            os.environ.pop(name, None)
            os.environ.update({name: self.environment[name]} if name in self.environment else {})


def build(
    reader: Reader, reviews_file: str | Path | None = None, slides: str | Path | None = None
) -> Page:
    """Build the page.

    Args:
        reader: the model, see `findings.load_reader`.
        reviews_file: a CSV to which visitors' reviews are added, see `reviews`.
        slides: a folder of slides that visitors may open, see `slide_folder`.

    Returns:
        What `serve.serve` takes. Its endpoint "/predict" answers gradio_client.

    Raises:
        InputError: the file of reviews cannot be written, is something else, or the model has
            more than two classes, for which reviews cannot be kept yet; or there is no folder of
            slides.
    """
    if reviews_file and not reader.task.is_binary:
        raise InputError("reviews are kept for models of two classes only: leave out --reviews.")
    if reviews_file:
        reviews.check(reviews_file)
    reader, model_turns = findings.with_explanations(reader), turns.Turns()
    files, environment = PrivateFiles(), dict(os.environ)
    os.environ |= _ENVIRONMENT | {"GRADIO_TEMP_DIR": str(files.uploads)}
    # gradio would download what a request names by its address.
    processing_utils.async_ssrf_protected_download = _refuse_url
    handlers = Handlers(reader, files, reviews_file, turns=model_turns)
    regions = region_views.RegionViews(reader, handlers.visits)
    routers, stop_jobs = slide_pages.routers(
        reader, model_turns, regions.find, slides, handlers.visits.of_slide
    )
    handlers.warm_up()
    with gr.Blocks(title="pcam_tf", analytics_enabled=False) as blocks:
        parts = layout.lay_out(reader, handlers.examples, has_slides=slides is not None)
        _connect(parts, handlers)
        _add_endpoint(handlers)
        blocks.unload(handlers.leave)
    return Page(blocks, handlers, environment, routers, [stop_jobs, regions.close], [regions.sweep])


async def _refuse_url(url: str, *_, **__) -> str:
    """Replace gradio's download of pictures that a request names by their URL."""
    raise gr.Error("Give a file, not an address.", print_exception=False)


def _connect(parts, handlers):
    """Connect the events of the page's parts to their handlers.

    While an event waits for its answer, pending.js takes the review's buttons away. `reads` are
    events with another input: it then also hides the answer to the input before.
    """
    outputs = [part for name, part in parts.items() if not isinstance(part, gr.Button)]
    common = {
        "api_visibility": "private",
        "show_progress_on": parts["summary"],
        "concurrency_limit": turns.MOST_AT_WORK,
        "trigger_mode": "multiple",  # or a second file would be dropped while the first is read
    }

    def named(values):
        # gradio takes no empty dict for "nothing changes".
        return {parts[name]: value for name, value in values.items()} or gr.skip()

    def connect(event, handler, *inputs, reads=False, refused=None, **options):
        refused = handlers.refused if reads else refused
        done = event(
            turns.in_thread(_answering(handler, named, refused, handlers.without_folders)),
            [parts[name] for name in inputs],
            outputs,
            js=_PENDING_JS["read" if reads else "answer"],
            **common | options,
        )
        done.success(None, js=_PENDING_JS["answered"])
        done.failure(None, js=_PENDING_JS["unread" if reads else "failed"])

    connect(parts["files"].upload, handlers.read_files, "files", "setting", reads=True)
    connect(parts["power"].input, handlers.read_at_power, "power", "setting", reads=True)
    connect(parts["again"].click, handlers.read_again, "mpp", "setting", reads=True)
    for name in handlers.examples:
        # A button's value is its text.
        button = f"example {name}"
        connect(parts[button].click, handlers.read_example, button, "setting", reads=True)
    connect(parts["region"].select, handlers.choose_place, "setting")
    connect(parts["batch"].select, handlers.choose_item, "setting")
    connect(parts["log"].select, handlers.open_again, "setting")
    connect(parts["stop"].click, handlers.stop_reading, queue=False)
    # Not behind others' regions, or the page would show a setting that is not in use yet.
    connect(parts["setting"].input, handlers.change_setting, "setting", queue=False)
    words = ("shown", "reviewer", "unsure", "comment")
    options = {"queue": False, "trigger_mode": "once", "refused": handlers.unsaved}
    for name in ("accept", "disagree"):
        connect(parts[name].click, getattr(handlers, name), *words, **options)
    parts["timer"].tick(
        _answering(handlers.follow, named), None, outputs, queue=False, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    for event, handler, inputs in (
        (parts["files"].clear, handlers.remove_files, None),
        (parts["files"].delete, handlers.remove_some, [parts["files"]]),
    ):
        event(
            _answering(handler, named, handlers.refused),
            inputs,
            outputs,
            js=_PENDING_JS["removed"],
            queue=False,
            api_visibility="private",
        )


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
        gr.Button().click(
            turns.in_thread(_answering(handlers.programs.predict, plain=handlers.without_folders)),
            inputs,
            answer,
            api_name="predict",
            concurrency_limit=turns.MOST_AT_WORK,
        )


def _answering(
    function: Callable,
    convert: Callable = lambda values: values,
    refused: Callable | None = None,
    plain: Callable[[str], str] = lambda text: text,
) -> Callable:
    """Return a function that tells the visitor in one line what went wrong.

    What nobody foresaw goes to the server's log.

    Args:
        function: a handler.
        convert: changes what it returns.
        refused: from the request and the reason to the values of a page without an answer; None:
            the answer before stays, and a message appears.
        plain: changes a message.
    """

    @functools.wraps(function)
    def handle(*arguments, **options):
        try:
            return convert(function(*arguments, **options))
        except gr.Error:
            raise
        except turns.Stopped:
            return convert({})  # newer work brings the answer
        except InputError as error:
            reason, cause = plain(str(error)), error
        except Exception as error:
            logging.getLogger(__name__).exception("the page failed")
            reason, cause = _FAILED, error
        if refused is None:
            text = html.escape(reason[0].upper() + reason[1:])
            raise gr.Error(text, print_exception=False) from cause
        request = next(each for each in arguments if isinstance(each, gr.Request))
        return convert(refused(request, reason))

    return handle
