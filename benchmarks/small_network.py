"""A small backbone and few patches for tests of the benchmarks; measurements mean nothing."""

import keras

from pcam_tf import data, synthetic
from pcam_tf.models import backbones

NAME = "Small"
SHIPPED = "EfficientNetLite0"


def _network(input_tensor):
    tensor = keras.layers.Conv2D(8, 5, strides=4)(input_tensor)
    tensor = keras.layers.BatchNormalization()(tensor)
    tensor = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(tensor)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)


def backbone(size: str) -> str:
    """Return the name of the backbone for a size of the benchmarks: this one for "smoke"."""
    return NAME if size == "smoke" else SHIPPED


def register() -> None:
    """Add it to the backbones of this process."""
    backbones.BACKBONES[NAME] = backbones.Backbone(
        network=_network, rescaling={"scale": 1 / 128, "offset": -1.0}
    )


def source():
    """Return a prepared source of few synthetic patches, made on first use."""
    return synthetic.builder(
        data.SYNTHETIC_DIR, synthetic.config_of(seed=0, train=512, validation=64, test=64)
    )
