"""The classifier: preprocessing, backbone and head in one Keras model; freeze, save, load."""

import functools
import io
import json
import zipfile
from pathlib import Path

import h5py
import keras

from pcam_tf.errors import InputError, first_line
from pcam_tf.files import written_whole
from pcam_tf.models import backbones
from pcam_tf.models.model_files import PATCH_PX, SHIPPED_MODEL, TEACHERS, model_file  # noqa: F401

FEATURES_LAYER = "features"
HEAD_LAYERS = ("head_dropout", "tumour_probability")


def build(
    *,
    backbone: str = "EfficientNetLite0",
    weights: str | None = "imagenet",
    crop_px: int = PATCH_PX,
    resize_px: int | None = None,
    dropout: float = 0.2,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """Build a classifier of patches.

    Args:
        backbone: a key of `backbones.BACKBONES`.
        weights: "imagenet", None (random) or the path of a Keras weights file of the backbone.
        crop_px: side of the centre crop that the backbone sees; at least 32, the labelled centre.
        resize_px: side to which the crop is resized (bilinear), or None to leave it as it is.
        dropout: share of the features dropped in training, 0..1.
        stochastic_depth: how often training skips residual blocks, see `backbones.connect`.

    Returns:
        A flat functional model from raw patches, (batch, 96, 96, 3), RGB 0..255, to the probability
        of tumour, (batch, 1) float32. The layer "features" holds the pooled features.

    Raises:
        InputError: no such backbone, its weights cannot be had, or an impossible `crop_px`.
    """
    if not 32 <= crop_px <= PATCH_PX:
        raise InputError(f"crop_px is {crop_px}: choose 32 (the labelled centre) to {PATCH_PX}.")
    patches = keras.Input((PATCH_PX, PATCH_PX, 3), dtype="float32", name="patch")
    tensor = patches
    if crop_px < PATCH_PX:
        tensor = keras.layers.CenterCrop(crop_px, crop_px, name="centre_crop")(tensor)
    if resize_px:
        tensor = keras.layers.Resizing(resize_px, resize_px, name="resize")(tensor)
    tensor = backbones.connect(backbone, tensor, weights=weights, stochastic_depth=stochastic_depth)
    tensor = keras.layers.GlobalAveragePooling2D(name=FEATURES_LAYER)(tensor)
    tensor = keras.layers.Dropout(dropout, name=HEAD_LAYERS[0])(tensor)
    # float32 also under mixed precision: a float16 sigmoid rounds confident probabilities to 1.
    probability = keras.layers.Dense(1, activation="sigmoid", dtype="float32", name=HEAD_LAYERS[1])(
        tensor
    )
    return keras.Model(patches, probability, name="classifier")


def freeze(classifier: keras.Model) -> None:
    """Freeze the backbone, for the frozen phase: only the head is trained.

    Frozen BatchNormalization layers use their stored statistics, in training as well: the features
    of a patch are then the same in every epoch.
    """
    _set_backbone_trainable(classifier, False)


def unfreeze(classifier: keras.Model) -> None:
    """Make backbone and head trainable, for the unfrozen phase.

    BatchNormalization layers then normalise by the statistics of each training batch and update
    the stored ones: those of ImageNet photographs do not fit stained tissue.
    """
    _set_backbone_trainable(classifier, True)


def _set_backbone_trainable(classifier, trainable):
    for layer in classifier.layers:
        if layer.name not in HEAD_LAYERS:
            layer.trainable = trainable


def feature_extractor(classifier: keras.Model) -> keras.Model:
    """Return the model from raw patches to pooled features, (batch, features); shares weights."""
    return keras.Model(classifier.input, classifier.get_layer(FEATURES_LAYER).output)


def head(classifier: keras.Model) -> keras.Model:
    """Return the model from pooled features, (batch, features), to probability; shares weights."""
    features = keras.Input(classifier.get_layer(FEATURES_LAYER).output.shape[1:])
    tensor = features
    for name in HEAD_LAYERS:
        tensor = classifier.get_layer(name)(tensor)
    return keras.Model(features, tensor)


def save(classifier: keras.Model, path: str | Path) -> None:
    """Write a classifier as a `.keras` file, whole or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with written_whole(path) as temporary:
        classifier.save(temporary)


def save_small(classifier: keras.Model, path: str | Path) -> None:
    """Write a classifier as a `.keras` file of about 60 % of the size.

    Weights are rounded to 16 significant bits, which compress well and move a probability by less
    than 0.001; float16's 11 bits moved some by 0.01. Plain `keras.saving.load_model` reads it, from
    Keras 3.13 on.

    Raises:
        InputError: `path` cannot be written.
    """
    with written_whole(path) as temporary:
        classifier.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        full, rounded = io.BytesIO(contents["model.weights.h5"]), io.BytesIO()
        with h5py.File(full) as source, h5py.File(rounded, "w") as target:
            source.visititems(functools.partial(_copy_rounded, target))
        contents["model.weights.h5"] = rounded.getvalue()
        config = json.loads(contents["config.json"])
        _forget_new_options(config)
        contents["config.json"] = json.dumps(config)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)


def _forget_new_options(config):
    """Remove from a model's configuration the options that Keras 3.13, as on Colab, does not know.

    None of them is in use: weights are loaded, not initialised, and nothing is renormalised.
    """
    if isinstance(config, list):
        for item in config:
            _forget_new_options(item)
    elif isinstance(config, dict):
        if config.get("module") == "keras.initializers":
            config["config"] = {}
        for option in ("renorm", "renorm_clipping", "renorm_momentum"):
            config.pop(option, None)
        for item in config.values():
            _forget_new_options(item)


def _copy_rounded(target, name, item):
    """Copy one item of an HDF5 file, its attributes included, float32 with its last byte zero."""
    if isinstance(item, h5py.Dataset):
        values, filters = item[()], {}
        if values.ndim and values.dtype == "float32":
            bits = values.view("uint32")
            values = ((bits + 0x80) & 0xFFFFFF00).astype("uint32").view("float32")
            filters = {"shuffle": True, "compression": "gzip", "compression_opts": 9}
        copy = target.create_dataset(name, data=values, **filters)
    else:
        copy = target.require_group(name)
    for key, value in item.attrs.items():
        copy.attrs[key] = value


def load(path: str | Path | None = None) -> keras.Model:
    """Load a classifier.

    Args:
        path: a `.keras` file or the folder of a run; without it, the model that is shipped.

    Returns:
        A model from raw patches, (batch, 96, 96, 3), RGB 0..255, to probabilities, (batch, 1).

    Raises:
        InputError: there is no such file, Keras cannot read it, or it does not take such patches.
    """
    path = model_file(path or SHIPPED_MODEL)
    try:
        classifier = keras.saving.load_model(path, compile=False)
    except Exception as error:  # what Keras raises for a bad file differs from version to version
        reason = first_line(error)
        raise InputError(
            f"{path} is not a model that Keras {keras.__version__} can read ({reason}); "
            "give a .keras file written by Keras 3."
        ) from error
    expected, got = (None, PATCH_PX, PATCH_PX, 3), getattr(classifier, "input_shape", None)
    if got != expected or classifier.output_shape != (None, 1):
        raise InputError(
            f"{path} takes {got} and returns {getattr(classifier, 'output_shape', None)}; "
            f"a classifier of patches takes {expected} and returns (None, 1)."
        )
    return classifier
