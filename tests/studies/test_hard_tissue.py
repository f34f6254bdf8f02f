import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage

from pcam_tf import stain, synthetic
from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.figures import study_plots
from pcam_tf.studies import hard_tissue
from pcam_tf.task import Task


def batches(images, labels=None):
    ids = np.array([f"p{row}" for row in range(len(images))])
    labels = np.zeros(len(images), int) if labels is None else labels
    return [{"id": ids, "image": images, "label": labels}]


@pytest.fixture(scope="module")
def drawn():
    return synthetic.draw_patches(90, split="test")


@pytest.fixture(scope="module")
def measures(drawn):
    return hard_tissue.measure(batches(drawn.image, drawn.label))


@pytest.fixture(scope="module")
def predictions(drawn, measures):
    """Return predictions that are wrong exactly where a patch is in the darkest third."""
    dark = measures["darkness"].rank() > 60
    right = np.where(drawn.label == 1, 0.9, 0.1)
    return pd.DataFrame(
        {
            "id": measures["id"],
            "label": drawn.label,
            "probability": np.where(dark, 1 - right, right),
        }
    )


def test_measures_are_those_of_known_tissue():
    vectors = np.stack([stain.HAEMATOXYLIN, stain.EOSIN])
    densities = np.zeros((3, 96, 96, 2))
    densities[1, :48, :, 0] = 1.5  # the upper half is nucleus
    densities[1:, 48:, :, 1] = 0.6
    densities[2, :48, :, 1] = 0.6
    found = hard_tissue.measure(batches(stain.mix(densities, vectors)))
    np.testing.assert_allclose(found["nuclear density"], [0, 0.5, 0], atol=0.01)
    np.testing.assert_allclose(found["nuclear density, centre"], [0, 0.5, 0], atol=0.01)
    np.testing.assert_allclose(found["eosin"], [0, 0.3, 0.6], atol=0.03)
    np.testing.assert_allclose(found["blank"], [1, 0, 0], atol=0.01)
    assert found["darkness"].is_monotonic_increasing is False
    assert found["darkness"][0] == 0 < found["darkness"][2] < found["darkness"][1]


def test_blur_takes_detail(drawn, measures):
    blurred = scipy.ndimage.gaussian_filter(drawn.image, (0, 1.5, 1.5, 0))
    again = hard_tissue.measure(batches(blurred))
    assert (again["detail"] < measures["detail"]).mean() > 0.95


def test_errors_are_counted_where_they_are(predictions, measures):
    found = hard_tissue.by_measure(predictions, measures, 0.5).set_index(["measure", "third"])
    assert (found.loc[("darkness", "high"), "share"] == 1).all()
    assert (found.loc[("darkness", "low"), "share"] == 0).all()
    of_each = found.groupby("measure")["patches"].sum()
    assert (of_each == len(predictions)).all()
    assert found["wrong"].groupby("measure").sum().eq(30).all()
    text = reports.markdown_table(hard_tissue.summary_rows(found.reset_index()))
    assert "darkness" in text and "high third" in text


def test_confident_errors_differ_most_in_what_makes_them_errors(predictions, measures):
    found = hard_tissue.confident(predictions, measures, 0.5)
    dark = found[found["measure"] == "darkness"]
    assert (dark["median"] > dark["median_right"]).all()
    assert (dark["difference"] > 0.5).all()
    assert found["difference"].abs().is_monotonic_decreasing
    right = predictions.assign(probability=predictions["label"].astype(float))
    assert hard_tissue.confident(right, measures, 0.5).empty


def test_patches_that_were_not_measured_are_named(predictions, measures):
    with pytest.raises(InputError, match="1 patches of the table were not measured, such as p0"):
        hard_tissue.by_measure(predictions, measures[1:], 0.5)


def test_another_task_has_its_own_centre_and_names(drawn, predictions):
    task = Task("other", ("stroma", "gland"), side_px=80, mpp=1.0, centre_px=16)
    images = np.full((90, 80, 80, 3), 255, "uint8")
    images[0, 32:48, 32:48] = stain.mix(np.array([2.0, 0]), stain.MIXING[:2])
    measures = hard_tissue.measure(batches(images, drawn.label), task)
    assert measures.loc[0, "nuclear density, centre"] == 1
    measures["darkness"] = np.arange(90)
    errors = hard_tissue.by_measure(predictions, measures, 0.5, task.classes)["error"]
    assert set(errors) == {"missed gland", "false alarm"}
    whole = hard_tissue.measure(batches(images), dataclasses.replace(task, centre_px=None))
    assert "nuclear density, centre" not in whole
    whole["label"] = drawn.label
    assert len(hard_tissue.by_measure(predictions, whole, 0.5))


def test_other_labels_and_more_classes_are_refused(predictions, measures):
    with pytest.raises(InputError, match=r"90 patches have another label in the table .* p0"):
        hard_tissue.by_measure(predictions, measures.assign(label=1 - measures["label"]), 0.5)
    with pytest.raises(InputError, match="more than two classes"):
        hard_tissue.confident(predictions.drop(columns="probability"), measures, 0.5)


def test_the_figure_has_a_panel_for_each_measure(predictions, measures):
    figure = study_plots.errors_by_measure(hard_tissue.by_measure(predictions, measures, 0.5))
    titles = {axes.get_title() for axes in figure.axes if axes.get_visible()}
    assert titles == set(hard_tissue.MEASURES)
