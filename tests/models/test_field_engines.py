"""Classifiers over fields in LiteRT: exported, or converted when they are needed."""

import keras
import numpy as np
import pytest

from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, dense, engines, field_engines


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the file of a small classifier that looks a little beyond each cell."""

    def network(input_tensor):
        tensor = keras.layers.Conv2D(8, 17, strides=16, padding="same")(input_tensor)
        return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)

    path = tmp_path_factory.mktemp("models") / "model.keras"
    with pytest.MonkeyPatch.context() as patch:
        small = backbones.Backbone(network, {"scale": 1 / 255})
        patch.setitem(backbones.BACKBONES, "Small", small)
        classifier.save(classifier.build(backbone="Small", weights=None), path)
    return path


def test_an_export_predicts_as_the_model_and_needs_no_keras(model, monkeypatch):
    converted, side = field_engines.load(model, 3, 32)
    expected = dense.build(classifier.load(model), side, 3, 32)
    fields = engines.probe(side)
    np.testing.assert_allclose(
        converted.predict_on_batch(fields), expected.predict_on_batch(fields), atol=1e-5
    )
    path = field_engines.export(model, 3, 32)
    try:
        monkeypatch.setattr(dense, "build", lambda *_: pytest.fail("built again"))
        exported, same_side = field_engines.load(model, 3, 32)
        assert same_side == side
        np.testing.assert_allclose(
            exported.predict_on_batch(fields), converted.predict_on_batch(fields), atol=1e-5
        )
        monkeypatch.undo()
        assert field_engines.load(model, 4, 32)[1] == side + 32  # the export is of other fields
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match=r"model\.fields\.litert is damaged: delete it"):
            field_engines.load(model, 3, 32)
    finally:
        path.unlink()


def test_an_export_of_another_model_is_not_used(model, tmp_path):
    other = tmp_path / "model.keras"
    field_engines.export(model, 3, 32).rename(tmp_path / "model.fields.litert")
    changed = classifier.load(model)
    changed.layers[-1].bias.assign([5.0])
    classifier.save(changed, other)
    engine, side = field_engines.load(other, 3, 32)
    assert engine.predict_on_batch(engines.probe(side)).min() > 0.9
