import tiny_training
from command_runner import refused, run

from pcam_tf.models import backbones
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
