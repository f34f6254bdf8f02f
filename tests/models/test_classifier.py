import errno
import os
import zipfile

import keras
import numpy as np
import pytest
import tiny_training

from pcam_tf import data
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, model_files


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)


@pytest.fixture
def model():
    """Return a small classifier, its stored statistics those of no batch."""
    keras.utils.set_random_seed(0)
    built = classifier.build(backbone="Tiny", weights=None, crop_px=48)
    layer = built.get_layer("normalise")
    rng = np.random.default_rng(0)
    layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return built


@pytest.fixture(scope="module")
def patches(tiny_source):
    return data.read_patches(tiny_source, "test[:16]")["image"].astype("float32")


@pytest.fixture(scope="module")
def real_size():
    """Return a classifier with ImageNet weights."""
    keras.utils.set_random_seed(0)
    return classifier.build(crop_px=64)


def probabilities(model, patches):
    return np.asarray(model.predict_on_batch(patches))


def test_probabilities_are_what_they_should_be(model, patches):
    predicted = probabilities(model, patches)
    assert predicted.shape == (16, 1) and predicted.dtype == np.float32
    assert ((predicted > 0) & (predicted < 1)).all()
    assert len(np.unique(predicted)) == 16
    names = {"patch", "centre_crop", "rescaling", "features", "tumour_probability"}
    assert names <= {layer.name for layer in model.layers}


def test_only_the_crop_is_looked_at(model, patches):
    border = patches.copy()
    border[:, 24:72, 24:72] = 0
    assert (border != 0).any()
    same = patches - border  # nothing but the centre 48×48 px
    np.testing.assert_array_equal(probabilities(model, same), probabilities(model, patches))
    same[:, 24, 24] = 255 - same[:, 24, 24]  # its corner
    assert np.all(probabilities(model, same) != probabilities(model, patches))


def test_a_crop_is_resized_if_wanted():
    model = classifier.build(backbone="Tiny", weights=None, crop_px=32, resize_px=64)
    assert model.get_layer("first").input.shape == (None, 64, 64, 3)
    model = classifier.build(backbone="Tiny", weights=None, crop_px=32)
    assert model.get_layer("first").input.shape == (None, 32, 32, 3)
    model = classifier.build(backbone="Tiny", weights=None)
    assert model.get_layer("first").input.shape == (None, 96, 96, 3)


@pytest.mark.parametrize("crop_px", [-1, 0, 31, 97, 224])
def test_crops_that_cannot_be_are_refused(crop_px):
    with pytest.raises(InputError, match=f"crop_px is {crop_px}: choose 32"):
        classifier.build(backbone="Tiny", weights=None, crop_px=crop_px)


def test_the_frozen_phase_trains_the_head_alone(model, patches):
    classifier.freeze(model)
    head = model.get_layer("tumour_probability")
    assert [weight.path for weight in model.trainable_weights] == [
        weight.path for weight in head.weights
    ]
    # BatchNormalization keeps to its stored statistics, in training as well.
    extractor = classifier.feature_extractor(model)
    before = [np.array(weight) for weight in model.get_layer("normalise").weights]
    trained = np.asarray(extractor(patches, training=True))
    np.testing.assert_array_equal(trained, np.asarray(extractor(patches, training=False)))

    backbone = [np.array(weight) for weight in extractor.get_weights()]
    model.compile("sgd", "binary_crossentropy")
    bias = np.array(head.bias)
    model.fit(patches, np.ones(16), verbose=0)
    assert np.any(np.array(head.bias) != bias)
    for one, other in zip(extractor.get_weights(), backbone, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(model.get_layer("normalise").weights, before, strict=True):
        np.testing.assert_array_equal(np.array(one), other)


def test_the_unfrozen_phase_trains_everything_by_the_statistics_of_the_batch(model, patches):
    classifier.freeze(model)
    classifier.unfreeze(model)
    statistics = model.get_layer("normalise").non_trainable_weights
    assert len(statistics) == 2
    assert len(model.trainable_weights) == len(model.weights) - 2
    before = [np.array(weight) for weight in statistics]
    normalised = keras.Model(model.input, model.get_layer("normalise").output)
    values = np.asarray(normalised(patches, training=True))
    gamma, beta = (np.array(weight) for weight in model.get_layer("normalise").weights[:2])
    np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), beta, atol=1e-3)
    np.testing.assert_allclose(values.std(axis=(0, 1, 2)), gamma, rtol=0.1)
    assert abs(values - np.asarray(normalised(patches, training=False))).max() > 0.1
    assert all(
        np.any(np.array(after) != one) for after, one in zip(statistics, before, strict=True)
    )


def test_freezing_reaches_every_layer_of_a_real_backbone(real_size):
    classifier.freeze(real_size)
    assert len(real_size.trainable_weights) == 2
    classifier.unfreeze(real_size)
    normalisations = [
        layer for layer in real_size.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(normalisations) == 49
    assert all(layer.trainable for layer in real_size.layers)


def test_head_and_features_make_the_classifier(model, patches):
    features = classifier.feature_extractor(model).predict_on_batch(patches)
    assert features.shape == (16, 16)
    from_features = classifier.head(model).predict_on_batch(features)
    np.testing.assert_allclose(from_features, probabilities(model, patches), atol=1e-6)
    # They share their weights: training the head trains the classifier.
    model.get_layer("tumour_probability").bias.assign([3.0])
    changed = classifier.head(model).predict_on_batch(features)
    assert np.all(changed > from_features)
    np.testing.assert_allclose(changed, probabilities(model, patches), atol=1e-6)


def test_a_saved_classifier_comes_back_as_it_was(model, patches, tmp_path):
    classifier.save(model, tmp_path / "run" / "model.keras")
    for path in (tmp_path / "run", tmp_path / "run" / "model.keras"):
        loaded = classifier.load(path)
        np.testing.assert_array_equal(probabilities(loaded, patches), probabilities(model, patches))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.keras"]
    # What training needs is still there.
    classifier.freeze(loaded)
    assert len(loaded.trainable_weights) == 2
    assert classifier.head(loaded).predict_on_batch(np.zeros((1, 16))).shape == (1, 1)


def test_a_small_file_is_smaller_and_predicts_the_same(real_size, patches, tmp_path):
    classifier.save(real_size, tmp_path / "full.keras")
    classifier.save_small(real_size, tmp_path / "small.keras")
    assert {path.name for path in tmp_path.iterdir()} == {"full.keras", "small.keras"}
    full, small = ((tmp_path / f"{name}.keras").stat().st_size for name in ("full", "small"))
    assert small < 0.7 * full
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert {weight.dtype for weight in loaded.weights if "seed" not in weight.path} == {"float32"}
    expected = probabilities(real_size, patches)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(probabilities(loaded, patches), expected, atol=1e-3)
    with zipfile.ZipFile(tmp_path / "small.keras") as archive:
        assert archive.testzip() is None
        # Keras 3.13 fails on options that Keras 3.15 writes.
        assert b"input_axes" not in archive.read("config.json")
        assert b"renorm" not in archive.read("config.json")


@pytest.mark.parametrize("save", [classifier.save, classifier.save_small])
def test_saving_that_fails_leaves_the_old_file_and_no_other(model, tmp_path, monkeypatch, save):
    path = tmp_path / "model.keras"
    classifier.save(model, path)
    before = path.read_bytes()

    def full_disk(self, name, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*model.keras: No space left on device"):
        save(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told(model, tmp_path):
    (tmp_path / "file").write_text("")
    for save in (classifier.save, classifier.save_small):
        with pytest.raises(InputError, match="cannot write"):
            save(model, tmp_path / "file" / "model.keras")


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        classifier.load(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_classifier_of_patches_is_refused(model, tmp_path):
    refused(tmp_path / "missing.keras", r"there is no model at .*missing\.keras")
    refused(tmp_path, r"there is no model at .*model\.keras: give .* finished run")
    (tmp_path / "text.keras").write_text("not a model")
    refused(tmp_path / "text.keras", "is not a model that Keras")
    (tmp_path / "text.txt").write_text("not a model")
    refused(tmp_path / "text.txt", "is not a model that Keras")
    classifier.save(model, tmp_path / "half.keras")
    whole = (tmp_path / "half.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.keras", "is not a model that Keras")


@pytest.mark.parametrize(
    ("input_shape", "outputs"), [((64, 64, 3), 1), ((96, 96, 1), 1), ((96, 96, 3), 2)]
)
def test_models_of_another_shape_are_refused(tmp_path, input_shape, outputs):
    inputs = keras.Input(input_shape)
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    keras.Model(inputs, keras.layers.Dense(outputs)(pooled)).save(tmp_path / "other.keras")
    refused(tmp_path / "other.keras", r"a classifier of pcam patches takes \(None, 96, 96, 3\)")


def test_models_of_other_kinds_are_refused(tmp_path):
    one, other = keras.Input((96, 96, 3)), keras.Input((5,))
    joined = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(one), other])
    keras.Model([one, other], keras.layers.Dense(1)(joined)).save(tmp_path / "two.keras")
    refused(tmp_path / "two.keras", "takes")
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([keras.layers.Dense(1)]).save(tmp_path / "unbuilt.keras")
    refused(tmp_path / "unbuilt.keras", "takes None")


def test_without_a_path_the_shipped_model_is_loaded(model, tmp_path, monkeypatch):
    classifier.save(model, tmp_path / "model.keras")
    monkeypatch.setattr(model_files, "SHIPPED_MODEL", tmp_path / "model.keras")
    assert classifier.load().count_params() == model.count_params()
