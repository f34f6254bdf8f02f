"""What the page does on each event, and what it answers to a program."""

import dataclasses
import os
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np

from pcam_tf import synthetic
from pcam_tf.app import (
    overlays,
    private_files,
    reading,
    reviews,
    rows,
    slide_folder,
    slide_uploads,
    turns,
    views,
    visit,
    visit_tables,
)
from pcam_tf.app.findings import Reader
from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.app.slide_folder import SlideFolder
from pcam_tf.app.turns import Turns, Work
from pcam_tf.app.visit import Visit
from pcam_tf.app.visits import Visits
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.slides import field_predictors
from pcam_tf.task import PCAM, Task

# Magnifications of scanners, and their microns per pixel.
POWERS = {"40×": 0.25, "20×": 0.5, "10×": 1.0}
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

    Every event names its visit by the session of its request. What an event waits for is one piece
    of work; a newer event of the same visit stops it.

    Attributes:
        reader: the model.
        files: the private folder of this process.
        reviews_file: a CSV to which reviews are added, or None.
        examples: synthetic pictures at PatchCamelyon's scale, by their buttons' texts.
        turns: at the model.
        visits: of the open tabs.
        calls: the stop flags of programs' calls, by session.
    """

    reader: Reader
    files: PrivateFiles
    reviews_file: str | Path | None
    examples: dict[str, np.ndarray] = dataclasses.field(init=False)
    turns: Turns = dataclasses.field(default_factory=Turns)
    visits: Visits = dataclasses.field(init=False)
    calls: dict[str, set[threading.Event]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.examples = example_pictures(self.reader.task)
        self.visits = Visits(self.files)

    def warm_up(self) -> None:
        """Do once what is slow the first time only, so that the first visitor need not wait."""
        first = self.visits.begin("warm up")
        first.setting = next(iter(self.reader.points))
        pictures = [("region", self._example("Region"))]
        visit.read_pictures(self.reader, first, pictures, several=False)
        self.page_values(first)
        row, column = np.argwhere(np.isfinite(first.region.probabilities[..., 0]))[0]
        visit.read_place(self.reader, first, row, column)
        self.page_values(first)
        self.visits.end("warm up")

    def read_files(self, files, setting, request: gr.Request, progress=_PROGRESS):
        """Read the uploaded files at the scale that they state."""
        if not files:
            raise InputError("give a picture first.")
        if len(files) > visit.MOST_PICTURES:
            raise InputError(f"{len(files)} pictures: give at most {visit.MOST_PICTURES} at once.")
        state, work = self._begin(request, setting)
        with state.lock:
            work.check()
            state.take_uploads(_upload(path, self.files) for path in files)
        return self._read_uploads(state, None, work, progress)

    def read_at_power(self, power, setting, request: gr.Request, progress=_PROGRESS):
        """Read the visit's files at the magnification that the visitor chose."""
        return self.read_again(POWERS[power], setting, request, progress)

    def read_again(self, mpp, setting, request: gr.Request, progress=_PROGRESS):
        """Read the visit's files at the scale that the visitor entered."""
        entered = visit.entered_mpp(mpp)
        if entered is None:
            raise InputError("enter the microns per pixel first.")
        if not self.visits.find(request.session_hash).uploads:
            raise InputError("give a picture first.")
        state, work = self._begin(request, setting)
        return self._read_uploads(state, entered, work, progress)

    def _read_uploads(self, state, mpp, work, progress):
        damaged = []
        try:
            used = visit.read_pictures(
                self.reader,
                state,
                self._readable(state, mpp, work, damaged),
                several=len(state.uploads) > 1,
                progress=_progress_bar(progress),
                work=work,
            )
        except slide_uploads.LargeSlide as large:
            if len(state.uploads) > 1:
                raise
            return self._open_slide(state, mpp, work) | {"mpp": large.mpp, "power": None}
        state.notes += [f"Left out: {reason}" for reason in damaged]
        return self._logged_values(state, work) | {"mpp": used, "power": None}

    def _open_slide(self, state, mpp, work):
        """Show the visit's one upload, a slide, which a job reads when the visitor asks for it."""
        field_predictors.patch_by_patch(self.reader.engine)  # refuses what cannot read slides
        folder, secret = self.files.new_visit(), secrets.token_urlsafe(18)
        try:
            name = visit.safe_name(state.uploads[0].name)
            private_files.copy(state.uploads[0], folder).rename(folder / name)
            slides = SlideFolder(folder, self.reader, self.reader.sha256, secret)
            key = slide_folder.key_of(name, secret)
            if mpp:
                slides.set_scale(key, mpp)
            with state.lock:
                work.check()
                state.slide = visit.OwnSlide(key, name, slides)
        except BaseException:
            private_files.remove(folder)
            raise
        return self.page_values(state)

    def _readable(self, state, mpp, work, refused) -> Iterator[tuple[str, image_files.Picture]]:
        """Yield the uploads that can be read, and collect the reasons of others if any can be."""
        uploads = list(state.uploads)
        for number, file in enumerate(uploads, 1):
            work.check()
            try:
                picture = self._at_known_scale(file, mpp, state, work)
            except InputError as error:
                refused.append(str(error))
                if len(refused) == number == len(uploads):
                    raise
            else:
                yield file.name, picture

    def _at_known_scale(self, path, mpp, state, work):
        picture = self._read(path, mpp, state, work)
        try:
            visit.check_scale(self.reader.task, visit.safe_name(path.name), picture)
        except InputError:
            reading.discard(picture.pixels)
            raise
        return picture

    def _read(self, path, mpp, state, work):
        name = visit.safe_name(path.name)
        return reading.read(path, self.reader.task, mpp, name, state.folder, work)

    def read_example(self, name, setting, request: gr.Request, progress=_PROGRESS):
        """Read a synthetic example."""
        state, work = self._begin(request, setting)
        with state.lock:
            state.take_uploads(())
        pictures = [(f"synthetic {name.lower()}", self._example(name))]
        visit.read_pictures(
            self.reader,
            state,
            pictures,
            several=False,
            progress=_progress_bar(progress),
            work=work,
        )
        for result in filter(None, (*state.patches, state.region)):
            result.notice = ""  # the page says that it is drawn
        return self._logged_values(state, work) | {"mpp": PCAM.mpp, "power": None, "files": None}

    def _example(self, name):
        """Return a synthetic example at the scale of the model's task."""
        return image_files.at_scale(self.examples[name], PCAM.mpp, self.reader.task, name)

    def _begin(self, request, setting):
        """Return the visit, without its earlier answers, and the work that begins.

        An answer belongs to its input: while a file is read, or when it is refused, there is none.
        """
        self.files.check_room()
        state = self.visits.begin(request.session_hash)
        work = self._work_of(state)
        with state.lock:
            state.clear()
            state.setting = setting
        return state, work

    def _work_of(self, state):
        """Return new work of a visit; that before is stopped."""
        work = Work(self.turns)
        state.stop.set()
        state.stop = work.stop
        return work

    def remove_files(self, request: gr.Request):
        """Forget the answers when the visitor takes the files away."""
        state = self.visits.find(request.session_hash)
        state.stop.set()
        with state.lock:
            state.clear()
            state.take_uploads(())
        return self.empty_values("No picture yet.")

    def choose_place(self, setting, request: gr.Request, event: gr.EventData):
        """Read the place of the region that the visitor chose."""
        state = self.visits.find(request.session_hash)
        if state.slide:
            return {}  # the viewer says of a slide's place what there is to say
        work, cell = self._work_of(state), (int(event.row), int(event.column))
        if state.region and state.chosen_patch and state.chosen_patch.cell == cell:
            return self._values(state, work)  # the history has opened it, and the viewer follows
        try:
            visit.read_place(self.reader, state, *cell)
        except InputError as error:
            return self._with_reason(state, error)
        return self._logged_values(state, work)

    def open_again(self, setting, request: gr.Request, event: gr.EventData):
        """Show the patch of the history's row that the visitor chose, as it was answered."""
        state = self.visits.find(request.session_hash)
        work = self._work_of(state)
        is_other = visit_tables.open_again(state, int(event.number))
        values = self._values(state, work)
        if state.region:
            values["region"]["value"]["go"] = state.chosen_patch.cell
        return values | ({"files": None} if is_other else {})

    def choose_patch(self, setting, request: gr.Request, event: gr.EventData):
        """Show the patch of the batch that the visitor chose."""
        state = self.visits.find(request.session_hash)
        work = self._work_of(state)
        with state.lock:
            if not 0 <= event.number < len(state.patches):
                raise InputError("give pictures first.")
            state.chosen = int(event.number)
        return self._values(state, work)

    def change_setting(self, setting, request: gr.Request):
        """Show the same pictures at another operating point."""
        meaning = {"meaning": self.reader.points[setting].meaning}
        try:
            state = self.visits.find(request.session_hash)
        except InputError:
            return meaning
        with state.lock:
            state.setting = setting
            if not (state.patches or state.region or state.slide):
                return meaning  # of what is being read, the answer will come at this setting
        return self._values(state, Work(self.turns))

    def accept(self, token, reviewer, unsure, comment, request: gr.Request):
        """Keep that the reviewer agrees with the answer that was shown."""
        return self._review(request, token, reviewer, unsure, comment, agrees=True)

    def disagree(self, token, reviewer, unsure, comment, request: gr.Request):
        """Keep that the reviewer disagrees with the answer that was shown."""
        return self._review(request, token, reviewer, unsure, comment, agrees=False)

    def _review(self, request, token, reviewer, unsure, comment, *, agrees):
        state = self.visits.find(request.session_hash)
        with state.lock:
            review = visit.judged(
                self.reader,
                state,
                self._point(state),
                token,
                agrees=agrees,
                reviewer=reviews.cell(reviewer, 80),
                unsure=bool(unsure),
                comment=reviews.cell(comment, 500),
            )
            if self.reviews_file:
                reviews.append(self.reviews_file, review)
            text = views.review_sentence(self.reader, review)
            visit.keep_review(state, review, text)
            files = views.write_files(self.reader, state, self._point(state), state.setting)
        where = "Saved." if self.reviews_file else "Kept in this session only: no file was given."
        return {
            "review": f"{text} {where}",
            "comment": "",
            "unsure": False,
            "log": rows.history(state),
            "report": str(files["report"]),
            "log_file": str(files["log"]),
        }

    def predict(self, picture, mpp, setting, request: gr.Request):
        """Predict one patch or region and return the result as JSON.

        Args:
            picture: a PNG, JPEG or TIFF file.
            mpp: its microns per pixel, a number or text; 0 or "": as the file states, or else the
                model's own.
            setting: the operating point, as on the page.
        """
        if not picture:
            raise InputError("give a picture.")
        point, work = self.reader.points[setting], Work(self.turns)
        flags = self.calls.setdefault(str(request.session_hash), set())
        flags.add(work.stop)
        state = Visit(self.files.new_visit())
        try:
            self.files.check_room()
            path, mpp = _upload(picture, self.files), visit.entered_mpp(mpp)
            pictures = [(path.name, self._read(path, mpp, state, work))]
            visit.read_pictures(self.reader, state, pictures, several=False, work=work)
            return views.as_json(self.reader, state, point)
        except turns.Stopped as error:
            raise InputError("the call was stopped.") from error
        finally:
            flags.discard(work.stop)
            private_files.remove(state.folder)

    def leave(self, request: gr.Request):
        """Stop the work of a visitor or a program that left, and delete the files."""
        self.visits.end(request.session_hash)
        for stop in self.calls.pop(str(request.session_hash), ()):
            stop.set()

    def sweep(self) -> None:
        """Delete what nobody has used for long."""
        self.visits.sweep()
        self.files.sweep()

    def refused(self, request: gr.Request, reason: str) -> dict:
        """Return the page without answers and with the reason; the visit has none either."""
        try:
            state = self.visits.find(request.session_hash)
        except InputError:
            return self.empty_values(reason)
        with state.lock:
            state.clear()
        return self.empty_values(reason)

    def unsaved(self, _: gr.Request, reason: str) -> dict:
        """Return the page with the reason why a review was not saved; the answer stays."""
        return {"review": reason[0].upper() + reason[1:]}

    def without_folders(self, text: str) -> str:
        """Return a message without the folders of this server, which are no visitor's concern."""
        folders = [self.files.folder]
        if self.reviews_file:
            folders.append(Path(os.path.realpath(self.reviews_file)).parent)
        for folder in folders:
            text = re.sub(rf"{re.escape(str(folder))}/(\S*/)?", "", text)
        return text

    def _point(self, state):
        """Return the operating point; a region and its places are read in one view."""
        point = self.reader.points[state.setting]
        return point.of_cells if visit_tables.is_of_cells(state) else point

    def _logged_values(self, state, work):
        with state.lock:
            work.check()
            point = self._point(state)
            visit_tables.add_to_log(self.reader, state, point, state.setting)
        return self._values(state, work)

    def _values(self, state, work):
        self._explain(state, work)
        return self.page_values(state)

    def _explain(self, state, work):
        """Compute the explanation of the chosen patch, in its turn at the model."""
        patch = state.chosen_patch
        if patch and visit.is_explained(self.reader, patch):
            with self.turns.small():
                work.check()
                visit.explanation(self.reader, patch, self._point(state))

    def _with_reason(self, state, error):
        """Return the values of a visit of which no patch is chosen, and why."""
        values = self.page_values(state)
        reason = views.refusal(str(error))
        return values | {"summary": f"{values['summary']}{reason}"}

    def page_values(self, state: Visit) -> dict:
        """Return the values of all parts of the page."""
        with state.lock:
            return self._page_values(state)

    def _page_values(self, state):
        if state.slide:
            value = views.region_value(state.slide, state.setting)
            return self.empty_values("No picture yet.") | {
                "summary": views.slide_summary(state.slide.name),
                "region": gr.update(value=value, visible=True),
                "setting": state.setting,
                "meaning": self.reader.points[state.setting].meaning,
            }
        if not (state.patches or state.region):
            return self.empty_values("No picture yet.")
        reader, point = self.reader, self._point(state)
        files = views.write_files(reader, state, point, state.setting)
        files = {name: str(file) for name, file in files.items()}
        region, patch = state.region, state.chosen_patch
        several = not region and len(state.patches) > 1
        answer = visit.answer(state, point)

        def shown(make, is_shown):
            return gr.update(value=make() if is_shown else None, visible=bool(is_shown))

        return {
            "summary": views.summary(reader, state, point),
            "region": shown(lambda: views.region_value(region, state.setting), region),
            "batch": shown(lambda: rows.batch(reader, state, point), several),
            # Of a region the viewer shows the place.
            "patch": shown(
                lambda: overlays.patch_value(reader, patch, point), patch and not region
            ),
            "shown": answer.token if answer else "",
            "review_row": gr.update(visible=bool(answer)),
            "review": views.question(reader, patch, answer) if answer else "",
            "downloads": gr.update(visible=True),
            "predictions": files["predictions"],
            "report": files["report"],
            "heat_map": gr.update(value=files.get("heat_map"), visible=bool(region)),
            "log": rows.history(state),
            "log_file": gr.update(value=files["log"], interactive=True),
            "setting": state.setting,
            "meaning": point.meaning,
        }

    def empty_values(self, reason: str) -> dict:
        """Return the values of a page without an answer, and the reason why there is none."""
        nothing = gr.update(value=None, visible=False)
        return {
            "summary": views.refusal(reason),
            "region": nothing,
            "batch": nothing,
            "patch": nothing,
            "shown": "",
            "review_row": gr.update(visible=False),
            "review": "",
            "downloads": gr.update(visible=False),
        }


def _progress_bar(progress):
    return lambda text, done, total: progress((done, total), desc=text, unit="places")


def _upload(path: str, files: PrivateFiles) -> Path:
    """Return the path of an upload; any other file is refused."""
    path = Path(path).resolve()
    if not path.is_relative_to(files.uploads.resolve()):
        raise InputError("that file was not uploaded here.")
    if not path.is_file():
        raise InputError("the upload has expired: give the picture again.")
    return path
