"""The viewer's routes: its page, its picture, areas, places, for every slide that was put in it.

A slide is asked for by a key that nobody can guess or by its name in the served folder, never by a
path. The page is `static/viewer_page.html`, its script `static/viewer_page.js`.
"""

import dataclasses
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import bokeh
import fastapi
import numpy as np
from fastapi.responses import FileResponse, JSONResponse, Response

from pcam_tf.app import areas, tiles, viewed, viewer_downloads, viewer_figure
from pcam_tf.app.answers import or_refused, rendered
from pcam_tf.app.findings import Reader
from pcam_tf.app.viewed import Viewed

PREFIX = "/viewer"
_BOKEH = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
_FILES = ("viewer_page.js", "viewer_picture.js", "viewer_page.css", "slides.js")
_STATIC = Path(__file__).parent / "static"
_OVERVIEW_PX = 1024
_POWERS = (2.5, 5, 10, 20, 40)  # fixed magnifications; 40× is 0.25 microns a pixel
_MOST_AREAS = 500  # that are listed
_MOST_LINES = 100_000  # of outlines
_MOST_PLACES = 500  # whose explanations are kept
_HOUR = {"Cache-Control": "private, max-age=3600"}
_NOTHING = bytes.fromhex(  # a PNG of one transparent pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)


@dataclasses.dataclass
class Viewer:
    """The slides in the viewer, by their keys, and the model that explains their places.

    Attributes:
        reader: the model.
        turn: returns what is held while the model works for something short.
        find: returns the slide of a key, or None.
        is_own: whether a key is that of a visitor's slide, which is read from its page.
    """

    reader: Reader
    turn: Callable[[], AbstractContextManager]
    find: Callable[[str], Viewed | None]
    is_own: Callable[[str], bool] = lambda key: False
    cache: tiles.TileCache = dataclasses.field(default_factory=tiles.TileCache)

    def __post_init__(self):
        self._places, self._lock = {}, threading.Lock()

    def router(self) -> fastapi.APIRouter:
        """Return the routes; who may call them is decided where they are served."""
        router = fastapi.APIRouter(prefix=PREFIX)
        for path, answer in (
            ("/static/{name}", self.static),
            ("/{key}", self.page),
            ("/{key}/picture.json", self.picture),
            ("/{key}/overview.jpg", self.overview),
            ("/{key}/tiles/{level}/{column}/{row}.jpg", self.tile),
            ("/{key}/areas.json", self.areas),
            ("/{key}/places/{row}/{column}.json", self.place),
        ):
            router.add_api_route(path, answer, methods=["GET"], response_class=Response)
        viewer_downloads.add_routes(router, self)
        return router

    def viewed(self, key: str) -> Viewed:
        """Return the slide of a key; a request without one is answered by 404 or 400."""
        found = or_refused(lambda: self.find(key))
        if found is None:
            raise fastapi.HTTPException(404, "This slide is not open any more: open it again.")
        return found

    def static(self, name: str):
        """Return a file of the page, or Bokeh's script, which comes with its package."""
        if name == _BOKEH.name:
            return FileResponse(_BOKEH, headers=_HOUR)
        if name not in _FILES:
            raise fastapi.HTTPException(404, "There is no such file.")
        return FileResponse(_STATIC / name)

    def page(self, key: str, embedded: bool = False):
        """Return the page of a slide."""
        found, task = self.viewed(key), self.reader.task
        answer = rendered(
            "viewer_page.html", name=found.name, key=key, embedded=embedded, notes=found.notes,
            powers=_POWERS, has_heat=found.probabilities is not None, is_own=self.is_own(key),
            classes=[(index, task.classes[index]) for index in _shown_classes(task)],
            settings=list(self.reader.points.items()), threshold=_first_threshold(self.reader),
            is_one_pass=self.reader.fields is not None,
        )  # fmt: skip
        if embedded:
            answer.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
        return answer

    def picture(self, key: str):
        """Return the picture for Bokeh, and what the page's script needs to know of it."""
        found, task = self.viewed(key), self.reader.task
        heat = {}
        if found.probabilities is not None:
            heat = {str(index): found.heat(index) for index in _shown_classes(task)}
        documents, roots = viewer_figure.documents(found.slide, key, found.grid, heat)
        return JSONResponse({
            "documents": documents,
            "roots": roots,
            "width_um": found.slide.size[0] * found.slide.mpp,
            "height_um": found.slide.size[1] * found.slide.mpp,
            "mpp": found.slide.mpp,
            "grid": found.grid and dataclasses.asdict(found.grid),
            "colours": viewer_figure.palette(),
            "classes": list(task.classes),
            "thresholds": {name: point.of_cells.threshold
                           for name, point in self.reader.points.items()},
        })  # fmt: skip

    def overview(self, key: str):
        """Return the whole slide as one picture."""
        return self.whole(key, _OVERVIEW_PX)

    def whole(self, key: str, most_px: int):
        """Return the whole slide as a picture, its longer side at most so long."""
        found = self.viewed(key)
        return self._jpeg(lambda: self.cache.overview(key, found.slide, most_px))

    def tile(self, key: str, level: int, column: int, row: int):
        """Return a tile; a transparent pixel where the slide has none."""
        found = self.viewed(key)
        if not tiles.exists(found.slide, level, column, row):
            return Response(_NOTHING, media_type="image/png", headers=_HOUR)
        return self._jpeg(lambda: self.cache.tile(key, found.slide, level, column, row))

    def _jpeg(self, draw):
        return Response(or_refused(draw), media_type="image/jpeg", headers=_HOUR)

    def areas(self, key: str, index: int, threshold: float):
        """Return the areas at or above a threshold, and their outlines."""
        found = self.viewed(key)
        heat = or_refused(lambda: found.heat(index))
        if not 0 <= threshold <= 1:
            raise fastapi.HTTPException(400, "Give a threshold from 0 to 1.")
        table = areas.areas_above(heat, found.grid, threshold)
        lines = areas.outlines(heat, found.grid, threshold)
        lines = np.round(lines, 1) if len(lines) <= _MOST_LINES else lines[:0]
        tissue = int(np.isfinite(heat).sum())
        return JSONResponse({
            "areas": table.head(_MOST_AREAS).to_dict("records"),
            "count": len(table),
            "share": float(table["cells"].sum() / max(tissue, 1)),
            "tissue_mm2": tissue * (found.grid.step_um / 1000) ** 2,
            "outlines": dict(zip(("x0", "y0", "x1", "y1"), lines.T.tolist(), strict=True)),
        })  # fmt: skip

    def place(self, key: str, row: int, column: int, index: int):
        """Return a place closely: its probability and why."""
        return JSONResponse(self.place_of(key, row, column, index))

    def place_of(self, key: str, row: int, column: int, index: int) -> dict:
        """Return what `viewed.place` returns, in its turn at the model; the last ones are kept."""
        found, asked = self.viewed(key), (key, row, column, index)
        or_refused(lambda: found.heat(index))
        with self._lock:
            answer = self._places.get(asked)
        if answer is None:
            with self.turn():
                answer = or_refused(lambda: viewed.place(found, self.reader, row, column, index))
            with self._lock:
                self._places[asked] = answer
                while len(self._places) > _MOST_PLACES:
                    self._places.pop(next(iter(self._places)))
        return answer

    def forget(self, key: str) -> None:
        """Drop all that is kept of a slide."""
        self.cache.forget(key)
        with self._lock:
            self._places = {asked: kept for asked, kept in self._places.items() if asked[0] != key}


def _shown_classes(task):
    """Return the classes that have a heat map to be looked at: of two, the second."""
    return [1] if task.is_binary else range(len(task.classes))


def _first_threshold(reader):
    """Return the threshold of the first setting, or an even chance."""
    threshold = next(iter(reader.points.values())).of_cells.threshold
    return 0.5 if threshold is None else threshold
