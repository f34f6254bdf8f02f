import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from pcam_tf.evaluation import agreement


@pytest.mark.parametrize("classes", [2, 3])
def test_kappa_is_that_of_scikit_learn(classes):
    rng = np.random.default_rng(0)
    first = rng.integers(classes, size=200)
    second = np.where(rng.random(200) < 0.7, first, rng.integers(classes, size=200))
    found = agreement.agreement(first, second)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(first, second))
    assert found["kappa_low"] < found["kappa"] < found["kappa_high"]
    assert found["low"] < found["share"] < found["high"]


@pytest.mark.parametrize(("first", "second"), [([1, 1], [1, 1]), ([], [])])
def test_without_two_labels_there_is_no_kappa(first, second):
    assert agreement.agreement(first, second)["kappa"] is None


def test_the_sentence_says_both():
    found = agreement.agreement([0, 0, 1, 1], [0, 1, 1, 1])
    text = agreement.sentence("A and B", found)
    assert text.startswith("A and B: 3 of 4 patches") and "Cohen's kappa 0.50" in text
    one = agreement.agreement([1, 1], [1, 1])
    assert "no kappa" in agreement.sentence("A and B", one)
