"""Features and probabilities of generated patches by the shipped classifier."""

from collections.abc import Callable

import keras
import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.models import classifier, engines, field_models
from pcam_tf.task import Task

# Patches (n, side, side, 3) to features (n, features).
Features = Callable[[np.ndarray], np.ndarray]
_CONVERTED = 10_000


def shipped_features(task: Task, side_px: int) -> Features:
    """Return a function from patches of any number to pooled features of the shipped classifier.

    The patches are shown as large as those that the classifier was trained on.

    Args:
        task: of the patches.
        side_px: side of the patches.

    Raises:
        InputError: the shipped classifier is for another task.
    """
    return _function(_extractor(task, classifier.load(), side_px))


def imagenet_features(side_px: int, scale: int = 2) -> Features:
    """Return a function to pooled features of a backbone that has seen ImageNet only.

    Args:
        side_px: side of the patches.
        scale: by which they are magnified; small patches then give a larger map of features.
    """
    patches = keras.Input((side_px, side_px, 3))
    resized = keras.layers.Resizing(scale * side_px, scale * side_px)(patches)
    return _function(keras.Model(patches, field_models.field_extractor()(resized)))


def shipped_probabilities() -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from features of `shipped_features` to probabilities of class 1, (n,)."""
    head = classifier.head(classifier.load())
    return lambda features: head.predict(features, batch_size=1024, verbose=0)[:, 0]


def _extractor(task, model, side_px):
    trained = classifier.task_of(model)
    if (trained.classes, trained.mpp) != (task.classes, task.mpp):
        raise InputError(
            f"patches of {task.name} cannot be judged by the classifier of {trained.name}."
        )
    seen = next((layer.height for layer in model.layers if layer.name == "resize"), trained.side_px)
    shown_px = round(side_px * seen / trained.side_px)
    patches = keras.Input((side_px, side_px, 3))
    resized = keras.layers.Resizing(shown_px, shown_px)(patches)
    return keras.Model(patches, field_models.field_extractor(model)(resized))


def _function(model):
    engine = engines.fastest(model, _CONVERTED)

    def features(patches):
        parts = [
            np.asarray(engine.predict_on_batch(patches[first : first + 256].astype("float32")))
            for first in range(0, len(patches), 256)
        ]
        return np.concatenate(parts)

    return features
