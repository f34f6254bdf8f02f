import keras
import numpy as np
import pytest

from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, cost, engines, transformers

SIDE = 32
PATCHES = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3)).astype("f4")
NETWORKS = {"CCT": 128, "DeiTTiny": 192}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    keras.utils.set_random_seed(0)
    return classifier.build(backbone=request.param, weights=None, stochastic_depth=0.2)


def test_a_transformer_builds_into_a_classifier(model):
    features = model.get_layer("features").output.shape[-1]
    assert features in NETWORKS.values()
    assert model.count_params() < 6e6
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)]


def test_the_compact_transformer_is_small_and_has_a_token_each_8_px():
    model = classifier.build(backbone="CCT", weights=None)
    assert model.get_layer("norm").output.shape == (None, 144, 128)
    assert model.count_params() * 4 < 2e6


def test_pooling_weighs_each_token_by_its_score():
    model = classifier.build(backbone="CCT", weights=None)
    tokens = keras.Model(model.input, model.get_layer("norm").output)(PATCHES)
    scores = np.asarray(model.get_layer("pool_scores")(tokens))
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    pooled = classifier.feature_extractor(model)(PATCHES)
    np.testing.assert_allclose(pooled, (shares * np.asarray(tokens)).sum(axis=1), atol=1e-5)


def test_both_phases_train_what_they_should(model):
    classifier.freeze(model)
    assert len(model.trainable_variables) == 2
    classifier.unfreeze(model)
    assert len(model.trainable_variables) == len(model.weights)


def test_drop_path_skips_whole_branches_in_training_only(model):
    np.testing.assert_array_equal(model(PATCHES), model(PATCHES))
    keras.utils.set_random_seed(1)
    assert np.any(np.asarray(model(PATCHES, training=True)) != model(PATCHES))
    skips = [layer for layer in model.layers if "_skip" in layer.name]
    assert all(layer.noise_shape == (None, 1, 1) for layer in skips)
    # Rising from none at the first block.
    assert [layer.rate for layer in skips] == sorted(layer.rate for layer in skips)
    assert skips[-1].rate == pytest.approx(0.2) and "block0" not in skips[0].name


def test_it_is_saved_loaded_and_exported(model, tmp_path):
    expected = model.predict_on_batch(PATCHES)
    classifier.save(model, tmp_path / "model.keras")
    loaded = classifier.load(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(PATCHES), expected, atol=1e-6)
    engines.export(tmp_path / "model.keras")
    exported = engines.load(tmp_path / "model.keras", "litert")
    np.testing.assert_allclose(exported.predict_on_batch(PATCHES), expected, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_there_are_no_imagenet_weights(name):
    with pytest.raises(
        InputError, match=f"{name} has no weights named imagenet: choose .*random weights"
    ):
        backbones.connect(name, keras.Input((SIDE, SIDE, 3)), weights="imagenet")


def test_a_weights_file_of_the_network_is_loaded(tmp_path):
    inputs = keras.Input((SIDE, SIDE, 3))
    saved = transformers.compact_transformer(inputs)
    saved.save_weights(tmp_path / "x.weights.h5")
    patches = keras.Input((SIDE, SIDE, 3))
    features = backbones.connect("CCT", patches, weights=tmp_path / "x.weights.h5").pooled
    scaled = keras.layers.Rescaling(**backbones.get("CCT").rescaling)(PATCHES[:, :SIDE, :SIDE])
    found = keras.Model(patches, features)(PATCHES[:, :SIDE, :SIDE])
    np.testing.assert_allclose(found, saved(scaled), atol=1e-5)


def test_multiply_adds_are_those_of_the_papers():
    # DeiT-tiny at 224 px: 1.3 G (table 5 of the paper).
    inputs = keras.Input((224, 224, 3))
    network = backbones.get("DeiTTiny").network(input_tensor=inputs)
    assert cost.multiply_adds(network) == pytest.approx(1.27e9, rel=0.02)
    # EfficientNet-Lite0 at 224 px: 407 M with its classification layer and normalisations.
    network = backbones.get("EfficientNetLite0").network(input_tensor=inputs)
    assert cost.multiply_adds(network) == pytest.approx(407e6, rel=0.06)


def test_a_layer_of_unknown_cost_is_not_left_out():
    inputs = keras.Input((4, 2))
    with pytest.raises(TypeError, match="LSTM"):
        cost.multiply_adds(keras.Model(inputs, keras.layers.LSTM(3)(inputs)))
