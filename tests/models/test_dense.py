"""Prediction of whole fields in one pass."""

import keras
import numpy as np
import pytest

from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, dense
from pcam_tf.task import PCAM


def _classifier(monkeypatch, network, **options):
    """Return a classifier of patches with a small network as its backbone."""
    monkeypatch.setitem(backbones.BACKBONES, "Small", backbones.Backbone(network, {"scale": 1.0}))
    return classifier.build(backbone="Small", weights=None, **options)


def _means(tensor, kernel, padding="same"):
    """Halve a picture by means over a kernel."""
    layer = keras.layers.DepthwiseConv2D(kernel, 2, padding, use_bias=False)
    halved = layer(tensor)
    layer.set_weights([np.full((kernel, kernel, 3, 1), 1 / kernel**2, "float32")])
    return halved


def _blocks(input_tensor):
    convolution = keras.layers.Conv2D(4, 32, strides=32, activation="relu")
    return keras.Model(keras.utils.get_source_inputs(input_tensor), convolution(input_tensor))


def _padded_same(input_tensor):
    tensor = _means(_means(_means(input_tensor, 3), 5), 3)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)


def _padded_before(input_tensor):
    tensor = keras.layers.ZeroPadding2D(((1, 2), (1, 2)))(input_tensor)
    tensor = _means(_means(tensor, 5, "valid"), 2, "valid")
    return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)


def test_a_network_without_padding_predicts_a_field_as_it_predicts_its_patches(monkeypatch):
    model = _classifier(monkeypatch, _blocks)
    field = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype("float32")
    found = dense.build(model, 224, 5, 32).predict_on_batch(field)
    assert found.shape == (1, 5, 5, 1)
    for row in range(5):
        for column in range(5):
            patch = field[:, 32 * row :, 32 * column :][:, :96, :96]
            expected = model.predict_on_batch(patch)[0]
            assert found[0, row, column] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("resize_px", [None, 144])
@pytest.mark.parametrize("network", [_padded_same, _padded_before])
def test_a_cell_lies_where_its_patch_lies(monkeypatch, network, resize_px):
    """On a picture whose values rise evenly, the mean of a window is the value at its middle."""
    model = _classifier(monkeypatch, network, resize_px=resize_px)
    model.layers[-1].set_weights([np.full((3, 1), 1 / 300, "float32"), np.float32([-4])])
    y, x = np.mgrid[:320, :320] + 0.5
    field = np.stack([y + 2 * x] * 3, axis=-1)[None].astype("float32")
    found = dense.build(model, 320, 4, 32).predict_on_batch(field)[0, ..., 0]
    middles = 96 + 16 + 32 * np.arange(4)
    expected = (middles[:, None] + 2 * middles[None]) / 100 - 4
    assert np.log(found / (1 - found)) == pytest.approx(expected, abs=2e-3)


def test_weights_are_shared(monkeypatch):
    model = _classifier(monkeypatch, _blocks)
    fields = dense.build(model, 160, 3, 32)
    before = fields.predict_on_batch(np.ones((1, 160, 160, 3)))
    model.layers[-1].bias.assign([3.0])
    assert (fields.predict_on_batch(np.ones((1, 160, 160, 3))) > before).all()
    assert {id(weight) for weight in fields.weights} == {id(weight) for weight in model.weights}


def test_what_cannot_predict_fields_is_refused(monkeypatch):
    cropped = _classifier(monkeypatch, _blocks, crop_px=64)
    with pytest.raises(InputError, match="sees a crop of its patches"):
        dense.build(cropped, 224, 5, 32)
    with pytest.raises(InputError, match="a multiple of 32 px a side, not 230 px"):
        dense.build(_classifier(monkeypatch, _blocks), 230, 5, 32)

    def pooled(input_tensor):
        tensor = keras.layers.Flatten()(_blocks(input_tensor)(input_tensor))
        return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)

    with pytest.raises(InputError, match="has no feature map"):
        dense.build(_classifier(monkeypatch, pooled), PCAM.side_px, 1, 32)
