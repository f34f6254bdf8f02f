import numpy as np
import pandas as pd
import pytest
import scipy.special
import sklearn.metrics
from statsmodels.stats.proportion import proportion_confint

from pcam_tf import evaluation
from pcam_tf.evaluation import calibration, report_text


def table_of(labels, probabilities):
    return pd.DataFrame(
        {
            "id": [f"test_{row}" for row in range(len(labels))],
            "label": np.asarray(labels, "int64"),
            "probability": np.asarray(probabilities, "float64"),
        }
    )


def calibrated(patches, seed, temperature=1.0):
    """Return patches whose true log-odds are known, and predicted `temperature` times as large."""
    generator = np.random.default_rng(seed)
    log_odds = generator.normal(0, 2, patches)
    labels = generator.uniform(size=patches) < scipy.special.expit(log_odds)
    return table_of(labels, scipy.special.expit(log_odds * temperature))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_an_over_or_underconfident_model_is_recovered(temperature):
    table = calibrated(40_000, 0, temperature)
    assert calibration.fit_temperature(table) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_less_cross_entropy():
    table = calibrated(500, 1, 3.0)
    fitted = calibration.fit_temperature(table)

    def loss(temperature):
        scaled = calibration.apply_temperature(table, temperature)
        return sklearn.metrics.log_loss(scaled["label"], scaled["probability"])

    assert loss(fitted) < min(loss(fitted * 1.02), loss(fitted / 1.02), loss(1.0))


def test_a_temperature_keeps_ranks_ids_and_certainty():
    table = table_of([0, 1, 1, 0], [0.0, 1.0, 0.7, 0.2])
    scaled = calibration.apply_temperature(table, 2.0)
    assert scaled["probability"].to_numpy() == pytest.approx(
        [0, 1, 1 / (1 + (3 / 7) ** 0.5), 1 / 3], abs=1e-6
    )
    assert list(scaled["id"]) == list(table["id"])
    assert list(calibration.apply_temperature(table, 1.0)["probability"]) == pytest.approx(
        list(table["probability"])
    )


def test_a_report_with_validation_has_calibration_before_and_after():
    report = evaluation.report(calibrated(800, 2, 3.0), validation=calibrated(2000, 3, 3.0))
    fitted = report["calibration"]
    assert fitted["temperature"] == pytest.approx(3.0, rel=0.15)
    for name in ("log_loss", "brier", "calibration_error"):
        before, after = fitted["before"][name], fitted["after"][name]
        assert before["value"] == pytest.approx(report["metrics"][name]["value"])
        assert after["value"] < before["value"]
        if name != "calibration_error":  # a resample's is larger than its own by chance
            assert before["low"] < before["value"] < before["high"]
    text = report_text.format_report(report, title="a table")
    assert f"temperature {fitted['temperature']:.2f}" in text
    assert "calibration" not in evaluation.report(calibrated(100, 4))


def test_calibration_bins():
    table = table_of([0, 1, 1, 0, 1, 1], [0.0, 0.05, 0.1, 0.55, 0.59, 1.0])
    bins = calibration.bins(table)
    assert set(bins.columns) == {"mean_probability", "fraction", "low", "high", "count"}
    assert bins["count"].tolist() == [2, 1, 2, 1]
    assert bins["mean_probability"].tolist() == pytest.approx([0.025, 0.1, 0.57, 1.0])
    assert bins["fraction"].tolist() == [0.5, 1, 0.5, 1]
    expected = [proportion_confint(hits, of, method="wilson") for hits, of in
                [(1, 2), (1, 1), (1, 2), (1, 1)]]  # fmt: skip
    assert bins[["low", "high"]].to_numpy() == pytest.approx(np.array(expected))
