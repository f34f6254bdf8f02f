import json
from pathlib import Path

import numpy as np
import pandas as pd
from command_runner import run

from pcam_tf.studies import fine_tuned_normalization, normalization, robustness


def test_robustness_compares_two_models(prepared, model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(robustness, "SHIFTS", {"brightness": (robustness._brightness, (0.8, 1))})
    words = ["robustness", "--data-dir", prepared, "--model", model_file, "--baseline", model_file]
    words += ["--output", tmp_path / "robustness.csv", "--figure", tmp_path / "robustness.png"]
    assert run(*words) == 0
    assert "| brightness" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "robustness.csv")
    assert set(table["model"]) == {"model", "baseline"} and set(table["level"]) == {0.8, 1}
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_audit(prepared, tmp_path, capsys):
    assert run("audit", "--data-dir", prepared, "--output", tmp_path / "audit.json") == 0
    assert json.loads((tmp_path / "audit.json").read_text())["splits"]["test"]["patches"] == 64
    assert "test" in capsys.readouterr().out


def test_normalization_compares_four_conditions(prepared, tmp_path, capsys, monkeypatch):
    class Colours:
        def predict_on_batch(self, patches):
            return patches.reshape(len(patches), -1, 3).mean(axis=1)

    monkeypatch.setattr(normalization, "_extractor", lambda *_: Colours())
    words = ["normalization", "--data-dir", prepared, "--patches", 64, "--run", tmp_path / "study"]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "| unchanged " in printed and "| mean under shift" in printed
    assert (tmp_path / "study/settings.json").is_file()


def test_normalization_fine_tunes_a_network_in_each_condition(prepared, capsys, monkeypatch):
    labels, asked = np.repeat([0, 1], 50), []
    scores = dict.fromkeys(normalization.CONDITIONS, labels + np.linspace(0, 1, 100))

    def study(source, run_dir, settings):
        asked.append((run_dir, settings))
        return labels, {("brightness", level): scores for level in (1, 0.7)}

    monkeypatch.setattr(fine_tuned_normalization, "study", study)
    monkeypatch.setattr(normalization, "study", None)
    assert run("normalization", "--fine-tuned", "--data-dir", prepared) == 0
    assert "| brightness 0.7 " in capsys.readouterr().out
    run_dir, settings = asked[0]
    assert run_dir == Path("runs/normalization-fine-tuned")
    assert settings.patches == fine_tuned_normalization.PATCHES
    assert settings.recipe == fine_tuned_normalization.recipe_of("cpu")
