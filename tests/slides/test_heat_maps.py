import json

import numpy as np
import pandas as pd
import pytest

from pcam_tf.errors import InputError
from pcam_tf.slides import heat_maps
from pcam_tf.slides.grid import Grid, grid_over
from pcam_tf.slides.heat_maps import HeatMap

GRID = Grid(3, 4, 31.104, 0.25)


def heat_map():
    found = np.linspace(0, 1, 12, dtype="float32").reshape(3, 4)
    found[1, 2] = np.nan
    return HeatMap("slide", GRID, found, {"model": {"digest": "abc"}})


def test_cells_are_squares_from_the_top_left_on():
    assert GRID.centres_um().shape == (3, 4, 2)
    np.testing.assert_allclose(GRID.centres_um()[1, 2], [2.5 * 31.104, 1.5 * 31.104])
    np.testing.assert_allclose(GRID.centres_px()[1, 2], [2.5 * 31.104 / 0.25, 1.5 * 31.104 / 0.25])


def test_a_grid_covers_the_slide():
    assert grid_over((1000, 500), 0.5, 50) == Grid(5, 10, 50, 0.5)
    assert grid_over((1001, 501), 0.5, 50) == Grid(6, 11, 50, 0.5)
    assert grid_over((3, 3), 0.25, 31.104) == Grid(1, 1, 31.104, 0.25)


def test_what_is_written_is_read_again(tmp_path):
    heat_maps.write(tmp_path / "new", heat_map())
    read = heat_maps.read(tmp_path / "new")
    assert (read.name, read.grid, read.settings) == ("slide", GRID, {"model": {"digest": "abc"}})
    assert read.probabilities.dtype == np.float32
    np.testing.assert_allclose(read.probabilities, heat_map().probabilities, atol=5e-7)
    first = (tmp_path / "new/cells.csv").read_bytes(), (tmp_path / "new/run.json").read_bytes()
    heat_maps.write(tmp_path / "again", read)
    again = (tmp_path / "again/cells.csv").read_bytes(), (tmp_path / "again/run.json").read_bytes()
    assert first == again


def test_the_table_has_a_row_a_tissue_cell(tmp_path):
    heat_maps.write(tmp_path, heat_map())
    table = pd.read_csv(tmp_path / "cells.csv")
    assert list(table) == ["row", "column", "x_um", "y_um", "x_px", "y_px", "probability"]
    assert len(table) == 11
    assert not ((table["row"] == 1) & (table["column"] == 2)).any()
    last = table.iloc[-1]
    assert (last["row"], last["column"], last["probability"]) == (2, 3, 1)
    assert last["x_px"] == pytest.approx(3.5 * 31.104 / 0.25, abs=0.01)
    assert last["y_um"] == pytest.approx(2.5 * 31.104, abs=0.01)


def test_a_slide_without_tissue_has_an_empty_table(tmp_path):
    heat_maps.write(tmp_path, HeatMap("glass", GRID, np.full((3, 4), np.nan, "float32")))
    assert np.isnan(heat_maps.read(tmp_path).probabilities).all()


def beyond(folder):
    settings = json.loads((folder / "run.json").read_text())
    settings["grid"]["rows"] = 2
    (folder / "run.json").write_text(json.dumps(settings))


BAD = [
    (lambda folder: (folder / "run.json").unlink(), "run.json: No such file"),
    (lambda folder: (folder / "cells.csv").unlink(), "cells.csv: No such file"),
    (lambda folder: (folder / "run.json").write_text("{"), "that can be read"),
    (lambda folder: (folder / "run.json").write_text("[]"), "that can be read"),
    (lambda folder: (folder / "cells.csv").write_text("row,probability\n1,2\n"), "column"),
    (lambda folder: (folder / "cells.csv").write_text(""), "that can be read"),
    (beyond, "beyond the grid"),
]


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_a_folder_without_a_heat_map_is_refused_in_one_line(tmp_path, damage, message):
    heat_maps.write(tmp_path, heat_map())
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        heat_maps.read(tmp_path)
    assert "\n" not in str(error.value)
