"""A report counts for its model alone, and a threshold for the number of views it was chosen on."""

import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
import tiny_training

from pcam_tf import evaluation, prediction, slides
from pcam_tf.app import (
    batches,
    findings,
    judgements,
    places,
    views,
    visit,
    visit_files,
    visit_tables,
)
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.evaluation import calibration, reports
from pcam_tf.models import backbones, classifier, model_files
from pcam_tf.task import PCAM


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared):
    """Return a run's folder: an untrained model, its predictions and its report."""
    from pcam_tf import data

    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(backbone="Tiny", weights=None, crop_px=48)
    folder = tmp_path_factory.mktemp("run")
    classifier.save(model, folder / "model.keras")
    prediction.predict_run(folder, data.open_source(prepared), test_time_augmentation=True)
    reports.report_run(folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """Return a copy of the run, to spoil."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_report_is_found_by_the_digest_of_its_model(run):
    report, why_none = reports.report_of_model(run / "model.keras")
    assert report["model_sha256"] == model_files.digest(run) and why_none == ""
    assert "Balanced" in findings.load_reader(run).points
    # The name of the file says nothing.
    (run / "model.keras").rename(run / "best.keras")
    assert reports.report_of_model(run / "best.keras")[0] == report


def other_model(run):
    model = classifier.load(run)
    model.get_layer("tumour_probability").bias.assign([1.0])
    classifier.save(model, run / "model.keras")


def unbound(run):
    content = json.loads((run / "report.json").read_text())
    del content["unfrozen"]["model_sha256"]
    (run / "report.json").write_text(json.dumps(content))


def no_report(run):
    (run / "report.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_model, "is of another model"),
        (unbound, "does not say of which model it is"),
        (no_report, "no report"),
    ],
)
def test_no_other_report_is_used(run, recwarn, spoil, message):
    spoil(run)
    reader = findings.load_reader(run)
    assert list(reader.points) == ["Threshold 0.5"]
    assert (reader.temperature, reader.cell_temperature) == (1, 1)
    assert message in reader.points["Threshold 0.5"].meaning
    warned = [str(each.message) for each in recwarn if "report.json" in str(each.message)]
    assert len(warned) == (spoil is not no_report)
    assert all(message in each and "\n" not in each for each in warned)


@pytest.mark.parametrize("content", ["{", "[]", '{"unfrozen": 1}'])
def test_a_damaged_report_is_named(run, content):
    (run / "report.json").write_text(content)
    with pytest.raises(InputError, match=r"report\.json is") as error:
        findings.load_reader(run)
    assert "\n" not in str(error.value)


def test_the_shipped_report_is_that_of_the_shipped_model():
    report, why_none = reports.report_of_model(model_files.SHIPPED_MODEL)
    assert why_none == "" and report["views"] == 8
    assert report["one_view"]["patches"] == report["validation_patches"] == 3000
    assert report["one_view"]["thresholds"].keys() == report["operating_points"].keys() - {"at_0.5"}


def test_thresholds_of_one_view_are_chosen_on_one_view(finished):
    report = reports.read_run_report(finished)["unfrozen"]
    eight, one = (
        evaluation.read_predictions(finished / f"predictions-{name}validation.csv")
        for name in ("", "one-view-")
    )
    assert (eight["probability"] - one["probability"]).abs().max() > 1e-4
    assert report["views"] == 8
    assert report["one_view"]["thresholds"] == evaluation.operating_points(one)
    assert report["one_view"]["temperature"] == calibration.fit_temperature(one)
    points = report["operating_points"]
    assert points["youden"]["threshold"] == evaluation.operating_points(eight)["youden"]
    assert reports.report_on_views(one, one)["views"] == 1
    with pytest.raises(InputError, match="different patches"):
        reports.report_on_views(eight, one[::-1])


class Constant:
    """An engine that predicts 0.45 for any patch."""

    task = PCAM

    def __init__(self):
        self.seen = 0

    def predict_on_batch(self, patches):
        self.seen += len(patches)
        return np.full((len(patches), 1), 0.45, "float32")


def test_cells_have_their_own_threshold_and_temperature(tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "explanation", lambda *_: np.ones((96, 96), "float32"))
    point = findings.Point(0.5, "meaning", cell_threshold=0.4)
    points = {"Balanced": point}
    reader = findings.Reader(None, Constant(), PCAM, "a model", 1.0, points, cell_temperature=0.9)
    region = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype="uint8")
    state = visit.Visit(tmp_path)
    picture = image_files.at_scale(region, PCAM.mpp)
    batches.read_pictures(reader, state, [("one.png", picture)])
    table = pd.DataFrame({"probability": [0.45]})
    expected = calibration.apply_temperature(table, 0.9)["probability"][0]
    found = state.region.probabilities[..., 1]
    np.testing.assert_allclose(found[np.isfinite(found)], expected, rtol=1e-6)
    assert np.isfinite(found).mean() > 0.8  # in noise, some cells look like no tissue
    # In cells the second class is called; a patch with the same output is not.
    assert "100 % of the tissue is called tumour" in views.summary(reader, state, point)
    assert "from 40 % on" in views.summary(reader, state, point)
    answer = views.as_json(reader, state, point)
    assert answer["tumour_share"] == 1 and answer["threshold"] == 0.4
    visit_tables.add_to_log(reader, state, state.batch, [0], point, "Balanced")
    assert visit_tables.log_table(state).iloc[0]["call"] == "100 % of tissue tumour"
    # A place is called as on the heat map.
    state.place = places.place_of_region(reader, state.region, 0, 0)
    assert state.chosen_patch.probabilities[1] == pytest.approx(expected)
    assert judgements.answer(state, point.of_cells).call == 1
    report = visit_files.write(reader, state, point, "Balanced")["report"].read_text("utf-8")
    assert "from 40 % on" in report and "Called tumour" in report and "50 % on" not in report


@pytest.mark.parametrize("count", [1, 8])
def test_a_patch_is_read_in_the_views_of_the_report(count):
    engine = Constant()
    reader = findings.Reader(None, engine, PCAM, "a model", 1.0, {}, views=count)
    findings.probabilities(reader, np.zeros((3, 96, 96, 3), "uint8"))
    assert engine.seen == 3 * count and slides.BATCH_SIZE == 32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operating_points", []),
        ("operating_points", {"youden": 3}),
        ("patches", "many"),
        ("calibration", 3),
        ("one_view", [1]),
        ("views", "x"),
    ],
)
def test_a_damaged_report_is_refused_in_a_line(run, name, value):
    content = json.loads((run / "report.json").read_text())
    content["unfrozen"][name] = value
    (run / "report.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"report\.json is damaged") as error:
        findings.load_reader(run)
    assert "\n" not in str(error.value)
