"""The classifier: preprocessing, backbone and head in one Keras model; freeze, save, load."""

import functools
import io
import json
import re
import zipfile
from pathlib import Path

import h5py
import keras

from pcam_tf.errors import InputError, first_line
from pcam_tf.files import written_whole
from pcam_tf.models import backbones, model_files
from pcam_tf.task import PCAM, Task

_DROPOUT_LAYER = "head_dropout"


def build(
    task: Task = PCAM,
    *,
    backbone: str = "EfficientNetLite0",
    weights: str | None = "imagenet",
    crop_px: int | None = None,
    resize_px: int | None = None,
    dropout: float = 0.2,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """Build a classifier of patches.

    Args:
        task: names of the classes, and side of a patch.
        backbone, weights: see `backbones.connect`.
        crop_px: side of the centre crop that the backbone sees, at least the labelled centre; None
            for the whole patch.
        resize_px: side to which the crop is resized (bilinear), or None to leave it as it is.
        dropout: share of the features dropped in training, 0..1.
        stochastic_depth: how often training skips residual blocks, see `backbones.connect`.

    Returns:
        A flat functional model from raw patches, (batch, side, side, 3), RGB 0..255, to float32
        probabilities: of the second of two classes, (batch, 1), or of each class, (batch, classes).
        The layer "features" holds the pooled features. The attribute `task` is the task.

    Raises:
        InputError: no such backbone, its weights cannot be had, or an impossible `crop_px`.
    """
    crop_px = task.side_px if crop_px is None else crop_px
    smallest_px = task.centre_px or 1
    if not smallest_px <= crop_px <= task.side_px:
        raise InputError(f"crop_px is {crop_px}: choose {smallest_px} to {task.side_px}.")
    patches = keras.Input(task.shape, dtype="float32", name="patch")
    tensor = patches
    if crop_px < task.side_px:
        tensor = keras.layers.CenterCrop(crop_px, crop_px, name="centre_crop")(tensor)
    if resize_px:
        tensor = keras.layers.Resizing(resize_px, resize_px, name="resize")(tensor)
    features = backbones.connect(
        backbone, tensor, weights=weights, stochastic_depth=stochastic_depth
    )
    tensor = keras.layers.Dropout(dropout, name=_DROPOUT_LAYER)(features.pooled)
    # float32 also under mixed precision: a float16 probability rounds to 1 too early.
    probabilities = keras.layers.Dense(
        task.outputs,
        activation="sigmoid" if task.is_binary else "softmax",
        dtype="float32",
        name=_output_name(task),
    )(tensor)
    classifier = keras.Model(patches, probabilities, name="classifier")
    classifier.task = task
    return classifier


def _output_name(task):
    """Return the name of the last layer, from letters that every Keras backend takes."""
    if task.is_binary:
        return f"{re.sub('[^0-9A-Za-z]', '_', task.classes[1])}_probability"
    return "class_probabilities"


def task_of(model: keras.Model) -> Task:
    """Return the task of a classifier; PatchCamelyon's where it fits and no other is stored.

    Raises:
        InputError: the model is no classifier of patches.
    """
    task = getattr(model, "task", PCAM)
    expected = ((None, *task.shape), (None, task.outputs))
    got = tuple(getattr(model, name, None) for name in ("input_shape", "output_shape"))
    if got != expected:
        raise InputError(
            f"the model takes {got[0]} and returns {got[1]}; "
            f"a classifier of {task.name} patches takes {expected[0]} and returns {expected[1]}."
        )
    return task


def head_layers(classifier: keras.Model) -> tuple[keras.layers.Layer, ...]:
    """Return the layers of the head: all that come after the pooled features."""
    names = [layer.name for layer in classifier.layers]
    return tuple(classifier.layers[names.index(backbones.FEATURES_LAYER) + 1 :])


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
    head_names = {layer.name for layer in head_layers(classifier)}
    for layer in classifier.layers:
        if layer.name not in head_names:
            layer.trainable = trainable


def feature_extractor(classifier: keras.Model) -> keras.Model:
    """Return the model from raw patches to pooled features, (batch, features); shares weights."""
    return keras.Model(classifier.input, classifier.get_layer(backbones.FEATURES_LAYER).output)


def head(classifier: keras.Model) -> keras.Model:
    """Return the model from pooled features, (batch, features), to probabilities.

    It shares its weights with the classifier.
    """
    features = keras.Input(classifier.get_layer(backbones.FEATURES_LAYER).output.shape[1:])
    tensor = features
    for layer in head_layers(classifier):
        tensor = layer(tensor)
    return keras.Model(features, tensor)


def save(classifier: keras.Model, path: str | Path) -> None:
    """Write a classifier as a `.keras` file that also holds its task, whole or not at all.

    Plain `keras.saving.load_model` reads it as well.

    Raises:
        InputError: `path` cannot be written, or the model is no classifier of patches.
    """
    task = task_of(classifier)
    with written_whole(path) as temporary:
        _write(classifier, task, temporary)


def _write(classifier, task, path):
    classifier.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        # With the archive's default date: the same model gives the same entry.
        archive.writestr(zipfile.ZipInfo(model_files.TASK_ENTRY), json.dumps(task.to_json()))


def save_small(classifier: keras.Model, path: str | Path) -> None:
    """Write a classifier as a `.keras` file of about 60 % of the size.

    Weights are rounded to 16 significant bits, which compress well and move a probability by less
    than 0.001; float16's 11 bits moved some by 0.01. Plain `keras.saving.load_model` reads it, from
    Keras 3.13 on.

    Raises:
        InputError: `path` cannot be written, or the model is no classifier of patches.
    """
    task = task_of(classifier)
    with written_whole(path) as temporary:
        _write(classifier, task, temporary)
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
        A model from raw patches to probabilities, see `build`. The attribute `task` is its task:
        the one stored in the file, else PatchCamelyon's. The attribute `file` names the file.

    Raises:
        InputError: there is no such file, Keras cannot read it, or it is no classifier of patches.
    """
    path = model_files.model_file(path or model_files.SHIPPED_MODEL)
    try:
        classifier = keras.saving.load_model(path, compile=False)
    except Exception as error:  # what Keras raises for a bad file differs from version to version
        reason = first_line(error)
        raise InputError(
            f"{path} is not a model that Keras {keras.__version__} can read ({reason}); "
            "give a .keras file written by Keras 3."
        ) from error
    classifier.task, classifier.file = model_files.task_of(path), str(path)
    try:
        task_of(classifier)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return classifier
