import subprocess
import sys
from pathlib import Path

import keras
import pytest
from command_runner import refused, run


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
