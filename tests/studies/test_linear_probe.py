import keras
import numpy as np
import pytest
import toy_task

from pcam_tf import data, evaluation
from pcam_tf.studies import linear_probe


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_task.write(tmp_path_factory.mktemp("toy"))


def extractor(width=6, seed=0):
    """Return random convolutions, pooled: enough to tell discs from stripes."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.Rescaling(1 / 128, -1.0),
            keras.layers.Conv2D(width, 7, strides=2, activation="relu"),
            keras.layers.GlobalMaxPooling2D(),
        ]
    )


class Counted:
    """An engine that counts what it is given."""

    def __init__(self, model):
        self.model, self.patches = model, 0

    def predict_on_batch(self, patches):
        self.patches += len(patches)
        return self.model.predict_on_batch(patches)


def test_a_probe_writes_features_and_predictions_and_reads_them_again(toy, tmp_path, monkeypatch):
    model = extractor()
    found = linear_probe.probe(model, toy, tmp_path)
    assert found["patches"] == toy_task.SIZES and found["features"] == 6
    assert found["strength"] in linear_probe.STRENGTHS
    losses = found["validation_loss"]
    assert losses[str(found["strength"])] == min(losses.values())
    table = evaluation.read_predictions(tmp_path / "predictions-test.csv")
    assert len(table) == toy_task.SIZES["test"]
    columns = [f"probability_{name}" for name in toy_task.TASK.classes]
    accuracy = (table[columns].to_numpy().argmax(axis=1) == table["label"]).mean()
    assert accuracy > 0.6  # the largest class is half
    monkeypatch.setattr(linear_probe, "_write_part", lambda *_: pytest.fail("computed again"))
    assert linear_probe.probe(model, toy, tmp_path) == found


def test_an_interrupted_probe_computes_only_what_is_missing(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(linear_probe, "PART", 50)
    engine = Counted(extractor())
    whole = linear_probe.features(engine, toy, "train", tmp_path)
    assert engine.patches == 240 and whole.values.shape == (240, 6)
    (tmp_path / "00002.npz").unlink()
    again = linear_probe.features(engine, toy, "train", tmp_path)
    assert engine.patches == 290
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
    patches = data.read_patches(toy, "train")
    np.testing.assert_array_equal(whole.ids, patches["id"])
    expected = engine.model.predict(patches["image"].astype("float32"), verbose=0)
    np.testing.assert_allclose(whole.values, expected, atol=2e-3)


def test_features_of_another_encoder_are_not_taken_for_this_ones(toy, tmp_path):
    digests = {linear_probe.digest_of(extractor(seed=seed)) for seed in (0, 0, 1)}
    assert len(digests) == 2
    # The same weights in another network are another encoder.
    one, other = _attention(2), _attention(4)
    for weight, of in zip(other.weights, one.get_weights(), strict=True):
        weight.assign(of.reshape(weight.shape))
    assert linear_probe.digest_of(one) != linear_probe.digest_of(other)
    linear_probe.probe(extractor(seed=0), toy, tmp_path)
    linear_probe.probe(extractor(seed=1), toy, tmp_path)
    assert len(list(tmp_path.glob("features-*"))) == 2


def _attention(heads):
    tokens = keras.Input((4, 8))
    return keras.Model(tokens, keras.layers.MultiHeadAttention(heads, 8 // heads)(tokens, tokens))
