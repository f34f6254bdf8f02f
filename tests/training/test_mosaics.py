"""Training on mosaics of patches."""

import dataclasses

import keras
import numpy as np
import pytest
import tiny_training

from pcam_tf import synthetic, training
from pcam_tf.models import backbones, classifier
from pcam_tf.training import mosaics


def _means_of_blocks(input_tensor):
    tensor = keras.layers.AveragePooling2D(32)(input_tensor)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)


@pytest.fixture
def model(monkeypatch):
    small = backbones.Backbone(_means_of_blocks, {"scale": 1 / 255})
    monkeypatch.setitem(backbones.BACKBONES, "Small", small)
    return classifier.build(backbone="Small", weights=None)


@pytest.mark.parametrize("number", [16, 32, 41, 3])
def test_each_patch_keeps_its_probability_and_its_place(model, number):
    # Blocks of 32 px see nothing of the neighbours, so alone or in a mosaic is the same.
    mixed = mosaics.mixed(model, 2)
    drawn = np.random.default_rng(0).integers(0, 256, (number, 1, 1, 3)).astype("float32")
    given = np.broadcast_to(drawn, (number, *model.input_shape[1:]))
    assert mixed.predict_on_batch(given) == pytest.approx(model.predict_on_batch(given), abs=1e-6)


def test_labels_and_teachers_are_learnt_on_mosaics(tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "Small", backbones.Backbone(_same, {"scale": 1 / 255}))
    source = synthetic.builder(tmp_path / "data", synthetic.config_of(**tiny_training.SIZES))
    plain = dataclasses.replace(
        tiny_training.EVEN, backbone="Small", crop_px=None, class_weights=False, mosaic=2
    )
    training.train(plain, source, tmp_path / "teacher")
    recipe = dataclasses.replace(plain, teachers=(str(tmp_path / "teacher"),))
    student = training.train(recipe, source, tmp_path / "student")
    taught = classifier.load(tmp_path / "teacher")
    changed = [
        not np.array_equal(one, other)
        for one, other in zip(student.get_weights(), taught.get_weights(), strict=True)
    ]
    assert all(changed)
    assert len(training.runs.history(tmp_path / "student")) == plain.unfrozen_epochs


def test_a_batch_that_fills_no_mosaic_leaves_the_statistics_finite(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "Small", backbones.Backbone(_same, {"scale": 1 / 255}))
    model = classifier.build(backbone="Small", weights=None)
    mixed = mosaics.mixed(model, 2)
    mixed(np.ones((5, *model.input_shape[1:]), "float32"), training=True)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def _same(input_tensor):
    tensor = keras.layers.Conv2D(8, 5, strides=4, padding="same", name="first")(input_tensor)
    tensor = keras.layers.BatchNormalization(name="normalise")(tensor)
    tensor = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(tensor)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)
