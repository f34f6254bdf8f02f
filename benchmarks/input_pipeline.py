"""Patches per second from a data directory to augmented batches, and how long training waits.

The baseline is a typical notebook: decode, augment and shuffle one patch at a time, then batch.
The upper limit is reading and decoding alone.
"""

import functools
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from benchmarks import small_network
from benchmarks.rows import interleaved, row
from pcam_tf import data, stain
from pcam_tf.models import classifier
from pcam_tf.training import augmentation, batch_normalization, recipes

RECIPE = recipes.preset("cpu")


@functools.cache
def _layers():
    return augmentation.layers_of(RECIPE, seed=0)


@tf.function(autograph=False)
def _augmented(patches):
    patches = tf.cast(patches, "float32")
    for layer in _layers():
        patches = layer(patches, training=True)
    return patches


def ours(builder, split):
    """Yield augmented batches as in training: D4, stain and shift of whole batches."""
    for patches, labels in data.epochs(
        builder, split, batch_size=RECIPE.batch_size, seed=0, first=0, last=1
    ):
        yield _augmented(patches), labels


def _one_by_one(builder, split, changed):
    dataset = builder.as_dataset(split=split, read_config=tfds.ReadConfig(try_autocache=False))
    return dataset.map(changed).shuffle(1024).batch(RECIPE.batch_size)


def plain(builder, split):
    """Return batches by a notebook's pipeline: D4, and colour jitter instead of stain jitter."""

    def changed(patch):
        picture = tf.image.random_flip_left_right(patch["image"])
        picture = tf.image.random_flip_up_down(picture)
        picture = tf.image.rot90(picture, tf.random.uniform([], 0, 4, "int32"))
        picture = tf.image.convert_image_dtype(picture, "float32")
        picture = tf.image.random_hue(picture, 0.05)
        picture = tf.image.random_saturation(picture, 0.75, 1.25)
        picture = tf.image.random_brightness(picture, 0.1)
        picture = tf.image.random_contrast(picture, 0.9, 1.1)
        return tf.clip_by_value(picture, 0, 1), patch["label"]

    return _one_by_one(builder, split, changed)


def plain_with_stain(builder, split):
    """Return batches with the same augmentation as ours, as a notebook writes it: D4, stain and
    shift of one patch at a time."""
    mixing = stain.MIXING.astype("float32")
    unmixing = np.linalg.inv(mixing)
    strength, shift = RECIPE.stain_strength, int(RECIPE.shift_px)

    def changed(patch):
        picture = tf.image.random_flip_left_right(patch["image"])
        picture = tf.image.random_flip_up_down(picture)
        picture = tf.image.rot90(picture, tf.random.uniform([], 0, 4, "int32"))
        optical_density = -tf.math.log((tf.cast(picture, "float32") + 1) / 256)
        gain = tf.random.uniform([3], 1 - strength, 1 + strength)
        offset = tf.random.uniform([3], -strength / 4, strength / 4)
        densities = tf.tensordot(optical_density, unmixing, 1) * gain + offset
        picture = tf.clip_by_value(256 * tf.exp(-tf.tensordot(densities, mixing, 1)) - 1, 0, 255)
        margins = [[shift, shift], [shift, shift], [0, 0]]
        picture = tf.image.random_crop(tf.pad(picture, margins, "REFLECT"), [96, 96, 3])
        return picture, patch["label"]

    return _one_by_one(builder, split, changed)


def plain_with_layers(builder, split):
    """Return batches by Keras's own layers, applied to one patch at a time, as in tutorials."""
    layers = [
        keras.layers.RandomFlip(),
        keras.layers.RandomRotation(0.25),
        keras.layers.RandomColorJitter(
            value_range=(0, 255),
            brightness_factor=(-0.1, 0.1),
            contrast_factor=(0.1, 0.1),
            saturation_factor=(0.4, 0.6),
            hue_factor=(0.0, 0.05),
        ),
    ]

    def changed(patch):
        picture = tf.cast(patch["image"], "float32")
        for layer in layers:
            picture = layer(picture, training=True)
        return picture, patch["label"]

    return _one_by_one(builder, split, changed)


def limit(builder, split):
    """Yield batches that are read and decoded, and nothing else."""
    for batch in data.batches(builder, split, batch_size=RECIPE.batch_size):
        yield batch["image"], batch["label"]


def per_second(pipeline, builder, split):
    """Return patches a second of one pass over a split."""
    started = time.perf_counter()
    patches = sum(len(labels) for _, labels in pipeline(builder, split))
    return patches / (time.perf_counter() - started)


def waiting(builder, split, steps, backbone):
    """Return the share of an unfrozen training step that is spent waiting for its batch, 0..1.

    Timed by training on batches as they come, then as often on one batch that is at hand.
    """
    model = classifier.build(backbone=backbone, weights=None, crop_px=RECIPE.crop_px)
    classifier.unfreeze(model)
    model = batch_normalization.fused(model)
    augmented = keras.Sequential([keras.Input(model.input_shape[1:]), *_layers(), model])
    augmented.compile(optimizer="adam", loss="binary_crossentropy")
    batches = data.epochs(
        builder, split, batch_size=RECIPE.batch_size, seed=0, first=0, last=1
    ).repeat()
    coming = iter(batches)
    one = next(coming)
    augmented.train_on_batch(*one)
    seconds = {"coming": [], "at hand": []}
    for _ in range(steps):
        started = time.perf_counter()
        augmented.train_on_batch(*next(coming))
        seconds["coming"].append(time.perf_counter() - started)
        started = time.perf_counter()
        augmented.train_on_batch(*one)
        seconds["at hand"].append(time.perf_counter() - started)
    return 1 - sum(seconds["at hand"]) / sum(seconds["coming"])


def rows(builder, size):
    """Return the rows of the table; see `benchmarks.rows.row`."""
    split, repeats, steps = ("train[:512]", 2, 2) if size == "smoke" else ("train[:6016]", 5, 20)
    for pipeline in (
        ours,
        plain_with_stain,
        plain,
        plain_with_layers,
    ):  # tracing and opening files are not timed
        next(iter(pipeline(builder, split)))
    speeds = interleaved(
        {
            name: lambda pipeline=pipeline: per_second(pipeline, builder, split)
            for name, pipeline in (
                ("ours", ours),
                ("stain", plain_with_stain),
                ("plain", plain),
                ("layers", plain_with_layers),
                ("limit", limit),
            )
        },
        repeats,
    )
    ways = {
        "the same augmentation per patch": "stain",
        "tf.image per patch": "plain",
        "Keras layers per patch": "layers",
    }
    found = [
        row(
            f"input pipeline; baseline: {way}",
            "patches/s",
            speeds["ours"],
            speeds[name],
            limit=speeds["limit"],
        )
        for way, name in ways.items()
    ]
    share = waiting(builder, split, steps, small_network.backbone(size))
    found.append(row("share of a training step spent waiting for data", "share", [share]))
    return found


def check(builder):
    """Raise unless all pipelines give the same number of patches of the right shape."""
    for pipeline in (ours, plain_with_stain, plain, plain_with_layers, limit):
        images, labels = next(iter(pipeline(builder, "train[:64]")))
        assert images.shape == (64, 96, 96, 3) and np.isin(labels, (0, 1)).all(), pipeline.__name__
