"""A training of a generator: one result for one seed, also after kills; other folders refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tiny_generator
from PIL import Image
from tiny_generator import RECIPE, drawn, run_in

from pcam_tf.errors import InputError
from pcam_tf.gan import patches, steps, training
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
    before = [np.asarray(each) for each in state.average.variables]
    read, order = drawn(), patches.BalancedOrder(drawn().label, 8, 0)
    state.step(0, read.image[order.batch(0)], read.label[order.batch(0)])
    keep = 0.5**20  # of the first step the half-life is a twentieth of it
    for mean, old, new in zip(
        state.average.variables, before, state.generator.variables, strict=True
    ):
        np.testing.assert_allclose(mean, keep * old + (1 - keep) * np.asarray(new), atol=1e-6)
    assert state._momentum(10**6) == pytest.approx(0.5 ** (0.008 / 5))


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


def test_no_tumour_and_a_wrong_side_are_refused(tmp_path):
    read = drawn()
    with pytest.raises(InputError, match="there is no tumour patch to learn from"):
        training.train(run_in(tmp_path / "run", read=read.part(np.flatnonzero(read.label == 0))))
    wide = dataclasses.replace(RECIPE, side_px=48)
    with pytest.raises(InputError, match="32 px wide and the generator's are 48 px"):
        training.train(run_in(tmp_path / "run", wide))
    assert not (tmp_path / "run").exists()
