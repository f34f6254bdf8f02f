import dataclasses

import numpy as np
import pandas as pd
import pytest
import tiny_training

from pcam_tf import data, synthetic
from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.figures import study_plots
from pcam_tf.models import backbones
from pcam_tf.studies import protocols
from pcam_tf.training import recipes

CONDITIONS = [(0, 60), (1, 60), (0, 120)]


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory, tiny_source):
    """Return the folder of a study of three conditions on the tiny source."""
    recipe = dataclasses.replace(tiny_training.RECIPE, unfrozen_epochs=1, frozen_views=1)
    run_dir = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        protocols.study(recipe, tiny_source, run_dir, CONDITIONS)
        # Nothing is left to do, so nothing may be trained.
        patch.setattr(protocols.training, "train", None)
        protocols.study(recipe, tiny_source, run_dir, CONDITIONS)
    return run_dir


def test_a_finished_study_of_another_recipe_is_refused(study_dir, tiny_source):
    other = dataclasses.replace(tiny_training.RECIPE, dropout=0.45)
    with pytest.raises(InputError, match=r"holds another run .*dropout .* instead of 0\.45"):
        protocols.study(other, tiny_source, study_dir, CONDITIONS)


@pytest.mark.parametrize("seed", [0, 4, 9])
def test_held_out_patches_are_never_trained_on(tiny_source, seed):
    total = data.count(tiny_source, "train")
    slices = protocols.splits_of(total, seed=seed, size=150)
    trained_on, held_out = (set(data.read_patches(tiny_source, split)["id"]) for split in slices)
    assert len(trained_on) == 150 and len(held_out) == total // 10
    assert not trained_on & held_out
    fewer, _ = protocols.splits_of(total, seed=seed, size=40)
    assert set(data.read_patches(tiny_source, fewer)["id"]) < trained_on
    _, another = protocols.splits_of(total, seed=(seed + 1) % 10, size=40)
    assert not set(data.read_patches(tiny_source, another)["id"]) & held_out


@pytest.mark.parametrize(("seed", "size"), [(10, 5), (-1, 5), (0, 0), (0, 181)])
def test_impossible_conditions_are_refused(seed, size):
    with pytest.raises(InputError, match=r"choose 1 to 180|a tenth to hold out"):
        protocols.splits_of(200, seed=seed, size=size)


def test_a_study_judges_every_condition_by_every_protocol(study_dir):
    found = protocols.results(study_dir)
    assert len(found) == len(CONDITIONS) * 2 * len(protocols.PROTOCOLS)
    assert set(zip(found["seed"], found["size"], strict=True)) == set(CONDITIONS)
    patches = found.groupby("protocol")["patches"].first()
    assert patches[protocols.HELD_OUT] == 19 and patches["test"] == 64
    assert (found["accuracy_own"] >= found["accuracy"]).all()
    assert (found["accuracy_own"] >= found["accuracy_validation"]).all()
    assert found["auc"].between(found["low"], found["high"]).all()


def test_results_are_recomputed_from_the_tables(study_dir):
    found = protocols.results(study_dir)
    row = found[(found["phase"] == "frozen") & (found["protocol"] == "test")].iloc[0]
    folder = study_dir / f"seed{row.seed}-{row['size']}"
    table = pd.read_csv(folder / "frozen-test.csv")
    assert row.accuracy == np.mean((table["probability"] >= 0.5) == table["label"])
    best = max(
        np.mean((table["probability"] >= threshold) == table["label"])
        for threshold in [*table["probability"], 2]
    )
    assert row.accuracy_own == pytest.approx(best)


def test_patches_that_overlap_training_ones_are_left_out(study_dir, tmp_path):
    before = protocols.results(study_dir)
    held_out = pd.read_csv(study_dir / "seed0-60" / "frozen-held out.csv")["id"]
    trained_on = pd.read_csv(study_dir / "seed0-60" / "training.csv")["id"]
    pairs = {"first": [held_out[0], trained_on[1]], "second": [trained_on[0], held_out[1]]}
    original = (study_dir / "overlaps.csv").read_text()
    pd.DataFrame(pairs).to_csv(study_dir / "overlaps.csv", index=False)
    after = protocols.results(study_dir)
    (study_dir / "overlaps.csv").write_text(original)

    def patches(found):
        rows = found[(found["seed"] == 0) & (found["size"] == 60)]
        return rows[rows["protocol"] == protocols.APART]["patches"].iloc[0]

    assert patches(before) - patches(after) == 2


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished study"):
        protocols.results(tmp_path)


def test_the_same_tissue_is_found_at_another_place_and_other_tissue_is_not():
    generator = np.random.default_rng(0)
    drawn = synthetic.draw_patches(12, split="train").image.mean(axis=-1).astype("float32")
    wide = np.pad(drawn, ((0, 0), (24, 24), (24, 24)), mode="reflect")
    shifted = wide[:3, 24 + 10 : 120 + 10, 24 - 17 : 120 - 17] * 0.8 + 20
    shifted += generator.normal(0, 3, shifted.shape)
    blank = np.full((2, 96, 96), 240.0) + generator.normal(0, 1, (2, 96, 96))
    grey = np.concatenate([drawn, shifted, blank]).astype("float32")
    # The same features for all, so that every pair is a candidate.
    protocol_neighbours, protocols.NEIGHBOURS = protocols.NEIGHBOURS, len(grey) - 1
    try:
        pairs = protocols.overlapping(grey, np.ones((len(grey), 4)))
    finally:
        protocols.NEIGHBOURS = protocol_neighbours
    assert sorted(map(tuple, pairs)) == [(0, 12), (1, 13), (2, 14)]


def test_correlation_is_that_of_numpy():
    image = np.random.default_rng(1).uniform(0, 255, (20, 20))
    template = image[3:11, 5:13] + np.random.default_rng(2).normal(0, 60, (8, 8))
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8)).reshape(-1, 64)
    expected = max(np.corrcoef(window, template.ravel())[0, 1] for window in windows)
    assert protocols._largest_correlation(template, image) == pytest.approx(expected, abs=1e-6)


def test_the_law_of_a_learning_curve_is_found_and_carried_on():
    sizes = np.repeat([1000, 2000, 5000, 10000], 3)
    aucs = 1 - 2.0 * sizes**-0.4 + np.random.default_rng(0).normal(0, 1e-4, len(sizes))
    found = pd.DataFrame({"size": sizes, "auc": aucs, "low": aucs - 2e-3, "high": aucs + 2e-3})
    law = protocols.extrapolate(found, 262144)
    assert law["c"] == pytest.approx(0.4, abs=0.01)
    assert law["auc"] == pytest.approx(1 - 2.0 * 262144**-0.4, abs=1e-3)
    assert law["low"] < law["auc"] < law["high"] < 1
    with pytest.raises(InputError, match="two sizes"):
        protocols.extrapolate(found[found["size"] == 1000], 262144)


def test_more_models_judged_on_the_same_patches_do_not_narrow_the_interval():
    sizes = np.array([1000.0, 2000, 5000])
    aucs = 1 - 2.0 * sizes**-0.4
    once = pd.DataFrame({"size": sizes, "auc": aucs, "low": aucs - 0.01, "high": aucs + 0.01})
    widths = []
    for found in (once, pd.concat([once] * 16)):
        law = protocols.extrapolate(found, 100000, resamples=100)
        widths.append(law["high"] - law["low"])
    assert widths[1] == pytest.approx(widths[0], rel=0.5)


def test_the_main_size_has_the_most_seeds(study_dir):
    found = protocols.results(study_dir)
    assert protocols.main_size(found) == 60
    rows = protocols.summary_rows(found)
    assert len(rows) == 8
    assert "held out" in reports.markdown_table(rows)


def test_figures_show_every_seed(study_dir):
    found = protocols.results(study_dir)
    left, right = study_plots.ladder(found, "unfrozen").axes
    assert len(left.get_yticklabels()) == len(study_plots.ACCURACIES)
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [2] * 4
    axes = study_plots.auc_over_size(found, "frozen", 262144).axes[0]
    assert axes.get_xscale() == "log" and len(axes.get_legend().texts) == 3


def test_a_plain_recipe_is_studied_at_every_preset():
    for preset in recipes.PRESETS:
        recipe = protocols.recipe_of(preset)
        assert recipe.rotation_degrees == 0 and not recipe.test_time_augmentation
        # Without teachers there is a frozen phase, which the study reads.
        assert recipe.teachers == () and recipe.jpeg_quality == 100
        assert max(size for _, size in protocols.conditions_of(preset)) <= 18000
