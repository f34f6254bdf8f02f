import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import three_classes
from command_runner import refused, run

from pcam_tf import data
from pcam_tf.task import Task


def predictions(folder: Path, **columns) -> Path:
    table = {"id": ["a", "b", "c", "d"], "label": [0, 1, 0, 1], "probability": [0.1, 0.9, 0.6, 0.4]}
    path = folder / "table.csv"
    pd.DataFrame(table | columns).dropna(axis="columns", how="all").to_csv(path, index=False)
    return path


def test_predict_then_evaluate(prepared, model_file, tmp_path, capsys):
    for split in ("validation", "test"):
        words = ["predict", "--data-dir", prepared, "--split", split, "--model", model_file]
        assert run(*words, "--output", tmp_path / f"{split}.csv") == 0
    table = pd.read_csv(tmp_path / "test.csv")
    assert list(table.columns) == ["id", "label", "probability"]
    expected = data.read_patches(data.open_source(prepared), "test")
    assert list(table["id"]) == list(expected["id"])
    assert list(table["label"]) == list(expected["label"])

    words = ["evaluate", tmp_path / "test.csv", "--validation", tmp_path / "validation.csv"]
    assert run(*words, "--output", tmp_path / "report.json") == 0
    assert "AUC" in capsys.readouterr().out
    json.loads((tmp_path / "report.json").read_text())
    assert "data:image/png" in (tmp_path / "report.html").read_text()

    words = ["errors", tmp_path / "test.csv", "--validation", tmp_path / "validation.csv"]
    figure = tmp_path / "errors.png"
    assert run(*words, "--data-dir", prepared, "--figure", figure) == 0
    assert "nuclear density" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert run("errors", tmp_path / "test.csv", "--data-dir", prepared, "--split", "train") == 2
    assert "were not measured" in capsys.readouterr().err


def test_two_models_are_compared(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = predictions(tmp_path / "a")
    second = predictions(tmp_path / "b", probability=[0.4, 0.3, 0.2, 0.8])
    output = tmp_path / "comparison.json"
    assert run("evaluate", "--compare", first, second, "--output", output) == 0
    assert "McNemar" in capsys.readouterr().out
    assert json.loads(output.read_text())["patches"] == 4
    words = ["evaluate", "--compare", first, second, "--validation", first]
    assert run(*words) == 2
    assert "two validation tables" in capsys.readouterr().err
    assert run("evaluate", first, "--compare", first, second) == 2
    assert run("evaluate") == 2
    assert "give a predictions table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"probability": [0.1, np.nan, 0.6, 0.4]}, "probability"),
        ({"probability": [0.1, 1.5, 0.6, 0.4]}, "probability"),
        ({"probability": [0.1, "high", 0.6, 0.4]}, "probability"),
        ({"label": [0, 1, 2, 1]}, "label"),
        ({"label": [1, 1, 1, 1]}, "class"),
        ({"id": ["a", "a", "c", "d"]}, "a"),
        ({"label": [None] * 4}, "label"),
    ],
)
def test_a_bad_predictions_table_is_refused(tmp_path, capfd, columns, message):
    path = predictions(tmp_path, **columns)
    refused(run("evaluate", path), capfd, message)
    assert not path.with_suffix(".report.json").exists()


def test_predictions_that_are_no_table_are_refused(tmp_path, capfd):
    refused(run("evaluate", tmp_path / "missing.csv"), capfd, "missing.csv")
    (tmp_path / "empty.csv").write_text("")
    refused(run("evaluate", tmp_path / "empty.csv"), capfd, "empty.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    refused(run("evaluate", tmp_path / "binary.csv"), capfd, "binary.csv")


def test_the_two_classes_can_be_named(tmp_path, capsys):
    assert run("evaluate", predictions(tmp_path), "--classes", "benign", "malignant") == 0
    assert "2 malignant" in capsys.readouterr().out
    page = (tmp_path / "table.report.html").read_text(encoding="utf-8")
    assert "malignant" in page and "tumour" not in page


def test_a_report_replaces_neither_its_page_nor_its_tables(tmp_path, capfd):
    path = predictions(tmp_path)
    before = path.read_bytes()
    refused(run("evaluate", path, "--output", tmp_path / "r.html"), capfd, "another name")
    refused(run("evaluate", path, "--output", path), capfd, "would replace")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_the_predictions_stand_before_the_validation_table(tmp_path, capfd):
    path = predictions(tmp_path)
    refused(run("evaluate", "--validation", path, path), capfd, "before the options")


def run_of(folder: Path, classes, group) -> None:
    """Write the recipe of a run of some task into a folder."""
    task = Task("toy", classes, side_px=64, mpp=0.5, group=group)
    (folder / "recipe.json").write_text(json.dumps({"task": task.to_json()}), encoding="utf-8")


def test_a_table_of_a_run_has_the_classes_and_the_groups_of_its_task(tmp_path, capsys):
    run_of(tmp_path, ("benign", "malignant"), "patient")
    assert run("evaluate", predictions(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "2 benign, 2 malignant" in printed and "patches come in patients" in printed
    report = json.loads((tmp_path / "table.report.json").read_text(encoding="utf-8"))
    assert (report["benign"], report["malignant"]) == (2, 2)
    page = (tmp_path / "table.report.html").read_text(encoding="utf-8")
    assert "malignant" in page and "tumour" not in page and "come in slides" not in page
    assert run("evaluate", tmp_path / "table.csv", "--classes", "a", "b") == 0
    assert "2 a, 2 b" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", [None, {"recipe": {}}])
def test_a_table_without_a_task_is_of_patchcamelyon(tmp_path, capsys, recipe):
    if recipe:
        (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    assert run("evaluate", predictions(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "2 normal, 2 tumour" in printed and "patches come in slides" in printed


def test_classes_that_do_not_fit_a_table_are_refused(tmp_path, capfd):
    path = predictions(tmp_path)
    refused(run("evaluate", path, "--classes", "a", "a"), capfd, "two different names")
    run_of(tmp_path, ("a", "b", "c"), "slide")
    refused(run("evaluate", path), capfd, "name the two with --classes")
    (tmp_path / "recipe.json").write_text("[]", encoding="utf-8")
    refused(run("evaluate", path), capfd, "recipe.json is not a recipe")
    assert run("evaluate", path, "--classes", "a", "b") == 0
    three_classes.SMALL.to_csv(path, index=False)
    refused(run("evaluate", path, "--classes", "a", "b"), capfd, "leave out --classes")


@pytest.mark.parametrize(
    ("classes", "says"),
    [(None, "too narrow if"), (("d", "e", "f"), "too narrow if"), (three_classes.CLASSES, "cases")],
)
def test_a_table_of_more_classes_says_groups_only_where_they_are_known(
    tmp_path, capsys, classes, says
):
    if classes:
        run_of(tmp_path, classes, "case")
    path = tmp_path / "table.csv"
    three_classes.SMALL.to_csv(path, index=False)
    assert run("evaluate", path) == 0
    printed = capsys.readouterr().out
    assert says in printed and "slides" not in printed
