"""A training of a generator: one result for one seed, also after kills; other folders refused."""

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
import tensorflow as tf
import tiny_generator
from PIL import Image
from tiny_generator import RECIPE, drawn, run_in

from pcam_tf.errors import InputError
from pcam_tf.gan import augmentation, losses, patches, steps, training
from pcam_tf.task import PCAM


def weights_of(folder):
    return keras.saving.load_model(folder / "generator.keras", compile=False).get_weights()


def test_a_run_holds_recipe_ids_history_samples_and_generator(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {"generator.json", "generator.keras", "training-ids.csv", "history.csv",
                     "samples", "finished.json"}  # fmt: skip
    history = pd.read_csv(finished / "history.csv")
    assert history.kimg.tolist() == [0.024, 0.048, 0.072, 0.096]
    assert {"kid_tumour", "diversity_normal", "penalty", "generator_gradient"} <= set(history)
    assert len(pd.read_csv(finished / "training-ids.csv")) == 64
    described = json.loads((finished / "generator.json").read_text())
    assert described["training_patches"] == {"normal": 32, "tumour": 32}
    sheets = sorted((finished / "samples").iterdir())
    assert len(sheets) == 4
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (8 * 32, 4 * 32)


def check_same(folder, finished):
    for one, other in zip(weights_of(folder), weights_of(finished), strict=True):
        np.testing.assert_array_equal(one, other)
    compared = [
        pd.read_csv(each / "history.csv").drop(columns="seconds") for each in (folder, finished)
    ]
    pd.testing.assert_frame_equal(*compared, rtol=1e-6)


def test_an_interruption_changes_no_weight(finished, tmp_path, monkeypatch):
    step = steps.State.step

    def interrupted(self, number, images, labels):
        if number == 7:  # two checks are behind it, and one step more
            raise KeyboardInterrupt
        return step(self, number, images, labels)

    monkeypatch.setattr(steps.State, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(run_in(tmp_path))
    monkeypatch.undo()
    training.train(run_in(tmp_path))
    check_same(tmp_path, finished)


def test_a_divergence_ends_the_training_in_one_line_and_leaves_the_last_check(
    tmp_path, monkeypatch
):
    step = steps.State.step

    def diverging(self, number, images, labels):
        measured = step(self, number, images, labels)
        return measured | ({"critic_loss": float("nan")} if number == 4 else {})

    monkeypatch.setattr(steps.State, "step", diverging)
    with pytest.raises(InputError, match="a loss is no number"):
        training.train(run_in(tmp_path))
    assert pd.read_csv(tmp_path / "history.csv").kimg.tolist() == [0.024]
    assert not (tmp_path / "generator.keras").exists()


@pytest.mark.slow
def test_a_kill_at_any_moment_changes_no_weight(finished, tmp_path):
    here = str(Path(tiny_generator.__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path])}
    command = [sys.executable, tiny_generator.__file__, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list(tmp_path.glob("samples/*")):
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    training.train(run_in(tmp_path))
    check_same(tmp_path, finished)


def test_the_average_follows_the_generator_at_the_rate_of_the_recipe():
    state = steps.State(RECIPE, RECIPE.shape_for(PCAM))
    before = [np.asarray(each) for each in state.average.trainable_variables]
    read, order = drawn(), patches.BalancedOrder(drawn().label, 8, 0)
    number = 999
    state.step(number, read.image[order.batch(0)], read.label[order.batch(0)])
    keep = 0.5 ** (20 / 1000)  # until 100 kimg the half-life is a twentieth of what was seen
    for mean, old, new in zip(
        state.average.trainable_variables, before, state.generator.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(mean, keep * old + (1 - keep) * np.asarray(new), atol=1e-6)
    assert state._momentum(0) == pytest.approx(0.5**20)
    assert state._momentum(10**6) == pytest.approx(0.5 ** (0.008 / 5))


def test_the_averaged_generator_has_statistics_of_its_own():
    state = steps.State(RECIPE, RECIPE.shape_for(PCAM))
    state.set_statistics()
    kind = keras.layers.BatchNormalization
    layers = [each for each in state.average.layers if isinstance(each, kind)]
    values = [np.concatenate(each.get_weights()) for each in layers]
    assert len(layers) == 8
    assert all(np.abs(each - np.repeat([0, 1], len(each) // 2)).max() > 1e-3 for each in values)
    state.set_statistics()
    again = [np.concatenate(each.get_weights()) for each in layers]
    assert all(np.array_equal(one, two) for one, two in zip(values, again, strict=True))


def test_a_step_goes_down_both_losses_as_computed_plainly():
    state = steps.State(RECIPE, RECIPE.shape_for(PCAM))
    before = [[np.asarray(v) for v in each.trainable_variables] for each in state.networks]
    read, order = drawn(), patches.BalancedOrder(drawn().label, 8, 0)
    images, labels = read.image[order.batch(0)], read.label[order.batch(0)]
    expected = plain_gradients(state, images, labels)
    state.step(0, images, labels)
    for network, old, gradients in zip(state.networks, before, expected, strict=True):
        right = [
            agree(np.asarray(variable) - start, gradient)
            for variable, start, gradient in zip(
                network.trainable_variables, old, gradients, strict=True
            )
        ]
        assert len(np.concatenate(right)) > 1000 and np.concatenate(right).mean() > 0.999


def agree(moved, gradient):
    """Return for each clear gradient whether Adam's first step, of a sign alone, is against it."""
    clear = np.abs(gradient) > max(1e-6, 0.01 * np.abs(gradient).max())
    return np.sign(moved[clear]) == -np.sign(gradient[clear])


def plain_gradients(state, images, labels):
    """Return the gradients of the generator's and of the critic's loss, one after the other."""
    rng = np.random.default_rng([RECIPE.seed, 1, 0])
    latents = rng.standard_normal((len(images), state.shape.latents), "float32")
    draws = [augmentation.draw(rng, len(images), RECIPE.side_px) for _ in range(2)]
    real = augmentation.augmented(tf.constant(images / 127.5 - 1, tf.float32), draws[0])
    found = []
    for which, network in enumerate(state.networks):
        with tf.GradientTape() as tape:
            made = augmentation.augmented(
                state.generator([latents, labels], training=True), draws[1]
            )
            maps = [state.projection(each) for each in (real, made)]
            by_class = [state.critic(each, training=True) for each in maps]
            own = [tf.stack([each[n, :, label] for n, label in enumerate(labels)])
                   for each in by_class]  # fmt: skip
            other = tf.stack([by_class[0][n, :, 1 - label] for n, label in enumerate(labels)])
            if which == 0:
                loss = tf.reduce_mean(tf.math.softplus(own[0] - own[1]))
            else:
                loss = tf.reduce_mean(tf.math.softplus(own[1] - own[0]))
                loss += RECIPE.class_weight * tf.reduce_mean(tf.math.softplus(other - own[0]))
                penalties = [losses.penalty(state.critic, each, labels) for each in maps]
                loss += RECIPE.gamma / 2 * sum(penalties)
        found.append([np.asarray(g) for g in tape.gradient(loss, network.trainable_variables)])
    return found


def test_every_patch_of_a_class_is_seen_before_one_is_seen_again():
    labels = np.array([0] * 12 + [1] * 4)
    order = patches.BalancedOrder(labels, 8, seed=0)
    rows = np.stack([order.batch(step) for step in range(3)])
    assert (labels[rows] == [0] * 4 + [1] * 4).all()
    assert sorted(rows[:, :4].ravel()) == list(range(12))
    assert all(sorted(each) == [12, 13, 14, 15] for each in rows[:, 4:])
    again = patches.BalancedOrder(labels, 8, seed=0)
    assert np.array_equal(again.batch(2), rows[2])  # without the batches before it


def test_the_folder_of_another_run_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="holds another run"):
        training.train(run_in(finished, dataclasses.replace(RECIPE, gamma=2.0)))
    with pytest.raises(InputError, match="it differs in training patches"):
        training.train(run_in(finished, read=drawn(32)))
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run that is no generator's"):
        training.train(run_in(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_a_generator_without_its_training_is_not_trained_over(finished, tmp_path):
    for name in ("generator.json", "generator.keras"):  # as the shipped one
        shutil.copy(finished / name, tmp_path)
    before = (tmp_path / "generator.keras").read_bytes()
    with pytest.raises(InputError, match="a generator without its training"):
        training.train(run_in(tmp_path))
    assert (tmp_path / "generator.keras").read_bytes() == before


def test_no_tumour_and_a_wrong_side_are_refused(tmp_path):
    read = drawn()
    with pytest.raises(InputError, match="there is no tumour patch to learn from"):
        training.train(run_in(tmp_path / "run", read=read.part(np.flatnonzero(read.label == 0))))
    wide = dataclasses.replace(RECIPE, side_px=48)
    with pytest.raises(InputError, match="32 px wide and the generator's are 48 px"):
        training.train(run_in(tmp_path / "run", wide))
    assert not (tmp_path / "run").exists()
