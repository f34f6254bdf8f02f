"""The tables of a visit: its log, and its predictions table to download."""

import datetime

import numpy as np
import pandas as pd

from pcam_tf.app import findings, visit
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.visit import Reading, Visit
from pcam_tf.errors import InputError

_LOGGED = 500  # rows of the log that are kept
_OPENED = visit.MOST_PICTURES  # of them the last ones, which can be opened: some kilobytes each


def add_to_log(reader: Reader, state: Visit, point: Point, setting: str) -> None:
    """Add a row to the log for each patch, or one for a region of which no place is chosen."""
    time = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    common = {"time": time, "setting": setting, "reviewer": ""}
    classes = reader.task.classes
    if state.region and state.chosen is None:
        shares = findings.shares(state.region.probabilities, point.of_cells)
        # Of two classes only the second is of interest.
        stated = [1] if reader.task.is_binary else np.flatnonzero(shares)
        text = ", ".join(f"{findings.percent(shares[k])} of tissue {classes[k]}" for k in stated)
        rows = [common | {"id": state.region.name, "call": text, "calibrated_probability": ""}]
    else:
        rows, key = [], state.region.key if state.region else ""
        for index, patch in enumerate(state.patches):
            row = {"id": patch.patch_id, "call": findings.NO_TISSUE, "calibrated_probability": ""}
            if patch.has_tissue:
                probability = patch.probabilities[visit.explained_class(reader, patch, point)]
                row["call"] = classes[int(findings.calls(patch.probabilities, point))]
                row["calibrated_probability"] = f"{probability:.4f}"
            row["reading"] = Reading(state.patches, index, state.notes, key)
            rows.append(common | row)
    first = state.log[-1]["number"] + 1 if state.log else 0
    rows = [row | {"number": number} for number, row in enumerate(rows, first)]
    state.log = (state.log + rows)[-_LOGGED:]
    for row in state.log[:-_OPENED]:
        row.pop("reading", None)


def open_again(state: Visit, number: int) -> bool:
    """Show the patch of a row of the log again, at the setting of that row.

    Returns:
        Whether what the visit showed before belongs to another upload, and is gone.

    Raises:
        InputError: there is no such row, or its patch is not kept any more.
    """
    with state.lock:
        row = next((row for row in state.log if row["number"] == number), {})
        if "reading" not in row:
            raise InputError("this picture is not kept any more: give it again.")
        patches, index, notes, region_key = row["reading"]
        is_here = bool(region_key and state.region and state.region.key == region_key)
        is_other = not is_here and state.patches is not patches
        if is_other:
            state.clear()
            state.take_uploads(())
            state.notes = notes
        state.patches, state.chosen, state.setting = patches, index, row["setting"]
        return is_other


def is_of_cells(state: Visit) -> bool:
    """Return whether what is shown is a region or a place of one, which are read in one view."""
    return state.region is not None or any(patch.cell for patch in state.patches)


def log_table(state: Visit) -> pd.DataFrame:
    """Return the log: a row for each patch or region that was read, the last one first."""
    columns = ["time", "id", "calibrated_probability", "call", "setting", "reviewer"]
    return pd.DataFrame(state.log[::-1], columns=columns)


def predictions_table(reader: Reader, state: Visit) -> pd.DataFrame:
    """Return the predictions table of the patches or of the region's places; `label` is empty.

    `probability` is the model's own, as `predict` writes it, `calibrated_probability` what the page
    shows; with more than two classes there is a pair for each. A patch without tissue has none. A
    column `note`, which is there if there is such a patch, says so.
    """
    notes = {}
    if state.region:
        places = np.argwhere(np.isfinite(state.region.probabilities).all(axis=-1))
        ids = [visit.place_name(reader, state.region, *place) for place in places]
        probabilities = state.region.probabilities[tuple(places.T)]
    else:
        ids = [patch.patch_id for patch in state.patches]
        none = np.full(len(reader.task.classes), np.nan)
        probabilities = np.stack(
            [patch.probabilities if patch.has_tissue else none for patch in state.patches]
        )
        said = ["" if patch.has_tissue else findings.NO_TISSUE for patch in state.patches]
        notes = {"note": said} if any(said) else {}
    columns = reader.task.probability_columns
    own = findings.uncalibrated(reader, probabilities, of_cells=is_of_cells(state))
    by_column = dict(zip(columns, own.T, strict=True))
    # Of two classes a table holds the second.
    shown = zip(columns, probabilities[:, -len(columns) :].T, strict=True)
    by_column |= {f"calibrated_{column}": values for column, values in shown}
    return pd.DataFrame({"id": ids, "label": None, **by_column, **notes})
