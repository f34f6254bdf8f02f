import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from statsmodels.stats.proportion import proportion_confint

from pcam_tf import evaluation
from pcam_tf.evaluation import decisions, report_text


def table_of(labels, probabilities, **columns):
    return pd.DataFrame(
        {
            "id": [f"test_{row}" for row in range(len(labels))],
            "label": np.asarray(labels, "int64"),
            "probability": np.asarray(probabilities, "float64"),
            **columns,
        }
    )


def random_table(patches=400, *, seed=0, digits=2, prevalence=0.4):
    """Return overlapping classes; few digits make ties, within and between the classes."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(patches) < prevalence).astype(int)
    scores = scipy.special.expit(generator.normal(size=patches) + 2 * labels - 1)
    return table_of(labels, scores.round(digits))


def clustered_table(*, slides=16, patches=40, seed=0):
    """Return slides that hold both classes, of which some are easy and some hard as a whole."""
    generator = np.random.default_rng(seed)
    difficulty = np.repeat(generator.normal(1, 1.5, size=slides), patches)
    labels = generator.integers(0, 2, size=slides * patches)
    scores = scipy.special.expit(generator.normal(size=len(labels)) + (2 * labels - 1) * difficulty)
    return table_of(labels, scores, group=np.repeat([f"slide_{n}" for n in range(slides)], patches))


def width(metric):
    return metric["high"] - metric["low"]


def test_confusion_has_the_truth_in_rows_and_includes_the_threshold():
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    scores = [0.1, 0.1, 0.1, 0.5, 0.6, 0.9, 0.4, 0.5, 0.5, 0.9]
    matrix = evaluation.confusion(labels, scores, 0.5)
    assert matrix.tolist() == [[3, 3], [1, 3]]
    assert matrix.dtype.kind == "i"
    assert evaluation.confusion(labels, scores, 0.95).tolist() == [[6, 0], [4, 0]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [1, 12])
def test_operating_points_are_the_best_that_meet_their_condition(seed, digits):
    validation = random_table(237, seed=seed, digits=digits)
    labels, scores = validation["label"].to_numpy(), validation["probability"].to_numpy()
    candidates = np.append(np.unique(scores), np.nextafter(1.0, 2.0))
    sensitivity = np.array([(scores[labels == 1] >= each).mean() for each in candidates])
    specificity = np.array([(scores[labels == 0] < each).mean() for each in candidates])

    points = evaluation.operating_points(validation)
    assert points["sensitivity_95"] == candidates[sensitivity >= 0.95].max()
    assert points["specificity_95"] == candidates[specificity >= 0.95].min()
    youden = np.flatnonzero(candidates == points["youden"])
    assert (sensitivity + specificity)[youden] == pytest.approx(max(sensitivity + specificity))


def test_operating_points_of_a_useless_model_are_finite():
    points = evaluation.operating_points(table_of([1, 1, 0, 0], [0.1, 0.2, 1.0, 1.0]))
    assert all(np.isfinite(list(points.values())))
    # Only calling nothing tumour keeps this specificity.
    assert points["specificity_95"] > 1


def test_report_takes_its_thresholds_from_validation_only():
    validation, test = random_table(seed=1, digits=12), random_table(seed=2, digits=12)
    points = evaluation.report(test, validation=validation)["operating_points"]
    chosen = evaluation.operating_points(validation)
    assert {name: point["threshold"] for name, point in points.items()} == {"at_0.5": 0.5, **chosen}
    assert chosen != evaluation.operating_points(test)
    for point in points.values():
        expected = evaluation.confusion(test["label"], test["probability"], point["threshold"])
        assert point["confusion"] == expected.tolist()


def test_report_agrees_with_scikit_learn():
    table = random_table(500)
    labels, scores = table["label"], table["probability"]
    predicted = (scores >= 0.5).astype(int)
    content = evaluation.report(table)
    assert (content["patches"], content["normal"], content["tumour"]) == (
        500,
        (labels == 0).sum(),
        (labels == 1).sum(),
    )
    metrics = content["metrics"] | content["operating_points"]["at_0.5"]["metrics"]
    expected = {
        "auc": sklearn.metrics.roc_auc_score(labels, scores),
        "average_precision": sklearn.metrics.average_precision_score(labels, scores),
        "log_loss": sklearn.metrics.log_loss(labels, scores),
        "brier": sklearn.metrics.brier_score_loss(labels, scores),
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "sensitivity": sklearn.metrics.recall_score(labels, predicted),
        "specificity": sklearn.metrics.recall_score(labels, predicted, pos_label=0),
        "precision": sklearn.metrics.precision_score(labels, predicted),
        "f1": sklearn.metrics.f1_score(labels, predicted),
    }
    for name, value in expected.items():
        assert metrics[name]["value"] == pytest.approx(value, abs=1e-12), name
    assert (metrics["auc"]["low"], metrics["auc"]["high"]) == pytest.approx(
        evaluation.auc_interval(labels, scores)[1:]
    )
    for name, (hits, of) in {
        "accuracy": ((predicted == labels).sum(), 500),
        "sensitivity": (predicted[labels == 1].sum(), (labels == 1).sum()),
        "specificity": ((1 - predicted[labels == 0]).sum(), (labels == 0).sum()),
        "precision": (labels[predicted == 1].sum(), predicted.sum()),
    }.items():
        interval = proportion_confint(hits, of, alpha=0.05, method="wilson")
        assert (metrics[name]["low"], metrics[name]["high"]) == pytest.approx(interval), name
    for name in ("balanced_accuracy", "f1", "average_precision"):
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"], name


def test_bootstrap_interval_agrees_with_scipy():
    table = random_table(300)
    normal, tumour = (
        (table.loc[table["label"] == label, "probability"] >= 0.5).to_numpy() for label in (0, 1)
    )
    # Two independent samples are what resampling within the classes means.
    expected = scipy.stats.bootstrap(
        (normal, tumour),
        lambda false_alarm, found, axis: (found.mean(axis) + 1 - false_alarm.mean(axis)) / 2,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = evaluation.report(table)["operating_points"]["at_0.5"]["metrics"]["balanced_accuracy"]
    # 1,000 resamples place a bound to about a tenth of the interval's width.
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected), abs=0.1 * width(found))


def test_report_is_json_and_the_same_each_time():
    table, validation = random_table(), random_table(seed=1)
    once = json.dumps(evaluation.report(table, validation=validation), allow_nan=False)
    assert once == json.dumps(evaluation.report(table, validation=validation), allow_nan=False)


def test_report_where_nothing_is_called_tumour():
    table = table_of([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4])
    metrics = evaluation.report(table)["operating_points"]["at_0.5"]["metrics"]
    assert metrics["precision"] == {"value": None, "low": None, "high": None}
    assert metrics["sensitivity"]["value"] == 0
    assert metrics["f1"]["value"] == 0
    json.dumps(metrics, allow_nan=False)


def test_intervals_of_clustered_patches_are_wider_by_group():
    table = clustered_table()
    grouped, naive = evaluation.report(table), evaluation.report(table.drop(columns="group"))
    assert "by group" in grouped["intervals"]
    assert "too narrow" in naive["intervals"]
    for name in ("auc", "average_precision"):
        assert grouped["metrics"][name]["value"] == naive["metrics"][name]["value"]
        assert width(grouped["metrics"][name]) > 1.5 * width(naive["metrics"][name]), name
    for name in ("accuracy", "balanced_accuracy"):
        wide, narrow = (
            each["operating_points"]["at_0.5"]["metrics"][name] for each in (grouped, naive)
        )
        assert wide["value"] == narrow["value"]
        assert width(wide) > 1.5 * width(narrow), name


def test_groups_without_a_cluster_effect_change_little():
    table = random_table(600, digits=12)
    groups = np.arange(600) % 100
    by_group = evaluation.report(table.assign(group=groups.astype(str)))["metrics"]["auc"]
    by_patch = evaluation.report(table)["metrics"]["auc"]
    assert width(by_group) == pytest.approx(width(by_patch), rel=0.25)


def test_groups_of_one_class_each():
    # Three slides, so that about every third resample holds one class only: it has no AUC and
    # no average precision, and must neither warn nor count as 0.
    table = random_table(120, seed=3)
    table["group"] = np.where(table["label"] == 1, "tumour", "normal_a")
    table.loc[table.index[table["label"] == 0][::2], "group"] = "normal_b"
    metrics = evaluation.report(table)["metrics"]
    for name in ("auc", "average_precision"):
        assert 0.4 < metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    for curve in evaluation.curves(table, resamples=50).values():
        assert np.isfinite(curve.to_numpy()).all()


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (1, "none: the patches are of 1 slide, and"),
        (2, "none: the patches are of 2 slides, and"),
        (3, "of 3 slides only: too narrow"),
        (9, "of 9 slides only: too narrow"),
        (10, "patches resampled by group"),
    ],
)
def test_few_groups_are_named_and_fewer_have_no_intervals(groups, says):
    table = random_table(120)
    table = table.assign(group=[f"slide_{row % groups}" for row in range(len(table))])
    report = evaluation.report(table, validation=table)
    assert says in report["intervals"]
    metric_of = [*report["metrics"].values(), report["operating_points"]["at_0.5"]["metrics"]["f1"]]
    alone = {metric["value"]: metric["low"] for metric in metric_of}
    assert (set(alone.values()) == {None}) == (groups < 3)
    assert (report["costs"][0]["low"] is None) == (groups < 3)
    text = report_text.format_report(report, title="table")
    assert says in text and "None" not in text and "nan" not in text
    bands = evaluation.curves(table)["roc"][["low", "high"]].to_numpy()
    assert np.isnan(bands).all() == (groups < 3)
    benefit = decisions.decision_curve(table)[["low", "high"]].to_numpy()
    assert np.isnan(benefit).all() == (groups < 3)


def test_results_are_given_for_each_hospital():
    table = random_table(120)
    table = table.assign(hospital=[("A", "007")[row % 2] for row in range(len(table))])
    table.loc[table.index[-4:], ["hospital", "label"]] = ["one class", 0]
    report = evaluation.report(table)
    found = report["hospitals"]
    assert {name: each["patches"] for name, each in found.items()} == {
        "007": 58,
        "A": 58,
        "one class": 4,
    }
    alone = evaluation.report(table[table["hospital"] == "A"].reset_index(drop=True))
    assert found["A"]["auc"] == alone["metrics"]["auc"] and "auc" not in found["one class"]
    assert "hospital 007: 58 patches, AUC" in report_text.format_report(report, title="table")


def test_calibration_error_is_the_mean_gap_weighted_by_patches():
    # Of fifteen bins, 0.22 and 0.26 share one and 0.28 is in the next: not so of 10 or of 20.
    table = table_of([0, 1, 0, 0], [0.22, 0.26, 0.28, 0.95])
    error = evaluation.report(table)["metrics"]["calibration_error"]
    assert error["value"] == pytest.approx((2 * abs(0.5 - 0.24) + 0.28 + 0.95) / 4)
    assert error["low"] is None


def test_calibration_error_of_calibrated_probabilities_is_small():
    generator = np.random.default_rng(0)
    probabilities = generator.random(10_000)
    labels = (generator.random(10_000) < probabilities).astype(int)
    error = evaluation.report(table_of(labels, probabilities))["metrics"]["calibration_error"]
    assert error["value"] < 0.03


def test_areas_under_the_curves_agree_with_scikit_learn():
    table = random_table(1500, digits=12)
    labels, scores = table["label"], table["probability"]
    found = evaluation.curves(table, resamples=60)
    roc, precision_recall = found["roc"], found["precision_recall"]
    assert list(roc.columns) == ["false_positive_rate", "sensitivity", "low", "high"]
    assert list(precision_recall.columns) == ["recall", "precision", "low", "high"]
    area = np.trapezoid(roc["sensitivity"], roc["false_positive_rate"])
    assert area == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=0.005)
    area = np.trapezoid(precision_recall["precision"], precision_recall["recall"])
    expected = sklearn.metrics.average_precision_score(labels, scores)
    assert area == pytest.approx(expected, abs=0.01)
    assert roc["sensitivity"].iloc[-1] == 1
    assert roc["sensitivity"].is_monotonic_increasing
    # With everything called tumour, precision is at least the share of tumour.
    assert precision_recall["precision"].iloc[-1] >= labels.mean()
    for curve, value in ((roc, "sensitivity"), (precision_recall, "precision")):
        assert len(curve) == 201
        assert curve.iloc[:, 0].to_numpy() == pytest.approx(np.linspace(0, 1, 201))
        within = curve[value].between(curve["low"] - 1e-9, curve["high"] + 1e-9)
        assert within.mean() > 0.95
        # No width where every resample has reached 1, nor at the end, the share of tumour.
        unsettled = curve[curve[value].between(0.05, 0.95)].iloc[:-1]
        assert (unsettled["high"] > unsettled["low"]).all()


def test_confident_errors_are_sorted_and_named():
    table = table_of(
        [0, 1, 0, 1, 0, 1],
        [0.7, 0.4, 0.95, 0.02, 0.1, 0.9],
        group=["x"] * 6,
    )
    errors = evaluation.confident_errors(table, 3)
    assert errors["id"].tolist() == ["test_3", "test_2", "test_0"]
    assert errors["error"].tolist() == ["missed tumour", "false alarm", "false alarm"]
    assert list(errors.columns) == ["id", "label", "probability", "group", "error"]
    assert len(evaluation.confident_errors(table, 100)) == 4
    right = table[table["id"].isin(["test_4", "test_5"])]
    assert evaluation.confident_errors(right, 5).empty


def test_inputs_are_left_as_they_were():
    table = clustered_table(slides=4, patches=10)
    before = table.copy()
    evaluation.check_predictions(table, "mine")
    evaluation.report(table, validation=table)
    evaluation.confident_errors(table, 5)
    pd.testing.assert_frame_equal(table, before)


def test_evaluation_needs_no_deep_learning_library():
    code = (
        "import sys, pcam_tf.evaluation; "
        "sys.exit(str([m for m in ('tensorflow', 'keras', 'matplotlib') if m in sys.modules]) "
        "if {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules) else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
