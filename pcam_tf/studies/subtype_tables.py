"""Tables of the study of subtypes: methods, the gap of the random split, magnifications, tests."""

from collections.abc import Mapping, Sequence

import pandas as pd

from pcam_tf.evaluation import cases, reports

Tables = Mapping[tuple[str, str, int], pd.DataFrame]


def of_method(tables: Tables, name: str, by: str = "case") -> list[pd.DataFrame]:
    """Return the tables of one method and split, one for each seed."""
    return [table for (method, split, _), table in tables.items() if (method, split) == (name, by)]


def method_names(tables: Tables) -> list[str]:
    """Return the methods of a study in order."""
    return list(dict.fromkeys(name for name, _, _ in tables))


def _with_both_splits(tables):
    return [name for name in method_names(tables) if of_method(tables, name, "image")]


def summary_rows(tables: Tables, by: str = "case") -> list[dict]:
    """Return a row for each method: metrics by field and by case, means over seeds."""
    rows = []
    for name in method_names(tables):
        chosen = of_method(tables, name, by)
        of_fields = cases.mean_metrics(chosen)
        of_cases = cases.mean_metrics([cases.case_table(table) for table in chosen])
        row = {"method": name}
        for unit, found in (("fields", of_fields), ("cases", of_cases)):
            for metric in ("balanced_accuracy", "macro_f1", "accuracy", "auc", "top_2"):
                if metric == "top_2" and "probability" in chosen[0]:
                    continue  # of two classes, it is always right
                row[f"{metric.replace('_', ' ')}, {unit}"] = reports.metric_text(found[metric])
        rows.append(row)
    return rows


def gap_rows(tables: Tables) -> list[dict]:
    """Return a row for each method: balanced accuracy of fields at random and by case, the gap.

    A method that was not judged by a random split is left out.
    """
    rows = []
    for name in _with_both_splits(tables):
        leaky, honest = of_method(tables, name, "image"), of_method(tables, name, "case")
        values = [cases.mean_metrics(each)["balanced_accuracy"] for each in (leaky, honest)]
        gap = cases.paired_difference(leaky, honest)
        rows.append({
            "method": name,
            "random split (leaky)": reports.metric_text(values[0]),
            "split by case": reports.metric_text(values[1]),
            "gap": reports.metric_text(gap["difference"]),
            "p": f"{gap['p']:.4f}",
        })  # fmt: skip
    return rows


def magnification_rows(tables: Tables, name: str) -> list[dict]:
    """Return a row for each magnification: how many, and balanced accuracy and AUC by case."""
    rows = []
    chosen = of_method(tables, name)
    for magnification in sorted(chosen[0]["magnification"].unique()):
        parts = [
            table[table["magnification"] == magnification].reset_index(drop=True)
            for table in chosen
        ]
        found = cases.mean_metrics(parts)
        of_cases = cases.mean_metrics([cases.case_table(part) for part in parts])
        rows.append({
            "magnification": f"{magnification}X",
            "fields": f"{len(parts[0]):,}",
            "cases": str(parts[0]["group"].nunique()),
            "balanced accuracy, fields": reports.metric_text(found["balanced_accuracy"]),
            "auc, fields": reports.metric_text(found["auc"]),
            "balanced accuracy, cases": reports.metric_text(of_cases["balanced_accuracy"]),
        })  # fmt: skip
    return rows


def test_rows(tables: Tables, baseline: str, names: Sequence[str] = ()) -> list[dict]:
    """Return a row for each other method: its balanced accuracy minus the baseline's, and p."""
    rows = []
    for name in names or method_names(tables):
        if name == baseline:
            continue
        found = cases.paired_difference(of_method(tables, name), of_method(tables, baseline))
        rows.append({
            "method": name,
            f"minus {baseline}": reports.metric_text(found["difference"]),
            "p": f"{found['p']:.4f}",
            "cases": str(found["groups"]),
        })  # fmt: skip
    return rows


def balanced_accuracies(tables: Tables) -> dict[str, dict[str, dict]]:
    """Return the method -> "image" and "case" -> balanced accuracy of fields, as a metric."""
    return {
        name: {
            by: cases.mean_metrics(of_method(tables, name, by))["balanced_accuracy"]
            for by in ("image", "case")
        }
        for name in _with_both_splits(tables)
    }
