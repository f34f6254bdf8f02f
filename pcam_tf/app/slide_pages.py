"""The pages of a served folder of slides: their list, their scale, and the jobs that read them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import fastapi
from fastapi.responses import JSONResponse, Response

from pcam_tf.app import answers, viewer
from pcam_tf.app.findings import Reader
from pcam_tf.app.jobs import EngineInTurns, Job, Jobs, in_turns
from pcam_tf.app.slide_folder import SlideFolder
from pcam_tf.app.turns import Turns
from pcam_tf.app.viewed import Viewed
from pcam_tf.app.viewer import Viewer
from pcam_tf.errors import InputError
from pcam_tf.models import engines, model_files
from pcam_tf.slides import field_predictors, slide_runs

_THUMBNAIL_PX = 320
_POWERS = (40, 20, 10)  # by which a scale may be given
_UM_AT_1 = 10  # microns a pixel at 1×: 0.25 at 40×


def routers(
    model: Reader,
    turns: Turns,
    find_region: Callable[[str], Viewed | None],
    folder: str | Path | None = None,
) -> tuple[list[fastapi.APIRouter], Callable[[], None]]:
    """Return the routes of the viewer and, with a folder, of its slides, and what ends them.

    Args:
        model: reads the slides.
        turns: at the model.
        find_region: returns a visitor's region by its key.
        folder: of slides, or None.

    Raises:
        InputError: there is no such folder, or the model's answers are no heat map.
    """
    if folder is None:
        return [Viewer(model, turns.small, find_region).router()], lambda: None
    field_predictors.patch_by_patch(model.engine)  # refuses what cannot read slides
    slides, jobs = SlideFolder(folder, model, model.sha256), Jobs(turns)
    view = Viewer(model, turns.small, lambda key: find_region(key) or slides.find(key))

    def stop():
        jobs.stop_all()
        slides.close()

    return [SlidePages(slides, view, jobs).router(), view.router()], stop


@dataclasses.dataclass
class SlidePages:
    """The pages of a folder.

    Attributes:
        slides: the folder.
        viewer: shows its slides.
        jobs: read them.
    """

    slides: SlideFolder
    viewer: Viewer
    jobs: Jobs

    def router(self) -> fastapi.APIRouter:
        """Return the routes; who may call them is decided where they are served."""
        router = fastapi.APIRouter(prefix=viewer.PREFIX)
        for path, answer, method in (
            ("/", self.list, "GET"),
            ("/slides.json", self.states, "GET"),
            ("/{key}/thumbnail.jpg", self.thumbnail, "GET"),
            ("/{key}/read", self.read, "POST"),
            ("/{key}/cancel", self.cancel, "POST"),
            ("/{key}/scale", self.set_scale, "POST"),
        ):
            router.add_api_route(path, answer, methods=[method], response_class=Response)
        return router

    def list(self):
        """Return the page that lists the slides."""
        entries = [self._entry(key, path) for key, path in self.slides.files().items()]
        scales = {power: _UM_AT_1 / power for power in _POWERS}
        return answers.rendered("slides.html", entries=entries, scales=scales)

    def states(self):
        """Return how each slide stands."""
        return JSONResponse(
            {key: self._state(key, path) for key, path in self.slides.files().items()}
        )

    def _entry(self, key, path):
        entry = {"key": key, "name": path.name, "megabytes": path.stat().st_size / 1e6}
        try:
            slide = self.slides.find(key).slide
        except InputError as error:
            is_silent = self.slides.lacks_scale(key)
            return entry | {"asks_scale": is_silent, "reason": "" if is_silent else str(error)}
        width, height = (side * slide.mpp / 1000 for side in slide.size)
        return entry | {"size": f"{width:.1f} × {height:.1f} mm, {slide.mpp:.3g} µm per pixel"}

    def _state(self, key, path):
        job = self.jobs.find(key)
        if job is not None:
            return job.as_json()
        if slide_runs.read_state(self.slides.result_folder(path)).get("state") is None:
            return {"state": "unread"}
        try:
            found = self.slides.find(key)
        except InputError:
            return {"state": "unread"}
        return {"state": "begun" if found.probabilities is None else "done"}

    def thumbnail(self, key: str):
        """Return a small picture of a slide."""
        return self.viewer.whole(key, _THUMBNAIL_PX)

    def read(self, key: str):
        """Begin to read a slide."""
        found = self.viewer.viewed(key)
        job = self.jobs.start(key, lambda job: self._read(key, found.slide, job))
        return JSONResponse(job.as_json())

    def _read(self, key, slide, job: Job):
        predictor, engine = self._predictor(job)
        slide_runs.run(
            slide.path, self.slides.result_folder(slide.path), predictor,
            {"sha256": self.viewer.reader.sha256, "engine": engine},
            mpp=self.slides.scale(slide.path), progress=job.tell,
        )  # fmt: skip
        self.slides.forget(key)
        self.viewer.forget(key)

    def _predictor(self, job):
        """Return what predicts fields in turns, and the name of its engine, as `slide` does."""
        model, model_turns = self.viewer.reader, self.jobs.turns
        if model.file and model_files.is_for_fields(model.file):
            predictor = field_predictors.one_pass(model.file)
            predict = in_turns(predictor.predict, model_turns, job.stop)
            return dataclasses.replace(predictor, predict=predict), "litert"
        engine = EngineInTurns(model.engine, model_turns, job.stop)
        return field_predictors.patch_by_patch(engine), engines.name_of(model.engine)

    def set_scale(self, key: str, mpp: Annotated[float, fastapi.Body(embed=True)]):
        """Keep the scale of a slide whose file states none."""
        answers.or_refused(lambda: self.slides.set_scale(key, mpp))
        return JSONResponse({"mpp": mpp})

    def cancel(self, key: str):
        """Stop the reading of a slide."""
        self.jobs.cancel(key)
        return JSONResponse({"state": "cancelled"})
