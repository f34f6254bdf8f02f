import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import three_classes

from pcam_tf import evaluation, prediction
from pcam_tf.errors import InputError
from pcam_tf.evaluation import report_text, reports
from pcam_tf.task import Task


def drawn(*, separation: float, seed: int) -> pd.DataFrame:
    """Return a predictions table of 100 normal and 100 tumour patches."""
    labels = np.repeat([0, 1], 100)
    scores = np.random.default_rng(seed).normal(separation * (labels - 0.5))
    ids = [f"patch_{row}" for row in range(200)]
    return pd.DataFrame({"id": ids, "label": labels, "probability": scipy.stats.norm.cdf(scores)})


@pytest.fixture
def run(tmp_path):
    """Return a run's folder with predictions of both phases."""
    for name, separation in (("predictions-frozen", 1.0), ("predictions", 2.0)):
        for seed, split in enumerate(("validation", "test")):
            table = drawn(separation=separation, seed=seed)
            prediction.write(table, tmp_path / f"{name}-{split}.csv")
    return tmp_path


def test_a_runs_report_is_that_of_its_tables(run):
    found = reports.report_run(run)
    tables = {
        split: evaluation.read_predictions(run / f"predictions-{split}.csv")
        for split in ("validation", "test")
    }
    expected = evaluation.report(tables["test"], validation=tables["validation"])
    assert found["unfrozen"] | expected == found["unfrozen"]
    assert found["unfrozen"]["validation_auc"]["value"] == pytest.approx(
        evaluation.auc_interval(tables["validation"].label, tables["validation"].probability)[0]
    )
    assert json.loads((run / "report.json").read_text()) == found == reports.read_run_report(run)


def test_a_run_without_a_report_is_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no report\.json"):
        reports.read_run_report(tmp_path)


def test_the_summary_says_model_split_patches_and_intervals(run):
    found = reports.report_run(run)
    rows = reports.summary_rows(found)
    assert [(row["model"], row["split"], row["patches"]) for row in rows] == [
        ("frozen", "validation", "200"),
        ("frozen", "test", "200"),
        ("unfrozen", "validation", "200"),
        ("unfrozen", "test", "200"),
    ]
    auc = found["unfrozen"]["metrics"]["auc"]
    assert rows[3]["AUC"] == f"{auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f})"
    lines = reports.markdown_table(rows).splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1


def test_the_text_report_names_every_metric_and_the_counts(run):
    found = reports.report_run(run)["unfrozen"]
    text = report_text.format_report(found, title="a title")
    assert text.startswith("a title\n200 patches: 100 normal, 100 tumour\n")
    for name in ("AUC", "Brier score", "sensitivity", "balanced accuracy", "F1", "youden"):
        assert name in text
    (true_normal, _), (missed, true_tumour) = found["operating_points"]["at_0.5"]["confusion"]
    assert f"{true_tumour} tumour found, {missed} missed; {true_normal} normal passed" in text


def test_a_run_of_three_classes_is_reported(tmp_path):
    for name in ("predictions-frozen", "predictions"):
        for seed, split in enumerate(("validation", "test")):
            path = tmp_path / f"{name}-{split}.csv"
            three_classes.drawn(90, seed=seed).to_csv(path, index=False)
    found = reports.report_run(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    content = found["unfrozen"]
    assert list(content["per_class"]) == list(three_classes.CLASSES)
    assert content["validation_auc"]["low"] < content["validation_auc"]["value"]
    rows = reports.summary_rows(found)
    assert [row["patches"] for row in rows] == ["90"] * 4
    assert list(rows[0])[3:] == ["macro AUC", "accuracy", "balanced accuracy"]
    auc = content["metrics"]["macro_auc"]
    assert rows[3]["macro AUC"] == f"{auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f})"
    assert "mucinous" in report_text.format_report(content, title="a title")


def test_a_run_of_two_classes_takes_their_names_from_its_task(run):
    task = Task("toy", ("benign", "malignant"), side_px=64, mpp=0.5)
    (run / "recipe.json").write_text(json.dumps({"task": task.to_json()}))
    content = reports.report_run(run)["unfrozen"]
    assert (content["benign"], content["malignant"]) == (100, 100)
    text = report_text.format_report(content, title="a title")
    assert "100 benign, 100 malignant" in text
    assert reports.operating_point_rows(content)[0]["missed"].endswith("of 100")
    for broken in ("[]", "{"):
        (run / "recipe.json").write_text(broken)
        with pytest.raises(InputError, match="is not a recipe"):
            reports.report_run(run)
