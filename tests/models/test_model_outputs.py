"""A model that returns anything else than probabilities is refused, whoever calls it."""

import keras
import numpy as np
import pandas as pd
import pytest

from pcam_tf import evaluation, explain, prediction, slides
from pcam_tf.app import batches, findings, visit
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.explain import checks
from pcam_tf.models import classifier, engines, model_files, outputs
from pcam_tf.studies import robustness
from pcam_tf.task import PCAM, Task
from pcam_tf.training import distillation

THREE = Task("three", ("a", "b", "c"), side_px=32, mpp=1.0)
TISSUE = np.random.default_rng(0).integers(60, 250, (160, 160, 3), dtype="uint8")
PATCHES = np.stack([TISSUE[:96, :96], TISSUE[:96, 32:128]])


class Fixed:
    """An engine that returns the same row for each patch."""

    name, task = "fixed", PCAM

    def __init__(self, row, task=PCAM):
        self.row, self.task = row, task

    def predict_on_batch(self, patches):
        return np.tile(np.float32(self.row), (len(patches), 1))


BAD = [
    ([-13.26], PCAM, "returns -13.26 for a patch, .* end the model in a sigmoid"),
    ([1.5], PCAM, "returns 1.5 for a patch"),
    ([np.nan], PCAM, "returns nan for a patch, .* damaged"),
    ([-np.inf], PCAM, "returns -inf for a patch"),
    ([0.2, 0.8], PCAM, r"shape \(2, 2\) for 2 patches: .* returns \(2, 1\)"),
    ([2.0, -3.0, 0.5], THREE, "returns 2 for a patch, .* end the model in a softmax"),
    ([0.5, np.nan, 0.5], THREE, "returns nan"),
    ([0.9, 0.8, 0.1], THREE, "add up to 1.8 for a patch, .* end the model in a softmax"),
    ([0.1, 0.1, 0.1], THREE, "add up to 0.3"),
    ([0.5], THREE, r"returns \(2, 3\)"),
]


@pytest.mark.parametrize(("row", "task", "message"), BAD)
@pytest.mark.parametrize("augmented", [False, True])
def test_what_is_no_probability_is_refused_in_one_line(row, task, message, augmented):
    if augmented:
        message = message.replace("2 patches", "16 patches").replace("(2, ", "(16, ")
    patches = np.zeros((2, *task.shape), "uint8")
    with pytest.raises(InputError, match=f"the model 'fixed' .*{message}") as caught:
        prediction.probabilities(Fixed(row, task), patches, test_time_augmentation=augmented)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "task", "expected"),
    [
        ([0.0], PCAM, 0),
        ([1.0], PCAM, 1),
        ([1 + 2e-7], PCAM, 1),
        ([-2e-7], PCAM, 0),
        ([0.2, 0.3, 0.5], THREE, [0.2, 0.3, 0.5]),
        # As float16 rounds.
        ([0.2, 0.3, 0.501], THREE, [0.2, 0.3, 0.501]),
    ],
)
def test_probabilities_pass_also_if_rounded(row, task, expected):
    found = prediction.probabilities(Fixed(row, task), np.zeros((2, *task.shape), "uint8"))
    np.testing.assert_allclose(found, [expected] * 2, atol=1e-6)
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("values", [[0.5, np.nan], [0.5, -13.0], [0.5, 1.2]])
def test_tables_of_something_else_are_not_averaged(values):
    good = pd.DataFrame({"id": ["a", "b"], "label": [0, 1], "probability": [0.5, 0.6]})
    with pytest.raises(InputError, match=r"outside 0\.\.1"):
        prediction.average([good, good.assign(probability=values)])


def build(activation, *, bias=0.0, kernel=None):
    """Return a classifier of PatchCamelyon that ends in an activation."""
    patches = keras.Input(PCAM.shape)
    features = keras.layers.Conv2D(4, 8, strides=8, name="map")(patches)
    features = keras.layers.GlobalAveragePooling2D(name="features")(features)
    model = keras.Model(patches, keras.layers.Dense(1, activation=activation)(features))
    model.layers[-1].bias.assign([bias])
    if kernel is not None:
        model.layers[-1].kernel.assign(np.full((4, 1), kernel))
    return model


@pytest.fixture(scope="module", params=["logits", "nan"])
def bad(request, tmp_path_factory):
    """Return the file of a classifier that returns no probabilities, and what it returns."""
    keras.utils.set_random_seed(0)
    logits = request.param == "logits"
    model = build(None, bias=1e4) if logits else build("sigmoid", kernel=np.nan)
    path = tmp_path_factory.mktemp("bad") / f"{request.param}.keras"
    classifier.save(model, path)
    return path, "end the model in a sigmoid" if logits else "returns nan"


def reader_of(path):
    return findings.load_reader(path)


USERS = {
    "predict": lambda path: prediction.probabilities(engines.load(path), PATCHES),
    "the page, eight views": lambda path: findings.probabilities(reader_of(path), PATCHES),
    "the page, one view": lambda path: findings.probabilities_one_view(reader_of(path), PATCHES),
    "a region on the page": lambda path: batches.read_pictures(
        reader_of(path),
        visit.Visit(path.parent),
        [("a", image_files.at_scale(TISSUE, PCAM.mpp))],
    ),
    "robustness": lambda path: robustness.probabilities_under_shift(
        {"model": classifier.load(path)}, [{"image": PATCHES, "label": np.zeros(len(PATCHES))}]
    ),
    "export": engines.export,
    "a teacher": lambda path: distillation.with_teachers(build("sigmoid"), [str(path)], [], seed=0),
}


@pytest.mark.parametrize("user", USERS)
def test_whoever_calls_a_bad_model_hears_its_name_and_its_value(bad, user):
    path, message = bad
    with pytest.raises(InputError, match=f"{path.name} .*{message}"):
        USERS[user](path)
    assert not list(path.parent.glob("*.litert")) and not list(path.parent.glob("*.npy"))


def test_explanations_of_nan_are_refused(tmp_path):
    model = build("sigmoid", kernel=np.nan)
    for method in ("Grad-CAM", "HiResCAM, 8 px", "integrated gradients"):
        with pytest.raises(InputError, match="cannot be explained"):
            explain.maps(model, PATCHES, method)
    for look in (
        explain.methods.log_odds,
        lambda *given: checks.randomisation(*given, names=["Grad-CAM"]),
        checks.ablate_centre,
    ):
        with pytest.raises(InputError, match="cannot be explained"):
            look(model, PATCHES)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_nan_never_becomes_glass(shape):
    with pytest.raises(InputError, match="no number for a patch with tissue"):
        slides.heat_map(lambda patches: np.full((len(patches), *shape), np.nan), TISSUE)


@pytest.mark.parametrize("temperature", [float("nan"), 0, -1, float("inf"), "2", None])
def test_a_temperature_that_would_make_nan_is_refused(tmp_path, monkeypatch, temperature):
    classifier.save(build("sigmoid"), tmp_path / "model.keras")
    (tmp_path / "report.json").write_text("{}")
    digest = model_files.digest(tmp_path / "model.keras")
    report = {"unfrozen": {"model_sha256": digest, "calibration": {"temperature": temperature}}}
    monkeypatch.setattr(findings.reports, "read_run_report", lambda _: report)
    with pytest.raises(InputError, match=r"report\.json is damaged \(temperature"):
        findings.load_reader(tmp_path)


def test_the_tolerance_of_sums_is_that_of_tables():
    assert outputs.SUM_TOLERANCE == evaluation.predictions_table.SUM_TOLERANCE
