import numpy as np
import pandas as pd
import pytest

from pcam_tf.errors import InputError
from pcam_tf.evaluation import decisions


def table(labels, probabilities):
    ids = [f"p{row}" for row in range(len(labels))]
    return pd.DataFrame({"id": ids, "label": labels, "probability": probabilities})


@pytest.fixture(scope="module")
def drawn():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    scores = 1 / (1 + np.exp(-generator.normal(2 * (2 * labels - 1), 1.5)))
    return table(labels, scores)


def test_net_benefit_is_hits_minus_false_alarms_at_the_exchange_rate():
    curve = decisions.decision_curve(table([1, 1, 0, 0], [0.9, 0.3, 0.6, 0.1]))
    at = curve.set_index("threshold")
    # At 0.5: one tumour of four found, one false alarm, priced one to one.
    assert at.loc[0.5, "net_benefit"] == pytest.approx(0)
    # At 0.2: both found, one false alarm at a price of a quarter.
    assert at.loc[0.2, "net_benefit"] == pytest.approx(0.5 - 0.25 * 0.25)
    assert at.loc[0.2, "call_all"] == pytest.approx(0.5 - 0.5 * 0.25)


def test_a_resample_without_tumour_does_not_count_as_one_where_all_is_found():
    missed = table([1] * 4 + [0] * 44, [0.1] * 4 + [0.05] * 44)
    missed["group"] = [str(row // 4) for row in range(48)]
    at_half = decisions.decision_curve(missed).set_index("threshold").loc[0.5]
    assert at_half["low"] == at_half["net_benefit"] == at_half["high"] == 0


def test_net_benefit_falls_with_prevalence_and_lies_within_its_band(drawn):
    common, rare = (decisions.decision_curve(drawn, prevalence=p) for p in (0.5, 0.05))
    assert (rare["net_benefit"] <= common["net_benefit"] + 1e-12).all()
    assert (common["low"] <= common["net_benefit"]).mean() > 0.95
    assert (common["high"] >= common["net_benefit"]).mean() > 0.95
    for impossible in (0, 1, -0.1):
        with pytest.raises(InputError, match="prevalence"):
            decisions.decision_curve(drawn, prevalence=impossible)


def test_a_more_expensive_miss_lowers_the_threshold_and_the_misses(drawn):
    found = decisions.costs(drawn, drawn, (1, 5, 20))
    assert found["threshold"].is_monotonic_decreasing
    assert found["missed"].is_monotonic_decreasing
    row = found.iloc[1]
    expected = 100 * (5 * row["missed"] + row["false_alarms"]) / len(drawn)
    assert row["cost"] == pytest.approx(expected)
    assert row["low"] <= row["cost"] <= row["high"] < row["cheapest"] == 50
    # No other threshold would have been cheaper on the table it was chosen on.
    for threshold in np.linspace(0, 1, 101):
        called = drawn["probability"] >= threshold
        missed, alarms = (~called & (drawn["label"] == 1)), (called & (drawn["label"] == 0))
        assert 100 * (5 * missed.sum() + alarms.sum()) / len(drawn) >= row["cost"] - 1e-9


def test_a_miss_that_costs_nothing_is_refused(drawn):
    with pytest.raises(InputError, match="a miss cannot cost 0"):
        decisions.costs(drawn, drawn, [0])
