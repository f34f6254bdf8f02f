"""Compare two models on the same patches: is the difference more than chance?"""

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar

from pcam_tf.errors import InputError
from pcam_tf.evaluation import class_metrics, intervals, metrics, predictions_table

# With fewer discordant patches the chi-squared approximation of McNemar's test is poor.
EXACT_BELOW = 25


def compare(
    first: pd.DataFrame, second: pd.DataFrame, *, thresholds: tuple[float, float] = (0.5, 0.5)
) -> dict:
    """Compare two predictions tables of the same patches and classes.

    Differences are the first model's value minus the second's.

    Args:
        first: a checked predictions table.
        second: another, of the same patches in any order.
        thresholds: of the first and the second model; only used with two classes.

    Returns:
        A dictionary that JSON can hold. `patches`; `groups`: how many, None where none are named;
        `bootstrap`: differences with paired percentile intervals and `p`, resampled by group where
        there are groups; `mcnemar`: patches that only the `first` and only the `second` predicts
        right, and `p`, which takes patches as independent. Two classes: also `thresholds` and `auc`
        (`first`, `second`, `difference`, `p`), and the bootstrap is of AUC, accuracy, sensitivity
        and specificity. Without groups, `auc` is by DeLong's paired test. With groups it is by the
        bootstrap, and `delong` holds the `difference` and `p` of that test, which takes patches as
        independent. More classes: also `classes` (their names), and the bootstrap is of accuracy,
        balanced accuracy, macro F1 and macro AUC. Fewer than `intervals.FEWEST_GROUPS` groups have
        no intervals and no p by bootstrap.

    Raises:
        InputError: the tables hold different classes, patches, labels or groups.
    """
    _refuse_other_classes(first, second)
    second = _matched(first, second)
    first = _with_groups(first, second)
    labels = first["label"].to_numpy()
    predicted = np.stack(
        [
            predictions_table.predicted_classes(table, threshold)
            for table, threshold in zip((first, second), thresholds, strict=True)
        ]
    )
    grouped = intervals.is_grouped(first)
    content = {"patches": len(labels), "groups": first["group"].nunique() if grouped else None}
    test = _mcnemar(predicted == labels)
    if not predictions_table.is_binary(first):
        classes = list(predictions_table.classes_of(first))
        bootstrap = _bootstrap_of_more(first, second)
        return content | {"classes": classes, "mcnemar": test, "bootstrap": bootstrap}
    scores = np.stack([predictions_table.probabilities_of(table) for table in (first, second)])
    bootstrap = _bootstrap_of_two(first, scores, predicted == 1)
    difference, p = intervals.auc_difference(labels, *scores)
    aucs = {name: _auc(first, each) for name, each in zip(("first", "second"), scores, strict=True)}
    delong = {"difference": difference, "p": p}
    if grouped:
        by_group = {"difference": bootstrap["auc"], "p": bootstrap["auc"]["p"]}
    content |= {
        "thresholds": list(map(float, thresholds)),
        "auc": aucs | (by_group if grouped else delong),
        "mcnemar": test,
        "bootstrap": bootstrap,
    }
    return content | ({"delong": delong} if grouped else {})


def _refuse_other_classes(first, second):
    names = [predictions_table.classes_of(table) for table in (first, second)]
    if names[0] != names[1]:
        one, other = (", ".join(each) for each in names)
        if predictions_table.is_binary(first) != predictions_table.is_binary(second):
            one, other = (
                "two classes" if predictions_table.is_binary(table) else text
                for table, text in ((first, one), (second, other))
            )
        raise InputError(
            f"the tables are of different classes ({one}; {other}): "
            "compare models of the same task."
        )


def _matched(first, second):
    """Return the second table in the order of the first."""
    missing = first.loc[~first["id"].isin(second["id"]), "id"]
    if len(missing) or len(first) != len(second):
        example = f", such as {missing.iloc[0]}" if len(missing) else ""
        raise InputError(
            f"the tables hold different patches ({len(first):,} and {len(second):,}{example}): "
            "predict the same split with both models."
        )
    second = second.set_index("id").loc[first["id"]].reset_index()
    different = first["label"].to_numpy() != second["label"].to_numpy()
    if different.any():
        raise InputError(
            f"the tables disagree on the label of {different.sum():,} patches, such as "
            f"{first['id'].iloc[int(np.argmax(different))]}: they are of different data."
        )
    return second


def _with_groups(first, second):
    """Return the first table with the groups of either, which must not contradict each other."""
    if not intervals.is_grouped(second):
        return first
    if not intervals.is_grouped(first):
        return first.assign(group=second["group"].to_numpy())
    different = first["group"].astype("str").to_numpy() != second["group"].astype("str").to_numpy()
    if different.any():
        raise InputError(
            f"the tables disagree on the group of {different.sum():,} patches, such as "
            f"{first['id'].iloc[int(np.argmax(different))]}: name groups alike in both, or in one."
        )
    return first


def _mcnemar(right):
    """Return McNemar's test of which patches each model predicts right, bool (2, n)."""
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    both, neither = int((right[0] & right[1]).sum()), int((~right[0] & ~right[1]).sum())
    test = mcnemar(
        [[both, only_first], [only_second, neither]],
        exact=only_first + only_second < EXACT_BELOW,
        correction=True,
    )
    return {
        "only_first_right": only_first,
        "only_second_right": only_second,
        "p": float(test.pvalue),
    }


def _auc(table, scores):
    """Return the AUC of other scores for the patches of a table."""
    return metrics.auc_metric(table.assign(probability=scores))


def _bootstrap_of_two(table, scores, called):
    """Return differences with intervals from the same resamples for both models."""
    labels = table["label"].to_numpy()
    positive = labels == 1
    aucs = [intervals.auc_by_rows(labels, each) for each in scores]

    def rates(rows):
        truth, calls = positive[rows], called[:, rows]
        hits = calls == truth
        with np.errstate(invalid="ignore"):
            return (
                [each(rows) for each in aucs],
                hits.mean(axis=1),
                (hits & truth).sum(axis=1) / truth.sum(),
                (hits & ~truth).sum(axis=1) / (~truth).sum(),
            )

    names = ("auc", "accuracy", "sensitivity", "specificity")
    values = dict(zip(names, np.array(rates(slice(None))), strict=True))
    sampled = np.moveaxis(intervals.bootstrap(table, rates), 1, 0)
    return _differences(values, dict(zip(names, sampled, strict=True)))


def _bootstrap_of_more(first, second):
    """Return differences with intervals from the same resamples for both models."""
    statistics = [class_metrics.statistics_by_rows(table) for table in (first, second)]
    values = np.stack([each(slice(None)) for each in statistics])
    sampled = intervals.bootstrap(first, lambda rows: [each(rows) for each in statistics])
    return _differences(class_metrics.overall_of(values), class_metrics.overall_of(sampled))


def _differences(values, sampled):
    """Return the first minus the second: values (2,), sampled (count, 2) of each metric."""
    content = {}
    for name, (one, other) in values.items():
        differences = sampled[name][:, 0] - sampled[name][:, 1]
        content[name] = intervals.metric(one - other, intervals.percentile_interval(differences))
        content[name]["p"] = intervals.two_sided_p(differences)
    return content
