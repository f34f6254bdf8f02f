import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from command_runner import refused, run

from pcam_tf import data
from pcam_tf.app import findings
from pcam_tf.commands import command_line
from pcam_tf.errors import InputError


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


@pytest.mark.parametrize("first", [True, False])
def test_debug_shows_the_traceback_before_and_after_the_command(tmp_path, first):
    words = ["evaluate", tmp_path / "missing.csv"]
    words = ["--debug", *words] if first else [*words, "--debug"]
    with pytest.raises(InputError, match="there is no"):
        run(*words)


@pytest.mark.parametrize("command", [each.__name__ for each in command_line.COMMANDS])
def test_every_command_has_help(command, capsys):
    assert run(command, "--help") == 0
    printed = capsys.readouterr().out
    assert f"{command} [OPTIONS]" in printed
    assert len(printed) > 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no such command 'trian'"),
        (["train", "--sede", "1"], "no such option: --sede"),
        (["train", "--seed", "one"], "invalid value for '--seed'"),
        (["export"], "missing option '--model'"),
        (["compare", "a.csv"], "missing argument 'B'"),
        (["app", "--port", "99999"], "invalid value for '--port'"),
        (["train", "--strategy", "multi-worker"], "use --strategy mirrored"),
    ],
)
def test_wrong_words_are_one_line_and_status_2(words, message, capfd):
    refused(run(*words), capfd, message)


def test_the_version_is_printed(capsys):
    assert run("--version") == 0
    assert re.fullmatch(r"pcam_tf \S+\n", capsys.readouterr().out)


def test_quiet_leaves_results_and_errors(prepared, model_file, tmp_path, capfd, monkeypatch):
    output = tmp_path / "table.csv"
    words = ["predict", "--data-dir", prepared, "--split", "test[:8]", "--model", model_file]
    assert run(*words, "--output", output) == 0
    loud = capfd.readouterr()
    assert "predicting" in loud.err
    assert run(*words, "--output", output, "--quiet") == 0
    quiet = capfd.readouterr()
    assert (quiet.out, quiet.err) == (loud.out, "")
    # Named before the source is opened, which would draw patches.
    monkeypatch.setattr(data, "open_source", lambda *_: pytest.fail("opened"))
    refused(run("--quiet", "predict", "--model", "missing.keras"), capfd, "there is no model")


def test_the_page_without_gradio_is_refused_before_the_model_is_loaded(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(findings, "load_reader", lambda *_: pytest.fail("loaded"))
    refused(run("app"), capfd, "gradio is not installed: run `pip install 'pcam_tf[app]'`")


@pytest.mark.parametrize("library", ["tensorflow", "absl"])
def test_warnings_of_libraries_stay_out_of_the_terminal(library, capfd):
    assert run("evaluate", "missing.csv") == 2
    capfd.readouterr()
    logging.getLogger(library).warning("5 out of the last 5 calls triggered retracing")
    assert capfd.readouterr().err == ""


def test_a_completion_script_is_printed(monkeypatch):
    environment = os.environ | {"_PCAM_TF_COMPLETE": "complete_bash", "COMP_WORDS": "pcam_tf trai"}
    completed = subprocess.run(
        [sys.executable, "-m", "pcam_tf"],
        env=environment | {"COMP_CWORD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.stdout.split() == ["train"]
    # The shell is named here; a caller's shell is not always known.
    assert "complete" in subprocess.run(
        [sys.executable, "-m", "pcam_tf", "--show-completion", "bash"],
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_values_after_an_option_are_all_of_it():
    repeat = command_line.repeat_options
    words = ["--images", "a", "b", "--output", "c", "d"]
    assert repeat(words, {"--images"}) == ["--images", "a", "--images", "b", "--output", "c", "d"]
    assert repeat(["--images", "a", "--images", "b"], {"--images"}) == [
        "--images", "a", "--images", "b"
    ]  # fmt: skip
    assert repeat(["--images", "a", "--", "b"], {"--images"}) == ["--images", "a", "--", "b"]


def test_help_needs_no_tensorflow():
    script = (
        "import sys; from pcam_tf.commands import command_line; command_line.main(['--help']); "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
