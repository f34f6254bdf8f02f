"""The pages of slides, of a served folder or a visitor's own: list, scale, and jobs that read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import fastapi
from fastapi.responses import JSONResponse, Response

from pcam_tf.app import answers, private_files, turns, viewer
from pcam_tf.app.findings import Reader
from pcam_tf.app.jobs import EngineInTurns, Job, Jobs, in_turns
from pcam_tf.app.slide_folder import SlideFolder
from pcam_tf.app.turns import Turns
from pcam_tf.app.viewed import Viewed
from pcam_tf.app.viewer import Viewer
from pcam_tf.errors import InputError
from pcam_tf.models import engines
from pcam_tf.slides import field_predictors, slide_runs

_THUMBNAIL_PX = 320
_POWERS = (40, 20, 10)  # by which a scale may be given
_UM_AT_1 = 10  # microns a pixel at 1×: 0.25 at 40×


def routers(
    model: Reader,
    model_turns: Turns,
    find_region: Callable[[str], Viewed | None],
    folder: str | Path | None = None,
    find_own: Callable[[str], SlideFolder | None] = lambda key: None,
) -> tuple[list[fastapi.APIRouter], Callable[[], None]]:
    """Return the routes of the viewer and, with a folder, of its slides, and what ends them.

    Args:
        model: reads the slides.
        model_turns: at the model.
        find_region: returns a visitor's region by its key.
        folder: of slides, or None.
        find_own: returns the folder of a visitor's slide by its key.

    Raises:
        InputError: there is no such folder, or the model's answers are no heat map.
    """
    slides, jobs = None, Jobs(model_turns)
    if folder is not None:
        field_predictors.patch_by_patch(model.engine)  # refuses what cannot read slides
        slides = SlideFolder(folder, model, model.sha256)

    def find(key):
        own = find_own(key)
        if own:
            return own.find(key)
        return find_region(key) or (slides.find(key) if slides else None)

    def stop():
        jobs.stop_all()
        if slides:
            slides.close()

    view = Viewer(model, model_turns.small, find, lambda key: find_own(key) is not None)
    return [SlidePages(slides, view, jobs, find_own).router(), view.router()], stop


@dataclasses.dataclass
class SlidePages:
    """The pages of slides.

    Attributes:
        slides: the served folder, or None.
        viewer: shows slides.
        jobs: read them.
        find_own: returns the folder of a visitor's slide by its key.
    """

    slides: SlideFolder | None
    viewer: Viewer
    jobs: Jobs
    find_own: Callable[[str], SlideFolder | None]

    def router(self) -> fastapi.APIRouter:
        """Return the routes; who may call them is decided where they are served."""
        router = fastapi.APIRouter(prefix=viewer.PREFIX)
        routes = [
            ("/{key}/slides.json", self.state, "GET"),
            ("/{key}/read", self.read, "POST"),
            ("/{key}/cancel", self.cancel, "POST"),
        ]
        if self.slides:
            routes += [
                ("/", self.list, "GET"),
                ("/slides.json", self.states, "GET"),
                ("/{key}/thumbnail.jpg", self.thumbnail, "GET"),
                ("/{key}/scale", self.set_scale, "POST"),
            ]
        for path, answer, method in routes:
            router.add_api_route(path, answer, methods=[method], response_class=Response)
        return router

    def list(self):
        """Return the page that lists the slides."""
        entries = [self._entry(key, path) for key, path in self.slides.files().items()]
        scales = {power: _UM_AT_1 / power for power in _POWERS}
        return answers.rendered("slides.html", entries=entries, scales=scales)

    def states(self):
        """Return how each slide stands."""
        return JSONResponse({key: self._state(self.slides, key) for key in self.slides.files()})

    def state(self, key: str):
        """Return how one slide stands, in the form of `states`."""
        return JSONResponse({key: self._state(self._folder_of(key), key)})

    def _folder_of(self, key):
        found = self.find_own(key) or self.slides
        if found is None or key not in answers.or_refused(found.files):
            raise fastapi.HTTPException(404, "There is no such slide.")
        return found

    def _entry(self, key, path):
        entry = {"key": key, "name": path.name, "megabytes": path.stat().st_size / 1e6}
        try:
            slide = self.slides.find(key).slide
        except InputError as error:
            is_silent = self.slides.lacks_scale(key)
            reason = "" if is_silent else answers.plain(str(error))
            return entry | {"asks_scale": is_silent, "reason": reason}
        width, height = (side * slide.mpp / 1000 for side in slide.size)
        return entry | {"size": f"{width:.1f} × {height:.1f} mm, {slide.mpp:.3g} µm per pixel"}

    def _state(self, folder, key):
        job = self.jobs.find(key)
        if job is not None:
            return _job_as_json(job)
        results = folder.result_folder(folder.files()[key])
        if slide_runs.read_state(results).get("state") is None:
            return {"state": "unread"}
        try:
            found = folder.find(key)
        except InputError:
            return {"state": "unread"}
        return {"state": "begun" if found.probabilities is None else "done"}

    def thumbnail(self, key: str):
        """Return a small picture of a slide."""
        return self.viewer.whole(key, _THUMBNAIL_PX)

    def read(self, key: str):
        """Begin to read a slide."""
        folder, found = self._folder_of(key), self.viewer.viewed(key)
        job = self.jobs.start(key, lambda job: self._read(folder, key, found.slide.path, job))
        folder.job = job
        return JSONResponse(_job_as_json(job))

    def _read(self, folder, key, path, job: Job):
        def tell(done, total):
            if folder.is_closed:
                raise turns.Stopped
            job.tell(done, total)

        predictor, engine = self._predictor(job)
        try:
            tell(0, 0)
            slide_runs.run(
                path, folder.result_folder(path), predictor,
                {"sha256": self.viewer.reader.sha256, "engine": engine},
                mpp=folder.scale(path), progress=tell,
            )  # fmt: skip
        finally:
            if folder.is_closed and folder is not self.slides:
                private_files.remove(folder.folder)  # what was written since the visit ended
        folder.forget(key)
        self.viewer.forget(key)

    def _predictor(self, job):
        """Return what predicts fields in turns, and the name of its engine, as `slide` does."""
        model, model_turns = self.viewer.reader, self.jobs.turns
        if model.fields:
            predict = in_turns(model.fields.predict, model_turns, job.stop)
            return dataclasses.replace(model.fields, predict=predict), model.fields.engine
        engine = EngineInTurns(model.engine, model_turns, job.stop)
        return field_predictors.patch_by_patch(engine), engines.name_of(model.engine)

    def set_scale(self, key: str, mpp: Annotated[float, fastapi.Body(embed=True)]):
        """Keep the scale of a slide whose file states none."""

        def keep():
            if key in self.slides.files() and not self.slides.lacks_scale(key):
                raise InputError("the scale of this slide is known already: reload the page.")
            self.slides.set_scale(key, mpp)

        answers.or_refused(keep)
        return JSONResponse({"mpp": mpp})

    def cancel(self, key: str):
        """Stop the reading of a slide."""
        self.jobs.cancel(key)
        return JSONResponse({"state": "cancelled"})


def _job_as_json(job):
    return job.as_json() | {"reason": answers.plain(job.reason)}
