import sys

import keras
import numpy as np
import pytest
import scipy.special
import tiny_training

from pcam_tf import explain
from pcam_tf.errors import InputError
from pcam_tf.explain import check_tables, checks, graph, methods
from pcam_tf.models import backbones, classifier
from pcam_tf.task import Task


def patches(count=3):
    return np.random.default_rng(0).uniform(0, 255, (count, 96, 96, 3)).astype("float32")


@pytest.fixture(scope="module")
def linear():
    """Return a model whose log-odds are the mean of red minus the mean of blue, over 100."""
    picture = keras.Input((96, 96, 3))
    tensor = keras.layers.Conv2D(2, 8, strides=8, use_bias=False, name="cells")(picture)
    tensor = keras.layers.GlobalAveragePooling2D()(tensor)
    tensor = keras.layers.Dense(1, activation="sigmoid", name="end")(tensor)
    model = keras.Model(picture, tensor)
    kernel = np.zeros((8, 8, 3, 2), "float32")
    kernel[:, :, 0, 0] = kernel[:, :, 2, 1] = 1 / 64
    model.get_layer("cells").set_weights([kernel])
    model.get_layer("end").set_weights([np.float32([[0.01], [-0.01]]), np.float32([0])])
    return model


@pytest.fixture
def few_evaluations(monkeypatch):
    monkeypatch.setattr(methods, "EVALUATIONS", 60)


def expected_of(batch):
    return (batch[..., 0].mean(axis=(1, 2)) - batch[..., 2].mean(axis=(1, 2))) / 100


def test_log_odds_are_those_of_the_probability(linear):
    batch = patches(methods.BATCH_SIZE + 2)
    log_odds = methods.log_odds(linear, batch)
    np.testing.assert_allclose(log_odds, expected_of(batch), atol=1e-5)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-log_odds)), linear.predict_on_batch(batch)[:, 0], atol=1e-6
    )


def test_log_odds_do_not_saturate_where_the_probability_does(linear):
    changed = keras.models.clone_model(linear)
    changed.set_weights(linear.get_weights())
    changed.get_layer("end").set_weights([np.float32([[0.01], [-0.01]]), np.float32([40])])
    assert changed.predict_on_batch(patches())[0, 0] == 1
    np.testing.assert_allclose(methods.log_odds(changed, patches()), 40, atol=1)
    assert np.abs(explain.maps(changed, patches(), "integrated gradients")).max() > 0


@pytest.mark.parametrize("method", ["HiResCAM, 8 px", "Grad-CAM"])
def test_a_class_activation_map_adds_up_to_the_log_odds_of_a_linear_model(linear, method):
    batch = patches()
    found = explain.maps(linear, batch, method)
    assert found.shape == (3, 96, 96) and found.dtype == "float32"
    np.testing.assert_allclose(found.sum(axis=(1, 2)), expected_of(batch), rtol=0.02, atol=2e-3)


def test_a_class_activation_map_is_high_where_the_features_are(linear):
    batch = np.full((1, 96, 96, 3), 100, "float32")
    batch[0, 16:24, 64:72, 0] = 255  # one cell that speaks for tumour
    found = explain.maps(linear, batch, "HiResCAM, 8 px")[0]
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 16 <= row < 24 and 64 <= column < 72


@pytest.mark.parametrize("method", ["integrated gradients", "SHAP"])
def test_attributions_add_up_to_what_blurring_takes_away(linear, method, few_evaluations):
    batch = patches(2)
    batch[:, 32:64, 32:64, 0] = 250
    found = explain.maps(linear, batch, method)
    assert checks.additivity_error(linear, batch, found).max() < 1e-3
    # Blurring spreads the square's red: what is lost lies inside.
    assert found[:, 40:56, 40:56].mean() > found[:, :16, :16].mean()


def test_maps_cover_what_a_cropped_model_sees_and_nothing_else(monkeypatch):
    model = classifier.build(backbone="MobileNetV2", weights=None, crop_px=64)
    for method in ("Grad-CAM", "HiResCAM, 16 px", "HiResCAM, 8 px"):
        found = explain.maps(model, patches(2), method)
        assert not found[:, :16].any() and not found[:, :, 80:].any()
        assert np.ptp(found[:, 16:80, 16:80]) > 0, method


# Small networks stand for all in the ordinary run; building the others takes seconds each.
ORDINARY = {"EfficientNetLite0", "MobileNetV3Small"}


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(name, marks=[] if name in ORDINARY else pytest.mark.slow)
        for name in sorted(
            set(backbones.BACKBONES)
            - {"CCT", "DeiTTiny", "DeiTSmall", "ViTBase", "DINOv2Small", "SwinTiny"}
        )
    ],
)
def test_every_registered_backbone_is_explained(backbone):
    try:
        model = classifier.build(backbone=backbone, weights=None, resize_px=None)
    except InputError as error:
        pytest.skip(str(error))
    sides = {}
    for name, stride in (("Grad-CAM", None), ("HiResCAM, 16 px", 16), ("HiResCAM, 8 px", 8)):
        found = explain.maps(model, patches(1), name)
        assert found.shape == (1, 96, 96) and np.isfinite(found).all()
        before, _, _ = graph.at_stride(model, stride)
        sides[name] = before(patches(1)).shape[1]
    assert sides["Grad-CAM"] < sides["HiResCAM, 16 px"] < sides["HiResCAM, 8 px"]
    assert sides["HiResCAM, 8 px"] >= 12


@pytest.mark.parametrize("outer", ["functional", "sequential"])
@pytest.mark.parametrize("inner", ["functional", "sequential"])
def test_a_loaded_model_with_a_nested_backbone_is_explained_like_a_flat_one(tmp_path, outer, inner):
    middle = [
        keras.layers.Conv2D(4, 8, strides=8, activation="relu", name="first"),
        keras.layers.Conv2D(4, 2, strides=2, activation="relu", name="second"),
    ]
    ends = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, activation="sigmoid")]

    def joined(layers, kind):
        if kind == "sequential":
            return keras.Sequential([keras.Input((96, 96, 3)), *layers])
        tensor = start = keras.Input((96, 96, 3))
        for layer in layers:
            tensor = layer(tensor)
        return keras.Model(start, tensor)

    flat = joined([*middle, *ends], "functional")
    classifier.save(joined([joined(middle, inner), *ends], outer), tmp_path / "nested.keras")
    nested = classifier.load(tmp_path / "nested.keras")
    batch = patches(2)
    for method in ("Grad-CAM", "HiResCAM, 16 px", "HiResCAM, 8 px", "integrated gradients"):
        expected = explain.maps(flat, batch, method)
        assert np.ptp(expected) > 0, method
        np.testing.assert_allclose(explain.maps(nested, batch, method), expected, atol=1e-6)


def test_an_explanation_follows_the_weights_as_they_are(linear):
    changed = keras.models.clone_model(linear)
    changed.set_weights(linear.get_weights())
    before = explain.maps(changed, patches(1))
    changed.get_layer("end").set_weights([np.float32([[-0.01], [0.01]]), np.float32([0])])
    np.testing.assert_allclose(explain.maps(changed, patches(1)), -before, atol=1e-7)


def test_no_patches_no_maps(linear):
    for method in explain.METHODS:
        assert explain.maps(linear, patches(0), method).shape == (0, 96, 96)


def test_what_cannot_be_explained_is_said(linear):
    with pytest.raises(InputError, match="did you mean 'Grad-CAM'"):
        explain.maps(linear, patches(1), "GradCAM")
    with pytest.raises(InputError, match="class 2 does not exist: choose 0 to 1"):
        explain.maps(linear, patches(1), target=2)
    with pytest.raises(InputError, match=r"give \(n, 96, 96, 3\)"):
        explain.maps(linear, patches(1)[0])
    two = keras.Sequential(
        [keras.Input((96, 96, 3)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    with pytest.raises(InputError, match="sigmoid"):
        explain.maps(two, patches(1))
    flat = keras.Sequential(
        [
            keras.Input((96, 96, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    with pytest.raises(InputError, match="need a feature map"):
        explain.maps(flat, patches(1), "HiResCAM, 8 px")


TASK = Task("shapes", ("discs", "stripes", "squares"), side_px=64, mpp=1.0)


@pytest.fixture(scope="module")
def three_classes():
    """Return a classifier of three classes and 64 px that predicts more than one of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(TASK, backbone="Tiny", weights=None)
    head = classifier.head_layers(model)[-1]
    kernel = np.random.default_rng(0).normal(size=head.kernel.shape)
    features = classifier.feature_extractor(model).predict_on_batch(small_patches())
    head.set_weights([kernel, -(features @ kernel).mean(axis=0)])
    return model


def small_patches(count=6):
    rng = np.random.default_rng(0)
    return rng.uniform(0, rng.uniform(50, 255, (count, 1, 1, 3)), (count, 64, 64, 3))


def test_log_odds_are_of_a_class_against_the_rest(three_classes):
    probabilities = three_classes.predict_on_batch(small_patches())
    for target in range(3):
        log_odds = methods.log_odds(three_classes, small_patches(), target)
        expected = scipy.special.logit(probabilities[:, target].astype("float64"))
        np.testing.assert_allclose(log_odds, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["Grad-CAM", "HiResCAM, 8 px", "integrated gradients", "SHAP"])
def test_a_chosen_class_is_explained_or_the_most_probable(three_classes, method, few_evaluations):
    batch = small_patches()[:3]
    maps = [explain.maps(three_classes, batch, method, target) for target in range(3)]
    assert maps[0].shape == (3, 64, 64)
    assert all(np.ptp(each) > 0 for each in maps) and not np.allclose(maps[0], maps[1])
    if method in ("integrated gradients", "SHAP"):
        for target in range(3):
            error = checks.additivity_error(three_classes, batch, maps[target], target)
            assert error.max() < 5e-3
    predicted = three_classes.predict_on_batch(batch).argmax(axis=1)
    default = explain.maps(three_classes, batch, method)
    for row, target in enumerate(predicted):
        np.testing.assert_allclose(default[row], maps[target][row], rtol=1e-3, atol=1e-5)


def test_the_patches_of_the_fixture_are_of_several_predicted_classes(three_classes):
    assert len(set(methods.targets(three_classes, small_patches()))) > 1


def test_the_first_of_two_classes_is_explained_with_the_opposite_sign(linear):
    np.testing.assert_array_equal(
        explain.maps(linear, patches(), target=0), -explain.maps(linear, patches(), target=1)
    )
    np.testing.assert_array_equal(
        explain.maps(linear, patches()), explain.maps(linear, patches(), target=1)
    )


def test_the_checks_take_any_task(three_classes):
    batch = small_patches().astype("float32")
    maps = checks.maps(three_classes, batch, names=["HiResCAM, 8 px", "random map", "edges"])
    curves = checks.curves(three_classes, batch, maps["HiResCAM, 8 px"])
    whole = three_classes.predict_on_batch(batch).max(axis=1)
    np.testing.assert_allclose(curves["insertion"][:, -1], whole, atol=1e-5)
    random = checks.randomisation(three_classes, batch[:2], ["HiResCAM, 8 px"])
    table = check_tables.ranking(three_classes, batch, maps, random)
    assert "centre" not in table and list(table.index) == list(maps)
    with pytest.raises(InputError, match="no centre square"):
        checks.ablate_centre(three_classes, batch)


def test_tokens_are_explained_by_the_methods_that_need_no_feature_map():
    patch = tensor = keras.Input((96, 96, 3))
    tensor = keras.layers.Rescaling(1 / 255)(tensor)
    tensor = keras.layers.Conv2D(4, 16, strides=16)(tensor)
    tensor = keras.layers.Reshape((36, 4))(tensor)
    tensor = keras.layers.Dense(4, activation="relu")(tensor)
    tensor = keras.layers.GlobalAveragePooling1D()(tensor)
    model = keras.Model(patch, keras.layers.Dense(1, activation="sigmoid")(tensor))
    for method in ("Grad-CAM", "HiResCAM, 16 px", "HiResCAM, 8 px"):
        with pytest.raises(InputError, match="choose integrated gradients or SHAP"):
            explain.maps(model, patches(1), method)
    assert np.ptp(explain.maps(model, patches(1), "integrated gradients")) > 0


def test_a_missing_shap_names_the_extra(linear, monkeypatch):
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(InputError, match=r"pip install 'pcam_tf\[explain\]'"):
        explain.maps(linear, patches(1), "SHAP")
