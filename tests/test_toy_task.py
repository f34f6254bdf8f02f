"""A task of three classes and 64 px goes the way of PatchCamelyon, from source to page."""

import dataclasses
import json
import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
import tiny_training
import toy_task

from pcam_tf import __main__ as command_line
from pcam_tf import data, evaluation, explain, figures, prediction, training
from pcam_tf.app import findings
from pcam_tf.errors import InputError
from pcam_tf.evaluation import comparison, report_text, reports
from pcam_tf.figures import html_report, pictures
from pcam_tf.models import backbones, classifier, engines, model_files
from pcam_tf.training import recipes

CLASSES = list(toy_task.TASK.classes)
COLUMNS = [f"probability_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    toy_task.write(folder)
    return folder


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    """Return a run of both phases, predicted and reported."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    source = data.open_source(data_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        training.train(toy_task.RECIPE, source, folder)
    prediction.predict_run(folder, source, test_time_augmentation=True)
    reports.report_run(folder)
    return folder


@pytest.fixture(scope="module")
def test_table(run_dir):
    return evaluation.read_predictions(run_dir / "predictions-test.csv")


def test_the_source_says_its_task_and_plain_tfds_reads_it(data_dir):
    source = data.open_source(data_dir)
    assert data.task_of(source) == toy_task.TASK
    patches = data.read_patches(source, "test[:8]")
    assert patches["image"].shape == (8, 64, 64, 3)
    plain = tfds.load("shapes", data_dir=data_dir, split="validation", download=False)
    assert len(plain) == toy_task.SIZES["validation"]


def test_the_command_line_audits_it(data_dir, tmp_path, capsys):
    output = tmp_path / "audit.json"
    assert command_line.main(["audit", "--data-dir", str(data_dir), "--output", str(output)]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["splits"]["test"]["discs"] == 48
    assert "squares" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["errors", "robustness"])
def test_commands_for_two_classes_refuse_it(run_dir, data_dir, command, capsys):
    given = {"errors": [run_dir / "predictions-test.csv"], "robustness": ["--model", run_dir]}
    words = [command, *given[command], "--data-dir", data_dir]
    assert command_line.main([str(word) for word in words]) == 2
    assert "3 classes (discs, stripes, squares)" in capsys.readouterr().err


def test_both_phases_learn_and_the_model_knows_its_task(run_dir):
    history = training.history(run_dir)
    assert list(dict.fromkeys(history["phase"])) == ["frozen", "unfrozen"]
    assert history["validation_auc"].max() > 0.95
    model = classifier.load(run_dir)
    assert classifier.task_of(model) == toy_task.TASK
    assert model.output_shape == (None, 3)
    # Plain Keras reads the file as well, without the task.
    plain = keras.saving.load_model(run_dir / "model.keras", compile=False)
    assert plain.output_shape == (None, 3)


def test_the_table_has_a_probability_for_each_class(run_dir, test_table):
    assert list(test_table) == ["id", "label", *COLUMNS]
    np.testing.assert_allclose(test_table[COLUMNS].sum(axis=1), 1, atol=1e-6)
    exported = engines.export(run_dir)
    fast = engines.load(run_dir, "litert")
    assert exported.is_file() and fast.task == toy_task.TASK
    probabilities = prediction.probabilities(fast, np.zeros((5, 64, 64, 3)))
    assert probabilities.shape == (5, 3)


def test_the_report_is_of_three_classes(run_dir, test_table):
    report = reports.read_run_report(run_dir)["unfrozen"]
    assert report["classes"] == {"discs": 48, "stripes": 24, "squares": 24}
    predicted = test_table[COLUMNS].to_numpy().argmax(axis=1)
    accuracy = report["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx((predicted == test_table["label"]).mean())
    assert accuracy["low"] < accuracy["value"] <= accuracy["high"]
    # Calling everything discs would have 0.5.
    assert accuracy["value"] > 0.75
    assert np.sum(report["confusion"]) == 96
    assert list(report["per_class"]) == CLASSES
    text = report_text.format_report(report, title="shapes")
    assert all(name in text for name in CLASSES)
    table = reports.markdown_table(reports.summary_rows({"unfrozen": report}))
    assert re.search(r"unfrozen +\| test", table)


def test_groups_are_resampled_and_two_tables_compared(run_dir, test_table):
    patients = test_table["id"].str.extract(r"_(\d+)$")[0].astype(int) // 16
    grouped = test_table.assign(group=patients.astype(str))
    assert "by group" in evaluation.report(grouped)["intervals"]
    frozen = evaluation.read_predictions(run_dir / "predictions-frozen-test.csv")
    found = comparison.compare(test_table, frozen)
    assert found["bootstrap"]["accuracy"]["value"] > 0
    assert 0 <= found["mcnemar"]["p"] <= 1
    assert "McNemar" in report_text.format_comparison(found, names=("unfrozen", "frozen"))


def test_the_command_line_evaluates_it(run_dir, tmp_path, capsys):
    output = tmp_path / "shapes.json"
    words = [str(run_dir / "predictions-test.csv"), "--output", str(output)]
    words += ["--validation", str(run_dir / "predictions-validation.csv")]
    assert command_line.main(["evaluate", *words]) == 0
    assert "stripes" in capsys.readouterr().out
    assert json.loads(output.read_text(encoding="utf-8"))["metrics"]["macro_auc"]["value"] > 0.9
    page = output.with_suffix(".html").read_text(encoding="utf-8")
    assert "squares" in page and "data:image/png" in page


def test_figures_and_page_name_the_classes(run_dir, test_table, data_dir):
    report = evaluation.report(test_table)
    figure = figures.confusion_matrices(
        np.array(report["confusion"]), title="shapes", classes=toy_task.TASK.classes
    )
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == CLASSES
    page = html_report.page(report, test_table, title="shapes")
    assert all(name in page for name in CLASSES)
    patches = data.read_patches(data.open_source(data_dir), "test[:8]")
    sheet = pictures.patch_grid(
        patches["image"], patches["label"], title="shapes", task=toy_task.TASK
    )
    assert sheet.axes[0].get_title() in CLASSES


def test_a_chosen_class_is_explained(run_dir, data_dir):
    model = classifier.load(run_dir)
    patches = data.read_patches(data.open_source(data_dir), "test[:4]")["image"]
    for method in ("Grad-CAM", "integrated gradients"):
        maps = [explain.maps(model, patches, method, target=target) for target in range(3)]
        assert maps[0].shape == (4, 64, 64)
        assert not np.allclose(maps[0], maps[1])
    # Without a target, the most probable class of each patch is explained.
    chosen = prediction.probabilities(model, patches).argmax(axis=1)
    default = explain.maps(model, patches, "integrated gradients")
    for row, target in enumerate(chosen):
        expected = explain.maps(model, patches[row : row + 1], "integrated gradients", target)
        np.testing.assert_allclose(default[row], expected[0], rtol=1e-3, atol=1e-4)


def test_the_reader_of_the_page_answers(run_dir, data_dir):
    reader = findings.load_reader(run_dir)
    patches = data.read_patches(data.open_source(data_dir), "test[:4]")
    probabilities = findings.probabilities(reader, patches["image"])
    assert probabilities.shape == (4, 3)
    point = next(iter(reader.points.values()))
    calls = [findings.call(reader, each, point) for each in probabilities]
    assert set(calls) <= set(CLASSES)
    assert findings.explanation(reader, patches["image"][0], 1).shape == (64, 64)


def test_a_model_of_one_task_refuses_patches_of_another(run_dir, tiny_source):
    with pytest.raises(Exception, match="choose a model and a data directory of one task"):
        prediction.predict_split(classifier.load(run_dir), tiny_source, "test")


def test_a_teacher_of_another_task_is_refused(data_dir, tmp_path):
    teacher = str(model_files.SHIPPED_MODEL)
    recipe = dataclasses.replace(recipes.preset("strong"), preset="shapes", teachers=(teacher,))
    with pytest.raises(InputError, match=r"teacher .*shipped.* is of pcam"):
        training.train(recipe, data.open_source(data_dir), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_table_of_other_classes_is_not_compared(test_table):
    other = test_table.rename(columns={COLUMNS[0]: "probability_rings"})
    with pytest.raises(Exception, match="classes"):
        comparison.compare(test_table, other)
    assert isinstance(other, pd.DataFrame)
