import sys
import types

import keras
import keras_hub
import numpy as np
import pytest

from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, presets, transformers, weights

STATISTICS = ((0.5,) * 3, (0.5,) * 3)
PICTURES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("f4")


def strengthened(network):
    """Return a network whose weights all matter: fresh ones are zero or nearly so."""
    rng = np.random.default_rng(0)
    weights = {each.path: each for each in network.weights}
    for weight in weights.values():
        weight.assign(weight + 0.2 * rng.normal(size=weight.shape))
    own = "embeddings/interpolated_position_embeddings"
    if own in weights:
        weights[own].assign(weights["embeddings/position_embeddings"])
    return network


def built(kind, side=32):
    models = keras_hub.models
    if kind == "DINOv2":
        network = models.DINOV2Backbone(
            8, 2, 24, 3, 40, image_shape=(side, side, 3), position_embedding_shape=(32, 32, 3),
            antialias_in_interpolation=True,
        )  # fmt: skip
    else:
        network = {"ViT": models.ViTBackbone, "DeiT": models.DeiTBackbone}[kind](
            (side, side, 3), 8, 2, 3, 24, 40
        )
    return strengthened(network)


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "DINOv2"])
def test_a_network_of_keras_hub_is_carried_over_to_ours(kind, tmp_path):
    network = built(kind)
    encoder = presets.of_backbone(network, tmp_path / kind, STATISTICS)
    inputs = keras.Input((32, 32, 3))
    ours = weights.connect(encoder, inputs)
    taken = {"images": PICTURES} if kind == "DINOv2" else PICTURES
    np.testing.assert_allclose(ours(PICTURES), network(taken), atol=2e-5)


def test_positions_of_a_preset_are_resized_as_those_of_a_file(tmp_path):
    network = built("DeiT")
    encoder = presets.of_backbone(network, tmp_path, STATISTICS)
    inputs = keras.Input((48, 48, 3))
    ours = weights.connect(encoder, inputs).get_layer("embedding").get_weights()[0]
    (stored,) = [each for each in network.weights if each.path.endswith("position_embedding")]
    expected = keras.ops.image.resize(
        np.asarray(stored)[:, 2:].reshape(1, 4, 4, 24), (6, 6), "bicubic", antialias=True
    )
    np.testing.assert_allclose(ours[0], np.reshape(expected, (36, 24)), atol=1e-5)


def test_a_preset_becomes_a_classifier_that_is_loaded_without_keras_hub(tmp_path, monkeypatch):
    network = built("DeiT")
    network.save_to_preset(str(tmp_path / "preset"))
    tiny = backbones._vision_transformer(
        str(tmp_path / "preset"), STATISTICS,
        **{"patch": 8, "width": 24, "depth": 2, "heads": 3, "hidden": 40, "prefix": 2},
    )  # fmt: skip
    monkeypatch.setitem(backbones.BACKBONES, "TinyDeiT", tiny)
    model = classifier.build(backbone="TinyDeiT", weights="preset", crop_px=32)
    patches = np.random.default_rng(1).uniform(0, 255, (2, 96, 96, 3)).astype("f4")
    expected = network(patches[:, 32:64, 32:64] / 127.5 - 1)[:, 0]
    features = classifier.feature_extractor(model)(patches)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    classifier.save(model, tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    loaded = classifier.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(patches), model(patches))
    with pytest.raises(InputError, match=r"keras-hub is not installed.*transformers"):
        classifier.build(backbone="TinyDeiT", weights="preset")


@pytest.mark.parametrize(
    ("name", "tokens", "millions"),
    [("DeiTTiny", 38, 5.5), ("DeiTSmall", 38, 21.7), ("DINOv2Small", 50, 21.8)],
)
def test_registered_networks_are_of_the_sizes_of_the_papers(name, tokens, millions):
    inputs = keras.Input((96, 96, 3))
    backbone = backbones.get(name)
    network = backbone.network(input_tensor=backbones._resized(inputs, backbone.side_multiple))
    assert network.output.shape[1] == tokens
    assert network.count_params() / 1e6 == pytest.approx(millions, rel=0.03)


def test_a_download_that_fails_names_the_ways_out(monkeypatch):
    def unreachable(*_):
        raise OSError("host")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", unreachable)
    with pytest.raises(InputError, match="the preset's weights of DeiTTiny cannot be downloaded"):
        backbones.connect("DeiTTiny", keras.Input((96, 96, 3)), weights="preset")


def test_swin_is_built_saved_and_loaded_and_its_patches_resized(monkeypatch, tmp_path):
    def small(**options):
        options |= {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 6]}
        return keras_hub_swin(**options)

    keras_hub_swin = keras_hub.models.SwinTransformerBackbone
    monkeypatch.setattr(keras_hub.models, "SwinTransformerBackbone", small)
    model = classifier.build(backbone="SwinTiny", weights=None)
    assert model.get_layer("resize_to_tokens").output.shape == (None, 224, 224, 3)
    patches = np.random.default_rng(1).uniform(0, 255, (1, 96, 96, 3)).astype("f4")
    classifier.save(model, tmp_path / "model.keras")
    loaded = classifier.load(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(patches), model(patches), atol=1e-6)


def test_a_keras_hub_without_swin_is_said(monkeypatch):
    old = types.SimpleNamespace(__version__="0.26.0", models=types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "keras_hub", old)
    with pytest.raises(InputError, match=r"keras-hub 0\.26\.0 has no Swin.*0\.30 or later"):
        classifier.build(backbone="SwinTiny", weights=None)


def test_drop_path_reaches_an_encoder(tmp_path):
    encoder = presets.of_backbone(built("ViT"), tmp_path, STATISTICS)
    model = weights.connect(encoder, keras.Input((32, 32, 3)), stochastic_depth=0.3)
    assert model.get_layer("block1_skip2").rate == pytest.approx(0.3)
    assert transformers.TokenEmbedding(1).get_config()["prefix"] == 1
