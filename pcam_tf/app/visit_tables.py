"""The tables of a visit: its log, and its predictions table to download."""

import datetime
from collections.abc import Iterable

import numpy as np
import pandas as pd

from pcam_tf.app import findings, places, results, visit
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.results import PatchResult, RegionResult
from pcam_tf.app.visit import Batch, OwnSlide, Pending, Reading, Visit
from pcam_tf.errors import InputError

WHOLE_SLIDE = "whole slide"
_LOGGED = 500  # rows of the log that are kept
_OPENED = visit.MOST_PICTURES  # of them the last ones, which can be opened: some kilobytes each


def add_to_log(
    reader: Reader, state: Visit, batch: Batch, indices: Iterable[int], point: Point, setting: str
) -> None:
    """Add a row to the log for each of some items of a batch; what is pending has none.

    Args:
        reader: the model.
        state: the visit, changed by this.
        batch: the items.
        indices: of those that are added.
        point: at which patches are called.
        setting: its name.
    """
    rows = [
        _row(reader, item, point, setting) | {"reading": Reading(batch, item, None)}
        for item in (batch.items[index] for index in indices)
        if not isinstance(item, Pending)
    ]
    _append(state, rows)


def add_place_to_log(reader: Reader, state: Visit, point: Point, setting: str) -> None:
    """Add a row to the log for the place that is looked at, see `add_to_log`."""
    opened = Reading(state.batch, state.item, state.place)
    _append(state, [_row(reader, state.place, point, setting) | {"reading": opened}])


def _append(state, rows):
    first = state.log[-1]["number"] + 1 if state.log else 0
    rows = [row | {"number": number} for number, row in enumerate(rows, first)]
    state.log = (state.log + rows)[-_LOGGED:]
    for row in state.log[:-_OPENED]:
        row.pop("reading", None)


def _row(reader, item, point, setting):
    time = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    row = {"time": time, "setting": setting, "reviewer": "", "calibrated_probability": ""}
    if isinstance(item, OwnSlide):
        return row | {"id": item.name, "call": WHOLE_SLIDE}
    if isinstance(item, RegionResult):
        return row | {"id": item.name, "call": region_call(reader, item, point)}
    row |= {"id": item.patch_id, "call": findings.NO_TISSUE}
    if item.has_tissue:
        probability = item.probabilities[results.explained_class(reader, item, point)]
        row["call"] = findings.call(reader, item.probabilities, point)
        row["calibrated_probability"] = f"{probability:.4f}"
    return row


def region_call(reader: Reader, region: RegionResult, point: Point) -> str:
    """Return which share of a region's tissue is called what, in a few words."""
    shares = findings.shares(region.probabilities, point.of_cells)
    # Of two classes only the second is of interest.
    stated = [1] if reader.task.is_binary else np.flatnonzero(shares)
    classes = reader.task.classes
    return ", ".join(f"{findings.percent(shares[k])} of tissue {classes[k]}" for k in stated)


def open_again(state: Visit, number: int) -> bool:
    """Show what a row of the log is about again, at the setting of that row.

    What is being read goes on: slides, and the regions of the last batch.

    Returns:
        Whether it belongs to another batch than what was shown before.

    Raises:
        InputError: there is no such row, or what it is about is not kept any more.
    """
    with state.lock:
        row = next((row for row in state.log if row["number"] == number), {})
        if "reading" not in row:
            raise InputError("this picture is not kept any more: give it again.")
        batch, item, place = row["reading"]
        is_kept = isinstance(item, PatchResult) or item.key in state.regions | state.slides
        if not is_kept and place is None:
            raise InputError(f"{item.name} is not kept any more: give it again.")
        if not is_kept:
            item, place = place, None
        if batch.index(item) is None:  # or it was taken away
            batch = Batch([item])
        is_other = state.batch is not batch
        state.show(batch, batch.index(item), place)
        state.setting = row["setting"]
        return is_other


def is_of_cells(patch: PatchResult) -> bool:
    """Return whether a patch is a place of a region or slide, which is read in one view."""
    return patch.cell is not None


def log_table(state: Visit) -> pd.DataFrame:
    """Return the log: a row for each patch or region that was read, the last one first."""
    columns = ["time", "id", "calibrated_probability", "call", "setting", "reviewer"]
    return pd.DataFrame(state.log[::-1], columns=columns)


def predictions_table(reader: Reader, state: Visit) -> pd.DataFrame:
    """Return the predictions table of what is shown; `label` is empty.

    It holds the places of the open region, or else the patches of the batch and the places of its
    regions. `probability` is the model's own, as `predict` writes it, `calibrated_probability` what
    the page shows; with more than two classes there is a pair for each. A patch without tissue has
    none. A column `note`, which is there if there is such a patch, says so.
    """
    items = [state.region] if state.region else state.batch.items
    patches = [item for item in items if isinstance(item, PatchResult)]
    tables = [_table_of_region(reader, item) for item in items if isinstance(item, RegionResult)]
    if patches:
        tables.insert(0, _table_of_patches(reader, patches))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _table_of_patches(reader, patches):
    none = np.full(len(reader.task.classes), np.nan)
    probabilities = np.stack(
        [patch.probabilities if patch.has_tissue else none for patch in patches]
    )
    of_cells = any(map(is_of_cells, patches))  # a place that stands alone
    table = _table(reader, [patch.patch_id for patch in patches], probabilities, of_cells)
    said = ["" if patch.has_tissue else findings.NO_TISSUE for patch in patches]
    return table.assign(note=said) if any(said) else table


def _table_of_region(reader, region):
    cells = np.argwhere(np.isfinite(region.probabilities).all(axis=-1))
    centres_um = (cells[:, ::-1] + 0.5) * region.stride_px * reader.task.mpp
    ids = [places.place_name(region.name, x_um, y_um) for x_um, y_um in centres_um]
    return _table(reader, ids, region.probabilities[tuple(cells.T)], of_cells=True)


def _table(reader, ids, probabilities, of_cells):
    columns = reader.task.probability_columns
    own = findings.uncalibrated(reader, probabilities, of_cells=of_cells)
    by_column = dict(zip(columns, own.T, strict=True))
    # Of two classes a table holds the second.
    shown = zip(columns, probabilities[:, -len(columns) :].T, strict=True)
    by_column |= {f"calibrated_{column}": values for column, values in shown}
    return pd.DataFrame({"id": ids, "label": None, **by_column})
