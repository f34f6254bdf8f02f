import errno
import json
import os
import threading

import fake_engines
import numpy as np
import pytest
from PIL import Image

from pcam_tf import files
from pcam_tf.errors import InputError
from pcam_tf.slides import field_predictors, fields, heat_maps, journal, slide_runs
from pcam_tf.task import PCAM

MODEL = {"sha256": "0"}
RESULTS = ("cells.csv", "run.json", "state.json")


@pytest.fixture(autouse=True)
def small_fields(monkeypatch):
    monkeypatch.setattr(field_predictors, "_CELLS", 4)


def run(path, folder, engine=None, **options):
    predictor = field_predictors.patch_by_patch(engine or fake_engines.CentreEngine())
    return slide_runs.run(path, folder, predictor, MODEL, **options)


def results(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix}


PLACES = [
    {"kind": "tiff", "mpp": 0.25},
    {"kind": "tiff", "mpp": 0.25, "levels": 1},
    {"kind": "tiff", "mpp": 0.4961, "unit": "INCH"},
    {"kind": "svs", "mpp": 0.4961, "levels": 1},
    {"kind": "ome", "mpp": 0.25},
    {"kind": "strips", "mpp": 0.4961, "levels": 1, "unit": "INCH"},
    {"kind": "tiff", "mpp": 1.0},
]


@pytest.mark.parametrize("options", PLACES, ids=lambda each: "-".join(map(str, each.values())))
def test_cells_lie_where_the_tissue_is(slide_file, drawing, tmp_path, options):
    found = run(slide_file(**options), tmp_path).probabilities
    side = PCAM.centre_px
    green = drawing[..., 1].reshape(20, side, 20, side).mean(axis=(1, 3))
    errors = {}
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            inner = found[1 + dy : 19 + dy, 1 + dx : 19 + dx] - (1 - green[1:19, 1:19] / 255)
            errors[dy, dx] = np.nanmean(np.abs(inner))
    assert min(errors, key=errors.get) == (0, 0)
    assert errors[0, 0] < 0.01
    table = np.genfromtxt(tmp_path / "cells.csv", delimiter=",", names=True)
    np.testing.assert_allclose(
        table["x_px"] * options["mpp"], (table["column"] + 0.5) * side * PCAM.mpp, atol=0.02
    )
    np.testing.assert_allclose(table["y_px"] * options["mpp"], table["y_um"], atol=0.02)


def test_cells_lie_where_they_do_beyond_the_bounds_of_the_scan(drawing, tmp_path):
    pytest.importorskip("imagecodecs")
    from scanner_files import write_leica

    write_leica(tmp_path / "slide.scn", drawing, 1.0)
    inside = run(tmp_path / "slide.scn", tmp_path / "leica").probabilities
    Image.fromarray(drawing).save(tmp_path / "slide.png")
    expected = run(tmp_path / "slide.png", tmp_path / "png", mpp=1.0).probabilities
    both = ~(np.isnan(inside) | np.isnan(expected))
    assert both.mean() > 0.3
    np.testing.assert_allclose(inside[both], expected[both], atol=0.03)


def test_a_killed_run_goes_on_to_the_same_bytes(slide_file, tmp_path):
    path = slide_file(kind="tiff", mpp=0.4961)
    engine = fake_engines.CentreEngine()
    whole = run(path, tmp_path / "whole", engine)
    cells = whole.settings["tissue"]["cells"]
    assert engine.seen == cells
    told = []
    for most in (0, 70, 40):
        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "killed", fake_engines.StoppedEngine(most))
        assert slide_runs.read_state(tmp_path / "killed")["state"] == "running"
    with (tmp_path / "killed/cells.unfinished").open("ab") as file:
        file.write(b"a record that was cut short")
    engine = fake_engines.CentreEngine()
    run(path, tmp_path / "killed", engine, progress=lambda *counts: told.append(counts))
    assert 0 < engine.seen < cells
    assert told[0] == (cells - engine.seen, cells)
    assert told[-1] == (cells, cells)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert sorted(results(tmp_path / "whole")) == sorted(RESULTS)


def test_a_finished_slide_is_not_predicted_again_unless_something_differs(slide_file, tmp_path):
    path = slide_file(kind="tiff", mpp=1.0)
    run(path, tmp_path)
    before, idle = results(tmp_path), fake_engines.StoppedEngine(0)
    run(path, tmp_path, idle)
    assert results(tmp_path) == before
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path, idle, mpp=0.9)
    (tmp_path / "cells.csv").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path, idle)


def test_a_call_that_fails_leaves_what_is_finished(slide_file, tmp_path):
    path = slide_file(kind="tiff", mpp=1.0)
    run(path, tmp_path)
    before, idle = results(tmp_path), fake_engines.StoppedEngine(0)
    with pytest.raises(InputError):
        run(path, tmp_path, mask=tmp_path / "typo.geojson")
    assert slide_runs.read_state(tmp_path)["state"] == "failed"
    run(path, tmp_path, idle)
    assert results(tmp_path) == before
    for damaged in ("[]", "null", "{"):
        (tmp_path / "state.json").write_text(damaged)
        run(path, tmp_path, idle)
        assert results(tmp_path) == before


def test_what_was_found_for_other_settings_is_not_used(slide_file, tmp_path):
    path, stopped = slide_file(kind="tiff", mpp=1.0), fake_engines.StoppedEngine(150)
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "a", stopped)
    engine = fake_engines.CentreEngine()
    heat_map = run(path, tmp_path / "a", engine, mpp=0.9)
    assert engine.seen == heat_map.settings["tissue"]["cells"]


def test_the_given_mask_is_the_tissue(slide_file, tmp_path):
    ring = [[100, 100], [300, 100], [300, 260], [100, 260], [100, 100]]
    polygon = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "mask.geojson").write_text(json.dumps(polygon))
    heat_map = run(slide_file(kind="tiff", mpp=1.0), tmp_path / "a", mask=tmp_path / "mask.geojson")
    row, column = np.nonzero(~np.isnan(heat_map.probabilities))
    assert (row.min(), row.max(), column.min(), column.max()) == (3, 8, 3, 9)
    assert heat_map.settings["mask"]["file"] == "mask.geojson"


class Full:
    """A file on a full disk."""

    def __init__(self, file):
        self.file, self.written = file, 0

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        self.written += 1
        if self.written > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)


def test_a_full_disk_is_one_line_and_what_was_found_is_kept(slide_file, tmp_path, monkeypatch):
    path, own = slide_file(kind="tiff", mpp=0.4961), type(tmp_path).open

    def full(self, mode="r", *args, **options):
        file = own(self, mode, *args, **options)
        return Full(file) if self.name == slide_runs.UNFINISHED and mode != "r+b" else file

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "open", full)
        with pytest.raises(InputError, match=r"cells\.unfinished: No space left") as error:
            run(path, tmp_path / "a")
    assert "\n" not in str(error.value)
    assert slide_runs.read_state(tmp_path / "a")["state"] == "failed"
    assert "No space" in slide_runs.read_state(tmp_path / "a")["error"]
    engine = fake_engines.CentreEngine()
    heat_map = run(path, tmp_path / "a", engine)
    assert engine.seen < heat_map.settings["tissue"]["cells"]
    run(path, tmp_path / "b")
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_bad_slides_and_places_are_refused_in_one_line(slide_file, tmp_path):
    Image.new("RGB", (300, 300), (240, 239, 241)).save(tmp_path / "glass.png")
    good = slide_file(kind="tiff", mpp=0.4961)
    (tmp_path / "short.tif").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "text.svs").write_text("no slide")
    (tmp_path / "file").touch()
    for path, folder, mpp, message in (
        (tmp_path / "glass.png", "a", 1.0, "no tissue was found on .*glass.png"),
        (tmp_path / "glass.png", "a", None, "states no scale"),
        (good, "a", 0.0, "give a number from"),
        (good, "a", 90.0, "give a number from"),
        (tmp_path / "short.tif", "a", 0.5, "damaged"),
        (tmp_path / "text.svs", "a", 0.5, "no slide that can be read"),
        (tmp_path / "missing.svs", "a", 0.5, "No such file"),
        (good, "file", None, "cannot write"),
    ):
        with pytest.raises(InputError, match=message) as error:
            run(path, tmp_path / folder, mpp=mpp)
        assert "\n" not in str(error.value)
    assert slide_runs.read_state(tmp_path / "a")["state"] == "failed"
    with (
        files.locked(tmp_path / "a/.lock", ""),
        pytest.raises(InputError, match="in use by another process"),
    ):
        in_thread(run, good, tmp_path / "a")


def in_thread(function, *args):
    raised = []

    def call():
        try:
            function(*args)
        except InputError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    raise raised[0]


def test_the_journal_drops_what_is_damaged(tmp_path):
    path, counts = tmp_path / "journal", [2, 3, 1]
    assert journal.read(path, {"a": 1}, counts) == {}
    with journal.appended(path, {"a": 1}, anew=True) as record:
        record(0, [0.25, 0.5])
        record(2, [1.0])
        record(1, [0.0, 0.0, 0.75])
    whole = path.read_bytes()
    assert list(journal.read(path, {"a": 1}, counts)) == [0, 2, 1]
    assert journal.read(path, {"a": 2}, counts) == {}
    path.write_bytes(whole[:-1])
    assert list(journal.read(path, {"a": 1}, counts)) == [0, 2]
    assert path.read_bytes() == whole[:-20]
    path.write_bytes(whole[:20] + b"\xff" + whole[21:])
    assert list(journal.read(path, {"a": 1}, counts)) == []
    with journal.appended(path, {"a": 1}, anew=False) as record:
        record(1, [0.0, 0.0, 0.75])
    assert journal.read(path, {"a": 1}, counts)[1].tolist() == [0.0, 0.0, 0.75]


def test_what_is_read_does_not_depend_on_where_it_is_resumed(slide_file, tmp_path):
    """A unit is read and predicted whole."""
    predictor = field_predictors.patch_by_patch(fake_engines.CentreEngine())
    from pcam_tf.slides import reader

    with reader.opened(slide_file(kind="strips", mpp=0.4961, levels=1, unit="INCH")) as slide:
        units = fields.units_of(slide, np.ones((20, 20), bool), predictor)
        every = [values for _, values in fields.predicted(slide, units, predictor)]
        for first in (1, len(units) - 1):
            later = [values for _, values in fields.predicted(slide, units[first:], predictor)]
            for one, other in zip(every[first:], later, strict=True):
                np.testing.assert_array_equal(one, other)


def test_the_folder_holds_a_heat_map(slide_file, tmp_path):
    path = slide_file(kind="tiff", mpp=1.0)
    heat_map = run(path, tmp_path)
    again = heat_maps.read(tmp_path)
    np.testing.assert_array_equal(heat_map.probabilities, again.probabilities)
    assert heat_map.name == "slide"
    about = heat_map.settings
    assert about["slide"]["bytes"] == path.stat().st_size
    assert about["model"] == MODEL and about["method"]["step_px"] == PCAM.centre_px
    assert {"numpy", "pillow"} <= set(about["versions"])
