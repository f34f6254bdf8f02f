"""A tiny training by several devices, as a program: tiny_worker.py STRATEGY DATA_DIR RUN_DIR.

Without augmentation and dropout, so that one device can be compared. KILLED_AFTER in the
environment, such as "unfrozen,1", has the process kill itself once that epoch is over.
"""

import pcam_tf  # noqa: F401, I001  (first: it sets what TensorFlow reads when it is imported)

import dataclasses
import os
import signal
import sys

import tensorflow as tf
import tiny_training

from pcam_tf import __main__ as command_line
from pcam_tf import synthetic
from pcam_tf.data import sources
from pcam_tf.evaluation import reports
from pcam_tf.models import backbones, engines
from pcam_tf.prediction import tables
from pcam_tf.training import augmentation, phases, recipes

# Neither a batch nor what is left for the last one is even, so shares differ in size.
RECIPE = dataclasses.replace(
    tiny_training.RECIPE,
    dropout=0.0,
    batch_size=25,
    frozen_epochs=1,
    unfrozen_epochs=2,
    class_weights=True,
)


def without_augmentation(patch) -> None:
    """Have `patch`, such as setattr, take augmentation out, weigh classes, and name the recipe."""
    patch(augmentation, "layers", lambda **_: [])
    patch(phases, "_class_weight", lambda *_: {0: 0.5, 1: 2.0})
    patch(backbones, "BACKBONES", backbones.BACKBONES | {"Tiny": tiny_training.TINY})
    patch(recipes, "PRESETS", recipes.PRESETS | {"tiny": RECIPE})


if __name__ == "__main__":
    strategy, data_dir, run_dir = sys.argv[1:]
    without_augmentation(setattr)
    if strategy == "mirrored":
        processor = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, halves)
    sources.open_source = lambda _: synthetic.builder(
        data_dir, synthetic.config_of(**tiny_training.SIZES)
    )
    end = phases._Record.on_epoch_end

    def end_or_be_killed(record, epoch, logs=None):
        end(record, epoch, logs)
        if os.environ.get("KILLED_AFTER") == f"{record.phase},{epoch + 1}":
            os.kill(os.getpid(), signal.SIGKILL)

    phases._Record.on_epoch_end = end_or_be_killed
    # What comes after a training is tested elsewhere.
    tables.predict_run = engines.export = lambda *_, **__: None
    reports.report_run = reports.summary_rows = reports.markdown_table = lambda _: ""
    words = ["train", "--preset", "tiny", "--strategy", strategy, "--run", run_dir]
    sys.exit(command_line.main(words))
