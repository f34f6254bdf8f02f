"""What a model says of a patch or a region, in a pathologist's words; the page's, without the page.

Probabilities here are calibrated, and so are the thresholds they are held against. What a threshold
does is read from the report of the model's run: a model without a report has one threshold, 0.5,
about which nothing is known.
"""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from pcam_tf import explain, prediction, slides
from pcam_tf.evaluation import calibration, reports
from pcam_tf.models import classifier, engines, model_files
from pcam_tf.studies import novelty

# From the report's names to the page's; the first that a report has is where the page begins.
POINT_NAMES = {
    "youden": "Balanced",
    "sensitivity_95": "Misses few tumours",
    "specificity_95": "Few false alarms",
    "at_0.5": "Even odds",
}
PROBABILITY_WORDS = (
    (0.95, "tumour is very likely"),
    (0.70, "tumour is likely"),
    (0.30, "uncertain"),
    (0.05, "tumour is unlikely"),
    (0.0, "tumour is very unlikely"),
)
SAMPLE = 64  # places of a region that are held against the training data, 3 ms each


class Point(NamedTuple):
    """An operating point: from which probability on a patch is called tumour."""

    threshold: float  # of calibrated probabilities
    meaning: str  # how often it errs, in a sentence


class Reader(NamedTuple):
    """A model that reads patches, and what is known of it."""

    model: keras.Model  # what explanations are made with
    engine: engines.Engine  # what predicts: the model itself, or its export
    name: str  # tells this file from any other
    temperature: float
    points: dict[str, Point]  # by the names of the page


def load_reader(model: str | Path | None = None, engine: str | None = None) -> Reader:
    """Load a model and, if there is one beside it, the report of its run.

    Args:
        model: a `.keras` file or the folder of a run; without it, the model that is shipped.
        engine: what predicts, see `engines.load`.

    Raises:
        InputError: there is no such model or engine, or it cannot be read.
    """
    path = model_files.model_file(model or model_files.SHIPPED_MODEL)
    predicting = engines.load(path, engine)
    loaded = predicting if isinstance(predicting, keras.Model) else classifier.load(path)
    name = f"{path.name} {model_files.digest(path)[:8]}"
    name = f"shipped {name}" if path == model_files.SHIPPED_MODEL else name
    report = {}
    if path.name == "model.keras" and (path.parent / "report.json").is_file():
        report = reports.read_run_report(path.parent).get("unfrozen", {})
    temperature = report.get("calibration", {}).get("temperature", 1.0)
    points = {}
    for key, words in POINT_NAMES.items():
        # 0.5 is no choice of anyone's where there are better ones.
        if key in report.get("operating_points", {}) and key != "at_0.5":
            point = report["operating_points"][key]
            threshold = float(_calibrated([point["threshold"]], temperature)[0])
            points[words] = Point(threshold, _meaning(point, report))
    if not points:
        meaning = "How often this model errs at this setting is not known: it has no report."
        points[POINT_NAMES["at_0.5"]] = Point(0.5, meaning)
    return Reader(loaded, predicting, name, temperature, points)


def _meaning(point, report):
    (normal, false_alarm), (missed, tumour) = point["confusion"]
    return (
        f"Of 100 tumour patches it misses about {100 * missed / (missed + tumour):.0f}, and of "
        f"100 normal patches it calls about {100 * false_alarm / (normal + false_alarm):.0f} "
        f"tumour: counted on {report['patches']:,} patches of the {report.get('split', 'test')} "
        "slides, half of them tumour. On other slides and scanners it may do worse."
    )


def _calibrated(probabilities, temperature):
    table = pd.DataFrame({"probability": np.asarray(probabilities, "float64")})
    return calibration.apply_temperature(table, temperature)["probability"].to_numpy()


def probabilities(reader: Reader, patches: np.ndarray) -> np.ndarray:
    """Return the calibrated probability of tumour of patches, (n,) float64.

    Averaged over the eight symmetric views, as for the numbers of the model's report.

    Args:
        reader: the model.
        patches: uint8 (n, 96, 96, 3).
    """
    means = [
        # One batch of eight, always of the same shape: Keras would compile another anew.
        reader.engine.predict_on_batch(
            np.concatenate(list(prediction.d4_views(patch[None]))).astype("float32")
        ).mean(dtype="float64")
        for patch in patches
    ]
    return _calibrated(means, reader.temperature)


def probabilities_once(reader: Reader, patches: np.ndarray) -> np.ndarray:
    """Return the calibrated probability of tumour of patches, seen once each, (n,) float64.

    Args:
        reader: the model.
        patches: uint8 (n, 96, 96, 3), n up to 32.
    """
    size = slides.BATCH_SIZE if isinstance(reader.engine, keras.Model) else len(patches)
    batch = np.zeros((size, *patches.shape[1:]), "float32")
    batch[: len(patches)] = patches
    found = reader.engine.predict_on_batch(batch)[: len(patches), 0]
    return _calibrated(found, reader.temperature)


def explanation(reader: Reader, patch: np.ndarray) -> np.ndarray:
    """Return where in a patch, uint8 (96, 96, 3), tumour is seen: signed, float32 (96, 96)."""
    return explain.maps(reader.model, patch[None])[0]


def call(probability: float, point: Point) -> str:
    """Return "tumour" or "normal"."""
    return "tumour" if probability >= point.threshold else "normal"


def percent(share: float) -> str:
    """Return a probability or share as a text that claims no certainty, such as "97 %"."""
    if 0 < share < 0.01:
        return "below 1 %"
    if 0.99 < share < 1:
        return "above 99 %"
    return f"{100 * share:.0f} %"


def in_words(probability: float) -> str:
    """Return a probability as words."""
    return next(words for lowest, words in PROBABILITY_WORDS if round(probability, 2) >= lowest)


def unlike_training(patches: np.ndarray) -> str:
    """Return a notice where patches look unlike the training data, else "".

    Of several patches, the notice is about the one in the middle of their scores.

    Args:
        patches: uint8 (n, 96, 96, 3).
    """
    scores = novelty.score(patches)
    middle = int(np.argsort(scores)[len(scores) // 2])
    return novelty.sentence(float(scores[middle]), patches[middle])
