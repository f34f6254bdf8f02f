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


def delong_by_pairs(labels, scores):
    """Return AUC and DeLong's variance, comparing each tumour patch to each normal one."""
    tumour, normal = scores[labels == 1], scores[labels == 0]
    above = (tumour[:, None] > normal) + 0.5 * (tumour[:, None] == normal)
    variance = 0.0
    for means in (above.mean(axis=1), above.mean(axis=0)):
        variance += np.sum((means - above.mean()) ** 2) / (len(means) - 1) / len(means)
    return above.mean(), variance


@pytest.mark.parametrize("digits", [1, 2, 12])
@pytest.mark.parametrize("prevalence", [0.1, 0.6])
def test_auc_interval_is_that_of_all_pairs(digits, prevalence):
    generator = np.random.default_rng(digits)
    labels = (generator.random(150) < prevalence).astype(int)
    scores = (generator.random(150) + 0.3 * labels).round(digits)
    auc, variance = delong_by_pairs(labels, scores)
    margin = 1.959963984540054 * np.sqrt(variance) / (auc * (1 - auc))
    logit = np.log(auc / (1 - auc))
    low, high = (1 / (1 + np.exp(-(logit + each))) for each in (-margin, margin))
    assert evaluation.auc_interval(labels, scores) == pytest.approx((auc, low, high), abs=1e-12)
    assert auc == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)


def test_auc_interval_of_perfect_and_of_useless_scores():
    # Clopper and Pearson's interval of two of two is from the square root of 0.025 to 1.
    perfect = evaluation.auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert perfect == pytest.approx((1, 0.025**0.5, 1))
    useless = evaluation.auc_interval([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9])
    assert useless == pytest.approx((0, 0, 1 - 0.025**0.5))
    assert evaluation.auc_interval([1, 1, 0, 0], [0.5] * 4) == pytest.approx((0.5, 0.5, 0.5))
    high = evaluation.auc_interval([0, 1, 0, 1, 1], [0.1, 0.9, 0.3, 0.2, 0.8])[2]
    assert 0.95 < high < 1


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [1, 1, 1, 0], [0, 1]])
def test_one_patch_of_a_class_gives_the_widest_interval(labels):
    assert evaluation.auc_interval(labels, np.linspace(0.1, 0.9, len(labels)))[1:] == (0, 1)


ONE_TUMOUR = [0] * 50 + [1]


@pytest.mark.parametrize(
    ("labels", "first", "second"),
    [
        (ONE_TUMOUR, np.linspace(0, 1, 51), np.linspace(1, 0, 51)),  # one patch of a class
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.5] * 4),  # the same difference for all
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1]),
    ],
)
def test_a_difference_without_variance_has_neither_interval_nor_p(labels, first, second):
    difference, p = intervals.auc_difference(np.array(labels), *map(np.array, (first, second)))
    assert difference["value"] >= 0.5 and p is None
    assert difference.get("low") is None and difference.get("high") is None


@pytest.mark.parametrize(("patches", "truth"), [(60, 0.76), (20, 0.98), (50, 0.98)])
def test_auc_interval_covers_the_true_auc(patches, truth):
    """Also near 1, where one that is symmetric in the AUC covers 0.74 to 0.84."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], patches)
    distance = np.sqrt(2) * scipy.stats.norm.ppf(truth)  # of the means of two normals
    covered = 0
    for _ in range(600):
        _, low, high = evaluation.auc_interval(labels, generator.normal(distance * labels))
        covered += low <= truth <= high
    # 0.95 give or take three standard errors of 600 draws; few patches may be covered more often.
    assert 0.923 < covered / 600 < 0.99


@pytest.mark.parametrize("groups", [1, 2])
def test_fewer_than_three_groups_have_no_interval(groups):
    table = pd.DataFrame({"label": [0, 1] * 30, "group": [f"s{row % groups}" for row in range(60)]})
    assert not list(intervals.resampled_rows(table))
    sampled = intervals.bootstrap(table, lambda rows: [rows.mean(), 1], 5)
    assert sampled.shape == (5, 2) and np.isnan(sampled).all()
    assert intervals.percentile_interval(sampled[:, 0]) == (None, None)
    assert intervals.two_sided_p(sampled[:, 0]) is None


def test_resamples_of_a_million_rows_are_held_one_at_a_time():
    table = pd.DataFrame({"label": np.arange(1_000_000) % 2})
    samples = intervals.resampled_rows(table)
    for _ in range(2):
        assert len(next(samples)) == 1_000_000


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1.0] * 999, 0.002), ([1.0, -1.0] * 500, 1), ([0.0] * 9, 1), ([1.0] * 97 + [-1.0] * 2, 0.06)],
)
def test_the_p_of_a_bootstrap_is_twice_its_smaller_tail(differences, p):
    assert intervals.two_sided_p(np.array(differences)) == pytest.approx(p)


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
