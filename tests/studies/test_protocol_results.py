import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pcam_tf import prediction
from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.figures import protocol_plots
from pcam_tf.studies import protocol_results, protocols

CONDITIONS = [(0, 60), (1, 60), (0, 120), (0, 240)]
DOCS = Path(__file__).parents[2] / "docs"
PATCHES = {protocols.HELD_OUT: 40, "validation": 60, "test": 80}


@pytest.fixture
def study_dir(tmp_path):
    """Return the folder of a finished study whose predictions are drawn at random."""
    generator = np.random.default_rng(0)

    def write(path, name):
        count = PATCHES[name]
        labels = np.arange(count) % 2
        odds = generator.normal(2 * labels - 1, 1.5)
        ids = [f"{name} {number}" for number in range(count)]
        table = pd.DataFrame({"id": ids, "label": labels, "probability": 1 / (1 + np.exp(-odds))})
        prediction.write(table, path)

    for seed, size in CONDITIONS:
        folder = tmp_path / f"seed{seed}-{size}"
        folder.mkdir()
        for phase in protocols.PHASES:
            for name in PATCHES:
                write(folder / f"{phase}-{name}.csv", name)
        for epoch in (1, 2):
            write(folder / f"epoch{epoch}-test.csv", "test")
        ids = pd.DataFrame({"id": [f"train {number}" for number in range(size)]})
        ids.to_csv(folder / "training.csv", index=False)
    pd.DataFrame({"first": [], "second": []}).to_csv(tmp_path / "overlaps.csv", index=False)
    pd.DataFrame({"id": ["test 0", "test 1"]}).to_csv(tmp_path / "blank.csv", index=False)
    return tmp_path


def test_every_condition_is_judged_by_every_protocol(study_dir):
    found = protocol_results.results(study_dir)
    assert len(found) == len(CONDITIONS) * 2 * len(protocol_results.PROTOCOLS)
    assert set(zip(found["seed"], found["size"], strict=True)) == set(CONDITIONS)
    patches = found.groupby("protocol")["patches"].first()
    assert patches[protocols.HELD_OUT] == 40 and patches["test"] == 80
    assert (found["accuracy_own"] >= found["accuracy"]).all()
    assert (found["accuracy_own"] >= found["accuracy_validation"]).all()
    assert found["auc"].between(found["low"], found["high"]).all()


def test_results_are_those_of_the_tables(study_dir):
    found = protocol_results.results(study_dir)
    of = (found["phase"] == "unfrozen") & (found["protocol"] == "test")
    row = found[of & (found["seed"] == 0) & (found["size"] == 60)].iloc[0]
    table = pd.read_csv(study_dir / "seed0-60" / "unfrozen-test.csv")

    def accuracy(of, threshold=0.5):
        return np.mean((of["probability"] >= threshold) == of["label"])

    assert row.accuracy == accuracy(table)
    assert row.accuracy_not_blank == accuracy(table.iloc[2:])
    assert row.accuracy_own == max(accuracy(table, each) for each in [*table["probability"], 2])
    epochs = [pd.read_csv(study_dir / "seed0-60" / f"epoch{each}-test.csv") for each in (1, 2)]
    assert row.accuracy_epoch == max(map(accuracy, epochs))
    assert found[~of]["accuracy_epoch"].isna().all()


def test_patches_that_overlap_training_ones_are_left_out(study_dir):
    pairs = {"first": ["held out 0", "train 1"], "second": ["train 0", "held out 1"]}
    pd.DataFrame(pairs).to_csv(study_dir / "overlaps.csv", index=False)
    found = protocol_results.results(study_dir)
    assert set(found[found["protocol"] == protocol_results.APART]["patches"]) == {38}


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished study"):
        protocol_results.results(tmp_path)


def test_what_is_not_stored_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol_results, "STORED_RESULTS", tmp_path / "protocols.csv")
    with pytest.raises(InputError, match="run `python -m pcam_tf protocols --preset cpu`"):
        protocol_results.stored_results()


def curve(aucs, sizes, spread=2e-3):
    low, high = aucs - spread, aucs + spread
    return pd.DataFrame({"size": sizes, "auc": aucs, "low": low, "high": high, "patches": 1000})


def test_the_law_of_a_learning_curve_and_its_floor_are_found():
    sizes = np.repeat([2000, 5000, 10000, 18000, 60000], 3)
    errors = 0.03 + 2.0 * sizes**-0.4
    law = protocol_results.fitted_law(sizes, errors)
    assert law.floor == pytest.approx(0.03, abs=1e-3)
    assert law.power == pytest.approx(0.4, abs=0.01)
    noisy = errors * np.random.default_rng(0).normal(1, 0.003, len(sizes))
    read = protocol_results.learning_curve(curve(1 - noisy, sizes), "auc", [262144, np.inf])
    assert read["value"][0] == pytest.approx(1 - 0.03 - 2.0 * 262144**-0.4, abs=3e-3)
    assert read["low"][1] < 0.97 < read["high"][1]
    assert (read["low"] <= read["value"]).all() and (read["value"] <= read["high"]).all()


def test_two_sizes_have_no_floor_and_one_has_no_curve():
    sizes = np.array([1000, 4000])
    law = protocol_results.fitted_law(sizes, 2.0 * sizes**-0.4)
    assert law == pytest.approx((0, 2.0, 0.4))
    with pytest.raises(InputError, match="two sizes"):
        protocol_results.fitted_law(sizes[:1], [0.1])


def test_more_models_judged_on_the_same_patches_do_not_narrow_the_interval():
    sizes = np.array([1000.0, 2000, 5000])
    once = curve(1 - 2.0 * sizes**-0.4, sizes, spread=0.01)
    widths = []
    for found in (once, pd.concat([once] * 16)):
        read = protocol_results.learning_curve(found, "auc", [100000], resamples=100)
        widths.append(read["high"][0] - read["low"][0])
    assert widths[1] == pytest.approx(widths[0], rel=0.5)


def test_fewer_patches_widen_the_interval_of_an_accuracy():
    sizes = np.array([1000, 2000, 5000])
    found = curve(1 - 2.0 * sizes**-0.4, sizes).rename(columns={"auc": "accuracy"})
    widths = []
    for patches in (10000, 100):
        read = protocol_results.learning_curve(
            found.assign(patches=patches), "accuracy", [5000], resamples=100
        )
        widths.append(read["high"][0] - read["low"][0])
    assert widths[1] > 5 * widths[0]


def test_the_main_size_is_the_largest_that_was_repeated(study_dir):
    found = protocol_results.results(study_dir)
    assert protocol_results.main_size(found) == 60
    assert protocol_results.main_size(found[found["seed"] == 0]) == 240


def test_tables_say_what_was_found(study_dir):
    found = protocol_results.results(study_dir)
    summary = protocol_results.summary_rows(found)
    assert [row["model"] for row in summary] == ["unfrozen"] * 4 + ["frozen"] * 4
    assert "held out" in reports.markdown_table(summary)
    sizes = protocol_results.size_rows(found)
    assert [(row["training patches"], row["seeds"]) for row in sizes] == [
        ("60", "2"),
        ("120", "1"),
        ("240", "1"),
    ]
    gaps = {row["leak"]: row for row in protocol_results.gap_rows(found)}
    of = found[(found["phase"] == "unfrozen") & (found["size"] == 60)]
    means = of.groupby("protocol")["accuracy"].mean()
    gap = gaps["same slides, against test slides"]["accuracy"]
    assert float(gap.split()[0]) == pytest.approx(
        means[protocol_results.APART] - means["test"], abs=6e-4
    )
    curves = protocol_results.curve_rows(found, 262144)
    assert [row["reported"] for row in curves] == ["0.978", "–", "0.886", "0.869"]


def test_figures_show_every_seed(study_dir):
    found = protocol_results.results(study_dir)
    left, right = protocol_plots.ladder(found).axes
    assert len(left.get_yticklabels()) == len(protocol_plots.ACCURACIES)
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [2] * 4
    # Frozen features were not predicted after each epoch.
    frozen = protocol_plots.ladder(found, "frozen").axes[0]
    assert len(frozen.get_yticklabels()) == len(protocol_plots.ACCURACIES) - 1
    for reported, diamonds in ((False, 0), (True, 3)):
        axes = protocol_plots.errors_by_size(found, 262144, reported=reported).axes[0]
        assert axes.get_xscale() == "log"
        assert sum(line.get_marker() == "D" for line in axes.lines) == diamonds


def test_the_page_takes_its_tables_from_the_results(study_dir):
    filled = runpy.run_path(str(DOCS / "where_98_tables.py"))["filled"]
    page = (DOCS / "where_98_comes_from.md").read_text(encoding="utf-8")
    found = protocol_results.results(study_dir)
    content = filled(page, found)
    for rows in (protocol_results.summary_rows(found), protocol_results.gap_rows(found)):
        assert content.count(reports.markdown_table(rows)) == 1
    assert content.count("<!-- end -->") == page.count("<!-- end -->") == 4
    assert content.count("# ") == page.count("# ")


@pytest.mark.skipif(not protocol_results.STORED_RESULTS.is_file(), reason="none are stored")
def test_the_page_shows_the_stored_results():
    filled = runpy.run_path(str(DOCS / "where_98_tables.py"))["filled"]
    page = (DOCS / "where_98_comes_from.md").read_text(encoding="utf-8")
    assert filled(page, protocol_results.stored_results()) == page
