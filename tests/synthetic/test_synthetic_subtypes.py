"""Drawn subtypes: repeatable, and colour alone does not tell them apart."""

import numpy as np
import sklearn.model_selection
import sklearn.neighbors

from pcam_tf.synthetic import subtypes


def test_fields_are_repeatable_and_their_colour_does_not_tell_the_subtype():
    drawn = list(subtypes.draw_fields(cases_per_class=4, fields_per_case=2))
    again = next(subtypes.draw_fields(cases_per_class=1, fields_per_case=1))
    assert np.array_equal(drawn[0]["image"], again["image"])
    assert drawn[0]["image"].shape == (*subtypes.FIELD_PX, 3)
    labels = np.array([field["label"] for field in drawn])
    groups = [field["group"] for field in drawn]
    assert len(set(groups)) == 4 * len(subtypes.TASK.classes)
    colours = np.array([field["image"].mean(axis=(0, 1)) for field in drawn])
    predicted = sklearn.model_selection.cross_val_predict(
        sklearn.neighbors.NearestCentroid(),
        colours,
        labels,
        groups=groups,
        cv=sklearn.model_selection.StratifiedGroupKFold(4, shuffle=True, random_state=0),
    )
    chance = 1 / len(subtypes.TASK.classes)
    assert (predicted == labels).mean() < chance + 0.15
