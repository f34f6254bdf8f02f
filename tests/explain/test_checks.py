import keras
import numpy as np
import pandas as pd
import pytest

from pcam_tf import explain
from pcam_tf.explain import check_tables, checks, methods
from pcam_tf.figures import explanation_plots
from pcam_tf.task import PCAM


@pytest.fixture(scope="module")
def centre_model():
    """Return a model that calls a patch tumour for red in its centre square alone."""
    picture = keras.Input((96, 96, 3))
    tensor = keras.layers.Conv2D(1, 8, strides=8, use_bias=False, activation="relu", name="cells")(
        picture
    )
    tensor = keras.layers.Cropping2D(4)(tensor)
    tensor = keras.layers.GlobalAveragePooling2D()(tensor)
    tensor = keras.layers.Dense(1, activation="sigmoid", name="end")(tensor)
    model = keras.Model(picture, tensor)
    kernel = np.zeros((8, 8, 3, 1), "float32")
    kernel[:, :, 0] = 1 / 64
    model.get_layer("cells").set_weights([kernel])
    model.get_layer("end").set_weights([np.float32([[0.1]]), np.float32([-17])])
    return model


def red_centres(count=4):
    batch = np.random.default_rng(0).uniform(0, 80, (count, 96, 96, 3)).astype("float32")
    batch[:, PCAM.centre, PCAM.centre, 0] = 200
    return batch


def test_the_right_order_is_faithful_and_the_reverse_is_not(centre_model):
    batch, right = red_centres(), checks.centre_mask(4).astype("float32")
    scores = {
        name: checks.faithfulness(checks.curves(centre_model, batch, found)).mean()
        for name, found in (("right", right), ("none", 0 * right), ("wrong", -right))
    }
    assert scores["right"] > 0.5 > 0.2 > abs(scores["none"]) and scores["wrong"] < -0.5


def test_curves_end_at_the_patch_and_at_the_blurred_patch(centre_model):
    batch = red_centres()
    curves = checks.curves(centre_model, batch, checks.centre_mask(4).astype("float32"))
    whole = centre_model.predict_on_batch(batch)[:, 0]
    hidden = centre_model.predict_on_batch(methods.blurred(batch))[:, 0]
    for name, first, last in (("deletion", whole, hidden), ("insertion", hidden, whole)):
        np.testing.assert_allclose(curves[name][:, 0], first, atol=1e-5)
        np.testing.assert_allclose(curves[name][:, -1], last, atol=1e-5)


def test_a_call_of_normal_is_explained_by_what_speaks_against_tumour(centre_model):
    batch = np.full((4, 96, 96, 3), 255, "float32")
    batch[:, PCAM.centre, PCAM.centre, 0] = 160  # too little for tumour, once it is not blurred
    right = -checks.centre_mask(4).astype("float32")
    assert (methods.log_odds(centre_model, batch) < 0).all()
    assert checks.faithfulness(checks.curves(centre_model, batch, right)).mean() > 0.05


def test_shuffled_weights_change_the_maps_and_leave_the_model_alone(centre_model):
    rng = np.random.default_rng(1)
    picture = keras.Input((96, 96, 3))
    tensor = keras.layers.Conv2D(6, 8, strides=8, activation="relu")(picture)
    tensor = keras.layers.GlobalAveragePooling2D()(tensor)
    model = keras.Model(picture, keras.layers.Dense(1, activation="sigmoid")(tensor))
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    before = model.get_weights()
    found = checks.randomisation(model, red_centres(3), ["HiResCAM, 8 px"])
    assert list(found["layers"]) == [1, 2]
    assert (found["correlation"].abs() < 0.95).all()
    assert (found["low"] <= found["correlation"]).all()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert explanation_plots.randomised(found).axes


def test_a_map_that_ignores_the_model_is_caught(centre_model, monkeypatch):
    monkeypatch.setitem(explain.METHODS, "edges", checks.CONTROLS["edges"])
    found = checks.randomisation(centre_model, red_centres(2), ["edges"])
    np.testing.assert_allclose(found["correlation"], 1)


def test_rank_correlation():
    one = np.arange(6.0).reshape(2, 3)
    assert checks.rank_correlation(one, one**3) == pytest.approx(1)
    assert checks.rank_correlation(one, -one) == pytest.approx(-1)
    assert checks.rank_correlation(one, np.ones((2, 3))) == 0


def test_pointing_and_shares():
    masks, found = checks.centre_mask(3), np.zeros((3, 96, 96), "float32")
    found[0, 40, 40], found[1, 0, 0], found[1, 40, 40], found[2] = 2, 3, 1, -1
    found[1, 50, 50] = -5  # what is below 0 is no evidence for tumour
    assert checks.pointing(found[:2], masks[:2]).tolist() == [True, False]
    np.testing.assert_allclose(checks.positive_share(found, masks), [1, 0.25, np.nan])
    assert masks.mean() == pytest.approx(1 / 9)


def test_ablation_shows_which_part_of_a_patch_counts(centre_model):
    batch = red_centres()
    batch[1, ..., 0] = 10  # what the first patch's centre is replaced by comes from the last
    batch[3, ..., 0] = 10
    changed = checks.ablate_centre(centre_model, batch).loc[[0, 2]]
    assert (changed["whole"] > 0.9).all()
    np.testing.assert_allclose(changed["surroundings of another"], changed["whole"], atol=1e-6)
    np.testing.assert_allclose(changed["surroundings blurred"], changed["whole"], atol=1e-6)
    assert (changed["centre of another"] < 0.1).all()
    assert (changed["centre blurred"] < changed["whole"]).all()


def test_the_summary_of_an_ablation_has_a_row_for_each_class_and_the_auc():
    changed = pd.DataFrame({"whole": [0.1, 0.2, 0.8, 0.9], "centre blurred": [0.5, 0.7, 0.6, 0.4]})
    table = checks.ablation_summary(changed, [0, 0, 1, 1])
    assert list(table.index) == ["normal", "tumour", "AUC"]
    assert table["whole"]["normal"].startswith("0.15 (")
    assert table["whole"]["tumour"].startswith("0.85 (")
    assert table["whole"]["AUC"].startswith("1.000 (")
    assert table["centre blurred"]["AUC"].startswith("0.250 (")


def test_the_tables_rank_a_knowing_map_above_the_controls(centre_model):
    batch = red_centres()
    found = {
        "HiResCAM, 8 px": explain.maps(centre_model, batch, "HiResCAM, 8 px"),
        "integrated gradients": explain.maps(centre_model, batch, "integrated gradients"),
    } | {name: control(centre_model, batch) for name, control in checks.CONTROLS.items()}
    random = checks.randomisation(centre_model, batch[:1], ["HiResCAM, 8 px"])
    table = check_tables.ranking(centre_model, batch, found, random)
    assert list(table.index) == list(found)
    assert (
        float(table["centre"]["HiResCAM, 8 px"][:4]) > 0.8
    )  # cells, smoothed, reach over its edge
    assert table["more than random"]["random map"] == "0.00 (0.00 to 0.00)"
    assert float(table["faithfulness"]["HiResCAM, 8 px"][:4]) > 0.4
    assert table["after randomisation"]["edges"] == table["additivity"]["edges"] == ""
    where = check_tables.localisation(found, checks.centre_mask(4))
    assert where["pointing game"]["HiResCAM, 8 px"] == "1.00 (1.00 to 1.00)"
    assert where["share inside"]["area"].startswith("0.11")


def test_intervals_leave_out_what_has_no_value():
    found = checks.mean_with_interval([1, np.nan, 3, 1, 3])
    assert found["mean"] == 2 and 1 <= found["low"] < 2 < found["high"] <= 3
    assert np.isnan(checks.mean_with_interval([np.nan])["mean"])


def test_right_and_wrong_goes_from_right_and_sure_to_wrong_and_sure():
    labels = np.array([1, 1, 1, 0, 0, 0, 1, 0])
    probabilities = np.array([0.99, 0.6, 0.4, 0.01, 0.45, 0.9, 0.8, 0.7])
    rows = checks.right_and_wrong(labels, probabilities).tolist()
    assert set(rows[:2]) == {0, 3} and rows[-1] == 5 and rows[-2] == 7
    assert len(rows) == len(set(rows))
    assert checks.right_and_wrong(labels[:1], probabilities[:1]).tolist() == [0]


def test_figures_show_what_they_are_given(centre_model):
    batch = red_centres(2)
    found = {name: control(centre_model, batch) for name, control in checks.CONTROLS.items()}
    figure = explanation_plots.gallery(batch.astype("uint8"), found, ["one", "two"])
    assert len(figure.axes) == 7  # three rows of two, and the colour bar
    curves = {name: checks.curves(centre_model, batch, each) for name, each in found.items()}
    assert len(explanation_plots.perturbation(curves).axes[0].lines) == 2


def test_an_overlay_leaves_tissue_alone_where_nothing_speaks():
    patch = np.full((1, 3, 3), 100, "uint8")
    covered = explanation_plots.overlay(patch, np.float32([[-1, 0, 1]]), opacity=1.0)
    assert covered[0, 1].tolist() == [100] * 3
    assert covered[0, 0, 2] > covered[0, 0, 0] and covered[0, 2, 0] > covered[0, 2, 2]
    assert explanation_plots.shades(np.zeros((1, 2, 2))).max() == 0
    # Each map by its own scale.
    shades = explanation_plots.shades(np.float32([[[-4, 2]], [[0, 0.1]]]))
    assert shades[0].min() == -1 and shades[1].max() == 1
