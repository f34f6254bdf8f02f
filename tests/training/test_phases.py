import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import tiny_training

from pcam_tf import data, prediction, training
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, engines
from pcam_tf.task import PCAM
from pcam_tf.training import (
    augmentation,
    batch_normalization,
    distillation,
    features,
    optimization,
    phases,
    recipes,
    runs,
)
from pcam_tf.training.record import Record, build


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)


@pytest.fixture(scope="module")
def run(tiny_source, tmp_path_factory):
    """Return the folder of a finished tiny run."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        training.train(tiny_training.RECIPE, tiny_source, run_dir)
    return run_dir


def test_presets_are_recipes_of_their_name_and_unknown_ones_are_refused():
    assert {name: recipe.preset for name, recipe in recipes.PRESETS.items()} == {
        "smoke": "smoke",
        "cpu": "cpu",
        "strong": "strong",
        "strong-144": "strong-144",
        "strong-surroundings": "strong-surroundings",
        "slides": "slides",
        "gpu": "gpu",
    }
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        recipes.preset("smok")


def test_a_run_folder_holds_what_it_should_and_nothing_unfinished(run):
    assert {path.name for path in run.iterdir()} == {
        "recipe.json",
        "history.csv",
        "model-frozen.keras",
        "model.keras",
        "finished.json",
    }
    history = training.history(run)
    assert list(history.columns) == training.HISTORY_COLUMNS
    assert list(zip(history.phase, history.epoch, strict=True)) == [
        ("frozen", 1),
        ("frozen", 2),
        ("unfrozen", 1),
        ("unfrozen", 2),
        ("unfrozen", 3),
    ]


def test_the_saved_models_are_the_best_epochs_of_the_run(run, tiny_source):
    history = training.history(run)
    for file, rows in (
        ("model-frozen.keras", history[history.phase == "frozen"]),
        ("model.keras", history),
    ):
        table = prediction.predict_split(classifier.load(run / file), tiny_source, "validation")
        auc = sklearn.metrics.roc_auc_score(table.label, table.probability)
        # A pair of patches ranked differently by float rounding is worth 1 / (32 × 32).
        assert auc == pytest.approx(rows.validation_auc.max(), abs=2 / 32**2)


def test_the_frozen_phase_leaves_the_backbone_alone_and_the_unfrozen_changes_it(run):
    keras.utils.set_random_seed(tiny_training.RECIPE.seed)
    untrained = build(tiny_training.RECIPE, PCAM)
    frozen = classifier.load(run / "model-frozen.keras")
    for layer in ("first", "second", "normalise"):
        for before, after in zip(
            untrained.get_layer(layer).get_weights(),
            frozen.get_layer(layer).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(before, after)
    head = "tumour_probability"
    assert np.any(
        frozen.get_layer(head).get_weights()[0] != untrained.get_layer(head).get_weights()[0]
    )


def test_the_unfrozen_phase_changes_the_backbone(run, tiny_source, tmp_path):
    recipe = dataclasses.replace(tiny_training.RECIPE, frozen_epochs=1, frozen_learning_rate=0.0)
    training.train(recipe, tiny_source, tmp_path)
    frozen = classifier.load(tmp_path / "model-frozen.keras")
    final = classifier.load(tmp_path)
    if training.history(tmp_path).validation_auc.idxmax() == 0:
        pytest.fail("the untrained head was the best: this recipe shows nothing")
    for layer in ("first", "normalise"):
        for before, after in zip(
            frozen.get_layer(layer).get_weights(),
            final.get_layer(layer).get_weights(),
            strict=True,
        ):
            assert np.any(before != after)


def test_a_finished_run_is_loaded_not_trained(run, tiny_source, monkeypatch):
    monkeypatch.setattr(phases, "_fit", lambda *_, **__: pytest.fail("trained again"))
    before = (run / "model.keras").stat().st_mtime_ns
    training.train(tiny_training.RECIPE, tiny_source, run)
    assert (run / "model.keras").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_predictions_and_another_others(run, tiny_source, tmp_path):
    def predicted(file):
        return prediction.predict_split(classifier.load(file), tiny_source, "test").probability

    training.train(tiny_training.RECIPE, tiny_source, tmp_path / "again")
    pd.testing.assert_series_equal(predicted(run), predicted(tmp_path / "again"), check_exact=True)
    other = dataclasses.replace(tiny_training.RECIPE, seed=1, unfrozen_epochs=0)
    training.train(other, tiny_source, tmp_path / "other")
    frozen = "model-frozen.keras"
    assert np.any(predicted(run / frozen) != predicted(tmp_path / "other" / frozen))


class Killed(BaseException):
    """Ends a training as a kill would: nothing catches it."""


def killed_in_the_second_epoch(record, epoch, logs=None, begin=Record.on_epoch_begin):
    if epoch == 1:
        raise Killed
    begin(record, epoch, logs)


@pytest.mark.parametrize("phase", ["frozen", "unfrozen"])
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(
    run, tiny_source, tiny_data_dir, tmp_path, phase, monkeypatch
):
    run_dir = tmp_path / "killed"
    if phase == "frozen":
        # In this process, which spares the start of another one.
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Record, "on_epoch_begin", killed_in_the_second_epoch)
            training.train(tiny_training.RECIPE, tiny_source, run_dir)
    else:
        command = [sys.executable, tiny_training.__file__, str(tiny_data_dir), str(run_dir)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_row(process, run_dir / "history.csv", phase)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = training.history(run_dir)
    assert not training.is_finished(run_dir)

    training.train(tiny_training.RECIPE, tiny_source, run_dir)

    resumed = training.history(run_dir)
    pd.testing.assert_frame_equal(resumed.head(len(kept)), kept)
    same = ["phase", "epoch", "loss", "validation_loss", "validation_auc"]
    pd.testing.assert_frame_equal(resumed[same], training.history(run)[same], rtol=1e-5)
    for file in ("model.keras", "model-frozen.keras"):
        expected, got = (classifier.load(folder / file) for folder in (run, run_dir))
        for one, other in zip(expected.get_weights(), got.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", ["finish", "remove_leftovers"])
def test_a_run_that_is_killed_at_its_very_end_is_finished_by_the_next_call(
    run, tiny_source, tmp_path, monkeypatch, at
):
    """As a kill before the last file is written, or before the checkpoints are removed."""
    run_dir = copy_at_its_end(run, tmp_path)
    original = getattr(runs, at)

    def killed(*_):
        raise Killed

    monkeypatch.setattr(phases, "_fit", lambda *_, **__: None)
    monkeypatch.setattr(runs, at, killed)
    with pytest.raises(Killed):
        training.train(tiny_training.RECIPE, tiny_source, run_dir)
    monkeypatch.setattr(runs, at, original)
    assert (run_dir / "unfinished").is_dir()
    training.train(tiny_training.RECIPE, tiny_source, run_dir)
    same_files(run_dir, run)


def copy_at_its_end(run, tmp_path):
    """Copy a finished run and make it one of which only the last file is missing."""
    run_dir = tmp_path / "run"
    shutil.copytree(run, run_dir)
    (run_dir / "finished.json").unlink()
    (run_dir / "unfinished").mkdir()
    return run_dir


def same_files(one, other):
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_a_run_that_an_earlier_version_left_without_its_last_file_is_finished(
    run, tiny_source, tmp_path
):
    """Checkpoints were once removed before `finished.json` was written."""
    run_dir = copy_at_its_end(run, tmp_path)
    (run_dir / "unfinished").rmdir()
    training.train(tiny_training.RECIPE, tiny_source, run_dir)
    same_files(run_dir, run)


def test_a_run_that_lacks_a_checkpoint_it_needs_says_so(run, tiny_source, tmp_path):
    run_dir = copy_at_its_end(run, tmp_path)
    training.history(run_dir).iloc[:-1].to_csv(run_dir / "history.csv", index=False)
    with pytest.raises(InputError, match=r"cannot continue without .*unfrozen-2\.weights\.h5"):
        training.train(tiny_training.RECIPE, tiny_source, run_dir)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", ["model.keras", "model-frozen.keras"])
def test_a_run_that_has_lost_a_model_says_so_and_stays_as_it_is(
    run, tiny_source, tmp_path, finished, name
):
    run_dir = copy_at_its_end(run, tmp_path)
    if finished:
        shutil.copy(run / "finished.json", run_dir)
    (run_dir / name).unlink()
    before = sorted(path.name for path in run_dir.iterdir())
    with pytest.raises(InputError, match=f"has lost its {name}: restore"):
        training.train(tiny_training.RECIPE, tiny_source, run_dir)
    if name == "model.keras":
        with pytest.raises(InputError, match=f"has lost its {name}: restore"):
            classifier.load(run_dir)
    assert sorted(path.name for path in run_dir.iterdir()) == before


def test_two_trainings_in_one_folder_are_refused(run, tiny_source, tmp_path, monkeypatch):
    run_dir = copy_at_its_end(run, tmp_path)

    def meanwhile(*_, **__):
        before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match=f"another process is training in {run_dir}:"):
            training.train(tiny_training.RECIPE, tiny_source, run_dir)
        assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    monkeypatch.setattr(phases, "unfrozen_phase", meanwhile)
    training.train(tiny_training.RECIPE, tiny_source, run_dir)
    same_files(run_dir, run)


@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("phase", ["frozen", "unfrozen"])
def test_a_training_that_diverges_says_so(tiny_source, tmp_path, phase, mixed_precision):
    diverging = {f"{phase}_learning_rate": float("nan"), "mixed_precision": mixed_precision}
    frozen_epochs = int(phase == "frozen")
    recipe = dataclasses.replace(tiny_training.RECIPE, frozen_epochs=frozen_epochs, **diverging)
    with pytest.raises(InputError, match=rf"diverged in {phase} epoch 1 .loss nan.: train into"):
        training.train(recipe, tiny_source, tmp_path)
    assert not (tmp_path / "model.keras").exists()


def wait_for_row(process, history_file: Path, phase: str) -> None:
    """Wait until a phase's first epoch is in the history of a running training."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if history_file.is_file() and f"\n{phase},1," in history_file.read_text():
            return
        if process.poll() is not None:
            pytest.fail("the training ended before it could be killed")
        time.sleep(0.002)
    process.kill()
    pytest.fail("the training did not get that far")


def test_ctrl_c_leaves_a_usable_run(tiny_source, tmp_path, monkeypatch):
    # A process that was started in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    original = Record.on_epoch_end

    def interrupted(self, epoch, logs=None):
        original(self, epoch, logs)
        if self.phase == "unfrozen" and epoch == 0:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    monkeypatch.setattr(Record, "on_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(tiny_training.RECIPE, tiny_source, tmp_path)
    table = prediction.predict_split(classifier.load(tmp_path), tiny_source, "test")
    assert table.probability.between(0, 1).all()
    assert len(training.history(tmp_path)) == 3


def test_a_run_of_another_recipe_or_other_patches_is_refused_and_kept(run, tiny_source):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError, match=r"dropout 0\.1 instead of 0\.5"):
        training.train(dataclasses.replace(tiny_training.RECIPE, dropout=0.5), tiny_source, run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_run_of_an_earlier_version_is_accepted(run, tiny_source, tmp_path):
    """Its recipe may lack new fields and hold an unused old one; 96 px are the whole patch."""
    shutil.copytree(run, tmp_path / "old")
    file = tmp_path / "old" / "recipe.json"
    described = json.loads(file.read_text(encoding="utf-8"))
    del described["task"], described["recipe"]["jpeg_quality"], described["data"]["version"]
    described["recipe"]["unresized_epochs"] = 0
    file.write_text(json.dumps(described), encoding="utf-8")
    training.train(tiny_training.RECIPE, tiny_source, tmp_path / "old")
    whole = dataclasses.replace(tiny_training.RECIPE, crop_px=None)
    described["recipe"]["crop_px"] = 96
    file.write_text(json.dumps(described), encoding="utf-8")
    training.train(whole, tiny_source, tmp_path / "old")
    described["recipe"]["novelty"] = 1
    file.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(InputError, match=r"is not a run's recipe"):
        training.train(whole, tiny_source, tmp_path / "old")


def test_a_phase_ends_when_validation_stalls(tiny_source, tmp_path):
    recipe = dataclasses.replace(
        tiny_training.RECIPE, frozen_epochs=20, frozen_learning_rate=0.0, patience=2,
        unfrozen_epochs=1,
    )  # fmt: skip
    training.train(recipe, tiny_source, tmp_path)
    history = training.history(tmp_path)
    # At a rate of 0 no epoch is better than the first.
    assert (history.phase == "frozen").sum() == 3


def test_class_weights_make_the_rarer_class_count_as_much():
    weight = optimization.class_weights(np.array([0, 0, 0, 1]), 2)
    assert weight[0] * 3 == pytest.approx(weight[1] * 1)
    of_three = optimization.class_weights(np.array([0, 0, 0, 1, 1, 2]), 3)
    assert of_three == pytest.approx({0: 2 / 3, 1: 1, 2: 2})


def test_mixed_precision_saves_a_float32_model(tiny_source, tmp_path):
    recipe = dataclasses.replace(
        tiny_training.RECIPE, mixed_precision=True, frozen_epochs=1, unfrozen_epochs=1
    )
    model = training.train(recipe, tiny_source, tmp_path)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


@pytest.fixture
def mixed(tiny_source, tmp_path):
    """Return a model compiled as the unfrozen phase in mixed precision compiles it."""
    recipe = dataclasses.replace(tiny_training.RECIPE, mixed_precision=True)
    run = phases.Run(recipe, tiny_source, tmp_path, "train")
    trained = phases._augmented(run, phases._trained_copy(run, build(recipe, PCAM), None))
    phases._compile(trained, run, 1e-3, steps=4)
    return trained


def step_of(model):
    patches = np.random.default_rng(0).uniform(0, 255, (8, *PCAM.shape)).astype("float32")
    return model.train_on_batch(patches, np.arange(8) % 2)


def test_mixed_precision_scales_the_loss_of_what_is_trained(mixed):
    network = mixed.layers[-1]
    assert network.get_layer("first").compute_dtype == "float16"
    assert {weights.dtype for weights in network.trainable_weights} == {"float32"}
    assert isinstance(mixed.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(mixed.optimizer.inner_optimizer, keras.optimizers.AdamW)
    before = [weights.copy() for weights in mixed.get_weights()]
    assert np.isfinite(step_of(mixed))
    assert mixed.optimizer.inner_optimizer.iterations == 1
    assert any((a != b).any() for a, b in zip(before, mixed.get_weights(), strict=True))


def test_a_gradient_that_overflows_half_precision_is_left_out(mixed):
    mixed.optimizer.dynamic_scale.assign(1e38)
    before = [np.asarray(weights) for weights in mixed.trainable_weights]
    step_of(mixed)
    assert mixed.optimizer.inner_optimizer.iterations == 0
    assert float(mixed.optimizer.dynamic_scale) == pytest.approx(0.5e38)
    for old, new in zip(before, mixed.trainable_weights, strict=True):
        np.testing.assert_array_equal(new, old)


def test_mixed_precision_evaluates_the_running_average_of_the_weights(mixed):
    averager = keras.callbacks.SwapEMAWeights()
    averager.set_model(mixed)
    reached = []
    for _ in range(2):
        step_of(mixed)
        reached.append(np.asarray(mixed.trainable_weights[0]))
    averager.on_test_begin()
    average = 0.8 * reached[0] + 0.2 * reached[1]
    np.testing.assert_allclose(mixed.trainable_weights[0], average, rtol=1e-4)
    assert not np.allclose(average, reached[1], rtol=1e-4)


def test_epochs_of_equal_steps_and_statistics_estimated_anew(tiny_source, tmp_path):
    recipe = dataclasses.replace(
        tiny_training.RECIPE,
        epoch_steps=2,
        frozen_epochs=1,
        unfrozen_epochs=2,
        reestimated_batches=3,
    )
    epochs, seen = [], []

    def after_epoch(model, epoch):
        epochs.append(epoch)
        seen.append(model.get_layer("normalise").moving_mean.numpy())

    model = training.train(
        recipe, tiny_source, tmp_path, training_split="train[:100]", after_epoch=after_epoch
    )
    assert epochs == [1, 2] and len(training.history(tmp_path)) == 3
    # The best one is saved as it was validated: with the statistics of the training patches.
    saved = model.get_layer("normalise").moving_mean.numpy()
    assert any(np.array_equal(saved, each) for each in seen)
    patches = data.read_patches(tiny_source, "train[:96]")["image"].astype("float32")
    classifier.unfreeze(model)
    batch_normalization.reestimate(model, patches.reshape(3, 32, *PCAM.shape))
    np.testing.assert_allclose(model.get_layer("normalise").moving_mean, saved, rtol=1e-4)


def test_frozen_epochs_of_equal_steps_go_through_every_pass_to_its_end(tmp_path):
    np.save(tmp_path / "features.npy", np.arange(10, dtype="float16")[:, None])
    seen = [
        features.shuffled_batches(
            tmp_path / "features.npy", np.arange(10), batch_size=4, seed=1, epoch=epoch, steps=2
        )
        for epoch in range(5)
    ]
    batches = [labels for epoch in seen for _, labels in epoch.as_numpy_iterator()]
    assert [len(labels) for labels in batches] == [4] * 10
    assert np.bincount(np.concatenate(batches)).tolist() == [4] * 10
    assert np.bincount(np.concatenate(batches)[:10]).tolist() == [1] * 10


def test_the_learning_rate_warms_up_and_falls():
    rate = optimization.optimizer(tiny_training.RECIPE, 1e-3, steps=100)._learning_rate
    rates = [float(rate(step)) for step in range(101)]
    assert np.argmax(rates) == pytest.approx(10, abs=1)
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_layers_are_trained_more_slowly_the_deeper_they_lie(tiny_source, tmp_path):
    model = classifier.build(backbone="CCT", weights=None)
    rates = optimization.layer_rates(model, 0.5)
    by_path = {each.path: rates.get(id(each), 1.0) for each in model.trainable_variables}
    expected = {"tokenizer0": 0.5**5, "block0_norm1": 0.5**4, "block3_out": 0.5, "pool_scores": 1}
    for layer, rate in expected.items():
        assert {each for path, each in by_path.items() if path.startswith(layer)} == {rate}, layer
    assert optimization.layer_rates(model, 1.0) == {}
    # Adam's first step moves every weight by the rate, whatever its gradient.
    variables = [keras.Variable(np.zeros(3, "f4")) for _ in range(2)]
    chosen = optimization.optimizer(
        dataclasses.replace(tiny_training.RECIPE, warm_up=0.0),
        1e-2,
        1000,
        {id(variables[0]): 0.5},
    )
    chosen.apply([keras.ops.ones(3), keras.ops.ones(3)], variables)
    one, other = (np.asarray(each) for each in variables)
    np.testing.assert_allclose(one, other / 2, rtol=1e-5)
    assert np.all(other < 0)
    # Weight decay, too: without a gradient it alone moves them.
    decaying = dataclasses.replace(tiny_training.RECIPE, warm_up=0.0, weight_decay=0.1)
    variables = [keras.Variable(np.ones(3, "f4")) for _ in range(2)]
    chosen = optimization.optimizer(decaying, 1e-2, 1000, {id(variables[0]): 0.5})
    chosen.apply([keras.ops.zeros(3), keras.ops.zeros(3)], variables)
    one, other = (1 - np.asarray(each) for each in variables)
    np.testing.assert_allclose(one, other / 2, rtol=1e-3)
    assert np.all(other > 5e-4)
    with pytest.raises(InputError, match="no blocks"):
        optimization.layer_rates(classifier.build(backbone="Tiny", weights=None), 0.5)


def test_a_layer_decay_of_0_leaves_all_but_the_head_as_it_was(tiny_source, tmp_path):
    recipe = dataclasses.replace(
        tiny_training.RECIPE, backbone="CCT", frozen_epochs=0, unfrozen_epochs=1, layer_decay=1e-9
    )
    keras.utils.set_random_seed(recipe.seed)
    before = build(recipe, PCAM)
    after = training.train(recipe, tiny_source, tmp_path)
    changed = {
        layer.name
        for layer in before.layers
        for one, other in zip(
            layer.get_weights(), after.get_layer(layer.name).get_weights(), strict=True
        )
        if np.abs(one - other).max() > 1e-3
    }
    assert changed == {"pool_scores", "tumour_probability", "norm"}


def test_training_from_scratch_has_one_phase(tiny_source, tmp_path):
    recipe = dataclasses.replace(tiny_training.RECIPE, frozen_epochs=0, unfrozen_epochs=1)
    training.train(recipe, tiny_source, tmp_path)
    assert set(training.history(tmp_path).phase) == {"unfrozen"}
    assert not (tmp_path / "model-frozen.keras").exists()
    training.train(recipe, tiny_source, tmp_path)  # a finished run, with all that it needs


def test_features_computed_once_teach_the_head_as_much_as_the_plain_way(
    tiny_source, tmp_path, monkeypatch
):
    """The head on stored features against `fit` on the whole frozen model, epoch by epoch."""
    monkeypatch.setattr(engines, "_WORTH_CONVERTING", 0)  # as on thousands of patches
    recipe = dataclasses.replace(
        tiny_training.RECIPE,
        backbone="EfficientNetLite0",
        weights="imagenet",
        crop_px=32,
        frozen_views=1,
        frozen_epochs=6,
        frozen_learning_rate=2e-2,
        unfrozen_epochs=0,
        dropout=0.0,
    )
    cached = training.train(recipe, tiny_source, tmp_path)

    keras.utils.set_random_seed(3)
    plain = build(recipe, PCAM)
    classifier.freeze(plain)
    patches = data.read_patches(tiny_source, "train")
    plain.compile(
        optimization.optimizer(recipe, recipe.frozen_learning_rate, 6 * 6),
        keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing),
    )
    plain.fit(patches["image"], patches["label"], batch_size=32, epochs=6, verbose=0)

    tables = [prediction.predict_split(model, tiny_source, "test") for model in (cached, plain)]
    one, other = (sklearn.metrics.roc_auc_score(each.label, each.probability) for each in tables)
    assert one > 0.7
    assert one == pytest.approx(other, abs=0.05)
    assert np.corrcoef(tables[0].probability, tables[1].probability)[0, 1] > 0.95


def distilled(run, **changes):
    """Return a tiny recipe that learns from a run alone."""
    return dataclasses.replace(
        tiny_training.RECIPE, preset="student", teachers=(str(run), str(run)), **changes
    )


@pytest.fixture(scope="module")
def student(run, tiny_source, tmp_path_factory):
    """Return the classifier that a tiny distillation ends with."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        return training.train(distilled(run, unfrozen_epochs=2), tiny_source, folder)


def test_a_student_starts_from_its_teacher_and_learns_its_probabilities(
    run, student, tiny_source, tmp_path
):
    recipe = distilled(run, blur_px=1.0, unfrozen_epochs=1, unfrozen_learning_rate=0.0)
    unmoved = training.train(recipe, tiny_source, tmp_path / "student")
    assert not (tmp_path / "student" / "model-frozen.keras").exists()
    assert set(training.history(tmp_path / "student").phase) == {"unfrozen"}
    teacher = classifier.load(run)
    # Without a learning rate only the statistics of BatchNormalization can have moved.
    for one, other in zip(unmoved.trainable_weights, teacher.trainable_weights, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-6)
    patches = data.read_patches(tiny_source, "validation")["image"]
    taught = prediction.probabilities(teacher, patches)
    learnt = prediction.probabilities(student, patches)
    assert 0 < np.abs(learnt - taught).mean() < 0.2


def test_a_student_of_another_network_starts_from_its_own_weights(run, tiny_source, tmp_path):
    recipe = distilled(
        run, backbone="CCT", unfrozen_epochs=1, unfrozen_learning_rate=0.0, stochastic_depth=0.1
    )
    recipe = dataclasses.replace(recipe, start_from_teacher=False)
    unmoved = training.train(recipe, tiny_source, tmp_path)
    keras.utils.set_random_seed(recipe.seed)
    expected = build(recipe, PCAM)
    for one, other in zip(unmoved.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_teachers_that_are_presets_are_trained_first_and_once(tiny_source, tmp_path, monkeypatch):
    short = dataclasses.replace(
        tiny_training.RECIPE, preset="smoke", frozen_epochs=1, unfrozen_epochs=1
    )
    monkeypatch.setitem(recipes.PRESETS, "smoke", short)
    recipe = dataclasses.replace(short, preset="student", teachers=("smoke",), seed=3)
    training.train(recipe, tiny_source, tmp_path)
    teacher = tmp_path / "teachers" / "smoke"
    assert runs.is_finished(teacher) and runs.is_finished(tmp_path)
    described = json.loads((teacher / "recipe.json").read_text())["recipe"]
    assert recipes.from_json(described) == dataclasses.replace(short, seed=3)
    # A student that was killed goes on with the teacher that it has.
    before = (teacher / "model.keras").stat().st_mtime_ns
    for name in ("finished.json", "model.keras", "history.csv"):
        (tmp_path / name).unlink()
    training.train(recipe, tiny_source, tmp_path)
    assert (teacher / "model.keras").stat().st_mtime_ns == before


def test_what_is_learnt_is_the_mean_of_the_teachers_log_odds(run, tiny_source):
    other = Path(run).parent / "other" / "model.keras"
    changed = classifier.load(run)
    kernel, bias = changed.layers[-1].get_weights()
    changed.layers[-1].set_weights([kernel, bias + 2])
    classifier.save(changed, other)
    recipe = dataclasses.replace(distilled(run), teachers=(str(run), str(other)))
    student = classifier.load(run)
    patches = data.read_patches(tiny_source, "validation[:8]")["image"].astype("float32")
    layers = augmentation.layers_of(recipe, seed=recipe.seed)
    model = distillation.with_teachers(student, recipe.teachers, layers, seed=recipe.seed)
    assert model.trainable_weights == student.trainable_weights
    own, taught = np.asarray(model(patches, training=False), "float64").T
    log_odds = np.log(own / (1 - own))
    np.testing.assert_allclose(np.log(taught / (1 - taught)), log_odds + 1, atol=1e-3)
    loss = distillation.cross_entropy(None, np.float32([[0.2, 0.7]]))
    assert float(loss[0]) == pytest.approx(-0.7 * np.log(0.2) - 0.3 * np.log(0.8), rel=1e-4)


def test_a_killed_distillation_continues_from_its_checkpoint(
    run, student, tiny_source, tmp_path, monkeypatch
):
    epoch_end = Record.on_epoch_end

    def killed(record, epoch, logs=None):
        epoch_end(record, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record, "on_epoch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            training.train(distilled(run, unfrozen_epochs=2), tiny_source, tmp_path / "killed")
    resumed = training.train(distilled(run, unfrozen_epochs=2), tiny_source, tmp_path / "killed")
    for one, other in zip(student.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_teacher_that_is_missing_or_of_another_network_is_refused(run, tiny_source, tmp_path):
    missing = dataclasses.replace(distilled(run), teachers=(str(tmp_path / "none"),))
    with pytest.raises(InputError, match="there is no model"):
        training.train(missing, tiny_source, tmp_path / "student")
    another = dataclasses.replace(distilled(run), backbone="MobileNetV2")
    with pytest.raises(InputError, match="another network than MobileNetV2"):
        training.train(another, tiny_source, tmp_path / "student")
    assert not (tmp_path / "student").exists()
