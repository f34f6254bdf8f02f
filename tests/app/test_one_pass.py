"""A model that was trained to predict whole fields reads the page's regions as `slide` reads."""

import dataclasses
import json

import block_model
import fastapi
import numpy as np
import pytest
from fastapi.testclient import TestClient
from visitors import clicked, tab, uploaded

from pcam_tf import synthetic
from pcam_tf.app import findings, private_files, region_views, slide_pages
from pcam_tf.app.handlers import Handlers
from pcam_tf.slides import field_predictors, fields, grid, reader
from pcam_tf.task import PCAM


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run's folder with a model that predicts fields."""
    with pytest.MonkeyPatch.context() as patched:
        yield block_model.write_run(tmp_path_factory.mktemp("run"), patched)


@pytest.fixture
def handlers(run, tmp_path):
    """Return handlers of the model, without explanations."""
    files = private_files.PrivateFiles(tmp_path / "private")
    model = findings.load_reader(run)._replace(method=None, cell_temperature=2.0)
    yield Handlers(model, files, None)
    files.close()


@pytest.fixture(scope="module")
def region():
    """Return a region of 10×12 patches, larger than a field."""
    patches = synthetic.draw_patches(12, split="test").image
    row = np.concatenate(list(patches), axis=1)
    return np.concatenate([np.roll(row, 96 * number, axis=1) for number in range(10)])


def test_the_page_reads_a_region_as_slide_does_in_one_pass(handlers, region):
    counted = []
    predict = handlers.reader.fields.predict

    def count(given, wanted):
        counted.append(len(given))
        return predict(given, wanted)

    handlers.reader = handlers.reader._replace(
        fields=dataclasses.replace(handlers.reader.fields, predict=count)
    )
    handlers.uploads.reader = handlers.reader
    path = uploaded(handlers, region, "region.png")
    handlers.read_files([path], "Threshold 0.5", tab())
    cells = handlers.reader.fields.cells
    assert sum(counted) == -(-30 // cells) * -(-36 // cells)  # fields, for 1,080 places
    state = handlers.visits.find("a tab")
    found = state.region.probabilities
    assert found.shape == (30, 36, 2) and state.region.stride_px == PCAM.centre_px

    # What `slide` finds in the same picture, but for the border, beyond which a slide is white.
    predictor, _ = field_predictors.load(handlers.reader.file)
    with reader.opened(path, PCAM.mpp) as slide:
        shape = grid.grid_over(slide.size, slide.mpp, predictor.step_um)
        wanted, raw = np.ones((shape.rows, shape.columns), bool), np.zeros(found.shape[:2], "f4")
        for unit, values in fields.predicted(
            slide, fields.units_of(slide, wanted, predictor), predictor
        ):
            fields.put(raw, unit, values)
    expected = findings.calibrated_heat(handlers.reader, raw)
    inside = np.s_[2:-2, 2:-2]
    tissue = np.isfinite(found[inside])
    np.testing.assert_allclose(found[inside][tissue], expected[inside][tissue], atol=1e-5)


def test_a_click_and_the_map_are_one_answer_and_the_viewer_says_which(handlers, region):
    handlers.read_files([uploaded(handlers, region)], "Threshold 0.5", tab())
    state = handlers.visits.find("a tab")
    heat = state.region.probabilities[9, 11]
    handlers.choose_place("Threshold 0.5", tab(), clicked(row=9, column=11))
    np.testing.assert_array_equal(state.place.probabilities, heat.astype("float64"))
    regions = region_views.RegionViews(handlers.reader, handlers.visits)
    routers, stop = slide_pages.routers(handlers.reader, handlers.turns, regions.find)
    app = fastapi.FastAPI()
    app.include_router(routers[1])
    client, key = TestClient(app), state.region.key
    place = client.get(f"/viewer/{key}/places/9/11.json?index=1").json()
    assert place["probabilities"] == pytest.approx(heat.tolist())
    page = " ".join(client.get(f"/viewer/{key}").text.split())
    assert "has read whole fields in one pass" in page and "in one view" not in page
    regions.close()
    stop()


def test_other_models_and_engines_read_patch_by_patch(run, tmp_path, monkeypatch):
    assert findings.load_reader(run).fields.name == "one pass"
    assert findings.load_reader(run, "tensorflow").fields is None
    other = block_model.write_run(tmp_path / "other", monkeypatch)
    (other / "recipe.json").write_text(json.dumps({"recipe": {"preset": "strong"}}))
    assert findings.load_reader(other).fields is None
    assert findings.load_reader().fields.name == "one pass"  # the shipped one
