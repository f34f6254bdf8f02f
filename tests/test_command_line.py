import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tiny_training
from PIL import Image

from pcam_tf import __main__, data
from pcam_tf.models import backbones, classifier
from pcam_tf.studies import robustness
from pcam_tf.training import recipes


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """Return a small, untrained classifier in a file."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(backbone="Tiny", weights=None, crop_px=48)
    path = tmp_path_factory.mktemp("models") / "tiny.keras"
    classifier.save(model, path)
    return path


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


def test_robustness_compares_two_models(prepared, model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(robustness, "SHIFTS", {"brightness": (robustness._brightness, (0.8, 1))})
    words = ["robustness", "--data-dir", prepared, "--model", model_file, "--baseline", model_file]
    words += ["--output", tmp_path / "robustness.csv", "--figure", tmp_path / "robustness.png"]
    assert run(*words) == 0
    assert "| brightness" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "robustness.csv")
    assert set(table["model"]) == {"model", "baseline"} and set(table["level"]) == {0.8, 1}
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")


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


def test_two_models_are_averaged(prepared, model_file, tmp_path, capsys):
    words = ["predict", "--data-dir", prepared, "--split", "test[:8]", "--model", model_file]
    words += ["--no-test-time-augmentation", "--output"]
    assert run(*words, tmp_path / "one.csv") == 0
    shipped = classifier.SHIPPED_MODEL
    both = ["--average", "--model", model_file, shipped]
    assert run(*words, tmp_path / "average.csv", *both) == 0
    words[words.index(model_file)] = shipped
    assert run(*words, tmp_path / "shipped.csv") == 0
    one, shipped, average = (
        pd.read_csv(tmp_path / f"{name}.csv") for name in ("one", "shipped", "average")
    )
    low = np.minimum(one["probability"], shipped["probability"])
    high = np.maximum(one["probability"], shipped["probability"])
    assert average["probability"].between(low, high).all()
    assert (average["probability"] - one["probability"]).abs().max() > 1e-3
    for wrong in (["--average"], both[1:]):
        words = ["predict", "--data-dir", prepared, "--model", shipped, *wrong]
        assert run(*words, "--output", tmp_path / "wrong.csv") == 2
        assert "--average takes several models" in capsys.readouterr().err
    assert not (tmp_path / "wrong.csv").exists()


def test_predict_pictures(model_file, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")
    Image.fromarray(noise).save(tmp_path / "one.png")
    output = tmp_path / "pictures.csv"
    assert run("predict", "--images", tmp_path, "--model", model_file, "--output", output) == 0
    table = pd.read_csv(output)
    assert list(table["id"]) == ["one.png"]
    assert table["label"].isna().all()
    assert table["probability"].between(0, 1).all()


def test_test_time_augmentation_does_not_depend_on_which_way_is_up(model_file, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")
    Image.fromarray(noise).save(tmp_path / "one.png")
    Image.fromarray(np.rot90(noise)).save(tmp_path / "two.png")
    words = ["predict", "--images", tmp_path, "--model", model_file]
    assert run(*words, "--output", tmp_path / "eight.csv") == 0
    first, second = pd.read_csv(tmp_path / "eight.csv")["probability"]
    assert first == pytest.approx(second, abs=1e-6)
    words += ["--no-test-time-augmentation", "--output", tmp_path / "one.csv"]
    assert run(*words) == 0
    first, second = pd.read_csv(tmp_path / "one.csv")["probability"]
    assert first != pytest.approx(second, abs=1e-6)


def test_train_writes_the_whole_run_folder(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
    monkeypatch.setitem(recipes.PRESETS, "tiny", tiny_training.RECIPE)
    words = ["train", "--preset", "tiny", "--data-dir", prepared, "--run", tmp_path / "run"]
    assert run(*words) == 0
    assert {
        "recipe.json",
        "history.csv",
        "model.keras",
        "predictions-validation.csv",
        "predictions-test.csv",
        "report.json",
    } <= {path.name for path in (tmp_path / "run").iterdir()}
    printed = capsys.readouterr().out
    assert "frozen" in printed
    assert "unfrozen" in printed
    # A run of another recipe is refused, and left as it was.
    before = (tmp_path / "run" / "model.keras").read_bytes()
    assert run(*words, "--seed", "7") == 2
    assert (tmp_path / "run" / "model.keras").read_bytes() == before


def test_audit(prepared, tmp_path, capsys):
    assert run("audit", "--data-dir", prepared, "--output", tmp_path / "audit.json") == 0
    assert json.loads((tmp_path / "audit.json").read_text())["splits"]["test"]["patches"] == 64
    assert "test" in capsys.readouterr().out


def run(*words) -> int:
    return __main__.main([str(word) for word in words])


def bad_data_dir(folder, prepared, kind):
    """Return a data directory with one fault."""
    if kind == "missing":
        return folder / "missing"
    if kind == "empty":
        return folder
    copy = folder / "copy"
    shutil.copytree(prepared, copy)
    version_dir = copy / "patch_camelyon" / "2.0.0"
    if kind == "version":
        version_dir.rename(version_dir.with_name("1.0.0"))
    elif kind == "no description":
        (version_dir / "dataset_info.json").unlink()
    elif kind == "damaged description":
        (version_dir / "features.json").write_text("{")
    else:
        record = next(version_dir.glob("*test.tfrecord*"))
        content = record.read_bytes()
        half = len(content) // 2
        if kind == "truncated":
            record.write_bytes(content[:half])
        elif kind == "damaged":
            record.write_bytes(content[:half] + bytes(100) + content[half + 100 :])
        elif kind == "no file":
            record.unlink()
    return copy


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no data directory"),
        ("empty", "holds nothing where patch_camelyon/2.0.0 is needed"),
        ("version", "holds only version 1.0.0"),
        ("no description", "prepare it anew"),
        ("damaged description", "prepare it anew"),
        ("truncated", "is truncated"),
        ("damaged", "damaged"),
        ("no file", "is missing"),
    ],
)
def test_a_bad_data_directory_is_refused(prepared, model_file, tmp_path, capfd, kind, message):
    bad = bad_data_dir(tmp_path, prepared, kind)
    output = tmp_path / "predictions.csv"
    status = run("predict", "--data-dir", bad, "--model", model_file, "--output", output)
    refused(status, capfd, message)
    assert not output.exists()


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--split", "tset"], "did you mean 'test'"),
        (["predict", "--split", "test[oops]"], "slice"),
        (["predict", "--model", "missing.keras"], "there is no model"),
        (["predict", "--model", "text.keras"], "not a model"),
        (["predict", "--model", "other.keras"], "takes"),
        (["predict", "--model", "old.h5"], "not a model"),
        (["predict", "--output", "text.keras/predictions.csv"], "cannot write"),
        (["predict", "--images", "missing.png"], "there is no file"),
        (["predict", "--images", "text.keras"], "not a picture"),
        (["train", "--preset", "cpuu"], "did you mean 'cpu'"),
        (["train", "--backbone", "EfficientNetLite1"], "did you mean 'EfficientNetLite0'"),
        (["train", "--backbone", "MobileNetV3Small", "--weights", "text.keras"], "no weights"),
        (["train", "--run", "text.keras/run"], "cannot write"),
        (["prepare", "--from-hdf5", "missing", "--data-dir", "new"], "missing"),
        (["audit", "--output", "text.keras/audit.json"], "cannot write"),
    ],
)
def test_bad_words_are_refused(prepared, model_file, tmp_path, capfd, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PCAM_TF_DATA_DIR", str(prepared))
    Path("text.keras").write_text("this is no model")
    Path("old.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    inputs = keras.Input((32, 32, 3))
    other = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)))
    other.save("other.keras")
    if words[0] == "predict" and "--model" not in words:
        words = [*words, "--model", model_file]
    before = sorted(Path().iterdir())
    refused(run(*words), capfd, message)
    assert sorted(Path().iterdir()) == before


def test_a_run_of_another_recipe_is_refused(prepared, tmp_path, capfd):
    (tmp_path / "recipe.json").write_text('{"recipe": {"preset": "cpu"}, "data": {}}')
    status = run("train", "--preset", "smoke", "--data-dir", prepared, "--run", tmp_path)
    refused(status, capfd, "another recipe")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_a_full_disk_is_one_line_and_leaves_the_old_table(
    prepared, model_file, tmp_path, capfd, monkeypatch
):
    output = tmp_path / "predictions.csv"
    output.write_text("old")

    def full(self, path, **_):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    status = run("predict", "--data-dir", prepared, "--model", model_file, "--output", output)
    refused(status, capfd, "No space left")
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def refused(status: int, capfd, message: str) -> None:
    """Check that a command failed with one clear line and no traceback."""
    assert status == 2
    printed = capfd.readouterr().err
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, printed
    assert message in errors[0]
    assert "Traceback" not in printed


def test_debug_shows_where(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        run("evaluate", tmp_path / "missing.csv", "--debug")


@pytest.mark.parametrize(
    "command",
    [
        "prepare",
        "audit",
        "train",
        "export",
        "predict",
        "evaluate",
        "errors",
        "robustness",
        "protocols",
        "app",
        "reproduce",
    ],
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_help_needs_no_tensorflow():
    script = "import sys, pcam_tf.__main__; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
