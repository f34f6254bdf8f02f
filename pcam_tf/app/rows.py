"""Tables of patches on the page: each row opens its patch, and each column can be sorted.

They are drawn by `static/rows.*`. Sorting is the browser's.
"""

import base64
import io

import jinja2
import numpy as np
from PIL import Image

from pcam_tf.app import findings, overlays, views, visit
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.visit import Visit

_THUMBNAIL_PX = 88  # twice its side on the page, for dense screens


def batch(reader: Reader, state: Visit, point: Point) -> str:
    """Return the patches of a visit as an HTML table; the row of the chosen one is marked."""
    rows = [
        _cells(reader, patch, point)
        | {
            "number": number,
            "opens": True,
            "is_open": number == state.chosen,
            "thumbnail": _thumbnail(patch.patch),
        }
        for number, patch in enumerate(state.patches)
    ]
    of = f" of {reader.task.classes[1]}" if reader.task.is_binary else ""
    columns = ["Patch", "Call", f"Probability{of}"]
    return _rendered("Patches: choose one", columns, rows, name_at=0, call_at=1)


def history(state: Visit) -> str:
    """Return the log of a visit as an HTML table, the last row first."""
    shown = ("time", "id", "calibrated_probability", "call", "setting", "reviewer")
    rows = [
        {
            "number": row["number"],
            "opens": "reading" in row,
            "cells": [(row[name], None) for name in shown],
        }
        for row in state.log[::-1]
    ]
    columns = ["Time", "Picture", "Calibrated probability", "Call", "Setting", "Reviewer"]
    return _rendered("What was read in this session", columns, rows, name_at=1, call_at=3)


def _cells(reader, patch, point):
    """Return the texts of a row, by what to sort it where that is not the text, and its colour."""
    if not patch.has_tissue:
        return {"cells": [(patch.name, None), (findings.NO_TISSUE, None), ("", None)]}
    share = patch.probabilities[visit.explained_class(reader, patch, point)]
    call = int(findings.calls(patch.probabilities, point))
    texts = (patch.name, None), (reader.task.classes[call], None)
    return {
        "cells": [*texts, (findings.percent(share), f"{share:.9f}")],
        "colour": overlays.colours(reader.task)[call],
    }


def _rendered(label, columns, rows, **places):
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(views.static_text("rows.html"))
    return template.render(label=label, columns=columns, rows=rows, **places)


def _thumbnail(patch: np.ndarray) -> str:
    """Return a patch as a small data URL: a hundred of them are sent with one answer."""
    picture = Image.fromarray(patch)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
