import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import tiny_training

from pcam_tf import data, prediction
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier
from pcam_tf.stain import layer
from pcam_tf.studies import fine_tuned_normalization as fine_tuned
from pcam_tf.studies import normalization, robustness
from pcam_tf.training import recipes

# As many patches of each split: XLA compiles the normalisation once for each number.
SETTINGS = normalization.Settings(
    dataclasses.replace(
        tiny_training.RECIPE, frozen_epochs=0, unfrozen_epochs=1, stain_strength=0.5
    ),
    patches=64, validation=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tiny_source, tmp_path_factory):
    """Return the folder of a study that was stopped before its last training, and its result."""
    folder, train, trained = tmp_path_factory.mktemp("study"), fine_tuned.training.train, []

    def stopping(recipe, source, run_dir):
        if run_dir.name == "both" and "both" not in trained:
            trained.append("both")
            raise KeyboardInterrupt
        trained.append(run_dir.name)
        return train(recipe, source, run_dir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        patch.setattr(fine_tuned.training, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            fine_tuned.study(tiny_source, folder, SETTINGS)
        patch.setattr(fine_tuned.data, "write_source", None)  # patches are prepared once
        yield folder, *fine_tuned.study(tiny_source, folder, SETTINGS)


@pytest.fixture(scope="module")
def normalise(tiny_source):
    """Return what normalises patches in the study."""
    used = normalization.normaliser(tiny_source, SETTINGS)
    assert isinstance(used, layer.StainNormalization)
    return used


def test_conditions_share_everything_but_stain_strength_and_normalisation(found):
    folder, *_ = found
    described = {}
    for name in fine_tuned.CONDITIONS:
        described[name] = json.loads((folder / name / "recipe.json").read_text())
        del described[name]["data"]["bytes"]  # of patches that are normalised in some
    assert described["neither"] == described["normalised"]
    assert described["augmented"] == described["both"]
    strengths = [described[name]["recipe"].pop("stain_strength") for name in described]
    assert sorted(strengths) == [0, 0, 0.5, 0.5]
    assert described["augmented"] == described["neither"]
    epochs = {name: len(pd.read_csv(folder / name / "history.csv")) for name in described}
    assert set(epochs.values()) == {1}


def test_patches_are_prepared_in_the_same_order_as_they_are_and_normalised(
    found, tiny_source, normalise
):
    folder, *_ = found
    raw, normalised = (
        data.open_source(folder / "patches" / kind) for kind in ("raw", "normalised")
    )
    for split in data.SPLITS:
        plain, changed = data.read_patches(raw, split), data.read_patches(normalised, split)
        assert len(plain["id"]) == 64
        np.testing.assert_array_equal(plain["id"], changed["id"])
        np.testing.assert_array_equal(plain["label"], changed["label"])
        original = data.read_patches(tiny_source, split, ids=plain["id"])
        np.testing.assert_array_equal(plain["image"], original["image"])
        expected = np.asarray(normalise(original["image"]))
        assert np.abs(changed["image"].astype(int) - expected.astype(int)).max() <= 1
        assert (changed["image"] != plain["image"]).mean() > 0.1


def test_shifted_test_patches_are_normalised_where_training_patches_were(
    found, tiny_source, normalise
):
    folder, labels, predicted = found
    keys = {(shift, level) for shift, levels in normalization.SHIFTS.items() for level in levels}
    assert set(predicted) == keys
    test = data.read_patches(tiny_source, "test")
    np.testing.assert_array_equal(labels, test["label"])
    shown = robustness.shifted(test["image"], "eosin gain", 1.6)
    normalised = np.asarray(normalise(shown))
    for name, patches in (("augmented", shown), ("both", normalised)):
        expected = prediction.probabilities(classifier.load(folder / name), patches)
        np.testing.assert_allclose(predicted["eosin gain", 1.6][name], expected, atol=1e-3)
    assert len({tuple(each.round(6)) for each in predicted["brightness", 0.7].values()}) == 4
    assert normalization.summary_rows(labels, predicted)[0]["test patches"] == "unchanged"


def test_a_finished_study_is_read_and_one_of_other_settings_refused(
    found, tiny_source, monkeypatch
):
    folder, labels, predicted = found
    monkeypatch.setattr(fine_tuned.training, "train", None)
    again, scores = fine_tuned.study(tiny_source, folder, SETTINGS)
    np.testing.assert_array_equal(again, labels)
    for key, by_condition in predicted.items():
        for name, values in by_condition.items():
            np.testing.assert_array_equal(scores[key][name], values)
    with pytest.raises(InputError, match="holds another study"):
        fine_tuned.study(tiny_source, folder, dataclasses.replace(SETTINGS, patches=96))


def test_synthetic_patches_are_refused_before_anything_is_written(tiny_source, tmp_path):
    settings = dataclasses.replace(SETTINGS, recipe=fine_tuned.recipe_of("cpu"))
    with pytest.raises(InputError, match="needs real patches"):
        fine_tuned.study(tiny_source, tmp_path / "study", settings)
    assert not (tmp_path / "study").exists()


def test_no_condition_of_the_recipe_can_end_early():
    recipe = fine_tuned.recipe_of("cpu")
    assert recipe.stain_strength == recipes.preset("strong").stain_strength
    # An epoch counts as the first without a better AUC after the best.
    assert recipe.patience >= max(recipe.frozen_epochs, recipe.unfrozen_epochs)
