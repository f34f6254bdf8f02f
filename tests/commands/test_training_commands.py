import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import tiny_encoder
import tiny_training
import torch_files
from command_runner import refused, run

from pcam_tf import training
from pcam_tf.commands import training as commands
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier
from pcam_tf.training import recipes


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


def test_a_run_of_another_recipe_is_refused(prepared, tmp_path, capfd):
    (tmp_path / "recipe.json").write_text('{"recipe": {"preset": "cpu"}, "data": {}}')
    status = run("train", "--preset", "smoke", "--data-dir", prepared, "--run", tmp_path)
    refused(status, capfd, "holds another run")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_training_from_scratch_has_no_frozen_phase_unless_it_is_asked_for(monkeypatch):
    recipe = commands._recipe("cpu", "CCT", "random", False, 3)
    assert (recipe.backbone, recipe.weights, recipe.seed) == ("CCT", None, 3)
    assert recipe.frozen_epochs == 0 and recipe.unfrozen_epochs == 8
    baseline = commands._recipe("cpu", "CCT", "random", True, None)
    assert baseline.frozen_epochs == 10 and baseline.unfrozen_epochs == 0
    assert commands._recipe("cpu", None, None, False, None) == recipes.preset("cpu")


@pytest.fixture
def encoder(tmp_path):
    """Return the options for an encoder's file."""
    tree = torch_files.arrays(tiny_encoder.tensors_of())
    path = torch_files.write_zipped(tmp_path / "encoder.pth", tree)
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": tiny_encoder.HEADS}))
    return ["--backbone", "ViT", "--weights", path]


def test_features_of_an_encoder_are_computed_once_and_probed(prepared, encoder, tmp_path, capsys):
    folder = tmp_path / "probe"
    words = ["features", *encoder[2:], "--data-dir", prepared, "--run", folder]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "linear probe" in printed and "24 features a patch" in printed
    parts = {path: path.stat().st_mtime_ns for path in folder.glob("features-*/*/*.npz")}
    assert len(parts) == 3
    before = (folder / "predictions-test.csv").read_text()
    assert run(*words) == 0
    assert parts == {path: path.stat().st_mtime_ns for path in folder.glob("features-*/*/*.npz")}
    assert (folder / "predictions-test.csv").read_text() == before


def test_weights_pretrained_without_labels_are_what_a_training_starts_from(
    prepared, tmp_path, monkeypatch, capfd
):
    tiny = backbones.Backbone(tiny_encoder.network, {"scale": 1 / 255}, class_token=True)
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny)
    words = ["--backbone", "Tiny", "--data-dir", prepared, "--run"]
    assert run("pretrain", *words, tmp_path / "first", "--epochs", "1") == 0
    assert "loss of the hidden pixels by epoch: 0." in capfd.readouterr().out
    weights = tmp_path / "first" / "backbone.weights.h5"
    assert classifier.build(backbone="Tiny", weights=str(weights)).count_params() > 0
    before = sorted(tmp_path.iterdir())
    words = ["--backbone", "MobileNetV2", "--data-dir", prepared, "--run", tmp_path / "second"]
    refused(run("pretrain", *words), capfd, "MobileNetV2 has no tokens")
    assert sorted(tmp_path.iterdir()) == before


def test_features_without_a_file_that_can_be_read_are_refused(prepared, tmp_path, capfd):
    words = ["features", "--data-dir", prepared, "--run", tmp_path / "probe", "--weights"]
    refused(run(*words, tmp_path / "none.pth"), capfd, "There is no file")
    (tmp_path / "hostile.pth").write_bytes(b"cos\nsystem\n(S'touch hostile'\ntR.")
    refused(run(*words, tmp_path / "hostile.pth"), capfd, "not a PyTorch file of tensors")
    assert not (tmp_path / "probe").exists()


def test_a_head_is_trained_on_the_features_of_an_encoder(
    prepared, encoder, tmp_path, monkeypatch, capsys
):
    recipe = dataclasses.replace(tiny_training.RECIPE, test_time_augmentation=False)
    monkeypatch.setitem(recipes.PRESETS, "tiny", recipe)
    folder = tmp_path / "run"
    words = ["train", "--preset", "tiny", "--data-dir", prepared, "--run", folder, *encoder]
    assert run(*words, "--frozen-only") == 0
    printed = capsys.readouterr().out
    assert "| frozen | test" in printed and "unfrozen" not in printed
    assert not (folder / "predictions-test.csv").exists()
    assert set(pd.read_csv(folder / "history.csv").phase) == {"frozen"}
    # The network is loaded and exported like any other.
    for engine in ("litert", "tensorflow"):
        options = ["--model", folder, "--engine", engine, "--data-dir", prepared]
        assert run("predict", *options, "--output", tmp_path / f"{engine}.csv") == 0
    tables = [pd.read_csv(tmp_path / f"{name}.csv") for name in ("litert", "tensorflow")]
    np.testing.assert_allclose(tables[0].probability, tables[1].probability, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "options", "says"),
    [
        ("strong", ["--frozen-only"], "has no frozen phase"),
        ("cpu", ["--backbone", "ViT"], "is the network in a file of weights"),
    ],
)
def test_what_an_encoder_or_a_frozen_phase_does_not_fit_is_refused(
    prepared, encoder, tmp_path, capfd, preset, options, says
):
    words = ["train", "--preset", preset, "--data-dir", prepared, "--run", tmp_path / "run"]
    refused(run(*words, *(options or encoder)), capfd, says)
    assert not (tmp_path / "run").exists()


REAL_PRESETS = [name for name in recipes.PRESETS if name != "smoke"]


@pytest.mark.parametrize("preset", REAL_PRESETS)
@pytest.mark.parametrize("command", ["train", "reproduce", "protocols"])
@pytest.mark.parametrize("data_dir", [None, ""])
def test_no_command_trains_a_real_preset_on_synthetic_patches(
    tmp_path, monkeypatch, capfd, command, preset, data_dir
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PCAM_TF_DATA_DIR", raising=False)
    if data_dir is not None:
        monkeypatch.setenv("PCAM_TF_DATA_DIR", data_dir)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_a.ipynb").write_text("{}")
    refused(run(command, "--preset", preset), capfd, f"the preset {preset} needs real patches")
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


@pytest.mark.parametrize("preset", REAL_PRESETS)
def test_no_program_trains_a_real_preset_on_synthetic_patches(tiny_source, tmp_path, preset):
    with pytest.raises(InputError, match="needs real patches"):
        training.train(recipes.preset(preset), tiny_source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_notebooks_are_not_executed_at_a_preset_without_a_frozen_phase(
    prepared, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "--preset", "strong", "--data-dir", prepared]
    refused(run(*words), capfd, "the preset strong has no frozen phase")
    assert run("reproduce", "--help") == 0
    assert "strong" not in capfd.readouterr().out
