"""`gan train`, `gan sample` and `gan judge`, from drawn patches to a table."""

import dataclasses
import json

import tiny_generator
import toy_task
from command_runner import refused, run

from pcam_tf import data
from pcam_tf.commands import options
from pcam_tf.gan import features, generated, recipes, truth
from pcam_tf.models import model_files


def test_a_generator_is_trained_sampled_judged_and_added(
    prepared, tiny_source, tmp_path, monkeypatch, capfd
):
    tiny = dataclasses.asdict(tiny_generator.RECIPE)
    monkeypatch.setattr(recipes.Recipe.__init__, "__defaults__", tuple(tiny.values()))
    monkeypatch.setattr(features, "shipped_features", lambda task, side: tiny_generator.features)
    monkeypatch.setattr(features, "shipped_probabilities", lambda: lambda found: found[:, 0])
    folder = tmp_path / "gan"
    words = ["--run", folder, "--data-dir", prepared]
    tiny = ["--kimg", "0.05", "--side", "32"]
    assert run("gan", "train", *words, *tiny) == 0
    assert "kid_tumour" in capfd.readouterr().out
    made = tmp_path / "made"
    assert run("gan", "sample", "--run", folder, "--output", made, "--count", "24") == 0
    assert data.count(data.open_source(made), "train") == 48
    judged = ["gan", "judge", "--generated", made, *words, "--output", tmp_path / "judged.json"]
    assert run(*judged) == 0
    table = capfd.readouterr().out
    assert "| tumour" in table and "nuclei" not in table
    with monkeypatch.context() as patch:  # the same patches, of a source that is a synthetic one
        patch.setattr(options, "open_source", lambda _: tiny_source)
        patch.setattr(truth, "_DRAWN", 64)
        assert run("gan", "judge", "--generated", made, "--run", folder) == 0
    assert "nuclei in a patch" in capfd.readouterr().out
    assert json.loads((tmp_path / "judged.json").read_text())["tumour"]["patches"] == 24
    assert run("audit", "--data-dir", made) == 0
    capfd.readouterr()
    refused(run("gan", "judge", "--generated", prepared, *words), capfd, "generator's run by --run")
    synthetic = run(*judged[:4], "--run", folder)  # which have the same ids
    refused(synthetic, capfd, "does not hold the patches that the generator")
    refused(run("gan", "sample", "--run", folder, "--output", made), capfd, "exists: delete it")
    more = ["--only", "cat", "--output", tmp_path / "other"]
    refused(run("gan", "sample", "--run", folder, *more), capfd, "cannot be generated")


def test_the_shipped_generator_is_sampled_without_a_run(tmp_path):
    assert run("gan", "sample", "--output", tmp_path, "--only", "tumour", "--count", "3") == 0
    description = data.open_source(tmp_path).info.description
    assert model_files.digest(generated.SHIPPED / "generator.keras") in description


def test_wrong_sides_classes_and_folders_are_refused_in_one_line(prepared, tmp_path, capfd):
    words = ["gan", "train", "--data-dir", prepared, "--run", tmp_path / "run"]
    refused(run(*words, "--side", "30"), capfd, "choose 32 to 96 px")
    refused(run(*words, "--side", "40"), capfd, "choose a multiple of 16")
    refused(run(*words, "--prevalence", "0.0001"), capfd, "leaves no patch of a class")
    refused(run(*words, "--kimg", "0"), capfd, "give more than 0")
    refused(run(*words, "--kimg", "nan"), capfd, "give more than 0")
    refused(run(*words, "--seed", "-1"), capfd, "greater than or equal to 0")
    toy_task.write(tmp_path / "toy")
    other = ["gan", "train", "--data-dir", tmp_path / "toy", "--run", tmp_path / "run"]
    refused(run(*other), capfd, "does not fit shapes patches")
    refused(run("gan", "sample", "--run", tmp_path, "--output", tmp_path / "o"), capfd,
            "holds no generator")  # fmt: skip
    assert not (tmp_path / "run").exists()
