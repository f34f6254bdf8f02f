"""Tables of patches on the page: each row opens its patch, and each column can be sorted.

They are drawn by `static/rows.*`. Sorting is the browser's.
"""

import base64
import io

import numpy as np
from PIL import Image

from pcam_tf.app import findings, overlays, results, views, visit_tables
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.results import PatchResult, RegionResult
from pcam_tf.app.visit import Pending, Visit


def batch(reader: Reader, state: Visit, point: Point) -> str:
    """Return the items of a visit's batch as an HTML table; the row of the open one is marked."""
    rows = [
        _cells(reader, item, point)
        | {"number": number, "opens": not isinstance(item, Pending)}
        | {"is_open": number == state.chosen, "thumbnail": _thumbnail(item)}
        for number, item in enumerate(state.batch.items)
    ]
    of = f" of {reader.task.classes[1]}" if reader.task.is_binary else ""
    first = "Patch" if len(state.batch.patches) == len(rows) else "Picture"
    columns = [first, "Call", f"Probability{of}"]
    return _rendered(f"{first}: choose one", columns, rows, name_at=0, call_at=1)


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


def _cells(reader, item, point):
    """Return the texts of a row, by what to sort it where that is not the text, and its colour."""
    colours = overlays.colours(reader.task)
    if isinstance(item, RegionResult):
        call = visit_tables.region_call(reader, item, point)
        shares = findings.shares(item.probabilities, point.of_cells)
        index = int(shares[1] > 0) if reader.task.is_binary else int(np.argmax(shares))
        return {"cells": [(item.name, None), (call, None), ("", None)], "colour": colours[index]}
    if not isinstance(item, PatchResult):
        said = item.said if isinstance(item, Pending) else visit_tables.WHOLE_SLIDE
        return {"cells": [(item.name, None), (said, None), ("", None)]}
    if not item.has_tissue:
        return {"cells": [(item.name, None), (findings.NO_TISSUE, None), ("", None)]}
    share = item.probabilities[results.explained_class(reader, item, point)]
    call = int(findings.calls(item.probabilities, point))
    texts = (item.name, None), (reader.task.classes[call], None)
    return {
        "cells": [*texts, (findings.percent(share), f"{share:.9f}")],
        "colour": colours[call],
    }


def _rendered(label, columns, rows, **places):
    return views.template("rows.html").render(label=label, columns=columns, rows=rows, **places)


def _thumbnail(item) -> str | None:
    """Return an item as a small data URL: a hundred of them are sent with one answer."""
    if isinstance(item, RegionResult):
        pixels = item.thumbnail
    elif isinstance(item, PatchResult):
        pixels = results.thumbnail(item.patch)
    else:
        return None
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
