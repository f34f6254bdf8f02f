"""Pretraining without labels."""

import dataclasses

import keras
import numpy as np
import pytest
import tiny_encoder
import tiny_training

from pcam_tf import synthetic
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier
from pcam_tf.training import masked


@pytest.fixture
def source(tmp_path, monkeypatch):
    tiny = backbones.Backbone(tiny_encoder.network, {"scale": 1 / 255}, class_token=True)
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny)
    return synthetic.builder(tmp_path / "data", synthetic.config_of(**tiny_training.SIZES))


def test_it_learns_goes_on_after_a_kill_and_gives_its_weights(source, tmp_path, monkeypatch):
    settings = masked.Pretraining("Tiny", epochs=3, batch_size=8, learning_rate=3e-3)
    history = masked.pretrain(settings, source, tmp_path / "whole")
    assert history.loss.iloc[-1] < 0.9 * history.loss[0]

    written = keras.Model.fit
    epochs = []

    def killed(model, *arguments, **options):
        if len(epochs) == 1:
            raise KeyboardInterrupt
        epochs.append(1)
        return written(model, *arguments, **options)

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(keras.Model, "fit", killed)
        masked.pretrain(settings, source, tmp_path / "killed")
    resumed = masked.pretrain(settings, source, tmp_path / "killed")
    assert resumed.loss.to_list() == pytest.approx(history.loss.to_list(), rel=1e-5)

    path = str(tmp_path / "whole" / masked.WEIGHTS)
    model = classifier.build(backbone="Tiny", weights=path)
    other = classifier.build(backbone="Tiny", weights=str(tmp_path / "killed" / masked.WEIGHTS))
    untrained = classifier.build(backbone="Tiny", weights=None)
    (kernel, again, random) = (
        each.get_layer("patches").get_weights()[0] for each in (model, other, untrained)
    )
    np.testing.assert_allclose(kernel, again, rtol=1e-4, atol=1e-6)
    assert np.abs(kernel - random).max() > 1e-2
    assert sorted(each.name for each in (tmp_path / "killed").iterdir()) == [
        masked.WEIGHTS, "history.csv", "lock", "pretraining.json"
    ]  # fmt: skip

    with pytest.raises(InputError, match="holds another pretraining"):
        masked.pretrain(dataclasses.replace(settings, seed=1), source, tmp_path / "whole")


def test_what_is_hidden_is_whole_squares_and_counts_alone():
    patches = np.random.default_rng(0).uniform(0, 255, (40, 96, 96, 3)).astype("float32")
    shown, hidden = (np.asarray(each) for each in masked._Hide(0)(patches))
    squares = hidden.reshape(40, 6, 16, 6, 16)
    assert (squares == squares[:, :, :1, :, :1]).all()
    assert hidden.mean() == pytest.approx(0.6, abs=0.04)
    assert (shown == patches)[np.broadcast_to(hidden == 0, patches.shape)].all()
    blank = np.broadcast_to(patches.mean(axis=(1, 2), keepdims=True), patches.shape)
    is_hidden = np.broadcast_to(hidden == 1, patches.shape)
    assert shown[is_hidden] == pytest.approx(blank[is_hidden], rel=1e-4)

    cells = np.asarray(masked._in_squares(patches, 16))
    assert (cells[3, 7].reshape(16, 16, 3) == patches[3, 16:32, 16:32]).all()
    wanted = (cells - cells.mean(-1, keepdims=True)) / (cells.std(-1, keepdims=True) + 1)
    loss = masked._HiddenLoss(16)
    places = hidden[:, ::16, ::16, 0].reshape(40, 36, 1) == 1
    loss([patches, hidden, np.where(places, wanted, 1e6).astype("float32")])
    assert float(loss.losses[0]) == pytest.approx(0, abs=1e-6)
    loss = masked._HiddenLoss(16)
    loss([patches, hidden, np.where(places, wanted + 2, wanted).astype("float32")])
    assert float(loss.losses[0]) == pytest.approx(4, rel=1e-4)


def test_a_network_without_tokens_is_refused():
    with pytest.raises(InputError, match="EfficientNetLite0 has no tokens"):
        masked.build("EfficientNetLite0", (96, 96, 3), 0)
    for name, side in (("DINOv2Small", 96), ("CCT", 88)):
        with pytest.raises(InputError, match=f"cannot be pretrained on patches of {side} px"):
            masked.build(name, (side, side, 3), 0)
