"""The layout of the pathologists' page, and what happens when something on it is touched.

A visitor's pictures are gone when the visitor is, or after an hour.
"""

import atexit
import functools
import hashlib
import html
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
from gradio import processing_utils
from gradio.utils import get_upload_folder

from pcam_tf import slides, synthetic
from pcam_tf.app import findings, reviews, viewer, views, visit
from pcam_tf.app.finding_page import RESEARCH_ONLY
from pcam_tf.app.findings import Reader
from pcam_tf.errors import InputError
from pcam_tf.models.classifier import PATCH_PX

_KEPT_SECONDS = 3600
_ALONE = {"concurrency_id": "model", "concurrency_limit": 1}  # two at once would both be slower
_PROGRESS = gr.Progress()  # gradio puts each visitor's own in its place
_PRIVATE = {"api_visibility": "private"}
_TITLE = """# Is there tumour in this patch?
A model reads lymph-node tissue stained with haematoxylin and eosin. It answers for the centre
square, 31 microns across, of a patch 93 microns across."""
_EXAMPLES = {
    "Patch without tumour": "synthetic patch without tumour",
    "Patch with tumour": "synthetic patch with tumour",
    "Region": "synthetic region",
}


def _told(progress):
    return lambda done, total: progress((done, total), desc="Reading", unit="places")


def _plainly(function: Callable) -> Callable:
    """Tell the visitor in a line what went wrong; the unforeseen goes to the server's log."""

    @functools.wraps(function)
    def plainly(*arguments, **options):
        try:
            return function(*arguments, **options)
        except gr.Error:
            raise
        except InputError as error:
            text = html.escape(str(error))
            raise gr.Error(text[0].upper() + text[1:], print_exception=False) from error
        except Exception as error:
            logging.getLogger(__name__).exception("the page failed")
            text = "That failed, and not by your fault. Try again, or with another picture."
            raise gr.Error(text, print_exception=False) from error

    return plainly


async def _refuse_address(url: str, *_) -> str:
    """Stand in for gradio's download of pictures that a request names by their address."""
    raise gr.Error("Give a file, not an address.", print_exception=False)


def _examples() -> dict[str, np.ndarray]:
    """Draw the examples: a patch of each class, and a mosaic of patches of one slide.

    The mosaic's left part is without tumour, its right part with it. Of eight seeds' slides, it is
    of one on which a model of real tissue does well.
    """
    drawn = synthetic.draw_patches(128, split="test", seed=4)
    slide = np.flatnonzero(drawn.slide == 19)[:20]
    slide = slide[np.argsort(drawn.label[slide], kind="stable")]
    columns = drawn.image[slide].reshape(5, 4, PATCH_PX, PATCH_PX, 3)
    mosaic = columns.transpose(1, 2, 0, 3, 4).reshape(4 * PATCH_PX, 5 * PATCH_PX, 3)
    normal, tumour = drawn.image[slide[0]], drawn.image[slide[-1]]
    return dict(zip(_EXAMPLES.values(), (normal, tumour, mosaic), strict=True))


def _read(path: str) -> tuple[str, np.ndarray, float | None]:
    """Read an upload, and nothing but an upload."""
    path = Path(path).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise InputError("that is no file that was uploaded here.")
    return path.name, *slides.read_region(path, path.name)


def _warm_up(reader, drawn, folder):
    """Do once what is slow the first time only, so that the first visitor is answered at once."""
    first, point = visit.Visit(folder), next(iter(reader.points.values()))
    for name, picture in reversed(drawn.items()):
        visit.look(reader, first, [(name, picture, slides.PCAM_MPP)], several=False)
        visit.write_files(reader, first, point, "")
    shutil.rmtree(folder)


def build(reader: Reader, reviews_file: str | Path | None = None) -> gr.Blocks:
    """Build the page.

    Args:
        reader: the model, see `findings.load_reader`.
        reviews_file: a CSV to which visitors' judgements are added, see `reviews`.

    Returns:
        What `app.serve` launches. Its endpoint "/predict" answers gradio_client.

    Raises:
        InputError: the file of reviews cannot be written, or is something else.
    """
    if reviews_file:
        reviews.check(reviews_file)
    # gradio would report the start to its makers, and fetch what a request names by its address.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    processing_utils.async_ssrf_protected_download = _refuse_address
    drawn = _examples()
    root = Path(tempfile.mkdtemp(prefix="pcam_tf-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _warm_up(reader, drawn, root / "first")
    uploads: dict[Path, set[Path]] = {}
    settings = list(reader.points)

    def begun(state, request):
        # The session's name is the browser's: as a digest it cannot be a path.
        name = hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:32]
        return state or visit.Visit(root / name)

    def shown(state, setting, *, logged=True):
        """Return what all parts of the page show."""
        point = reader.points[setting]
        if logged:
            visit.note(state, point, setting)
        files = visit.write_files(reader, state, point, setting)
        found = visit.chosen(reader, state)
        region = state.region
        several = not region and len(state.patches) > 1
        return {
            stored: state,
            summary: views.summary(state, point, found),
            region_view: gr.HTML(
                value=region and views.region_value(region, point), visible=bool(region)
            ),
            gallery: gr.Gallery(
                value=[
                    (each.patch, f"{each.name}: {findings.percent(each.probability)}")
                    for each in state.patches
                ]
                if several
                else None,
                visible=several,
            ),
            patch_view: gr.HTML(
                value=found and views.patch_value(found, point), visible=bool(found)
            ),
            review_row: gr.Row(visible=bool(found)),
            reviewed: views.question(found, point) if found else "",
            downloads: gr.Row(visible=True),
            predictions: str(files["predictions"]),
            page: str(files["report"]),
            picture: gr.DownloadButton(
                value=str(files["heat_map"]) if region else None, visible=bool(region)
            ),
            log: visit.log_table(state),
            export: gr.DownloadButton(value=str(files["log"]), interactive=True),
            meaning: point.meaning,
        }

    @_plainly
    def look(files, setting, state, request: gr.Request, progress=_PROGRESS):
        return looked(files, None, setting, state, request, progress)

    @_plainly
    def look_again(files, mpp, setting, state, request: gr.Request, progress=_PROGRESS):
        if not mpp:
            raise InputError("give the microns per pixel first.")
        return looked(files, mpp, setting, state, request, progress)

    def looked(files, mpp, setting, state, request, progress):
        if not files:
            raise InputError("drop a picture first.")
        state = begun(state, request)
        uploads.setdefault(state.folder, set()).update(Path(file) for file in files)
        if len(files) > visit.MOST_PICTURES:
            raise InputError(f"{len(files)} pictures: give at most {visit.MOST_PICTURES} at once.")
        used = visit.look(
            reader,
            state,
            map(_read, files),
            several=len(files) > 1,
            mpp=mpp,
            progress=_told(progress),
        )
        return shown(state, setting) | {scale: used}

    def example(name):
        @_plainly
        def look_at_example(setting, state, request: gr.Request, progress=_PROGRESS):
            state = begun(state, request)
            pictures = [(name, drawn[name], slides.PCAM_MPP)]
            visit.look(reader, state, pictures, several=False, progress=_told(progress))
            return shown(state, setting) | {scale: slides.PCAM_MPP, dropped: None}

        return look_at_example

    @_plainly
    def choose_place(setting, state, event: gr.EventData):
        if state is None:
            raise InputError("drop a picture first.")
        visit.look_at_place(reader, state, int(event.row), int(event.column))
        return shown(state, setting)

    @_plainly
    def choose_patch(setting, state, event: gr.SelectData):
        if state is None or not 0 <= event.index < len(state.patches):
            raise InputError("drop pictures first.")
        state.chosen = event.index
        # The gallery stays as it is, with the patch that was chosen open in it.
        changed = shown(state, setting, logged=False)
        del changed[gallery]
        return changed

    @_plainly
    def change_setting(setting, state):
        if state is None or not (state.patches or state.region):
            return {meaning: reader.points[setting].meaning}
        changed = shown(state, setting, logged=False)
        del changed[gallery]
        return changed

    def judge(agrees):
        @_plainly
        def judge(setting, state):
            if state is None:
                raise InputError("choose a patch first.")
            point = reader.points[setting]
            visit.review(reader, state, point, agrees=agrees, path=reviews_file)
            files = visit.write_files(reader, state, point, setting)
            kept = "Kept." if reviews_file else "Kept in this session only: no file was given."
            text = f"{views.question(visit.chosen(reader, state), point)} {kept}"
            return {
                stored: state,
                reviewed: text,
                log: visit.log_table(state),
                page: str(files["report"]),
                export: str(files["log"]),
            }

        return judge

    @_plainly
    def predict(picture, mpp, setting):
        """Look at one patch or region and return the result as JSON.

        Args:
            picture: a PNG, JPEG or TIFF file.
            mpp: its microns per pixel; 0 to go by the file, or by 0.972 where that says nothing.
            setting: where to draw the line, as on the page.
        """
        if not picture:
            raise InputError("give a picture.")
        point = reader.points[setting]
        looked_at = visit.Visit(root / hashlib.sha256(os.urandom(16)).hexdigest()[:32])
        try:
            visit.look(reader, looked_at, [_read(picture)], several=False, mpp=mpp or None)
            return views.as_json(looked_at, point, reader)
        finally:
            shutil.rmtree(looked_at.folder, ignore_errors=True)
            Path(picture).unlink(missing_ok=True)

    def forget(state):
        if state is not None:
            shutil.rmtree(state.folder, ignore_errors=True)
            for upload in uploads.pop(state.folder, ()):
                upload.unlink(missing_ok=True)

    def leave(request: gr.Request):
        forget(begun(None, request))

    with gr.Blocks(
        title="pcam_tf",
        analytics_enabled=False,
        delete_cache=(_KEPT_SECONDS // 6, _KEPT_SECONDS),
    ) as blocks:
        stored = gr.State(None, time_to_live=_KEPT_SECONDS, delete_callback=forget)
        gr.Markdown(RESEARCH_ONLY, elem_id="only")
        gr.Markdown(_TITLE, elem_id="title")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                dropped = gr.File(
                    label="A patch, several, or a region (PNG, JPEG, TIFF; up to 50 megapixels)",
                    file_count="multiple",
                    file_types=[".png", ".jpg", ".jpeg", ".tif", ".tiff"],
                    height=150,
                )
                gr.Markdown("Or try a synthetic example. It is drawn by a program, not tissue:")
                with gr.Row():
                    example_buttons = [
                        (gr.Button(text, size="sm", min_width=90), name)
                        for text, name in _EXAMPLES.items()
                    ]
                with gr.Row():
                    scale = gr.Number(
                        label="Microns per pixel", value=slides.PCAM_MPP, step=0.001, min_width=120
                    )
                    again = gr.Button("Look again", size="md", min_width=120)
                chosen_setting = gr.Radio(settings, value=settings[0], label="Setting")
                meaning = gr.Markdown(reader.points[settings[0]].meaning)
            with gr.Column(scale=3, min_width=320):
                summary = gr.HTML("<p>No picture yet.</p>", elem_id="summary")
                region_view = _viewer("region")
                gallery = gr.Gallery(
                    label="Patches: choose one", columns=5, visible=False, height=280, buttons=[],
                    interactive=False, allow_preview=False, elem_id="gallery",
                )  # fmt: skip
                patch_view = _viewer("patch")
                reviewed = gr.Markdown("", elem_id="reviewed")
                with gr.Row(visible=False) as review_row:
                    accept = gr.Button("Accept", size="md", min_width=120)
                    disagree = gr.Button("Disagree", size="md", min_width=120)
                with gr.Row(visible=False) as downloads:
                    page = gr.DownloadButton("Report (HTML)", size="sm", min_width=120)
                    predictions = gr.DownloadButton("Predictions (CSV)", size="sm", min_width=120)
                    picture = gr.DownloadButton("Heat map (PNG)", size="sm", min_width=120)
        with gr.Accordion("This session", open=False):
            log = gr.Dataframe(
                visit.log_table(visit.Visit(root)), interactive=False, wrap=True, buttons=[]
            )
            export = gr.DownloadButton("Session (CSV)", size="sm", interactive=False)

        everything = [
            stored, summary, region_view, gallery, patch_view, review_row, reviewed, downloads,
            predictions, page, picture, log, export, meaning,
        ]  # fmt: skip
        waits = _PRIVATE | _ALONE | {"show_progress_on": summary}
        state = [chosen_setting, stored]
        dropped.upload(look, [dropped, *state], [*everything, scale], **waits)
        again.click(look_again, [dropped, scale, *state], [*everything, scale], **waits)
        for button, name in example_buttons:
            button.click(example(name), state, [*everything, scale, dropped], **waits)
        region_view.select(choose_place, state, everything, **waits)
        gallery.select(choose_patch, state, everything, **waits)
        chosen_setting.change(change_setting, state, everything, **waits)
        for button, agrees in ((accept, True), (disagree, False)):
            outputs = [stored, reviewed, log, page, export]
            button.click(judge(agrees), state, outputs, **waits)
        _endpoint(predict, settings)
        blocks.unload(leave)
    return blocks


def _viewer(name):
    return gr.HTML(
        None,
        html_template=viewer.HTML,
        css_template=viewer.CSS,
        js_on_load=viewer.JS,
        elem_id=name,
        visible=False,
    )


def _endpoint(function, settings):
    """Offer a function to programs: its inputs and its output are no part of the page."""
    with gr.Row(visible=False):
        picture, mpp = gr.File(label="picture"), gr.Number(label="mpp", value=0)
        setting = gr.Radio(settings, value=settings[0], label="setting")
        answer = gr.JSON(label="answer")
        gr.Button().click(function, [picture, mpp, setting], answer, api_name="predict", **_ALONE)
