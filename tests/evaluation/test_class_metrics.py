import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from statsmodels.stats.proportion import proportion_confint
from three_classes import CLASSES, SMALL, drawn, table_of

from pcam_tf import evaluation
from pcam_tf.errors import InputError
from pcam_tf.evaluation import calibration, decisions, report_text, reports


def width(metric):
    return metric["high"] - metric["low"]


def test_metrics_of_a_small_table_are_those_computed_by_hand():
    report = evaluation.report(SMALL)
    assert report["patches"] == 7
    assert report["classes"] == {"ductal": 3, "lobular": 2, "mucinous": 2}
    assert report["confusion"] == [[2, 1, 0], [0, 1, 1], [1, 0, 1]]
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    assert values["accuracy"] == pytest.approx(4 / 7)
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert values["macro_f1"] == pytest.approx((4 / 6 + 2 / 4 + 2 / 4) / 3)
    # Pairs of a class and the rest that are ranked right; a tie is half of one.
    aucs = [(4 + 4 + 3) / 12, (5 + 3) / 10, (4 + 5) / 10]
    assert values["macro_auc"] == pytest.approx(np.mean(aucs))
    of_label = [0.7, 0.5, 0.3, 0.8, 0.3, 0.3, 0.8]
    assert values["log_loss"] == pytest.approx(-np.mean(np.log(of_label)))
    squares = [0.14, 0.38, 0.86, 0.06, 0.78, 0.74, 0.06]
    assert values["brier"] == pytest.approx(np.mean(squares))
    # The most probable class: 0.4 wrong; 0.5 right and wrong in one bin; 0.6 wrong; 0.7 right;
    # 0.8 twice right in one bin.
    gaps = 0.4 + abs(0.5 + 0.5 - 1) + 0.6 + (1 - 0.7) + 2 * (1 - 0.8)
    assert values["calibration_error"] == pytest.approx(gaps / 7)
    ductal = report["per_class"]["ductal"]
    assert {name: metric["value"] for name, metric in ductal.items()} == pytest.approx(
        {"auc": aucs[0], "sensitivity": 2 / 3, "precision": 2 / 3, "f1": 2 / 3}
    )
    assert report["per_class"]["lobular"]["auc"]["value"] == pytest.approx(aucs[1])
    assert report["per_class"]["mucinous"]["precision"]["value"] == pytest.approx(1 / 2)


def test_metrics_agree_with_scikit_learn():
    table = drawn(400)
    labels, probabilities = table["label"], evaluation.probabilities_of(table)
    predicted = probabilities.argmax(axis=1)
    report = evaluation.report(table)
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    assert report["confusion"] == sklearn.metrics.confusion_matrix(labels, predicted).tolist()
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "macro_auc": sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities),
        "brier": np.mean(np.sum((probabilities - np.eye(3)[labels]) ** 2, axis=1)),
    }
    assert values | expected == pytest.approx(values)
    by_class = {
        "sensitivity": sklearn.metrics.recall_score(labels, predicted, average=None),
        "precision": sklearn.metrics.precision_score(labels, predicted, average=None),
        "f1": sklearn.metrics.f1_score(labels, predicted, average=None),
    }
    for key, of_classes in by_class.items():
        reported = [report["per_class"][name][key]["value"] for name in CLASSES]
        assert reported == pytest.approx(of_classes), key


def test_intervals_without_groups_are_exact_where_they_can_be():
    table = drawn(400)
    report = evaluation.report(table)
    matrix = np.array(report["confusion"])
    metric = report["metrics"]["accuracy"]
    expected = proportion_confint(np.trace(matrix), 400, method="wilson")
    assert (metric["low"], metric["high"]) == pytest.approx(expected)
    for index, name in enumerate(CLASSES):
        metrics = report["per_class"][name]
        for key, of in (
            ("sensitivity", matrix[index].sum()),
            ("precision", matrix[:, index].sum()),
        ):
            expected = proportion_confint(matrix[index, index], of, method="wilson")
            assert (metrics[key]["low"], metrics[key]["high"]) == pytest.approx(expected)
        labels = table["label"] == index
        delong = evaluation.auc_interval(labels, table[f"probability_{name}"])
        assert tuple(metrics["auc"].values()) == pytest.approx(delong)
    for key in ("balanced_accuracy", "macro_f1", "macro_auc", "log_loss", "brier"):
        metric = report["metrics"][key]
        assert metric["low"] < metric["value"] < metric["high"], key
    assert report["metrics"]["calibration_error"]["low"] is None


def test_groups_are_resampled_whole():
    # Every patch stands in its group ten times, so that patches are far from independent.
    table = drawn(40, seed=3)
    table = pd.concat([table] * 10, ignore_index=True)
    table = table.assign(
        id=[f"p{row}" for row in range(400)], group=[f"s{r % 40}" for r in range(400)]
    )
    grouped, naive = evaluation.report(table), evaluation.report(table.drop(columns="group"))
    assert "by group" in grouped["intervals"] and "too narrow" in naive["intervals"]
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "log_loss", "brier"):
        assert grouped["metrics"][key]["value"] == pytest.approx(naive["metrics"][key]["value"])
        assert width(grouped["metrics"][key]) > 2 * width(naive["metrics"][key]), key
    for key in ("auc", "sensitivity", "precision", "f1"):
        wide, narrow = (each["per_class"]["lobular"][key] for each in (grouped, naive))
        assert width(wide) > 2 * width(narrow), key


@pytest.mark.parametrize("groups", [None, 12])
def test_a_class_without_patches_has_no_metrics(groups):
    table = drawn(200)
    table = table[table["label"] != 1].reset_index(drop=True)
    if groups:
        table["group"] = [f"s{row % groups}" for row in range(len(table))]
    report = evaluation.report(table, validation=drawn(100, seed=1))
    json.dumps(report, allow_nan=False)
    assert report["classes"]["lobular"] == 0
    undefined = {"value": None, "low": None, "high": None}
    assert all(metric == undefined for metric in report["per_class"]["lobular"].values())
    others = [report["per_class"][name] for name in ("ductal", "mucinous")]
    sensitivities = [metrics["sensitivity"]["value"] for metrics in others]
    assert report["metrics"]["balanced_accuracy"]["value"] == pytest.approx(np.mean(sensitivities))
    aucs = [metrics["auc"]["value"] for metrics in others]
    assert report["metrics"]["macro_auc"]["value"] == pytest.approx(np.mean(aucs))
    assert "not defined" in report_text.format_report(report, title="a table")


def test_a_class_that_is_never_predicted_has_no_precision():
    table = table_of([0, 1, 2, 2], [[0.6, 0.3, 0.1]] * 3 + [[0.1, 0.6, 0.3]])
    metrics = evaluation.report(table)["per_class"]["mucinous"]
    assert metrics["precision"]["value"] is None
    assert metrics["sensitivity"]["value"] == metrics["f1"]["value"] == 0


def test_groups_of_one_class_each_can_be_resampled():
    table = drawn(60)
    table["group"] = [f"slide_of_{label}" for label in table["label"]]
    json.dumps(evaluation.report(table, validation=table), allow_nan=False)


def test_the_order_of_the_columns_is_the_order_of_the_classes():
    table = drawn(50)
    turned = table[
        ["probability_mucinous", "label", "probability_ductal", "id", "probability_lobular"]
    ]
    turned = turned.assign(label=table["label"].map({0: 1, 1: 2, 2: 0}))
    assert evaluation.classes_of(turned) == ("mucinous", "ductal", "lobular")
    one, other = evaluation.report(table), evaluation.report(turned)
    assert one["metrics"]["accuracy"] == other["metrics"]["accuracy"]
    assert one["per_class"]["ductal"]["auc"] == other["per_class"]["ductal"]["auc"]
    assert list(other["classes"]) == ["mucinous", "ductal", "lobular"]


def test_two_classes_have_the_names_they_are_given():
    table = pd.DataFrame(
        {"id": list("abcd"), "label": [0, 0, 1, 1], "probability": [0.1, 0.6, 0.4, 1]}
    )
    report = evaluation.report(table, classes=("benign", "malignant"))
    assert (report["benign"], report["malignant"]) == (2, 2)
    assert "normal" not in report and "tumour" not in report
    text = report_text.format_report(report, title="a table")
    assert (
        "2 benign, 2 malignant" in text and "1 malignant found, 1 missed; 1 benign passed" in text
    )
    errors = evaluation.confident_errors(table, 4, classes=("benign", "malignant"))
    assert errors["error"].tolist() == ["false alarm", "missed malignant"]
    with pytest.raises(InputError, match="two classes, not of 3"):
        evaluation.report(table, classes=CLASSES)


def test_one_against_rest_is_a_table_of_two_classes():
    tables = evaluation.one_against_rest(SMALL)
    assert list(tables) == list(CLASSES)
    assert tables["lobular"]["label"].tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert tables["lobular"]["probability"].tolist() == SMALL["probability_lobular"].tolist()
    curves = evaluation.curves(tables["ductal"], resamples=5)
    assert curves["roc"]["sensitivity"].iloc[-1] == 1
    assert list(evaluation.one_against_rest(SMALL[SMALL["label"] != 1])) == ["ductal", "mucinous"]


def test_errors_name_the_true_and_the_predicted_class():
    errors = evaluation.confident_errors(SMALL, 2)
    assert errors["id"].tolist() == ["p2", "p4"]
    assert errors["error"].tolist() == [
        "ductal predicted as lobular",
        "lobular predicted as mucinous",
    ]


def test_what_needs_two_classes_says_so():
    for function in (
        evaluation.operating_points,
        evaluation.curves,
        decisions.decision_curve,
        lambda table: decisions.costs(table, table),
    ):
        with pytest.raises(InputError, match="need two classes; the table has 3"):
            function(SMALL)
    report = evaluation.report(SMALL, validation=SMALL)
    assert reports.operating_point_rows(report) == reports.cost_rows(report) == []
    assert "for two classes only" in report_text.format_report(report, title="a table")


def test_a_validation_table_of_other_classes_is_refused():
    other = SMALL.rename(columns={"probability_ductal": "probability_papillary"})
    with pytest.raises(InputError, match="validation table has other classes"):
        evaluation.report(SMALL, validation=other)


def test_the_text_names_every_class_and_metric():
    report = evaluation.report(drawn(100), validation=drawn(100, seed=1))
    text = report_text.format_report(report, title="a title")
    for words in (*CLASSES, "macro AUC", "macro F1", "balanced accuracy", "Brier", "temperature"):
        assert words in text
    rows = reports.class_rows(report)
    assert [row["class"] for row in rows] == list(CLASSES)
    assert list(rows[0]) == ["class", "patches", "AUC", "sensitivity", "precision", "F1"]
    cell = reports.confusion_rows(evaluation.report(SMALL))[0]
    assert list(cell.values()) == ["ductal", "2 (0.67)", "1 (0.33)", "0 (0.00)"]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_three_classes_is_recovered(temperature):
    table = drawn(20_000, temperature=temperature)
    assert calibration.fit_temperature(table) == pytest.approx(temperature, rel=0.06)
    scaled = evaluation.probabilities_of(calibration.apply_temperature(table, temperature))
    assert scaled == pytest.approx(evaluation.probabilities_of(drawn(20_000)))


def test_calibration_gets_better_by_the_temperature():
    report = evaluation.report(
        drawn(800, seed=1, temperature=3.0), validation=drawn(2000, temperature=3.0)
    )
    for before, after in zip(
        report["calibration"]["before"].values(),
        report["calibration"]["after"].values(),
        strict=True,
    ):
        assert after["value"] < before["value"]
    assert len(reports.calibration_rows(report)) == 3


def test_bins_are_of_the_most_probable_class():
    bins = calibration.bins(SMALL)
    assert bins["count"].tolist() == [1, 2, 1, 1, 2]
    assert bins["mean_probability"].tolist() == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8])
    assert bins["fraction"].tolist() == [0, 0.5, 0, 1, 1]
