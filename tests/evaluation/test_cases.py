"""Evaluation by case, against values computed by hand."""

import numpy as np
import pandas as pd
import pytest
import three_classes

from pcam_tf.errors import InputError
from pcam_tf.evaluation import cases


def test_a_case_has_the_mean_log_probability_of_its_fields():
    table = pd.DataFrame({
        "id": list("abcd"),
        "label": [1, 1, 0, 1],
        "probability": [0.9, 0.5, 0.2, 0.6],
        "group": ["p", "p", "p", "q"],
    })  # fmt: skip
    found = cases.case_table(table)
    assert found["id"].tolist() == ["p/0", "p/1", "q/1"]
    assert found["fields"].tolist() == [1, 2, 1]
    # sqrt(0.9 · 0.5) against sqrt(0.1 · 0.5): 3 to 1.
    assert found["probability"].tolist() == pytest.approx([0.2, 0.75, 0.6])
    assert found["group"].tolist() == ["p", "p", "q"]
    with pytest.raises(InputError, match="no column group"):
        cases.case_table(table.drop(columns="group"))


def test_metrics_of_three_classes_by_field_and_by_case():
    table = three_classes.SMALL.assign(group=list("ppqrstt"))
    # Predicted 0, 0, 1, 1, 2, 0, 2.
    found = cases.mean_metrics([table, table])
    assert found["accuracy"]["value"] == pytest.approx(4 / 7)
    assert found["balanced_accuracy"]["value"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found["macro_f1"]["value"] == pytest.approx((4 / 6 + 2 / 4 + 2 / 4) / 3)
    # The true class of the sixth field is the second or third of three: ties count by their order.
    assert found["top_2"]["value"] == pytest.approx(6 / 7)
    assert found["accuracy"]["low"] <= 4 / 7 <= found["accuracy"]["high"]
    report = cases.report(table)
    assert report["fields"]["patches"] == 7
    assert report["cases"]["patches"] == 5
    assert report["fields"]["metrics"]["top_2"]["value"] == pytest.approx(6 / 7)
    accuracy = cases.accuracy_by_case(table)
    assert accuracy["accuracy"].tolist() == [1, 0, 1, 0, 0.5]


def test_the_permutation_test_swaps_whole_cases():
    right = three_classes.table_of(
        [0, 0, 1, 1], np.eye(3)[[0, 0, 1, 1]], group=["p", "p", "q", "q"]
    )
    wrong = three_classes.table_of(
        [0, 0, 1, 1], np.eye(3)[[2, 2, 2, 2]], group=["p", "p", "q", "q"]
    )
    found = cases.paired_difference([right], [wrong])
    # Two cases are too few for an interval.
    assert found["difference"] == {"value": 1.0, "low": None, "high": None}
    assert found["groups"] == 2
    # Of the four ways to swap two cases, two are as extreme.
    assert found["p"] == pytest.approx(0.5, abs=0.05)
    assert cases.paired_difference([right], [right])["p"] == 1
    with pytest.raises(InputError, match="different fields"):
        cases.paired_difference([right], [wrong.assign(label=[1, 0, 1, 1])])
