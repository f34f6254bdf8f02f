"""A training small enough for tests; as a program: tiny_training.py DATA_DIR RUN_DIR."""

import dataclasses
import sys

import keras

from pcam_tf import synthetic, training
from pcam_tf.models import backbones
from pcam_tf.training import recipes

SIZES = {"seed": 1, "train": 192, "validation": 64, "test": 64}


def network(input_tensor):
    """Return a network of two convolutions, with BatchNormalization to keep track of."""
    tensor = keras.layers.Conv2D(8, 5, strides=4, name="first")(input_tensor)
    tensor = keras.layers.BatchNormalization(name="normalise")(tensor)
    tensor = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="second")(tensor)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)


TINY = backbones.Backbone(network=network, rescaling={"scale": 1 / 128, "offset": -1.0})
RECIPE = recipes.Recipe(
    preset="tiny",
    backbone="Tiny",
    weights=None,
    crop_px=48,
    batch_size=32,
    frozen_views=2,
    frozen_epochs=2,
    unfrozen_epochs=3,
    averaging=0.8,
    dropout=0.1,
)
# Every batch is full and can be halved, and nothing is drawn at random.
EVEN = dataclasses.replace(
    RECIPE, dropout=0.0, frozen_epochs=1, unfrozen_epochs=2, class_weights=True
)

if __name__ == "__main__":
    backbones.BACKBONES["Tiny"] = TINY
    source = synthetic.builder(sys.argv[1], synthetic.config_of(**SIZES))
    training.train(RECIPE, source, sys.argv[2])
