"""The methods that tell subtypes apart: what each one reads of a field, and what it fits."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcam_tf import stain
from pcam_tf.files import written_whole
from pcam_tf.models import classifier, field_models
from pcam_tf.studies import field_features, subtype_classifiers, subtype_tuning
from pcam_tf.studies.subtype_folds import Split

Fields = Sequence[np.ndarray]
# Of labels (n,), units (n,) (cases, or fields), a split and a seed; returns the probabilities of
# the held-out rows, (held out, classes).
Predictor = Callable[[np.ndarray, np.ndarray, Split, int], np.ndarray]

STAIN_STRENGTH = 0.35


class Reading(NamedTuple):
    """A way to turn fields into features.

    Attributes:
        weights: "plain" for colour and texture, "imagenet", or "pcam" for the shipped model.
        layers: see `field_models.field_extractor`.
        picture: "raw", "macenko" (normalised to a fixed stain) or "jittered" (stain augmentation).
        scale: factor by which fields are resized first.
    """

    weights: str
    layers: str = field_models.ALL_BLOCKS
    picture: str = "raw"
    scale: float = 1.0


BLOCKS = Reading("imagenet")
HALF = Reading("imagenet", scale=0.5)
MACENKO = Reading("imagenet", picture="macenko")


def features(reading: Reading, fields: Fields, folder: Path) -> np.ndarray:
    """Return the features of fields, float32 (n, features); stored in `folder` once computed."""
    path = folder / ("-".join(map(str, reading)).replace(" ", "_") + ".npy")
    if path.is_file():
        return np.load(path)
    if reading.weights == "plain":
        found = np.stack([field_features.plain_features(field) for field in fields])
    else:
        source = classifier.load() if reading.weights == "pcam" else None
        extractor = field_models.field_extractor(source, layers=reading.layers)
        found = field_features.whole_fields(extractor, _pictures(reading, fields))
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, found)
    return found


def _pictures(reading, fields):
    if reading.picture == "macenko":
        fields = [stain.normalization.normalize(each, field_features.STAIN)[0] for each in fields]
    elif reading.picture == "jittered":
        fields = field_features.stain_jittered(fields, STAIN_STRENGTH, seed=0)
    return fields if reading.scale == 1 else field_features.resized(fields, reading.scale)


class Method(NamedTuple):
    """A way to tell subtypes apart.

    Attributes:
        prepare: makes a predictor from fields and a folder for what is computed once.
        is_slow: it trains a network, and is then judged by case and with one seed only.
    """

    prepare: Callable[[Fields, Path], Predictor]
    is_slow: bool = False


def methods() -> dict[str, Method]:
    """Return the methods by name."""
    logistic, blend = subtype_classifiers.logistic, subtype_classifiers.blend
    pcam = Reading("pcam")
    jittered = {"picture": "jittered"}
    return {
        "colour and texture": _fitted(logistic, Reading("plain", layers="")),
        "ImageNet": _fitted(logistic, BLOCKS._replace(layers=field_models.LAST)),
        "ImageNet, all blocks": _fitted(logistic, BLOCKS),
        "ImageNet, all blocks, stain augmentation": _fitted(
            logistic, BLOCKS, BLOCKS._replace(**jittered)
        ),
        "PCam model": _fitted(logistic, pcam._replace(layers=field_models.LAST)),
        "PCam model, all blocks": _fitted(logistic, pcam),
        "PCam model, all blocks, stain augmentation": _fitted(
            logistic, pcam, pcam._replace(**jittered)
        ),
        "discriminants": _fitted(blend, BLOCKS),
        "discriminants, half size": _fitted(blend, HALF),
        "discriminants, Macenko": _fitted(blend, MACENKO),
        "blend": _fitted(blend, BLOCKS, HALF, MACENKO),
        "blend with PCam model": _fitted(blend, BLOCKS, HALF, MACENKO, pcam),
        "ImageNet, fine-tuned": _tuned(shipped=False),
        "ImageNet, fine-tuned, stain augmentation": _tuned(shipped=False, jitter=STAIN_STRENGTH),
        "PCam model, fine-tuned": _tuned(shipped=True),
        "PCam model, fine-tuned, stain augmentation": _tuned(shipped=True, jitter=STAIN_STRENGTH),
    }


def _fitted(fit, *readings):
    def prepare(fields, folder):
        return functools.partial(fit, [features(each, fields, folder) for each in readings])

    return Method(prepare)


def _tuned(*, shipped, jitter=0.0):
    def prepare(fields, folder):
        views = subtype_tuning.maps_of_views(fields, folder, shipped=shipped, stain_strength=jitter)
        return functools.partial(subtype_tuning.tuned, views, shipped)

    return Method(prepare, is_slow=True)
