import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics

from pcam_tf import evaluation
from pcam_tf.evaluation import intervals


def test_samples_by_class_keep_the_classes_and_come_again():
    table = pd.DataFrame({"label": [0, 1, 1, 2, 2, 2]})
    once, again = (list(evaluation.resampled_rows(table, 5)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    for rows in once:
        assert np.bincount(table["label"][rows]).tolist() == [1, 2, 3]
    first = list(itertools.islice(evaluation.resampled_rows(table), 5))
    np.testing.assert_array_equal(first, once)


def test_samples_by_group_hold_whole_groups():
    table = pd.DataFrame({"label": [0, 1] * 3, "group": list("aabbcc")})
    for rows in evaluation.resampled_rows(table, 20):
        counts = np.bincount(rows, minlength=6)
        assert counts[::2].tolist() == counts[1::2].tolist()
        assert counts.sum() == 6


def test_a_large_table_is_resampled_one_sample_at_a_time():
    table = pd.DataFrame({"label": np.arange(200_000) % 2})
    tracemalloc.start()
    total = sum(len(rows) for rows in evaluation.resampled_rows(table, 50))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 50 * 200_000
    # All fifty samples at once would be 80 MB.
    assert peak < 20e6


@pytest.mark.parametrize("digits", [1, 12])
def test_auc_of_resamples_is_that_of_scikit_learn(digits):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    scores = (generator.random(200) + 0.3 * labels).round(digits)
    auc_of = intervals.auc_by_rows(labels, scores)
    for rows in evaluation.resampled_rows(pd.DataFrame({"label": labels}), 5):
        expected = sklearn.metrics.roc_auc_score(labels[rows], scores[rows])
        assert auc_of(rows) == pytest.approx(expected, abs=1e-12)
    expected = sklearn.metrics.roc_auc_score(labels, scores)
    assert evaluation.auc(labels, scores) == pytest.approx(expected, abs=1e-12)
    positive, negative = evaluation.placement_values(labels, scores)
    assert positive.mean() == pytest.approx(expected) == pytest.approx(negative.mean())


def test_auc_of_one_class_is_not_a_number():
    assert np.isnan(evaluation.auc(np.array([1, 1]), np.array([0.1, 0.2])))


def test_the_bootstrap_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(1).normal(size=100)
    table = pd.DataFrame({"label": np.zeros(100, int)})
    sampled = intervals.bootstrap(table, lambda rows: values[rows].mean())
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile").confidence_interval
    assert intervals.percentile_interval(sampled) == pytest.approx(tuple(expected), abs=0.02)


def test_what_is_not_defined_is_none():
    assert intervals.metric(np.nan, (0, 1)) == {"value": None, "low": None, "high": None}
    assert intervals.percentile_interval(np.full(3, np.nan)) == (None, None)
    assert intervals.metric(0.5, (np.float64(0.25), None)) == {
        "value": 0.5,
        "low": 0.25,
        "high": None,
    }
