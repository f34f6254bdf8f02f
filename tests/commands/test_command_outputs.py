"""What commands write: never over an input, never found unwritable after the work, never lost."""

import io
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from command_runner import refused, run

from pcam_tf import data
from pcam_tf.commands import command_line
from pcam_tf.models import classifier, engines, model_files

TABLE = pd.DataFrame(
    {"id": list("abcd"), "label": [0, 1, 0, 1], "probability": [0.1, 0.9, 0.6, 0.4]}
)


@pytest.fixture
def here(tmp_path, monkeypatch, prepared, model_file):
    """Go to a folder with tables, pictures and a model, and let no command begin its work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PCAM_TF_DATA_DIR", str(prepared))
    for name in ("a.csv", "b.csv", "va.csv", "vb.csv", "page.html"):
        TABLE.to_csv(name, index=False)
    Path("link.json").symlink_to("a.csv")
    Path("hard.json").hardlink_to("a.csv")
    Path("file").write_text("")
    Path("pictures").mkdir()
    Path("pictures/one.png").write_bytes(b"a picture")
    Path("out/one").mkdir(parents=True)
    Path("out/one/tissue.geojson").write_text("{}")
    Path("model.keras").write_bytes(model_file.read_bytes())
    Path("model.litert").write_bytes(b"an export")
    Path("record").symlink_to(next(Path(prepared).rglob("*test.tfrecord*")))
    return tmp_path


def everything(folder):
    """Return the names and contents of all files, links followed."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        "evaluate a.csv --output a.csv",
        "evaluate a.csv --output ./pictures/../a.csv",
        "evaluate a.csv --output link.json",
        "evaluate a.csv --output hard.json",
        "evaluate a.csv --validation va.csv --output va.csv",
        "evaluate page.html --output page.json",
        "evaluate --compare a.csv b.csv --output b.csv",
        "compare a.csv b.csv --output link.json",
        "compare a.csv b.csv --validation va.csv vb.csv --output vb.csv",
        "errors a.csv --figure a.csv",
        "errors a.csv --validation va.csv --figure va.csv",
        "errors a.csv --figure record",
        "predict --images pictures --output pictures/one.png",
        "predict --images pictures/one.png --output pictures/../pictures/one.png",
        "predict --model model.keras --output model.keras",
        "predict --model model.keras --output model.litert",
        "predict --output record",
        "predict --model . --output model.keras",
        "robustness --model model.keras --output model.keras",
        "robustness --baseline model.keras --figure model.keras",
        "robustness --output record",
        "novelty --fit record",
        "froc pictures pictures --slides a.csv --output a.csv",
        "froc pictures pictures --slides a.csv --output pictures/one.png",
        "slide pictures/one.png --mask out/one/tissue.geojson --output out",
        "audit --output record",
        "train --weights model.keras --run .",
        "app --model model.keras --reviews model.keras",
        "app --auth user:a.csv --reviews link.json",
    ],
)
def test_no_output_replaces_an_input(here, capfd, monkeypatch, words):
    forbid_work(monkeypatch)
    before = everything(here)
    refused(run(*words.split()), capfd, "would replace")
    assert everything(here) == before


def forbid_work(monkeypatch):
    def begun(*_, **__):
        raise AssertionError("the work has begun")

    for module, name in (
        (engines, "load"),
        (engines, "export"),
        (classifier, "load"),
        (data, "batches"),
        (data, "read_patches"),
        (data, "download"),
    ):
        monkeypatch.setattr(module, name, begun)


@pytest.mark.parametrize(
    "words",
    [
        "evaluate a.csv --output",
        "compare a.csv b.csv --output",
        "errors a.csv --figure",
        "predict --output",
        "predict --images pictures --output",
        "predict --shard 1/2 --output",
        "robustness --output",
        "robustness --output new.csv --figure",
        "novelty --fit",
        "audit --output",
        "train --run",
        "protocols --run",
        "subtypes --run",
        "features --backbone CCT --weights random --run",
        "pretrain --run",
        "normalization --run",
        "transformers --run",
        "gan train --run",
        "gan study --run",
        "froc pictures pictures --slides a.csv --output",
        "slide pictures/one.png --output",
        "prepare --download --data-dir",
        "prepare --from-hdf5 pictures --data-dir",
        "app --reviews",
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    here, capfd, monkeypatch, words
):
    forbid_work(monkeypatch)
    before = sorted(here.rglob("*"))
    refused(run(*words.split(), "file/new"), capfd, "cannot write file/new")
    assert sorted(here.rglob("*")) == before


def test_folders_that_cannot_be_written_are_refused_before_the_work(here, capfd, monkeypatch):
    forbid_work(monkeypatch)
    Path("runs").write_text("")
    refused(run("reproduce"), capfd, "cannot write runs/smoke")
    monkeypatch.setattr(engines, "export_file", lambda _: Path("file/model.litert"))
    refused(run("export", "--model", "model.keras"), capfd, "cannot write file/model.litert")


def test_a_part_is_not_merged_into_a_part_or_its_record(here, capfd):
    for name in ("a.csv", "link.json", "a.csv.shard.json"):
        refused(run("merge", "a.csv", "b.csv", "--output", name), capfd, "would replace")
    refused(run("predict", "--shard", "1/2", "--output", "/dev/null"), capfd, "no ordinary file")


def test_a_report_into_a_device_has_no_page(here, capsys):
    before = sorted(here.iterdir())
    assert run("evaluate", "a.csv", "--output", "/dev/null") == 0
    assert "report in /dev/null" in capsys.readouterr().out
    assert sorted(here.iterdir()) == before
    assert not Path("/dev/null.html").exists()


def test_a_table_in_a_pipe_needs_an_output(here, capfd):
    reading, writing = os.pipe()
    os.write(writing, Path("a.csv").read_bytes())
    os.close(writing)
    refused(run("evaluate", f"/dev/fd/{reading}"), capfd, "give --output")
    assert run("evaluate", f"/dev/fd/{reading}", "--output", "r.json") == 0
    os.close(reading)
    assert Path("r.json").is_file() and Path("r.html").is_file()


def test_a_table_on_standard_output_has_nothing_else_in_it(here, model_file, capfd):
    words = ["predict", "--split", "test[:3]", "--model", model_file, "--output", "/dev/stdout"]
    assert run(*words) == 0
    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "id,label,probability" and len(lines) == 4
    assert "3 predictions in /dev/stdout" in printed.err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_unicode_gets_the_result_all_the_same(here, monkeypatch, encoding):
    Path("µ β.csv").write_text(Path("a.csv").read_text())
    printed = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    said = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", said)
    assert run("evaluate", "µ β.csv") == 0
    assert " ?.report.json" in printed.buffer.getvalue().decode(encoding)
    assert run("evaluate", "β.csv") == 2
    said.flush()
    assert said.buffer.getvalue() == b"error: there is no predictions table ?.csv.\n"


def test_a_reader_that_stops_reading_is_no_error(here, monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as printed:
        monkeypatch.setattr(sys, "stdout", printed)
        assert run("evaluate", "a.csv") == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "a\udcff.csv"],
        ["evaluate", "a.csv", "--output", "a\udcff.json"],
        ["predict", "--images", "a\udcff.png"],
        ["predict", "--images", "odd"],
        ["predict", "--images", "odd", "--shard", "1/1"],
        ["predict", "--model", "a\udcff.keras"],
        ["app", "--model", "a\udcff.keras"],
    ],
)
def test_a_file_whose_name_is_not_utf8_is_named_at_the_start(here, capfd, monkeypatch, words):
    forbid_work(monkeypatch)
    Path("odd").mkdir()
    for name in ("a\udcff.csv", "a\udcff.png", "a\udcff.keras", "odd/a\udcff.png"):
        Path(name).write_text("")
    refused(run(*words), capfd, r"a\udcff.")


def test_the_table_above_knows_every_command():
    """A new command that writes belongs into the tables of this file."""
    text = Path(__file__).read_text(encoding="utf-8")
    for command in command_line.COMMANDS:
        assert f'"{command.__name__}' in text, command.__name__
    assert model_files.SHIPPED_MODEL.is_file()
