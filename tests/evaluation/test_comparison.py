import functools
import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
import three_classes

from pcam_tf import evaluation
from pcam_tf.errors import InputError
from pcam_tf.evaluation import comparison, intervals, report_text


def tables(patches=300, seed=0, groups=0):
    """Return predictions of a better and a worse model that err on much the same patches."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, patches)
    shared = labels + generator.normal(0, 0.8, patches)
    found = []
    for noise in (0.2, 0.9):
        scores = scipy.stats.norm.cdf(shared - 0.5 + generator.normal(0, noise, patches))
        columns = {"id": [f"p{row}" for row in range(patches)], "label": labels}
        table = pd.DataFrame(columns | {"probability": scores.round(3)})
        if groups:
            table["group"] = [f"slide{row % groups}" for row in range(patches)]
        found.append(table)
    return found


def test_delong_is_what_its_definition_says():
    first, second = tables(60)
    labels = first["label"].to_numpy()
    kernels = []
    for table in (first, second):
        scores = table["probability"].to_numpy()
        tumour, normal = scores[labels == 1][:, None], scores[labels == 0][None]
        kernels.append((tumour > normal) + 0.5 * (tumour == normal))
    tumour_part = np.cov([kernel.mean(axis=1) for kernel in kernels]) / len(kernels[0])
    normal_part = np.cov([kernel.mean(axis=0) for kernel in kernels]) / kernels[0].shape[1]
    covariance = tumour_part + normal_part
    difference = kernels[0].mean() - kernels[1].mean()
    spread = np.sqrt(np.array([1, -1]) @ covariance @ np.array([1, -1]))
    found = comparison.compare(first, second)["auc"]
    assert found["difference"]["value"] == pytest.approx(difference)
    assert found["difference"]["high"] - found["difference"]["low"] == pytest.approx(
        2 * 1.959964 * spread, rel=1e-6
    )
    assert found["p"] == pytest.approx(2 * scipy.stats.norm.sf(abs(difference) / spread))


def test_mcnemar_counts_the_patches_that_only_one_calls_right():
    labels = [1] * 6 + [0] * 4
    one = [0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.9]
    other = [0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.9, 0.9]
    first, second = (
        pd.DataFrame({"id": list("abcdefghij"), "label": labels, "probability": scores})
        for scores in (one, other)
    )
    found = comparison.compare(first, second)["mcnemar"]
    assert (found["only_first_right"], found["only_second_right"]) == (4, 1)
    assert found["p"] == pytest.approx(scipy.stats.binomtest(1, 5, 0.5).pvalue)
    # At other thresholds, other patches are called right.
    moved = comparison.compare(first, second, thresholds=(0.95, 0.5))["mcnemar"]
    assert moved["only_second_right"] == 3


def test_a_model_does_not_differ_from_itself():
    first, _ = tables(100)
    found = comparison.compare(first, first.sample(frac=1, random_state=0))
    assert found["auc"]["difference"] == {"value": 0, "low": 0, "high": 0}
    assert found["auc"]["p"] == found["mcnemar"]["p"] == 1
    no_difference = {"value": 0, "low": 0, "high": 0, "p": 1}
    assert all(each == no_difference for each in found["bootstrap"].values())


def test_the_bootstrap_agrees_with_delong():
    found = comparison.compare(*tables(600))
    delong, bootstrap = found["auc"]["difference"], found["bootstrap"]["auc"]
    assert bootstrap["value"] == pytest.approx(delong["value"])
    assert bootstrap["low"] == pytest.approx(delong["low"], abs=0.006)
    assert bootstrap["high"] == pytest.approx(delong["high"], abs=0.006)
    assert delong["low"] > 0 and found["auc"]["p"] < 0.001


def test_slides_are_resampled_whole():
    independent = comparison.compare(*tables(400))["bootstrap"]["accuracy"]
    first, second = tables(400)
    blocks = [f"slide{row // 100}" for row in range(400)]
    grouped = comparison.compare(first.assign(group=blocks), second)["bootstrap"]["accuracy"]
    assert grouped["value"] == independent["value"]
    assert (grouped["low"], grouped["high"]) != (independent["low"], independent["high"])


def test_the_order_of_the_second_table_does_not_matter():
    first, second = tables(120)
    shuffled = second.sample(frac=1, random_state=1).reset_index(drop=True)
    assert comparison.compare(first, shuffled) == comparison.compare(first, second)


def test_tables_of_other_patches_or_labels_are_refused():
    first, second = tables(50)
    with pytest.raises(InputError, match=r"different patches .*such as p49"):
        comparison.compare(first, second[:49])
    with pytest.raises(InputError, match="different patches"):
        comparison.compare(first[:49], second)
    second.loc[7, "label"] = 1 - second.loc[7, "label"]
    with pytest.raises(InputError, match="label of 1 patches, such as p7"):
        comparison.compare(first, second)


def test_a_comparison_has_a_text_and_fits_into_json():
    found = comparison.compare(*tables(200))
    json.dumps(found)
    text = report_text.format_comparison(found, names=("ours", "theirs"))
    for word in ("ours", "theirs", "DeLong", "McNemar", "sensitivity"):
        assert word in text
    assert (
        f"{evaluation.auc_interval(*tables(200)[0][['label', 'probability']].to_numpy().T)[0]:.3f}"
        in text
    )


def test_models_of_three_classes_are_compared():
    first = three_classes.drawn(300)
    generator = np.random.default_rng(1)
    noisy = evaluation.probabilities_of(first) * generator.uniform(0.2, 1, (300, 3))
    noisy /= noisy.sum(axis=1, keepdims=True)
    second = three_classes.table_of(first["label"], noisy)
    found = comparison.compare(first, second.sample(frac=1, random_state=0))
    json.dumps(found, allow_nan=False)
    assert found["classes"] == list(three_classes.CLASSES) and "auc" not in found
    labels, scores = first["label"], [evaluation.probabilities_of(each) for each in (first, second)]
    right = [each.argmax(axis=1) == labels for each in scores]
    assert found["mcnemar"]["only_first_right"] == (right[0] & ~right[1]).sum()
    assert found["mcnemar"]["only_second_right"] == (right[1] & ~right[0]).sum()
    expected = {
        "accuracy": [each.mean() for each in right],
        "macro_auc": [
            sklearn.metrics.roc_auc_score(labels, each, multi_class="ovr") for each in scores
        ],
        "balanced_accuracy": [
            sklearn.metrics.balanced_accuracy_score(labels, each.argmax(axis=1)) for each in scores
        ],
        "macro_f1": [
            sklearn.metrics.f1_score(labels, each.argmax(axis=1), average="macro")
            for each in scores
        ],
    }
    assert set(found["bootstrap"]) == set(expected)
    for name, (one, other) in expected.items():
        metric = found["bootstrap"][name]
        assert metric["value"] == pytest.approx(one - other)
        assert metric["low"] < metric["value"] < metric["high"]
    text = report_text.format_comparison(found, names=("ours", "theirs"))
    assert "macro AUC" in text and "McNemar" in text and "DeLong" not in text


def test_a_model_of_three_classes_does_not_differ_from_itself():
    table = three_classes.drawn(80).assign(group=[f"s{row % 9}" for row in range(80)])
    found = comparison.compare(table, table)
    assert found["mcnemar"]["p"] == 1
    no_difference = {"value": 0, "low": 0, "high": 0, "p": 1}
    assert all(each == no_difference for each in found["bootstrap"].values())


def null_tables(seed, slides=12, patches=80):
    """Return two models that are as good as each other, each with errors of its own by slide."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, slides * patches)
    slide = np.repeat(np.arange(slides), patches)
    found = []
    for _ in range(2):
        of_slide = generator.normal(0, 1, (2, slides))[labels, slide]
        scores = scipy.stats.norm.cdf(
            2 * labels - 1 + of_slide + generator.normal(0, 1, len(slide))
        )
        columns = {"id": np.arange(len(slide)).astype(str), "label": labels, "probability": scores}
        found.append(pd.DataFrame(columns | {"group": slide.astype(str)}))
    return found


def test_models_that_differ_by_chance_of_slides_are_not_told_apart_by_groups(monkeypatch):
    """Tests that take patches as independent reject most of the time; 5 % would be right."""
    fewer = functools.partial(intervals.bootstrap, count=200)
    monkeypatch.setattr(intervals, "bootstrap", fewer)
    rejected = {"groups": 0, "DeLong": 0}
    for seed in range(30):
        found = comparison.compare(*null_tables(seed))
        rejected["groups"] += found["auc"]["p"] < 0.05
        rejected["DeLong"] += found["delong"]["p"] < 0.05
    assert rejected["groups"] <= 6 and rejected["DeLong"] >= 15, rejected


def test_a_comparison_with_groups_leads_with_their_bootstrap():
    found = comparison.compare(*null_tables(0))
    assert found["groups"] == 12
    assert found["auc"]["difference"] == found["bootstrap"]["auc"]
    widths = [
        each["high"] - each["low"]
        for each in (found["auc"]["first"], found["delong"]["difference"])
    ]
    assert widths[0] > widths[1]
    text = report_text.format_comparison(found, names=("a", "b"))
    assert text.index("bootstrap of groups") < text.index("do not rely on these")
    assert text.index("do not rely on these") < text.index("DeLong") < text.index("McNemar")
    ungrouped = [table.drop(columns="group") for table in null_tables(0)]
    text = report_text.format_comparison(comparison.compare(*ungrouped), names=("a", "b"))
    assert "(DeLong, paired)" in text and "do not rely" not in text


@pytest.mark.parametrize(("slides", "says"), [(2, "no intervals"), (5, "too narrow")])
def test_a_comparison_of_few_groups_says_so(slides, says):
    found = comparison.compare(*null_tables(0, slides=slides))
    text = report_text.format_comparison(found, names=("a", "b"))
    assert says in text and "None" not in text and "nan" not in text
    assert (found["auc"]["p"] is None) == (slides < 3)


def test_tables_of_other_classes_are_refused():
    first = three_classes.SMALL
    other = first.rename(columns={"probability_ductal": "probability_papillary"})
    with pytest.raises(InputError, match=r"different classes \(ductal.*; papillary") as caught:
        comparison.compare(first, other)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"different classes \(two classes; ductal"):
        comparison.compare(tables(20)[0], first)


def test_groups_of_either_table_are_used_and_must_agree():
    first, second = tables(120, groups=12)
    alone = first.drop(columns="group"), second.drop(columns="group")
    both = comparison.compare(first, second)
    shuffled = second.sample(frac=1, random_state=0)
    assert comparison.compare(alone[0], shuffled) == comparison.compare(first, alone[1]) == both
    assert both["groups"] == 12
    second.loc[3, "group"] = "slide99"
    with pytest.raises(InputError, match="group of 1 patches, such as p3"):
        comparison.compare(first, second)
