"""Which parts of a field speak for its class: exact for a linear classifier of pooled features.

The features are means of maps, so the logit of a field is the mean, over its places, of what each
place adds (class activation mapping: B. Zhou et al., "Learning deep features for discriminative
localization", CVPR 2016), here with the maps of all blocks.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pcam_tf.models import field_models
from pcam_tf.studies import subtype_classifiers, subtype_methods


def clearest_rows(predictions: pd.DataFrame, columns: Sequence[str]) -> list[int]:
    """Return for each class the row of the field with the highest probability of its own class.

    Args:
        predictions: a table of more than two classes, in the order of the fields.
        columns: of the probabilities.
    """
    return [
        int(predictions.loc[predictions["label"] == label, column].idxmax())
        for label, column in enumerate(columns)
    ]


def maps(
    fields: Sequence[np.ndarray],
    labels: np.ndarray,
    fold: np.ndarray,
    rows: Sequence[int],
    folder: Path,
) -> list[np.ndarray]:
    """Return for each row what its places add to the logit of its class, above the mean of all.

    The classifier is the discriminant of the method "discriminants" that has not seen the fold.

    Args:
        fields: (height, width, 3) uint8.
        labels: (n,); each fold's training rows hold every class.
        fold: (n,), the fold in which a field is held out.
        rows: which fields to explain.
        folder: where the study stores features.

    Returns:
        float32 (height, width) each; the mean of a map is the logit without its offset, less
        the mean of all classes.
    """
    features = subtype_methods.features(subtype_methods.BLOCKS, fields, folder)
    extractor = field_models.field_extractor(layers=field_models.ALL_BLOCKS)
    to_maps = field_models.map_extractor(extractor)
    found = []
    for row in rows:
        train = np.flatnonzero(fold != fold[row])
        fitted = subtype_classifiers.discriminant(features, labels, train)
        weights = fitted.weights[:, labels[row]] - fitted.weights.mean(axis=1)
        height, width = fields[row].shape[:2]
        total, first = np.zeros((height, width)), 0
        for each in to_maps.predict_on_batch(fields[row][None].astype("float32")):
            part = slice(first, first + each.shape[-1])
            added = (each[0] - fitted.mean[part]) @ weights[part]
            shown = Image.fromarray(added.astype("float32")).resize((width, height), Image.BILINEAR)
            total += np.asarray(shown)
            first += each.shape[-1]
        found.append(total.astype("float32"))
    return found
