"""The page's reader, visit and views with a model of three classes and 64 px."""

import dataclasses
import gc

import keras
import numpy as np
import pandas as pd
import pytest
import tiny_training
import toy_task

from pcam_tf.app import (
    batches,
    findings,
    judgements,
    overlays,
    page,
    places,
    results,
    views,
    visit,
    visit_files,
    visit_tables,
)  # fmt: skip
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Return the reader of a small, untrained model of the toy task."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(toy_task.TASK, backbone="Tiny", weights=None, crop_px=None)
    path = tmp_path_factory.mktemp("models") / "tiny.keras"
    classifier.save(model, path)
    return findings.load_reader(path)


def read(reader, folder, pixels):
    """Return the visit after a picture was read, the setting and its operating point."""
    state, (setting, point) = visit.Visit(folder), next(iter(reader.points.items()))
    picture = image_files.at_scale(pixels, toy_task.TASK.mpp, toy_task.TASK)
    batches.read_pictures(reader, state, [("one.png", picture)])
    visit_tables.add_to_log(reader, state, state.batch, [0], point, setting)
    return state, setting, point


def test_a_patch_is_called_its_most_probable_class(reader, tmp_path):
    classes = toy_task.TASK.classes
    pixels = toy_task.draw(1, np.random.default_rng(0))
    state, setting, point = read(reader, tmp_path, pixels)
    patch = state.chosen_patch
    assert patch.probabilities.shape == (3,) and patch.probabilities.sum() == pytest.approx(1)
    call = classes[patch.probabilities.argmax()]
    assert findings.call(reader, patch.probabilities, point) == call
    summary = views.summary(reader, state, point)
    assert f"Called {call}" in summary and "Probabilities for the patch" in summary
    assert all(name in summary for name in classes)
    answer = views.as_json(reader, state, point)
    assert answer["call"] == call and list(answer["probabilities"]) == list(classes)
    assert answer["threshold"] is None and answer["unlike_training"] == ""
    table = visit_tables.predictions_table(reader, state)
    own = [f"probability_{name}" for name in classes]
    assert list(table)[2:] == [*own, *(f"calibrated_{each}" for each in own)]
    np.testing.assert_allclose(table[own].iloc[0], patch.probabilities)  # temperature 1
    assert visit_tables.log_table(state).iloc[0]["call"] == call
    assert "microns wide" in views.title(toy_task.TASK)
    assert "discs, stripes or squares" in views.title(toy_task.TASK)
    # The patch has no labelled square, and the explanation is that of the called class.
    value = overlays.patch_value(reader, patch, point)
    assert value["square"] is None and f"supports {call}" in value["legend"]
    assert results.explanation(reader, patch, point).shape == (64, 64)
    report = visit_files.write(reader, state, point, setting)["report"].read_text("utf-8")
    assert "the most probable class is called" in report and "tumour" not in report


def test_a_region_shows_the_called_classes(reader, tmp_path):
    rng = np.random.default_rng(0)
    region = np.hstack([toy_task.draw(label, rng) for label in range(3)])
    state, setting, point = read(reader, tmp_path, region)
    assert state.region.probabilities.shape == (2, 6, 3)
    shares = views.as_json(reader, state, point)["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert "The tissue is called: " in views.summary(reader, state, point)
    files = visit_files.write(reader, state, point, setting)
    assert len(pd.read_csv(files["predictions"])) == 12 and files["heat_map"].exists()
    state.place = places.place_of_region(reader, state.region, 1, 2)
    call = int(findings.calls(state.region.probabilities[1, 2], point))
    assert judgements.answer(state, point).call == call


def test_a_page_is_built_without_reviews(reader, tmp_path):
    built = page.build(reader)
    assert built.blocks
    built.close()
    del built
    gc.collect()  # here, where such warnings are ignored, and not in another module's test
    with pytest.raises(InputError, match="two classes only"):
        page.build(reader, tmp_path / "reviews.csv")


def test_a_model_whose_task_states_no_scale_is_refused(tmp_path):
    task = dataclasses.replace(toy_task.TASK, mpp=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(task, backbone="Tiny", weights=None, crop_px=None)
    classifier.save(model, tmp_path / "tiny.keras")
    with pytest.raises(InputError, match="states no microns per pixel"):
        findings.load_reader(tmp_path / "tiny.keras")
