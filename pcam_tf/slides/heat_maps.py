"""Heat maps of slides as tables: `cells.csv`, a row a tissue cell, and `run.json`."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf.errors import InputError, first_line
from pcam_tf.files import printable, write_json, written_whole
from pcam_tf.slides.grid import Grid

CELLS, RUN = "cells.csv", "run.json"
_DECIMALS = {"x_um": 2, "y_um": 2, "x_px": 2, "y_px": 2, "probability": 6}
COLUMNS = ("row", "column", *_DECIMALS)


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMap:
    """The probabilities of a slide's cells.

    Attributes:
        name: of the slide: its file without suffix.
        grid: where the cells lie.
        probabilities: float32 (rows, columns), of the task's second class; NaN where there is no
            tissue.
        settings: all else that `run.json` holds: the slide, the model, the versions.
    """

    name: str
    grid: Grid
    probabilities: np.ndarray
    settings: dict = dataclasses.field(default_factory=dict)


def write(folder: str | Path, heat_map: HeatMap) -> None:
    """Write `cells.csv`, then `run.json`, into a folder, which is made if it is missing.

    Probabilities have six decimals, microns and pixels two.

    Raises:
        InputError: they cannot be written.
    """
    found = heat_map.probabilities
    row, column = np.nonzero(~np.isnan(found))
    places = np.concatenate(
        [heat_map.grid.centres_um()[row, column], heat_map.grid.centres_px()[row, column]], axis=1
    )
    values = [row, column, *places.T, found[row, column].astype("float64")]
    table = pd.DataFrame(dict(zip(COLUMNS, values, strict=True))).round(_DECIMALS)
    with written_whole(Path(folder) / CELLS) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    about = {"name": heat_map.name, "grid": dataclasses.asdict(heat_map.grid)}
    write_json(Path(folder) / RUN, about | heat_map.settings)


def read(folder: str | Path) -> HeatMap:
    """Read what `write` wrote.

    Raises:
        InputError: a file is missing, or they are not a heat map's.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / RUN).read_text(encoding="utf-8"))
        name, grid = settings.pop("name"), Grid(**settings.pop("grid"))
        table = pd.read_csv(folder / CELLS)
        places = table["row"].to_numpy("int64"), table["column"].to_numpy("int64")
        if (
            len(table)
            and not (
                table["row"].between(0, grid.rows - 1)
                & table["column"].between(0, grid.columns - 1)
            ).all()
        ):
            raise ValueError("a cell lies beyond the grid")
        found = np.full((grid.rows, grid.columns), np.nan, "float32")
        found[places] = table["probability"].to_numpy("float32")
    except OSError as error:
        raise InputError(
            f"{printable(folder)} holds no heat map ({Path(error.filename).name}: "
            f"{error.strerror}): give a folder that `slide` wrote."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{printable(folder)} holds no heat map that can be read ({first_line(error)}): run "
            "`slide` anew."
        ) from error
    return HeatMap(name, grid, found, settings)
