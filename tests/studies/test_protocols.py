import dataclasses

import numpy as np
import pandas as pd
import pytest
import tiny_training

from pcam_tf import data, training
from pcam_tf.errors import InputError
from pcam_tf.models import backbones
from pcam_tf.studies import protocols
from pcam_tf.training import recipes

CONDITIONS = [(0, 60), (1, 60)]
RECIPE = dataclasses.replace(
    tiny_training.RECIPE, epoch_steps=2, unfrozen_epochs=3, frozen_views=1, reestimated_batches=1
)


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory, tiny_source):
    """Return the folder of a study that was killed once, of two conditions on the tiny source."""
    run_dir = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        write = protocols.prediction.write

        def killed(table, path):
            if path.name == "epoch2-test.csv" and "seed1" in str(path):
                raise KeyboardInterrupt
            write(table, path)

        patch.setattr(protocols.prediction, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            protocols.study(RECIPE, tiny_source, run_dir, CONDITIONS)
        assert [path.name for path in protocols.finished(run_dir)] == ["seed0-60"]
        patch.setattr(protocols.prediction, "write", write)
        protocols.study(RECIPE, tiny_source, run_dir, CONDITIONS)
        # Nothing is left to do, so nothing may be trained.
        patch.setattr(protocols.training, "train", None)
        protocols.study(RECIPE, tiny_source, run_dir, CONDITIONS)
    return run_dir


def test_a_study_keeps_predictions_and_no_models(study_dir):
    assert [path.name for path in protocols.finished(study_dir)] == ["seed0-60", "seed1-60"]
    for folder in protocols.finished(study_dir):
        names = {path.name for path in folder.glob("*.csv")}
        assert {f"epoch{epoch}-test.csv" for epoch in (1, 2, 3)} < names
        assert {f"{phase}-held out.csv" for phase in protocols.PHASES} < names
        assert not list(folder.glob("*.keras"))
        # Equal steps, whatever the number of patches is.
        assert training.history(folder)["phase"].tolist() == ["frozen"] * 2 + ["unfrozen"] * 3


def test_the_network_that_was_fine_tuned_is_judged_even_if_that_made_it_worse(study_dir):
    folder = study_dir / "seed0-60"
    history = training.history(folder)
    unfrozen = history[history["phase"] == "unfrozen"]
    best = unfrozen.loc[unfrozen["validation_auc"].idxmax(), "epoch"]
    judged = pd.read_csv(folder / "unfrozen-test.csv")["probability"]
    of_epoch = pd.read_csv(folder / f"epoch{best}-test.csv")["probability"]
    np.testing.assert_allclose(judged, of_epoch, atol=1e-5)


def test_a_finished_study_of_another_recipe_is_refused_before_any_work(
    study_dir, tiny_source, monkeypatch
):
    monkeypatch.setattr(protocols, "_describe_patches", lambda *_: pytest.fail("work"))
    other = dataclasses.replace(RECIPE, dropout=0.45)
    with pytest.raises(InputError, match=r"holds another run .*dropout .* instead of 0\.45"):
        protocols.study(other, tiny_source, study_dir, [(2, 60), *CONDITIONS])


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


def test_a_plain_recipe_is_studied_at_every_preset():
    for preset in recipes.PRESETS:
        recipe = protocols.recipe_of(preset)
        assert recipe.rotation_degrees == 0 and not recipe.test_time_augmentation
        # Without teachers there is a frozen phase, which the study reads.
        assert recipe.teachers == () and recipe.jpeg_quality == 100
        # No training ends early, so all have equal steps.
        assert recipe.patience >= recipe.unfrozen_epochs and recipe.epoch_steps
    sizes = pd.Series(size for _, size in protocols.conditions_of("cpu"))
    assert sizes.value_counts().to_dict() == {2000: 3, 5000: 3, 10000: 3, 18000: 2}
