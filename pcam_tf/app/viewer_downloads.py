"""The viewer's routes to what `viewer_exports` makes of a slide."""

import re
from typing import Annotated

import fastapi
import pydantic
from fastapi.responses import Response

from pcam_tf.app import viewer_exports
from pcam_tf.app.answers import or_refused
from pcam_tf.app.viewer_exports import Look

_Share = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]


class _Looked(pydantic.BaseModel):
    """How the heat map is looked at."""

    index: int
    threshold: _Share
    opacity: _Share = 0.45
    outlines: bool = True
    only_above: bool = False

    def look(self) -> Look:
        return Look(*(getattr(self, name) for name in Look._fields))


class _Part(_Looked):
    """A part of the slide as it is on the screen; microns and pixels."""

    left: pydantic.FiniteFloat
    top: pydantic.FiniteFloat
    right: pydantic.FiniteFloat
    bottom: pydantic.FiniteFloat
    width_px: int


class _Report(_Looked):
    """What a report is to hold."""

    setting: Annotated[str, pydantic.Field(max_length=80)] = ""
    places: Annotated[
        list[tuple[int, int]], pydantic.Field(max_length=viewer_exports.MOST_PLACES)
    ] = []


def add_routes(router: fastapi.APIRouter, viewer) -> None:
    """Add the routes to those of a `viewer.Viewer`."""

    def sent(key, ending, kind, make):
        found = viewer.viewed(key)
        content = or_refused(lambda: make(found, viewer.reader))
        # Names of slides are the user's: a plain one cannot break the header.
        name = re.sub(r"[^A-Za-z0-9-]", "_", found.name) + ending
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=kind, headers=headers)

    @router.get("/{key}/outlines.geojson")
    def outlines(key: str, looked: Annotated[_Looked, fastapi.Query()]):
        look = looked.look()
        return sent(key, "_outlines.geojson", "application/geo+json",
                    lambda found, reader: viewer_exports.geojson(found, reader, look))  # fmt: skip

    @router.get("/{key}/cells.csv")
    def cells(key: str):
        def make(found, reader):
            table = viewer_exports.cells_table(found, reader)
            return table.to_csv(index=False, lineterminator="\n")

        return sent(key, "_cells.csv", "text/csv", make)

    @router.get("/{key}/picture.png")
    def picture(key: str, part: Annotated[_Part, fastapi.Query()]):
        box = (part.left, part.top, part.right, part.bottom)

        def make(found, reader):
            return viewer_exports.picture(found, reader, part.look(), box, part.width_px)

        return sent(key, "_picture.png", "image/png", make)

    @router.post("/{key}/report.html")
    def report(key: str, asked: _Report):
        places = [viewer.place_of(key, row, column, asked.index) for row, column in asked.places]

        def make(found, reader):
            return viewer_exports.report(found, reader, asked.look(), asked.setting, places)

        return sent(key, "_report.html", "text/html", make)
