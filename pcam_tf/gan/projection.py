"""What the critic sees of patches: maps of a frozen ImageNet network, mixed by random weights.

A. Sauer et al., "Projected GANs converge faster", NeurIPS 2021. A critic of few patches that begins
with pixels has to learn first what cells look like; this one is told. The maps of four depths are
mixed over channels, and each also gets what lies deeper, so that no depth can be left out of
account. None of these weights is trained.
"""

import keras

from pcam_tf.models import backbones

BACKBONE = "EfficientNetLite0"
# The patches are magnified, so that the deepest of their maps is more than one place.
MAGNIFICATION = 2
# Layer -> standard deviation of its channels on PatchCamelyon, by which it is divided, and the
# channels that it is mixed to. Each has half the side of the one before.
_MAPS = {
    "block2_add": (8.0, 32),
    "block4_add": (6.0, 48),
    "block10_add": (5.0, 64),
    "block15_project_bn": (2.0, 80),
}


def projection(side_px: int, seed: int = 0) -> keras.Model:
    """Return the model of patches (n, side, side, 3), -1..1, to four maps, the finest first.

    Maps are float32 (n, height, width, channels), about 1 in standard deviation. All weights are
    frozen. Those that are drawn depend on `seed`.

    Raises:
        InputError: the ImageNet weights cannot be had.
    """
    patches = keras.Input((side_px, side_px, 3), name="patches")
    magnified = _magnified(patches, MAGNIFICATION, "magnified")
    rgb = keras.layers.Rescaling(127.5, 127.5, name="rgb")(magnified)
    network = keras.Model(patches, backbones.connect(BACKBONE, rgb, weights="imagenet").pooled)
    maps, deeper = [], None
    for number, (name, (deviation, channels)) in enumerate(reversed(_MAPS.items())):
        first = seed * 100 + 10 * number + 500_000
        tensor = network.get_layer(name).output
        tensor = keras.layers.Rescaling(1 / deviation, name=f"{name}_scaled")(tensor)
        tensor = _mixed(tensor, channels, 1, first, f"{name}_mixed")
        if deeper is not None:
            deeper = _mixed(deeper, channels, 3, first + 1, f"{name}_deeper")
            factor = tensor.shape[1] // deeper.shape[1]
            deeper = _magnified(deeper, factor, f"{name}_magnified")
            tensor = keras.layers.Add(name=f"{name}_sum")([tensor, deeper])
            tensor = keras.layers.Rescaling(0.5**0.5, name=f"{name}_mean")(tensor)
        maps.append(tensor)
        deeper = tensor
    model = keras.Model(patches, maps[::-1], name="projection")
    model.trainable = False
    return model


def _magnified(tensor, factor, name):
    return keras.layers.UpSampling2D(factor, interpolation="bilinear", name=name)(tensor)


def _mixed(tensor, channels, side, seed, name):
    """Return a convolution of a tensor by drawn weights, which keep its mean square."""
    drawn = keras.initializers.VarianceScaling(1.0, seed=seed)
    return keras.layers.Conv2D(
        channels, side, padding="same", use_bias=False, kernel_initializer=drawn, name=name
    )(tensor)
