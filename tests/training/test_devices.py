import contextlib
import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tiny_worker

from pcam_tf import __main__ as command_line
from pcam_tf import data, training
from pcam_tf.errors import InputError
from pcam_tf.models import classifier
from pcam_tf.training import devices

MEASURES = ["loss", "validation_loss"]


@pytest.fixture(autouse=True)
def tiny_recipe(monkeypatch):
    tiny_worker.without_augmentation(monkeypatch.setattr)


@pytest.fixture(scope="module")
def by_one_device(tiny_source, tmp_path_factory):
    """Return the folder of a run by one device, without augmentation."""
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        tiny_worker.without_augmentation(patch.setattr)
        training.train(tiny_worker.RECIPE, tiny_source, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def one_replica():
    """Return workers that go the way of several devices with the one that there is."""
    return devices.Workers(tf.distribute.MirroredStrategy(["CPU:0"]))


def started(strategy, data_dir, run_dir, **environment):
    """Start one process of a tiny training; the caller ends it."""
    return subprocess.Popen(
        [sys.executable, tiny_worker.__file__, strategy, str(data_dir), str(run_dir)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def both(data_dir, run_dirs, killed_after=("", "")):
    """Run two workers, each with its own run folder; return their statuses and outputs."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in run_dirs]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    processes = [
        started(
            "multi-worker",
            data_dir,
            run_dir,
            TF_CONFIG=cluster(addresses, index),
            KILLED_AFTER=killed_after[index],
        )
        for index, run_dir in enumerate(run_dirs)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def cluster(workers, index, kind="worker"):
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": kind, "index": index}})


def assert_same_training(run, other):
    """Two runs agree: what is left is the rounding of sums taken in another order."""
    histories = [training.history(folder) for folder in (run, other)]
    assert list(histories[0].phase) == list(histories[1].phase)
    np.testing.assert_allclose(histories[0][MEASURES], histories[1][MEASURES], rtol=1e-4)
    # Not weights: a bias before a BatchNormalization has no effect, and drifts with the rounding.
    patches = np.random.default_rng(0).integers(0, 256, (64, 96, 96, 3)).astype("float32")
    predicted = [classifier.load(folder).predict_on_batch(patches) for folder in (run, other)]
    np.testing.assert_allclose(*predicted, atol=1e-4)
    assert np.ptp(predicted) > 1e-2


@pytest.mark.parametrize(("replicas", "batch_size"), [(2, 25), (7, 38)])
def test_the_shares_of_all_replicas_are_the_batches_and_each_patch_is_seen_once(
    tiny_source, replicas, batch_size
):
    chosen = {"batch_size": batch_size, "seed": 3, "first": 1, "last": 3}
    whole = list(data.epochs(tiny_source, "train", **chosen).as_numpy_iterator())
    # Of 38 patches a batch, or 2 left for the last one, some of seven replicas have none.
    halves = [range(replicas // 2), range(replicas // 2, replicas)]
    ids, parts = [], {}
    for own in halves:
        shares = data.shares(tiny_source, "train", replicas=replicas, own=own, **chosen)
        for number, share in enumerate(shares.as_numpy_iterator()):
            batch, position = divmod(number, len(own))
            parts[batch, own[position]] = share
            ids += [(batch >= len(whole) // 2, name) for name in share["id"]]
    assert len(ids) == len(set(ids)) == 2 * 192
    assert len(parts) == replicas * len(whole)
    for batch, (images, labels) in enumerate(whole):
        for replica in range(replicas):
            share = parts[batch, replica]
            assert share["of"] == len(labels)
            np.testing.assert_array_equal(share["label"], labels[replica::replicas])
            np.testing.assert_array_equal(share["image"], images[replica::replicas])


def test_two_workers_train_as_one_device_does_even_if_one_is_killed(
    by_one_device, tiny_data_dir, tiny_source, tmp_path
):
    run_dirs = [tmp_path / "chief", tmp_path / "other"]
    statuses, outputs = both(tiny_data_dir, run_dirs, killed_after=("", "unfrozen,1"))
    assert statuses == [2, -9], outputs
    assert outputs[0].splitlines()[-1].startswith("error: worker 0 of 2 has lost another one")
    kept = training.history(run_dirs[0])
    assert len(kept) == 2

    statuses, outputs = both(tiny_data_dir, run_dirs)
    assert statuses == [0, 0], outputs
    assert outputs[1].splitlines()[-1] == "worker 1 of 2 is done: the run is worker 0's"
    pd.testing.assert_frame_equal(training.history(run_dirs[0]).head(2), kept)
    assert_same_training(run_dirs[0], by_one_device)
    # The chief is the only one that writes.
    assert not run_dirs[1].exists()
    assert {path.name for path in run_dirs[0].iterdir()} == {
        path.name for path in by_one_device.iterdir()
    }


def test_two_devices_of_one_machine_train_as_one_does(by_one_device, tiny_data_dir, tmp_path):
    process = started("mirrored", tiny_data_dir, tmp_path / "run")
    try:
        output = process.communicate(timeout=240)[0]
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert_same_training(tmp_path / "run", by_one_device)


def test_the_loop_for_several_devices_is_fit_for_one(by_one_device, one_replica, tmp_path,
                                                     tiny_source):  # fmt: skip
    model = training.train(tiny_worker.RECIPE, tiny_source, tmp_path, workers=one_replica)
    assert_same_training(tmp_path, by_one_device)
    # How it was trained does not show in the model.
    assert not any(getattr(layer, "synchronized", False) for layer in model.layers)


def test_replicas_draw_from_seeds_of_their_own_and_epochs_too():
    with keras.device("cpu"):
        layer = keras.layers.Dropout(0.5)
    states = []
    for index in (0, 1):
        workers = devices.Workers(None, index, 2)
        workers.replicas = 2
        for epoch in (0, 1):
            workers.set_seeds([layer.seed_generator.state], 5, epoch)
            states.append(tuple(np.asarray(layer.seed_generator.state)))
    assert len(set(states)) == 4
    devices.ONE.set_seeds([layer.seed_generator.state], 5, 0)
    assert tuple(np.asarray(layer.seed_generator.state)) == (5, 1_000_000)


def test_nested_normalisation_is_synchronised_too():
    inside = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    outside = keras.Sequential([keras.Input((4,)), inside, keras.layers.BatchNormalization()])
    devices.synchronised(outside)
    assert inside.layers[-1].synchronized and outside.layers[-1].synchronized


class TwoWorkers(devices.Workers):
    """The second of two workers, of which the first says what `chief` holds."""

    def __init__(self, *chief):
        super().__init__(None, 1, 2)
        self.chief = list(chief)

    def told(self, *_):
        return np.array(self.chief.pop(0), "float64")


def test_a_worker_with_another_recipe_or_other_patches_than_the_chief_ends(tiny_source, tmp_path):
    with pytest.raises(InputError, match="worker 1 has another recipe, or other patches"):
        training.train(tiny_worker.RECIPE, tiny_source, tmp_path, workers=TwoWorkers([17]))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_takes_over_what_the_chief_has(tiny_source):
    variables = [keras.Variable(np.zeros((2, 2), "float32")), keras.Variable(0, dtype="int64")]
    TwoWorkers([0.5, 1, 2, 3, 70_000]).spread(variables)
    np.testing.assert_array_equal(variables[0], [[0.5, 1], [2, 3]])
    assert int(variables[1].numpy()) == 70_000


def test_only_the_loss_of_another_worker_is_called_that():
    lost = tf.errors.UnavailableError(None, None, "Connection reset by peer")
    message = "worker 1 of 2 has lost another one"
    with pytest.raises(InputError, match=message), TwoWorkers().readable_errors():
        raise lost
    with pytest.raises(tf.errors.UnavailableError), devices.ONE.readable_errors():
        raise lost
    other = tf.errors.ResourceExhaustedError(None, None, "out of memory")
    with pytest.raises(tf.errors.ResourceExhaustedError), TwoWorkers().readable_errors():
        raise other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "which is not set"),
        ("worker", "not JSON of the form needed"),
        ("[1]", "not JSON of the form needed"),
        ('{"cluster": {}}', "it has no 'worker'"),
        (cluster(["127.0.0.1:1", "127.0.0.1:2"], 2), "there is no worker 2 among 2"),
        (cluster(["127.0.0.1:1", "127.0.0.1:1"], 0), "or one twice"),
        (cluster([], 0), "it names no worker"),
        (cluster(["127.0.0.1"], 0), "not HOST:PORT"),
        (cluster(["nowhere.invalid:1"], 0), "nowhere.invalid:1 is not known here"),
        (cluster(["127.0.0.1:1"], 0, kind="evaluator"), "tasks other than workers"),
    ],
)
def test_a_missing_or_bad_tf_config_is_one_line_and_status_2(text, message, monkeypatch, capsys):
    if text is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", text)
    assert command_line.main(["train", "--strategy", "multi-worker"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line and "HOST0:2222" in line


def test_the_cluster_is_read_off_tf_config_and_one_that_cannot_be_joined_is_said(
    monkeypatch, capsys
):
    addresses = ["127.0.0.1:4001", "localhost:4001"]
    monkeypatch.setenv("TF_CONFIG", cluster(addresses, 1))
    strategy = types.SimpleNamespace(num_replicas_in_sync=4)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: strategy)
    workers = devices.open_workers("multi-worker")
    assert (workers.is_chief, list(workers.own), workers.count) == (False, [2, 3], 2)
    assert capsys.readouterr().err == "worker 1 of 2 waits for the others\n"

    def busy():
        raise tf.errors.UnknownError(None, None, "Could not start gRPC server")

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", busy)
    with pytest.raises(InputError, match=r"worker 1 cannot join the others as localhost:4001"):
        devices.open_workers("multi-worker")


def test_one_device_is_the_default_and_other_names_are_refused():
    workers = devices.open_workers("one")
    assert (workers.strategy, workers.is_chief, list(workers.own)) == (None, True, [0])
    assert command_line._parser().parse_args(["train"]).strategy == "one"
    with pytest.raises(InputError, match="did you mean 'mirrored'"):
        devices.open_workers("mirror")
