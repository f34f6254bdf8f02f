"""What the page does on each event, and what it answers to a program."""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from pcam_tf import synthetic
from pcam_tf.app import overlays, views, visit, visit_tables
from pcam_tf.app.findings import Reader
from pcam_tf.app.visit import Visit
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM, Task

_PROGRESS = gr.Progress()  # gradio replaces it by the visitor's own


def example_pictures(task: Task) -> dict[str, np.ndarray]:
    """Draw the examples: a region and, for PatchCamelyon, a patch of each class.

    The region is a mosaic of patches of one slide: left without tumour, right with it. Of the
    slides of eight seeds it is one on which a model of real tissue does well.
    """
    drawn = synthetic.draw_patches(128, split="test", seed=4)
    slide = np.flatnonzero(drawn.slide == 19)[:20]
    slide = slide[np.argsort(drawn.label[slide], kind="stable")]
    side_px = PCAM.side_px
    columns = drawn.image[slide].reshape(5, 4, side_px, side_px, 3)
    region = columns.transpose(1, 2, 0, 3, 4).reshape(4 * side_px, 5 * side_px, 3)
    if task != PCAM:
        return {"Region": region}
    without, positive = drawn.image[slide[0]], drawn.image[slide[-1]]
    return {"Patch without tumour": without, "Patch with tumour": positive, "Region": region}


@dataclasses.dataclass
class Handlers:
    """The handlers of the page's events; most return the new values of its parts, by name.

    Attributes:
        reader: the model.
        folder: in it, each visitor gets a folder.
        reviews_file: a CSV to which reviews are added, or None.
        examples: synthetic pictures at PatchCamelyon's scale, by their buttons' texts.
        uploads: the uploaded files of each visitor, by the visitor's folder.
    """

    reader: Reader
    folder: Path
    reviews_file: str | Path | None
    examples: dict[str, np.ndarray] = dataclasses.field(init=False)
    uploads: dict[Path, set[Path]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.examples = example_pictures(self.reader.task)

    def warm_up(self) -> None:
        """Do once what is slow the first time only, so that the first visitor need not wait."""
        first, setting = Visit(self.folder / "first"), next(iter(self.reader.points))
        pictures = [("region", self._example("Region"))]
        visit.read_pictures(self.reader, first, pictures, several=False)
        self._page_values(first, setting)
        row, column = np.argwhere(np.isfinite(first.region.probabilities[..., 0]))[0]
        visit.read_place(self.reader, first, row, column)
        self._page_values(first, setting)
        shutil.rmtree(first.folder)

    def read_files(self, files, setting, state, request: gr.Request, progress=_PROGRESS):
        """Read the uploaded files at the scale that they state."""
        return self._read_files(files, None, setting, state, request, progress)

    def read_again(self, files, mpp, setting, state, request: gr.Request, progress=_PROGRESS):
        """Read the uploaded files at the scale that the visitor entered."""
        if visit.entered_mpp(mpp) is None:
            raise InputError("enter the microns per pixel first.")
        return self._read_files(files, mpp, setting, state, request, progress)

    def _read_files(self, files, mpp, setting, state, request, progress):
        if not files:
            raise InputError("give a picture first.")
        state = state or self._new_visit(request)
        self.uploads.setdefault(state.folder, set()).update(Path(file) for file in files)
        if len(files) > visit.MOST_PICTURES:
            raise InputError(f"{len(files)} pictures: give at most {visit.MOST_PICTURES} at once.")
        damaged = []
        used = visit.read_pictures(
            self.reader,
            state,
            _readable(files, self.reader.task, visit.entered_mpp(mpp), damaged),
            several=len(files) > 1,
            progress=_progress_bar(progress),
        )
        state.notes += [f"Left out: {reason}" for reason in damaged]
        return self._logged_values(state, setting) | {"mpp": used}

    def read_example(self, name, setting, state, request: gr.Request, progress=_PROGRESS):
        """Read a synthetic example."""
        state = state or self._new_visit(request)
        pictures = [(f"synthetic {name.lower()}", self._example(name))]
        visit.read_pictures(
            self.reader, state, pictures, several=False, progress=_progress_bar(progress)
        )
        return self._logged_values(state, setting) | {"mpp": PCAM.mpp, "files": None}

    def _example(self, name):
        """Return a synthetic example at the scale of the model's task."""
        return image_files.at_scale(self.examples[name], PCAM.mpp, self.reader.task, name)

    def choose_place(self, setting, state, event: gr.EventData):
        """Read the place of the region that the visitor chose."""
        if state is None:
            raise InputError("give a picture first.")
        visit.read_place(self.reader, state, int(event.row), int(event.column))
        return self._logged_values(state, setting)

    def choose_patch(self, setting, state, event: gr.SelectData):
        """Show the patch of the gallery that the visitor chose."""
        if state is None or not 0 <= event.index < len(state.patches):
            raise InputError("give pictures first.")
        state.chosen = event.index
        return self._values_but_gallery(state, setting)

    def change_setting(self, setting, state):
        """Show the same pictures at another operating point."""
        if state is None or not (state.patches or state.region):
            return {"meaning": self.reader.points[setting].meaning}
        return self._values_but_gallery(state, setting)

    def accept(self, setting, state):
        """Keep that the reviewer agrees."""
        return self._review(setting, state, agrees=True)

    def disagree(self, setting, state):
        """Keep that the reviewer disagrees."""
        return self._review(setting, state, agrees=False)

    def _review(self, setting, state, *, agrees):
        if state is None:
            raise InputError("choose a patch first.")
        point = self.reader.points[setting]
        visit.add_review(self.reader, state, point, agrees=agrees, path=self.reviews_file)
        files = views.write_files(self.reader, state, point, setting)
        where = "Saved." if self.reviews_file else "Kept in this session only: no file was given."
        return {
            "state": state,
            "review": f"{views.review_sentence(state.chosen_patch)} {where}",
            "log": visit_tables.log_table(state),
            "report": str(files["report"]),
            "log_file": str(files["log"]),
        }

    def predict(self, picture, mpp, setting):
        """Predict one patch or region and return the result as JSON.

        Args:
            picture: a PNG, JPEG or TIFF file.
            mpp: its microns per pixel, a number or text; 0 or "": as the file states, or else the
                model's own.
            setting: the operating point, as on the page.
        """
        if not picture:
            raise InputError("give a picture.")
        point = self.reader.points[setting]
        state = Visit(self.folder / hashlib.sha256(os.urandom(16)).hexdigest()[:32])
        try:
            pictures = [_read_upload(picture, self.reader.task, visit.entered_mpp(mpp))]
            visit.read_pictures(self.reader, state, pictures, several=False)
            return views.as_json(self.reader, state, point)
        finally:
            shutil.rmtree(state.folder, ignore_errors=True)
            Path(picture).unlink(missing_ok=True)

    def leave(self, request: gr.Request):
        """Delete the files of a visitor who left."""
        self.forget(self._new_visit(request))

    def forget(self, state):
        """Delete the files of a visit."""
        if state is not None:
            shutil.rmtree(state.folder, ignore_errors=True)
            for upload in self.uploads.pop(state.folder, ()):
                upload.unlink(missing_ok=True)

    def _new_visit(self, request):
        # The browser chooses the session's name: its digest cannot be a path.
        name = hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:32]
        return Visit(self.folder / name)

    def _logged_values(self, state, setting):
        visit_tables.add_to_log(self.reader, state, self.reader.points[setting], setting)
        return self._page_values(state, setting)

    def _values_but_gallery(self, state, setting):
        """Return new values; the gallery keeps its choice because it gets none."""
        values = self._page_values(state, setting)
        del values["gallery"]
        return values

    def _page_values(self, state, setting):
        """Return the values of all parts of the page."""
        reader, point = self.reader, self.reader.points[setting]
        files = views.write_files(reader, state, point, setting)
        files = {name: str(file) for name, file in files.items()}
        region, patch = state.region, state.chosen_patch
        several = not region and len(state.patches) > 1

        def shown(make, is_shown):
            return gr.update(value=make() if is_shown else None, visible=bool(is_shown))

        return {
            "state": state,
            "summary": views.summary(reader, state, point),
            "region": shown(lambda: overlays.region_value(reader, region, point), region),
            "gallery": shown(lambda: views.gallery(reader, state, point), several),
            "patch": shown(lambda: overlays.patch_value(reader, patch, point), patch),
            "review_row": gr.update(visible=bool(patch and patch.has_tissue)),
            "review": views.question(reader, patch, point) if patch and patch.has_tissue else "",
            "downloads": gr.update(visible=True),
            "predictions": files["predictions"],
            "report": files["report"],
            "heat_map": gr.update(value=files.get("heat_map"), visible=bool(region)),
            "log": visit_tables.log_table(state),
            "log_file": gr.update(value=files["log"], interactive=True),
            "meaning": point.meaning,
        }


def _progress_bar(progress):
    return lambda done, total: progress((done, total), desc="Reading", unit="places")


def _readable(files, task, mpp, refused):
    """Yield the uploads that can be read, and collect the reasons of others if any can be."""
    for number, file in enumerate(files, 1):
        try:
            picture = _read_upload(file, task, mpp)
        except InputError as error:
            refused.append(str(error))
            if len(refused) == number == len(files):
                raise
        else:
            yield picture


def _read_upload(path: str, task: Task, mpp: float | None) -> tuple[str, image_files.Picture]:
    """Read an upload at the scale of a task; a path to any other file is refused."""
    path = Path(path).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise InputError("that file was not uploaded here.")
    return path.name, image_files.read(path, task, mpp, visit.safe_name(path.name))
