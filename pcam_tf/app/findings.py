"""The model as the page uses it: predictions, calls and explanations, and their words.

Probabilities are calibrated here, and so are the thresholds that they are compared to. Arrays of
probabilities always have one column per class, also for two classes. The error rates at a threshold
are read from the report of the model's run. A model without a report has one setting, whose error
rates are unknown.
"""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from pcam_tf import explain, prediction, slides
from pcam_tf.errors import InputError, first_line
from pcam_tf.evaluation import calibration, reports
from pcam_tf.models import classifier, engines, model_files
from pcam_tf.slides import field_predictors
from pcam_tf.studies import novelty
from pcam_tf.task import PCAM, Task

# Operating points of a report -> names of settings; the first one that a report has is the default.
SETTINGS = {
    "youden": "Balanced",
    "sensitivity_95": "Misses few {positive}s",
    "specificity_95": "Few false alarms",
}
# Lowest probability -> words for it.
LIKELIHOODS = (
    (0.95, "{name} is very likely"),
    (0.70, "{name} is likely"),
    (0.30, "uncertain"),
    (0.05, "{name} is unlikely"),
    (0.0, "{name} is very unlikely"),
)
NO_TISSUE = "no tissue"
_NOTICED = 40.0  # nats of novelty: more get a notice
NO_RATES = "The error rates of this model are unknown."


class Point(NamedTuple):
    """An operating point: the rule by which a class is called."""

    # Of two classes the second is called from this calibrated probability on. None: the most
    # probable class is called, which is the rule for more classes.
    threshold: float | None
    meaning: str  # the error rates, in a sentence
    # The same for a cell of a region, which is predicted from one view; None: as `threshold`.
    cell_threshold: float | None = None

    @property
    def of_cells(self) -> "Point":
        """The rule for the cells of a region."""
        return self if self.cell_threshold is None else self._replace(threshold=self.cell_threshold)


class Reader(NamedTuple):
    """A model that reads patches, and what is known of it."""

    model: keras.Model  # explains
    engine: engines.Engine  # predicts: the model itself or its export
    task: Task
    name: str  # of the file, with the start of its SHA-256
    temperature: float
    points: dict[str, Point]  # by the names of the page's settings
    cell_temperature: float = 1.0  # for one view
    views: int = reports.VIEWS  # of a patch, as in the report
    method: str | None = explain.DEFAULT  # that explains; None: the model cannot be explained
    file: Path | None = None
    sha256: str = ""  # of the file
    # Reads regions and slides in one pass, of a model that was trained for that; None: patch by
    # patch.
    fields: field_predictors.FieldPredictor | None = None


def load_reader(model: str | Path | None = None, engine: str | None = None) -> Reader:
    """Load a model and, if there is one beside it, the report of its run.

    Args:
        model: a `.keras` file or the folder of a run; without it, the model that is shipped.
        engine: what predicts, see `engines.load`.

    Raises:
        InputError: there is no such model or engine, it or its report cannot be read, or its task
            states no scale.
    """
    path = model_files.model_file(model or model_files.SHIPPED_MODEL)
    predicting = engines.load(path, engine)
    loaded = predicting if isinstance(predicting, keras.Model) else classifier.load(path)
    name = f"{path.name} {model_files.digest(path)[:8]}"
    name = f"shipped {name}" if path == model_files.SHIPPED_MODEL else name
    report, why_none = reports.report_of_model(path)
    if why_none and path.with_name("report.json").is_file():
        warnings.warn(f"{path}: {why_none}", stacklevel=2)
    task = engines.task_of(predicting)
    if task.mpp is None:
        raise InputError(
            f"{path}: its task {task.name} states no microns per pixel, so pictures cannot be "
            "brought to its scale; use predict on a prepared data directory."
        )
    try:
        known = _known(report, task, f"{NO_RATES} {why_none}")
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{path.with_name('report.json')} is damaged ({first_line(error)}): evaluate the run "
            "anew."
        ) from error
    fields = None
    if task.is_binary and field_predictors.is_in_one_pass(path, engine):
        fields = field_predictors.one_pass(path)
    return Reader(
        loaded, predicting, task, name, file=path, sha256=model_files.digest(path), fields=fields,
        **known,
    )  # fmt: skip


def _known(report, task, unknown):
    """Return what a reader takes from the report of its model."""
    one_view = report.get("one_view", {})
    temperature = _temperature(report.get("calibration", {}))
    cell_temperature = _temperature(one_view or report.get("calibration", {}))
    if task.is_binary:
        cell_thresholds = one_view.get("thresholds", {})
        points = {
            SETTINGS[key].format(positive=task.classes[1]): Point(
                _calibrated(point["threshold"], temperature),
                _binary_meaning(task, report, point["confusion"]),
                _calibrated(cell_thresholds.get(key, point["threshold"]), cell_temperature),
            )
            for key, point in report.get("operating_points", {}).items()
            if key in SETTINGS
        }
        # A report without a validation table has 0.5 only, which nobody chose.
        points = points or {"Threshold 0.5": Point(0.5, unknown)}
    else:
        points = {"Most probable class": Point(None, _meaning(task, report) or unknown)}
    views = report.get("views", reports.VIEWS)
    if views not in (1, reports.VIEWS):
        raise ValueError(f"views: {views}")
    return {
        "temperature": temperature,
        "points": points,
        "cell_temperature": cell_temperature,
        "views": views,
    }


def _temperature(fitted):
    temperature = fitted.get("temperature", 1.0)
    if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
        raise ValueError(f"temperature: {temperature}")
    return temperature


def _calibrated(threshold, temperature):
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: {threshold}")
    table = pd.DataFrame({"probability": [threshold]})
    return float(calibration.apply_temperature(table, temperature)["probability"][0])


def _binary_meaning(task, report, confusion):
    negative, positive = task.classes
    (correct, false_alarms), (missed, detected) = confusion
    share = percent((missed + detected) / report["patches"])
    return (
        f"Of 100 {positive} patches it misses about {100 * missed / (missed + detected):.0f}, and "
        f"of 100 {negative} patches it calls about "
        f"{100 * false_alarms / (correct + false_alarms):.0f} {positive}. Counted on "
        f"{_evaluated_patches(task, report)}, {share} of them {positive}. "
        "On other slides and scanners it may make more errors."
    )


def _meaning(task, report):
    if "accuracy" not in report.get("metrics", {}):
        return ""
    return (
        f"Of 100 patches it classifies about {100 * report['metrics']['accuracy']['value']:.0f} "
        f"correctly. Counted on {_evaluated_patches(task, report)}. "
        "On other slides and scanners it may make more errors."
    )


def _evaluated_patches(task, report):
    return f"{report['patches']:,} patches of the {report.get('split', 'test')} {task.group}s"


def probabilities(reader: Reader, patches: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities of patches, (n, classes) float64.

    They are averaged over the eight symmetric views, or from one view if the model's report is.

    Args:
        reader: the model.
        patches: uint8 (n, side, side, 3).
    """
    if reader.views == 1:
        outputs = [engines.probabilities(reader.engine, patch[None])[0] for patch in patches]
        return _class_probabilities(reader, np.stack(outputs), reader.temperature)
    means = [
        # Always one batch of eight: Keras would compile again for another size.
        engines.probabilities(
            reader.engine, np.concatenate(list(prediction.d4_views(patch[None])))
        ).mean(axis=0, dtype="float64")
        for patch in patches
    ]
    return _class_probabilities(reader, np.stack(means), reader.temperature)


def probabilities_one_view(reader: Reader, patches: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities of patches, one view each, (n, classes) float64.

    Args:
        reader: the model.
        patches: uint8 (n, side, side, 3), n up to 32.
    """
    size = slides.BATCH_SIZE if isinstance(reader.engine, keras.Model) else len(patches)
    # Keras would compile again for another size. Patches are repeated, since a model may answer
    # NaN to an empty one.
    batch = patches[np.arange(size) % len(patches)]
    outputs = engines.probabilities(reader.engine, batch)[: len(patches)]
    return _class_probabilities(reader, outputs, reader.cell_temperature)


def calibrated_cells(reader: Reader, outputs: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities, (n, classes) float64, of one view's outputs (n, outputs)."""
    return _class_probabilities(reader, outputs, reader.cell_temperature)


def calibrated_heat(reader: Reader, raw: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities of a heat map, float32 (rows, columns, 2).

    Args:
        reader: a model of two classes.
        raw: what it gave for the second, float32 (rows, columns); NaN without tissue.
    """
    found = np.full((*raw.shape, 2), np.nan, "float32")
    tissue = np.isfinite(raw)
    found[tissue] = calibrated_cells(reader, raw[tissue][:, None])
    return found


def uncalibrated(reader: Reader, probabilities: np.ndarray, *, of_cells: bool) -> np.ndarray:
    """Return what the model itself gave, float64 (n, columns), as `predict` writes it.

    Args:
        reader: the model.
        probabilities: (n, classes), calibrated; rows of NaN stay so.
        of_cells: whether they are of one view, as the places of a region are.
    """
    columns = list(reader.task.probability_columns)
    # Of two classes a table holds the second.
    table = pd.DataFrame(probabilities[:, -len(columns) :].astype("float64"), columns=columns)
    temperature = reader.cell_temperature if of_cells else reader.temperature
    if temperature != 1:
        table = calibration.apply_temperature(table, 1 / temperature)
    return table[columns].to_numpy()


def _class_probabilities(reader, outputs, temperature):
    """Return calibrated probabilities (n, classes) from a model's outputs (n, outputs)."""
    columns = list(reader.task.probability_columns)
    table = pd.DataFrame(np.asarray(outputs, "float64"), columns=columns)
    if temperature != 1:
        table = calibration.apply_temperature(table, temperature)
    calibrated = table[columns].to_numpy()
    return np.hstack([1 - calibrated, calibrated]) if reader.task.is_binary else calibrated


def with_explanations(reader: Reader) -> Reader:
    """Return a reader with a method that explains its model, tried on a patch.

    The second choice is for networks without a feature map. If no method can explain the model, a
    warning says why, and the reader has none.
    """
    patch = engines.probe(reader.task.side_px)[:1]
    for method in (explain.DEFAULT, "integrated gradients"):
        try:
            if np.isfinite(explain.maps(reader.model, patch, method, target=1)).all():
                return reader._replace(method=method)
            reason = "its gradients are not finite"
        except Exception as error:  # what a model of anyone raises within Keras differs
            reason = first_line(error)
    warnings.warn(f"the page explains nothing of {reader.name}: {reason}", stacklevel=2)
    return reader._replace(method=None)


def explanation(reader: Reader, patch: np.ndarray, target: int) -> np.ndarray:
    """Return a saliency map, float32 (side, side): above 0 supports a class, below 0 opposes it.

    Args:
        reader: the model.
        patch: uint8 (side, side, 3).
        target: index of the class.
    """
    return explain.maps(reader.model, patch[None], reader.method, target=target)[0]


def calls(probabilities: np.ndarray, point: Point) -> np.ndarray:
    """Return the index of the called class, int (...); -1 where a probability is NaN.

    Args:
        probabilities: (..., classes), calibrated.
        point: the rule.
    """
    if point.threshold is None:
        called = probabilities.argmax(axis=-1)
    else:
        called = (probabilities[..., 1] >= point.threshold).astype(int)
    return np.where(np.isnan(probabilities).any(axis=-1), -1, called)


def shares(probabilities: np.ndarray, point: Point) -> np.ndarray:
    """Return the share of each class among the calls, float64 (classes,); cells of NaN left out.

    Args:
        probabilities: (..., classes), calibrated.
        point: the rule.
    """
    called = calls(probabilities, point)
    counts = np.bincount(called[called >= 0], minlength=probabilities.shape[-1])
    return counts / counts.sum()


def percent(share: float) -> str:
    """Return a probability or a share as text, such as "97 %", never as certain by rounding."""
    if 0 < share < 0.01:
        return "below 1 %"
    if 0.99 < share < 1:
        return "above 99 %"
    return f"{100 * share:.0f} %"


def novelty_notice(reader: Reader, patches: np.ndarray) -> str:
    """Return a notice if patches look unlike the training data, else "".

    Of several patches the one with the median score is described. The reference is that of
    PatchCamelyon, so for another task there is no notice. It knows the training slides only: from
    the threshold of `studies.novelty` on, a third to three quarters of ordinary tissue of other
    scanners would get a notice. That of the page is higher, see docs/web_page.md.

    Args:
        reader: the model.
        patches: uint8 (n, side, side, 3).
    """
    if reader.task != PCAM:
        return ""
    scores = novelty.score(patches)
    middle = int(np.argsort(scores)[len(scores) // 2])
    if scores[middle] <= _NOTICED:
        return ""
    what = novelty.furthest(patches[middle][None])[0]
    return f"Looks unlike the training data: {what}. The measured error rates may not hold here."


def call(reader: Reader, probabilities: np.ndarray, point: Point) -> str:
    """Return the name of the class that a patch is called."""
    return reader.task.classes[int(calls(probabilities, point))]


def likelihood(probability: float, name: str) -> str:
    """Return the probability of a class in words."""
    words = next(words for lowest, words in LIKELIHOODS if round(probability, 2) >= lowest)
    return words.format(name=name)


def ranked(reader: Reader, probabilities: np.ndarray) -> str:
    """Return names and probabilities of the classes, the most probable first."""
    order = np.argsort(-probabilities, kind="stable")
    return ", ".join(f"{reader.task.classes[k]} {percent(probabilities[k])}" for k in order)


def rule(reader: Reader, point: Point) -> str:
    """Return by which rule a class is called, as part of a sentence."""
    if point.threshold is None:
        return "the most probable class is called"
    return f"{reader.task.classes[1]} is called from {percent(point.threshold)} on"


def probability_sentence(reader: Reader, probabilities: np.ndarray) -> str:
    """Return the probability of the second of two classes, or those of all classes."""
    task = reader.task
    if not task.is_binary:
        return f"Probabilities for the {labelled_part(task)}: {ranked(reader, probabilities)}."
    name, probability = task.classes[1], float(probabilities[1])
    return (
        f"Probability of {name} in the {labelled_part(task)}: {percent(probability)}, "
        f"{likelihood(probability, name)}."
    )


def shares_sentence(reader: Reader, probabilities: np.ndarray, point: Point) -> str:
    """Return which share of the tissue is called what."""
    share_of = shares(probabilities, point)
    if reader.task.is_binary:
        return f"{percent(share_of[1])} of the tissue is called {reader.task.classes[1]}"
    return f"The tissue is called: {ranked(reader, share_of)}"


def labelled_part(task: Task) -> str:
    """Return which part of a patch the prediction is about."""
    return "centre square" if task.centre_px else "patch"
