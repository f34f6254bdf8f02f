"""What the page does on each event."""

import dataclasses
import os
import re
import threading
from pathlib import Path

import gradio as gr
import numpy as np

from pcam_tf.app import (
    answers,
    batches,
    examples,
    judgements,
    page_values,
    pictures,
    places,
    results,
    reviews,
    views,
    visit,
    visit_tables,
)
from pcam_tf.app.batches import Uploads
from pcam_tf.app.findings import Reader
from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.app.programs import Programs
from pcam_tf.app.turns import Turns, Work
from pcam_tf.app.visit import Pending
from pcam_tf.app.visits import Visits
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM

_PROGRESS = gr.Progress()  # gradio replaces it by the visitor's own


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
        uploads: reads what they give.
        programs: what programs call.
    """

    reader: Reader
    files: PrivateFiles
    reviews_file: str | Path | None
    examples: dict[str, np.ndarray] = dataclasses.field(init=False)
    turns: Turns = dataclasses.field(default_factory=Turns)
    visits: Visits = dataclasses.field(init=False)
    uploads: Uploads = dataclasses.field(init=False)
    programs: Programs = dataclasses.field(init=False)

    def __post_init__(self):
        self.examples = examples.example_pictures(self.reader.task)
        self.visits, self.uploads = Visits(self.files), Uploads(self.reader, self.files)
        self.programs = Programs(self.reader, self.files, self.turns)

    def warm_up(self) -> None:
        """Do once what is slow the first time only, so that the first visitor need not wait."""
        first = self.visits.begin("warm up")
        first.setting = next(iter(self.reader.points))
        batches.read_pictures(self.reader, first, [("region", self._example("Region"))])
        self._values(first, Work(self.turns))
        row, column = np.argwhere(np.isfinite(first.region.probabilities[..., 0]))[0]
        first.place = places.place_of_region(self.reader, first.region, row, column)
        self._values(first, Work(self.turns))
        self.visits.end("warm up")

    def read_files(self, files, setting, request: gr.Request, progress=_PROGRESS):
        """Read the uploaded files at the scale that they state."""
        state, work = self._begin(request, setting)
        if not files:
            raise InputError("give a picture first.")
        if len(files) > visit.MOST_PICTURES:
            raise InputError(f"{len(files)} pictures: give at most {visit.MOST_PICTURES} at once.")
        with state.lock:
            work.check()
            state.take_uploads([self.files.upload(path, state.copies) for path in files])
        return self._read_uploads(state, None, work, progress)

    def read_at_power(self, power, setting, request: gr.Request, progress=_PROGRESS):
        """Read the visit's files at the magnification that the visitor chose."""
        return self.read_again(pictures.POWERS[power], setting, request, progress)

    def read_again(self, mpp, setting, request: gr.Request, progress=_PROGRESS):
        """Read the visit's files at the scale that the visitor entered."""
        entered = pictures.entered_mpp(mpp)
        if entered is None:
            raise InputError("enter the microns per pixel first.")
        state = self.visits.find(request.session_hash)
        if not state.uploads:
            raise InputError("give a picture first.")
        with state.lock:
            if state.slide:  # at the scale that is given up
                state.close_slide(state.slide)
        state, work = self._begin(request, setting)
        return self._read_uploads(state, entered, work, progress)

    def _read_uploads(self, state, mpp, work, progress):
        used = self.uploads.read(state, mpp, _progress_bar(progress), work)
        self._read_regions(state, mpp, work)
        shown = {"power": None} | ({"mpp": used} if used else {})
        return self._logged_values(state, work) | shown

    def _read_regions(self, state, mpp, work):
        """Begin to read the regions of a batch, while the visitor looks at its first results."""
        with state.lock:
            work.check()
            if not any(isinstance(item, Pending) for item in state.batch.items):
                return
            meanwhile, batch = Work(self.turns), state.batch
            meanwhile.stop = state.reading = threading.Event()

        def done(index):
            point = self.reader.points[state.setting]
            visit_tables.add_to_log(self.reader, state, batch, [index], point, state.setting)

        begin = (state, mpp, meanwhile, done)
        threading.Thread(target=self.uploads.read_regions, args=begin, daemon=True).start()

    def follow(self, request: gr.Request):
        """Show what has been read meanwhile of the regions of a batch; called every second."""
        try:
            state = self.visits.find(request.session_hash)
        except InputError:
            return {"timer": gr.Timer(active=False)}
        with state.lock:
            if state.changes == state.shown_changes and state.reading:
                return page_values.of_reading(state)
            state.shown_changes = state.changes
            # A region that is the only readable picture of its batch is opened.
            is_alone = len(state.batch.items) == 1 and state.region and state.batch is state.given
            show = page_values.of_visit if is_alone else page_values.of_batch
            return show(self.reader, state)

    def stop_reading(self, request: gr.Request):
        """Read no more regions of the batch."""
        state = self.visits.find(request.session_hash)
        with state.lock:
            state.stop_reading()
        return {}

    def read_example(self, name, setting, request: gr.Request, progress=_PROGRESS):
        """Read a synthetic example."""
        state, work = self._begin(request, setting)
        with state.lock:
            state.take_uploads(())
        given = [(f"synthetic {name.lower()}", self._example(name))]
        bar = _progress_bar(progress)
        batches.read_pictures(self.reader, state, given, progress=bar, work=work)
        state.item.notice = ""  # the page says that it is drawn
        if state.region:
            state.region.is_drawn = True
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
            if state.slide:
                state.close_slide(state.slide)
            state.take_uploads(())
        return page_values.empty("No picture yet.")

    def remove_some(self, files, request: gr.Request):
        """Forget the answers of files that the visitor takes away, and keep those of the others."""
        if not files:
            return self.remove_files(request)
        state = self.visits.find(request.session_hash)
        with state.lock:
            state.keep_uploads(Path(path).resolve() for path in files)
        return self._values(state, Work(self.turns))

    def choose_place(self, setting, request: gr.Request, event: gr.EventData):
        """Look at the place of the region or slide that the visitor chose."""
        state = self.visits.find(request.session_hash)
        work, cell = self._work_of(state), (int(event.row), int(event.column))
        with state.lock:
            region, slide, before, state.place = state.region, state.slide, state.place, None
        if before and before.cell == cell:
            state.place = before
            return self._values(state, work)  # the history has opened it, and the viewer follows
        try:
            found = self._place(region, slide, cell)
        except InputError as error:
            return self._with_reason(state, error)
        with state.lock:
            work.check()
            if state.item is not (region or slide):
                return {}
            state.place = found
            point = page_values.point_of(self.reader, state)
            visit_tables.add_place_to_log(self.reader, state, point, state.setting)
        return self._values(state, work)

    def _place(self, region, slide, cell):
        if region:
            return places.place_of_region(self.reader, region, *cell)
        if slide:
            viewed = slide.folder.find(slide.key)
            if viewed:
                return places.place_of_slide(self.reader, viewed, slide.sha256, *cell)
        raise InputError("the region is no longer stored: read it again.")

    def open_again(self, setting, request: gr.Request, event: gr.EventData):
        """Show what the history's row is about that the visitor chose, as it was answered."""
        state = self.visits.find(request.session_hash)
        work = self._work_of(state)
        is_other = visit_tables.open_again(state, int(event.number))
        values = self._values(state, work)
        if state.place:
            values["region"]["value"]["go"] = state.place.cell
        return values | ({"files": None} if is_other else {})

    def choose_item(self, setting, request: gr.Request, event: gr.EventData):
        """Show the patch, region or slide of the batch that the visitor chose."""
        state = self.visits.find(request.session_hash)
        work, index = self._work_of(state), int(event.number)
        with state.lock:
            items = state.batch.items
            if not 0 <= index < len(items) or isinstance(items[index], Pending):
                raise InputError("give pictures first.")
            item = items[index]
            is_kept = isinstance(item, results.PatchResult) or (
                item.key in state.regions or item.key in state.slides
            )
            if not is_kept:
                raise InputError(f"{item.name} is not kept any more: give it again.")
            state.show(state.batch, index)
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
            if not state.batch.items:
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
            review = judgements.judged(
                self.reader,
                state,
                page_values.point_of(self.reader, state),
                token,
                agrees=agrees,
                reviewer=reviews.cell(reviewer, 80),
                unsure=bool(unsure),
                comment=reviews.cell(comment, 500),
            )
            if self.reviews_file:
                reviews.append(self.reviews_file, review)
            text = views.review_sentence(self.reader, review)
            judgements.keep_review(state, review, text)
            values = page_values.of_files(self.reader, state)
        where = "Saved." if self.reviews_file else "Kept in this session only: no file was given."
        return values | {"review": f"{text} {where}", "comment": "", "unsure": False}

    def leave(self, request: gr.Request):
        """Stop the work of a visitor or a program that left, and delete the files."""
        self.visits.end(request.session_hash)
        self.programs.leave(request.session_hash)

    def sweep(self) -> None:
        """Delete what nobody has used for long."""
        self.visits.sweep()
        self.files.sweep()

    def refused(self, request: gr.Request, reason: str) -> dict:
        """Return the page without answers and with the reason; the visit has none either."""
        try:
            state = self.visits.find(request.session_hash)
        except InputError:
            return page_values.empty(reason)
        with state.lock:
            state.clear()
        return page_values.empty(reason)

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
        return answers.plain(text)

    def _logged_values(self, state, work):
        with state.lock:
            work.check()
            point, batch = self.reader.points[state.setting], state.batch
            indices = range(len(batch.items))
            visit_tables.add_to_log(self.reader, state, batch, indices, point, state.setting)
        return self._values(state, work)

    def _values(self, state, work):
        self._explain(state, work)
        return page_values.of_visit(self.reader, state)

    def _explain(self, state, work):
        """Compute the explanation of the chosen patch, in its turn at the model."""
        patch = state.chosen_patch
        # Of a slide's place the viewer has it.
        if patch and not state.slide and results.is_explained(self.reader, patch):
            with self.turns.small():
                work.check()
                results.explanation(self.reader, patch, page_values.point_of(self.reader, state))

    def _with_reason(self, state, error):
        """Return the values of a visit of which no patch is chosen, and why."""
        values = page_values.of_visit(self.reader, state)
        reason = views.refusal(self.without_folders(str(error)))
        return values | {"summary": f"{values['summary']}{reason}"}


def _progress_bar(progress):
    return lambda text, done, total: progress((done, total), desc=text, unit="places")
