"""The registry of backbones: name -> network, its preprocessing, where its weights come from."""

import dataclasses
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from pcam_tf.errors import InputError, first_line, unknown
from pcam_tf.files import check_no_pointer
from pcam_tf.models import efficientnet_lite, encoders, presets, transformers
from pcam_tf.models import weights as encoder_weights
from pcam_tf.models.encoders import IMAGENET_STATISTICS

# Name of the layer that returns the pooled features.
FEATURES_LAYER = "features"
# Names of weights that are not files -> what they are called in a message.
_CALLED = {"imagenet": "ImageNet", "preset": "preset's"}
PRETRAINED = tuple(_CALLED)
# The name of a vision transformer whose architecture and weights come from a file, see `weights`.
ENCODER = "ViT"


def _to_unit_variance(mean, deviation):
    """Return the rescaling of RGB 0..255 by mean and standard deviation of RGB 0..1."""
    return {
        "scale": [1 / (255 * each) for each in deviation],
        "offset": [-centre / each for centre, each in zip(mean, deviation, strict=True)],
    }


_TO_MINUS_ONE_TO_ONE = {"scale": 1 / 127.5, "offset": -1.0}
_TO_UNIT_VARIANCE = _to_unit_variance(*IMAGENET_STATISTICS)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network to transfer from.

    Attributes:
        network: builds it from a scaled Keras tensor: `network(input_tensor=...)`, no head; with
            `stochastic_depth=...` as well where `has_stochastic_depth`. It ends in a feature map
            (batch, height, width, features), in tokens (batch, tokens, features), or in pooled
            features (batch, features).
        rescaling: arguments of `keras.layers.Rescaling` that take RGB 0..255 to what it expects;
            empty where it expects RGB 0..255.
        load_imagenet: puts ImageNet weights into the built model; None where `network` itself
            downloads them by `weights="imagenet"`.
        pretrained: the name of weights that can be had, or None where there are none.
        side_multiple: what the side of a patch is a multiple of; it is resized to the next.
        class_token: the first of the tokens is the features, not their mean.
    """

    network: Callable[..., keras.Model]
    rescaling: dict
    load_imagenet: Callable[[keras.Model], None] | None = None
    has_stochastic_depth: bool = False
    pretrained: str | None = "imagenet"
    side_multiple: int = 1
    class_token: bool = False


def _keras_application(name: str, rescaling: dict, **options) -> Backbone:
    def network(input_tensor, weights=None):
        application = getattr(keras.applications, name)
        return application(include_top=False, weights=weights, input_tensor=input_tensor, **options)

    return Backbone(network=network, rescaling=rescaling)


def _vision_transformer(preset: str, statistics: tuple, **shape) -> Backbone:
    """Return a vision transformer whose weights keras-hub downloads."""

    def network(input_tensor, weights=None, stochastic_depth=0.0):
        if weights is None:
            return transformers.vision_transformer(
                input_tensor, stochastic_depth=stochastic_depth, **shape
            )
        encoder = presets.encoder(preset, statistics)
        return encoder_weights.connect(encoder, input_tensor, stochastic_depth=stochastic_depth)

    return Backbone(
        network=network,
        rescaling=_to_unit_variance(*statistics),
        has_stochastic_depth=True,
        pretrained="preset",
        side_multiple=shape["patch"],
        class_token=True,
    )


_UNSCALED = {"include_preprocessing": False}
BACKBONES = {
    "EfficientNetLite0": Backbone(
        network=efficientnet_lite.efficientnet_lite0,
        rescaling={"scale": 1 / 128, "offset": -127 / 128},
        load_imagenet=efficientnet_lite.load_imagenet_weights,
        has_stochastic_depth=True,
    ),
    "MobileNetV2": _keras_application("MobileNetV2", _TO_MINUS_ONE_TO_ONE),
    "MobileNetV3Small": _keras_application("MobileNetV3Small", _TO_MINUS_ONE_TO_ONE, **_UNSCALED),
    # keras.applications puts this one's scaling into the network, with no way to leave it out.
    "EfficientNetB0": _keras_application("EfficientNetB0", {}),
    "EfficientNetV2B0": _keras_application("EfficientNetV2B0", _TO_UNIT_VARIANCE, **_UNSCALED),
    "ResNet50V2": _keras_application("ResNet50V2", _TO_MINUS_ONE_TO_ONE),
    "DenseNet121": _keras_application("DenseNet121", _TO_UNIT_VARIANCE),
    "ConvNeXtTiny": _keras_application("ConvNeXtTiny", _TO_UNIT_VARIANCE, **_UNSCALED),
    "Xception": _keras_application("Xception", _TO_MINUS_ONE_TO_ONE),
    "CCT": Backbone(
        network=transformers.compact_transformer,
        rescaling=_TO_UNIT_VARIANCE,
        has_stochastic_depth=True,
        pretrained=None,
    ),
    "DeiTTiny": _vision_transformer(
        "deit_tiny_distilled_patch16_224_imagenet",
        IMAGENET_STATISTICS,
        **{"patch": 16, "width": 192, "depth": 12, "heads": 3, "hidden": 768, "prefix": 2},
    ),
    "DeiTSmall": _vision_transformer(
        "deit_small_distilled_patch16_224_imagenet",
        IMAGENET_STATISTICS,
        **{"patch": 16, "width": 384, "depth": 12, "heads": 6, "hidden": 1536, "prefix": 2},
    ),
    "ViTBase": _vision_transformer(
        "vit_base_patch16_224_imagenet",
        ((0.5,) * 3, (0.5,) * 3),
        **{"patch": 16, "width": 768, "depth": 12, "heads": 12, "hidden": 3072, "prefix": 1},
    ),
    "DINOv2Small": _vision_transformer(
        "dinov2_small",
        IMAGENET_STATISTICS,
        **{"patch": 14, "width": 384, "depth": 12, "heads": 6, "hidden": 1536, "prefix": 1},
    ),
    # Its windows fit a side of 224 px.
    "SwinTiny": Backbone(
        network=presets.swin_tiny,
        rescaling=_TO_UNIT_VARIANCE,
        has_stochastic_depth=True,
        pretrained="preset",
        side_multiple=224,
    ),
}


def get(name: str) -> Backbone:
    """Return the registered backbone of that name.

    Raises:
        InputError: there is none; the message suggests the nearest.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    return BACKBONES[name]


class Features(NamedTuple):
    """What a backbone makes of patches, as Keras tensors.

    Attributes:
        pooled: (batch, features).
        unpooled: the feature map (batch, height, width, features) or the tokens (batch, tokens,
            features) that were averaged; None where the network pools by itself.
    """

    pooled: keras.KerasTensor
    unpooled: keras.KerasTensor | None


def connect(
    name: str,
    patches: keras.KerasTensor,
    *,
    weights: str | None,
    stochastic_depth: float = 0.0,
) -> Features:
    """Apply a backbone, its preprocessing included, to a Keras tensor of raw patches.

    Args:
        name: a key of `BACKBONES`, or "ViT" for the vision transformer in the file `weights`.
        patches: Keras tensor (batch, height, width, 3), RGB 0..255.
        weights: "imagenet", "preset" (keras-hub's), None for random initialisation, or the path
            of a weights file that Keras saved for this network without its head (`.weights.h5`).
            For "ViT": the file of an encoder, see `weights.load_encoder`.
        stochastic_depth: see `efficientnet_lite.efficientnet_lite0` and `transformers`; networks
            of keras.applications have none.

    Returns:
        The pooled features, made by the layer "features", and what was pooled. All layers belong to
        the model that is built around them, not to a nested one, so that any layer can be reached.

    Raises:
        InputError: no such backbone, or its weights cannot be had.
    """
    if name == ENCODER:
        return _connect_encoder(patches, weights, stochastic_depth)
    backbone = get(name)
    if weights in PRETRAINED and weights != backbone.pretrained:
        known = f"weights={backbone.pretrained}, " if backbone.pretrained else ""
        raise InputError(
            f"{name} has no weights named {weights}: choose {known}random weights (`--weights "
            "random`, weights=None), or give a file."
        )
    options = {"stochastic_depth": stochastic_depth} if backbone.has_stochastic_depth else {}
    patches = _resized(patches, backbone.side_multiple)
    if backbone.rescaling:
        patches = keras.layers.Rescaling(**backbone.rescaling, name="rescaling")(patches)
    downloads = weights in PRETRAINED and backbone.load_imagenet is None
    if downloads:
        options["weights"] = weights
    try:
        network = backbone.network(input_tensor=patches, **options)
    except InputError:
        raise
    except Exception as error:  # Keras raises a bare Exception where a download fails
        if not downloads:
            raise
        reason = first_line(error)
        raise InputError(
            f"the {_CALLED[weights]} weights of {name} cannot be downloaded ({reason}); "
            "go online once, give a file by weights=FILE, start from random weights by "
            "weights=None, or use EfficientNetLite0, whose weights come with the installation."
        ) from error
    if weights == "imagenet" and backbone.load_imagenet is not None:
        backbone.load_imagenet(network)
    elif weights is not None and not downloads:
        _load_file(network, name, Path(weights))
    return _first_token(network.output) if backbone.class_token else _pooled(network.output)


def _resized(patches, multiple):
    """Return patches whose side is a multiple of `multiple`: the next one; fields have no side."""
    side = patches.shape[1]
    if side is None or side % multiple == 0:
        return patches
    side = -(-side // multiple) * multiple
    return keras.layers.Resizing(side, side, name="resize_to_tokens")(patches)


def _connect_encoder(patches, path, stochastic_depth):
    """Return the features of an encoder: its class token, else the mean of its tokens.

    Patches are resized to the next multiple of the encoder's patch side where they have to be.
    """
    if path in (None, "imagenet"):
        raise InputError(
            f"{ENCODER} is the network in a file of weights: give that file, such as "
            "weights=pytorch_model.bin (`train --backbone ViT --weights FILE`)."
        )
    encoder = encoders.read_encoder(path)
    patches = _resized(patches, encoder.shape.patch)
    rescaled = keras.layers.Rescaling(**_to_unit_variance(*encoder.statistics), name="rescaling")
    network = encoder_weights.connect(encoder, rescaled(patches), stochastic_depth=stochastic_depth)
    if "cls_token" not in encoder.shape.prefix:
        return _pooled(network.output)
    return _first_token(network.output)


def _first_token(output):
    tokens, width = output.shape[1:]
    first = keras.layers.Cropping1D((0, tokens - 1), name="class_token")(output)
    return Features(keras.layers.Reshape((width,), name=FEATURES_LAYER)(first), None)


def _pooled(output):
    pooling = {
        4: keras.layers.GlobalAveragePooling2D,
        3: keras.layers.GlobalAveragePooling1D,
        2: keras.layers.Identity,
    }[len(output.shape)]
    pooled = pooling(name=FEATURES_LAYER)(output)
    return Features(pooled, None if pooling is keras.layers.Identity else output)


def _load_file(network: keras.Model, name: str, path: Path) -> None:
    check_no_pointer(path)
    try:
        with warnings.catch_warnings():
            # Keras warns once a layer that a file does not fit, and raises at the end.
            warnings.simplefilter("ignore")
            network.load_weights(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = first_line(error)
        raise InputError(
            f"{path} holds no weights for {name} without its head ({reason}); give a "
            ".weights.h5 file that Keras saved for that network."
        ) from error
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            _correct_variance(layer)


def _correct_variance(normalization: keras.layers.Normalization) -> None:
    """Square the variance where a file holds the standard deviation in its place.

    So does keras.applications' ImageNet file of EfficientNetB0, which it makes up for by a layer
    that it adds for weights="imagenet" only (tensorflow/tensorflow#49930).
    """
    mean, variance, *others = normalization.get_weights()
    if np.allclose(variance, IMAGENET_STATISTICS[1]):
        normalization.set_weights([mean, np.square(variance), *others])
        normalization.finalize_state()
