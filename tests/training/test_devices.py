import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny_training

from pcam_tf import training
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier
from pcam_tf.training import devices, record

ROOT = Path(__file__).parent.parent.parent
# Two replicas on one processor, as on a machine with two GPUs.
PROGRAM = """
import pcam_tf, sys
import tensorflow as tf
processor = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(processor, halves)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
import tiny_training
from pcam_tf import synthetic, training
from pcam_tf.models import backbones
from pcam_tf.training import augmentation
backbones.BACKBONES["Tiny"] = tiny_training.TINY
augmentation.layers_of = lambda recipe, seed: []
source = synthetic.builder(sys.argv[1], synthetic.config_of(**tiny_training.SIZES))
training.train(tiny_training.EVEN, source, sys.argv[2], strategy=strategy)
"""


@pytest.fixture(scope="module")
def by_one_device(tiny_source, tmp_path_factory):
    """Return the folder of a run by one device, without augmentation."""
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        patch.setattr("pcam_tf.training.augmentation.layers_of", lambda recipe, seed: [])
        training.train(tiny_training.EVEN, tiny_source, run_dir)
    return run_dir


def test_two_devices_train_as_one_does(by_one_device, tiny_data_dir, tiny_source, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", PROGRAM, str(tiny_data_dir), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=240, capture_output=True)
    histories = [training.history(folder) for folder in (by_one_device, tmp_path)]
    measures = ["loss", "validation_loss"]
    np.testing.assert_allclose(histories[0][measures], histories[1][measures], rtol=1e-4)
    # Not weights: a bias before a BatchNormalization has no effect, and drifts with the rounding.
    patches = np.random.default_rng(0).integers(0, 256, (64, 96, 96, 3)).astype("float32")
    models = [classifier.load(folder) for folder in (by_one_device, tmp_path)]
    predicted = [model.predict_on_batch(patches) for model in models]
    np.testing.assert_allclose(*predicted, atol=1e-4)
    assert np.ptp(predicted) > 1e-2
    # How it was trained does not show in the model.
    assert not any(getattr(layer, "synchronized", False) for layer in models[1].layers)


def test_replicas_and_epochs_have_their_own_seeds():
    class Replicas:
        """A variable of several replicas, as `tf.distribute` makes them."""

        path = "dropout/seed_generator_state"

        def __init__(self):
            self.values = [keras.Variable(np.zeros(2, "uint32")) for _ in range(2)]
            self.value = self

    variable, states = Replicas(), []
    for epoch in (0, 1):
        devices.set_seeds([variable], 5, epoch)
        states += [tuple(np.asarray(each)) for each in variable.values]
    assert len(set(states)) == 4
    layer = keras.layers.Dropout(0.5)
    devices.set_seeds([layer.seed_generator.state], 5, 0)
    assert tuple(np.asarray(layer.seed_generator.state)) == (5, 1_000_000)


def test_nested_batch_normalization_is_synchronised_too():
    inside = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    outside = keras.Sequential([keras.Input((4,)), inside, keras.layers.BatchNormalization()])
    devices.synchronise_batch_normalization(outside)
    assert inside.layers[-1].synchronized and outside.layers[-1].synchronized


def test_one_device_is_the_default_and_other_names_are_refused():
    assert devices.open_strategy("one") is None
    with pytest.raises(InputError, match="did you mean 'mirrored'"):
        devices.open_strategy("mirror")
    with pytest.raises(InputError, match="use --strategy mirrored"):
        devices.open_strategy("multi-worker")


def test_a_validation_split_without_a_class_is_refused(tiny_source, tmp_path):
    run = record.Run(tiny_training.RECIPE, tiny_source, tmp_path, "train")
    with pytest.raises(InputError, match="the validation split has no tumour patch"):
        record.Record(run, "frozen", None, None, np.zeros(8, int))
