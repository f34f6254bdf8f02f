import keras
import numpy as np
import pytest
import scipy.ndimage

from pcam_tf import evaluation, stain, synthetic
from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.figures import study_plots
from pcam_tf.studies import robustness


@pytest.fixture(scope="module")
def drawn():
    return synthetic.draw_patches(24, split="test")


def model_of(weights):
    """Return a classifier that looks at the mean colour alone."""
    patches = keras.Input((96, 96, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(patches))
    head = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Model(patches, head(mean))
    head.set_weights([np.reshape(weights, (3, 1)).astype("float32"), np.zeros(1, "float32")])
    return model


@pytest.fixture(scope="module")
def predicted(drawn):
    models = {"red": model_of([-3, 0, 0]), "blue": model_of([0, 0, -3])}
    batches = [
        {"image": drawn.image[rows], "label": drawn.label[rows]}
        for rows in (slice(0, 10), slice(10, None))
    ]
    labels, probabilities = robustness.probabilities_under_shift(models, batches)
    np.testing.assert_array_equal(labels, drawn.label)
    return probabilities


@pytest.mark.parametrize("shift", robustness.SHIFTS)
def test_the_unchanged_level_changes_nothing_and_the_others_do(drawn, shift):
    _, levels = robustness.SHIFTS[shift]
    unchanged = robustness.UNCHANGED.get(shift, 1)
    assert unchanged in levels
    differences = []
    for level in levels:
        changed = robustness.shifted(drawn.image, shift, level)
        assert changed.dtype == np.uint8 and changed.shape == drawn.image.shape
        differences.append(np.abs(changed.astype(int) - drawn.image).mean())
    assert differences[levels.index(unchanged)] == 0
    # The further from the unchanged level, the more of it.
    below = [d for d, level in zip(differences, levels, strict=True) if level <= unchanged]
    above = [d for d, level in zip(differences, levels, strict=True) if level >= unchanged]
    if shift != "rotation, degrees":
        assert below == sorted(below, reverse=levels[0] < levels[-1])
        assert above == sorted(above, reverse=levels[0] > levels[-1])
    assert sum(difference > 0.3 for difference in differences) >= len(levels) - 2


@pytest.mark.parametrize(
    ("shift", "level"),
    [
        ("JPEG quality", 50),
        ("blur, sigma px", 0.5),
        ("blur, sigma px", 2),
        ("rotation, degrees", 45),
        ("scale", 0.7),
        ("scale", 1.4),
        ("brightness", 0.85),
    ],
)
def test_a_shift_does_not_darken_patches(shift, level):
    # Smooth noise: the mean is the same wherever a patch is sampled.
    noise = np.random.default_rng(0).normal(0, 40, (8, 96, 96, 3))
    noise = scipy.ndimage.gaussian_filter(noise, (0, 1, 1, 0), mode="mirror")
    patches = np.rint(150 + noise - noise.mean()).clip(0, 255).astype("uint8")
    changed = robustness.shifted(patches, shift, level)
    factor = level if shift == "brightness" else 1
    inside = (slice(None), slice(24, 72), slice(24, 72))
    whole = slice(None) if shift not in ("rotation, degrees", "scale") else inside
    expected = patches[whole].mean() * factor
    if whole is inside:
        # Positions differ, so the truth is the same sampling without any rounding.
        expected = robustness_without_rounding(patches, shift, level)[inside].mean()
    assert changed[whole].mean() == pytest.approx(expected, abs=0.1)


def robustness_without_rounding(patches, shift, level):
    """Return patches turned or scaled, in float."""
    place = np.arange(96) - 47.5
    rows, columns = np.meshgrid(place, place, indexing="ij")
    angle, factor = (np.radians(level), 1) if shift == "rotation, degrees" else (0, level)
    cosine, sine = np.cos(angle) / factor, np.sin(angle) / factor
    places = [cosine * rows - sine * columns + 47.5, sine * rows + cosine * columns + 47.5]
    planes = patches.transpose(0, 3, 1, 2).reshape(-1, 96, 96).astype(float)
    sampled = [
        scipy.ndimage.map_coordinates(plane, places, order=1, mode="mirror") for plane in planes
    ]
    return np.stack(sampled).reshape(len(patches), 3, 96, 96).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("dye", [0, 1])
def test_a_gain_scales_its_own_dye_alone(dye):
    vectors = np.stack([stain.HAEMATOXYLIN, stain.EOSIN])
    densities = np.random.default_rng(0).uniform(0.1, 0.7, (2, 8, 8, 2))
    patches = stain.mix(densities, vectors)
    changed = robustness.gain(patches, 1.3, dye)
    factors = np.array([1.3, 1]) if dye == 0 else np.array([1, 1.3])
    expected = stain.mix(densities * factors, vectors)
    assert np.abs(changed.astype(int) - expected).max() <= 2


def test_a_quarter_turn_and_a_scaling_are_those_of_the_libraries(drawn):
    patches = drawn.image[:3]
    turned = robustness._turned(patches, 90)
    assert np.abs(turned.astype(int) - np.rot90(patches, axes=(2, 1))).max() <= 1 or (
        np.abs(turned.astype(int) - np.rot90(patches, axes=(1, 2))).max() <= 1
    )
    # Twice as large: every other pixel from the centre on is one of the original's.
    larger = robustness._scaled(patches[..., :1], 2.0)[0, ..., 0]
    original = patches[0, ..., 0].astype(float)
    positions = (np.arange(96) - 47.5) / 2 + 47.5
    rows, columns = np.meshgrid(positions, positions, indexing="ij")
    expected = scipy.ndimage.map_coordinates(original, [rows, columns], order=1)
    np.testing.assert_allclose(larger, expected, atol=0.5 + 1e-2)


def test_auc_under_shift_is_of_the_shifted_patches(drawn, predicted):
    found = robustness.auc_under_shift(drawn.label, predicted)
    assert len(found) == 2 * sum(len(levels) for _, levels in robustness.SHIFTS.values())
    row = found[(found["shift"] == "eosin gain") & (found["level"] == 1.6)].iloc[0]
    patches = robustness.shifted(drawn.image, "eosin gain", 1.6)
    scores = -patches[..., 0].mean(axis=(1, 2))
    assert row["auc"] == pytest.approx(evaluation.auc_interval(drawn.label, scores)[0], abs=0.02)
    unchanged = found[(found["level"] == found["shift"].map(robustness.UNCHANGED).fillna(1))]
    assert unchanged.groupby("model")["auc"].nunique().tolist() == [1, 1]


def test_losses_are_means_over_levels_and_paired(drawn, predicted):
    found = robustness.auc_under_shift(drawn.label, predicted)
    lost = robustness.losses(drawn.label, predicted).set_index("shift")
    blur = found[(found["shift"] == "blur, sigma px") & (found["model"] == "red")]
    expected = blur["auc"].iloc[0] - blur["auc"].iloc[1:].mean()
    assert lost.loc["blur, sigma px", "red"] == pytest.approx(expected)
    assert lost.loc["all", "red"] == pytest.approx(lost["red"].iloc[:-1].mean())
    assert np.allclose(lost["saved"], lost["blue"] - lost["red"])
    assert (lost["low"] <= lost["saved"] + 1e-9).mean() > 0.7
    text = reports.markdown_table(robustness.summary_rows(lost.reset_index()))
    assert "AUC lost by red" in text and "lost less by red" in text


def test_a_model_saves_nothing_against_itself(drawn):
    model = model_of([-3, 1, 0])
    shifts = {"brightness": (0.7, 1)}
    labels, predicted = robustness.probabilities_under_shift(
        {"a": model, "b": model}, [vars(drawn)], shifts=shifts
    )
    lost = robustness.losses(labels, predicted)
    assert (lost[["saved", "low", "high"]] == 0).all(axis=None)


def test_a_shift_without_its_unchanged_level_is_refused(drawn):
    shifts = {"brightness": (0.7, 0.85)}
    _, predicted = robustness.probabilities_under_shift(
        {"a": model_of([1, 1, 1])}, [vars(drawn)], shifts=shifts
    )
    with pytest.raises(InputError, match="brightness needs its unchanged level 1"):
        robustness.losses(drawn.label, predicted)


def test_the_figure_has_a_panel_for_each_shift_and_a_line_for_each_model(drawn, predicted):
    found = robustness.auc_under_shift(drawn.label, predicted)
    panels = [axes for axes in study_plots.under_shift(found).axes if axes.get_visible()]
    panels = [axes for axes in panels if axes.lines]
    assert len(panels) == len(robustness.SHIFTS)
    assert all(
        len([line for line in axes.lines if len(line.get_xdata()) > 1]) >= 2 for axes in panels
    )
