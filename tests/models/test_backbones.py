import functools

import keras
import numpy as np
import pytest

from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, encoders

FEATURES = {
    "EfficientNetLite0": 1280,
    "MobileNetV2": 1280,
    "MobileNetV3Small": 576,
    "EfficientNetB0": 1280,
    "EfficientNetV2B0": 1280,
    "ResNet50V2": 2048,
    "DenseNet121": 1024,
    "ConvNeXtTiny": 768,
    "Xception": 2048,
}
SIDE = 32
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)).astype("float32")
MEAN, DEVIATION = (np.array(each) for each in encoders.IMAGENET_STATISTICS)


def scaled(name) -> np.ndarray:
    """Return the images as the registry hands them to a network."""
    return np.asarray(keras.layers.Rescaling(**backbones.get(name).rescaling)(IMAGES))


@functools.cache
def plain(name, **options) -> keras.Model:
    """Return a network of keras.applications as anyone would build it."""
    return getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), **options
    )


def connected(name, weights) -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    return keras.Model(inputs, backbones.connect(name, inputs, weights=weights).unpooled)


def test_the_registry_is_known_to_these_tests():
    # Transformers have tests of their own.
    assert set(FEATURES) | {
        "CCT",
        "DeiTTiny",
        "DeiTSmall",
        "ViTBase",
        "DINOv2Small",
        "SwinTiny",
    } == set(backbones.BACKBONES)


@pytest.mark.parametrize("name", FEATURES)
def test_a_backbone_builds_into_a_flat_classifier(name):
    model = classifier.build(backbone=name, weights=None, crop_px=SIDE)
    assert model.input_shape == (None, 96, 96, 3)
    assert model.output_shape == (None, 1)
    assert model.get_layer("features").output.shape == (None, FEATURES[name])
    # ConvNeXt's own blocks of a normalisation and a convolution are the only models inside.
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert all(isinstance(layer, keras.Sequential) for layer in inner)
    assert all(len(layer.layers) == 2 for layer in inner)
    assert len(model.layers) > 100
    # What is near the end can be reached from the input, as Grad-CAM has to.
    last_map = keras.Model(model.input, model.get_layer("features").input)
    assert last_map.output_shape == (None, 1, 1, FEATURES[name])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("MobileNetV2", keras.applications.mobilenet_v2),
        ("ResNet50V2", keras.applications.resnet_v2),
        ("DenseNet121", keras.applications.densenet),
        ("Xception", keras.applications.xception),
    ],
)
def test_scaling_is_that_of_keras_applications(name, module):
    expected = module.preprocess_input(IMAGES.copy())
    np.testing.assert_allclose(scaled(name), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "first_of_its_own"),
    [
        ("MobileNetV3Small", "conv"),
        ("EfficientNetV2B0", "stem_conv"),
        ("ConvNeXtTiny", "convnext_tiny_stem"),
    ],
)
def test_scaling_is_that_which_the_network_would_do_itself(name, first_of_its_own):
    network = plain(name, include_preprocessing=True)
    preprocessing = keras.Model(network.input, network.get_layer(first_of_its_own).input)
    assert preprocessing.count_params() < 10  # nothing of the network itself
    expected = np.asarray(preprocessing(IMAGES))
    assert abs(expected).max() < 3
    np.testing.assert_allclose(scaled(name), expected, atol=1e-5)


def test_the_scaling_of_efficientnet_lite_is_minus_to_plus_one():
    assert scaled("EfficientNetLite0") == pytest.approx((IMAGES - 127) / 128, abs=1e-5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return weights files of plain networks, their statistics those of no fresh network."""
    folder = tmp_path_factory.mktemp("weights")
    rng = np.random.default_rng(1)
    paths = {}
    for name in ("MobileNetV2", "EfficientNetB0"):
        network = plain(name)
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.set_weights(
                    [rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()]
                )
            # keras.applications' ImageNet file holds deviations in place of the variances.
            elif isinstance(layer, keras.layers.Normalization):
                layer.set_weights([np.float32(MEAN), np.float32(DEVIATION), np.int64(0)])
        paths[name] = folder / f"{name}.weights.h5"
        network.save_weights(paths[name])
    return paths


def test_a_weights_file_of_the_plain_network_gives_its_features(files):
    expected = plain("MobileNetV2")(keras.applications.mobilenet_v2.preprocess_input(IMAGES.copy()))
    features = np.asarray(connected("MobileNetV2", str(files["MobileNetV2"]))(IMAGES))
    assert np.ptp(features[0]) > 0.1
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_an_imagenet_file_of_efficientnet_b0_is_scaled_as_if_downloaded(files, tmp_path):
    model = connected("EfficientNetB0", files["EfficientNetB0"])
    expected = (IMAGES / 255 - MEAN) / DEVIATION
    into_the_network = keras.Model(model.input, model.get_layer("stem_conv_pad").input)
    np.testing.assert_allclose(into_the_network(IMAGES), expected, atol=1e-5)
    # Saving and loading once more does not scale once more.
    model.save_weights(tmp_path / "again.weights.h5")
    again = connected("EfficientNetB0", tmp_path / "again.weights.h5")
    np.testing.assert_allclose(again(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("missing.weights.h5", None),
        ("text.weights.h5", b"weights"),
        ("weights.pth", b"weights"),
        ("empty.h5", b""),
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path, file, content):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=f"{file} holds no weights for MobileNetV2") as caught:
        connected("MobileNetV2", tmp_path / file)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused_without_a_flood_of_warnings(files):
    with pytest.raises(InputError, match="holds no weights for EfficientNetLite0") as caught:
        connected("EfficientNetLite0", files["MobileNetV2"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [Exception("URL fetch failure on https://host: None"), OSError()])
def test_a_download_that_fails_names_the_ways_out(monkeypatch, error):
    def unreachable(**options):
        assert options["weights"] == "imagenet"
        raise error

    monkeypatch.setattr(keras.applications, "MobileNetV2", unreachable)
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        connected("MobileNetV2", "imagenet")
    for way_out in (str(error), "weights=FILE", "weights=None", "EfficientNetLite0"):
        assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_network_are_not_taken_for_a_failed_download(monkeypatch):
    def broken(**_):
        raise ZeroDivisionError

    monkeypatch.setattr(keras.applications, "MobileNetV2", broken)
    with pytest.raises(ZeroDivisionError):
        connected("MobileNetV2", None)


@pytest.mark.parametrize(("name", "layers"), [("EfficientNetLite0", 9), ("MobileNetV3Small", 0)])
def test_stochastic_depth_reaches_the_networks_that_have_it(name, layers):
    patches = keras.Input((96, 96, 3))
    features = backbones.connect(name, patches, weights=None, stochastic_depth=0.1)
    dropped = [
        layer
        for layer in keras.Model(patches, features).layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert len(dropped) == layers


def test_unknown_backbones_are_refused_and_the_nearest_suggested():
    for function in (
        backbones.get,
        lambda name: connected(name, None),
        lambda name: classifier.build(backbone=name),
    ):
        with pytest.raises(InputError, match="did you mean 'EfficientNetLite0'"):
            function("efficientnetlite")
