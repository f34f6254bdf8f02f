"""Seconds of training to a validation AUC, compared with a typical notebook; speed of a step.

Three ways to the same AUC with the same ImageNet backbone: ours (the head on features that are
computed once), all layers trainable from the first epoch, and a frozen backbone that is run in
every epoch. The last two are the baselines. They rotate and flip patches, as notebooks do, and are
validated every quarter of an epoch. The time of validation is not counted. Then: steps of the
unfrozen phase, computed in several ways.
"""

import pcam_tf  # noqa: F401, I001  (first: it sets what TensorFlow reads when it is imported)

import argparse
import dataclasses
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import sklearn.metrics
import tensorflow as tf

from benchmarks import prediction_speed, small_network
from benchmarks.rows import interleaved, row
from pcam_tf import data, prediction, training
from pcam_tf.models import classifier
from pcam_tf.training import augmentation, batch_normalization, recipes

RECIPE = dataclasses.replace(
    recipes.preset("cpu"), preset="benchmark", frozen_views=1, frozen_epochs=4, unfrozen_epochs=0
)
MOST_EPOCHS = 4
# How a step of the unfrozen phase could be computed: options of `classifier.build`, and of `_step`.
STEPS = {
    "as in `cpu`: EfficientNetLite0, 96 px, batches of 64": {},
    "batches of 16": {"batch_size": 16},
    "batches of 128": {"batch_size": 128},
    "64 px": {"crop_px": 64},
    "compiled by XLA": {"jit_compile": True},
    "bfloat16": {"policy": "mixed_bfloat16"},
    "Keras's own BatchNormalization": {"fused": False},
    "BatchNormalization frozen": {"frozen_normalisation": True},
    "EfficientNetB0": {"backbone": "EfficientNetB0"},
    "MobileNetV2": {"backbone": "MobileNetV2"},
}


def validation_auc(model, validation):
    """Return the AUC of one view of each validation patch."""
    step = prediction.BATCH_SIZE
    found = [
        prediction.probabilities(model, validation["image"][first : first + step])
        for first in range(0, len(validation["image"]), step)
    ]
    return sklearn.metrics.roc_auc_score(validation["label"], np.concatenate(found))


def ours(builder, split, validation, target, start, seed):
    """Return the seconds of a frozen phase until the target, NaN if it is not met.

    Features of validation are counted; the epochs after the one that meets the target are not.
    """
    recipe = dataclasses.replace(RECIPE, seed=seed, **start)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        training.train(recipe, builder, folder, training_split=split)
        seconds = time.perf_counter() - started
        history = training.history(folder)
    met = history["validation_auc"] >= target
    if not met.any():
        return float("nan")
    return seconds - history["seconds"][met.idxmax() + 1 :].sum()


def plain(builder, split, validation, target, start, seed, *, frozen):
    """Return the seconds of `fit` from ImageNet until the target, NaN if it is not met."""
    keras.utils.set_random_seed(seed)
    patches = data.count(builder, split)
    quarter = max(patches // RECIPE.batch_size // 4, 1)
    started, paused = time.perf_counter(), 0.0
    model = classifier.build(**start)
    (classifier.freeze if frozen else classifier.unfreeze)(model)
    turned = keras.Sequential(
        [keras.Input(model.input_shape[1:]), augmentation.RandomD4(seed), model]
    )
    turned.compile(optimizer="adam", loss="binary_crossentropy")
    dataset = builder.as_dataset(split=split, as_supervised=True).shuffle(1024)
    batches = (
        dataset.batch(RECIPE.batch_size, drop_remainder=True).repeat().prefetch(tf.data.AUTOTUNE)
    )
    coming = iter(batches)
    for _ in range(4 * MOST_EPOCHS):
        for _ in range(quarter):
            turned.train_on_batch(*next(coming))
        stopped = time.perf_counter()
        auc = validation_auc(model, validation)
        paused += time.perf_counter() - stopped
        seconds = time.perf_counter() - started - paused
        print(f"frozen={frozen}: {seconds:.0f} s, validation AUC {auc:.4f}", flush=True)
        if auc >= target:
            return seconds
    return float("nan")


def _step(
    patches,
    labels,
    *,
    batch_size=64,
    jit_compile=False,
    policy="float32",
    fused=True,
    frozen_normalisation=False,
    **options,
):
    """Return a function that does one unfrozen step and returns its patches a second."""
    keras.config.set_dtype_policy(policy)
    model = classifier.build(weights=None, **options)
    keras.config.set_dtype_policy("float32")
    classifier.unfreeze(model)
    for layer in model.layers:
        if frozen_normalisation and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    if fused:
        model = batch_normalization.fused(model)
    model.compile(optimizer="adam", loss="binary_crossentropy", jit_compile=jit_compile)
    batch = patches[:batch_size], labels[:batch_size]
    model.train_on_batch(*batch)

    def step():
        started = time.perf_counter()
        model.train_on_batch(*batch)
        return len(batch[1]) / (time.perf_counter() - started)

    return step


def product(side=2048):
    """Return the operations a second of a product of square matrices, side by side."""
    matrix = tf.random.normal((side, side))
    tf.matmul(matrix, matrix).numpy()
    started = time.perf_counter()
    tf.matmul(matrix, matrix).numpy()
    return 2 * side**3 / (time.perf_counter() - started)


SIZES = {
    "smoke": {
        "split": "train[:128]",
        "validation": "validation[:64]",
        "target": 0.0,
        "start": {"backbone": small_network.backbone("smoke"), "weights": None},
    },
    "full": {
        "split": "train",
        "validation": "validation",
        "target": 0.90,
        "start": {"backbone": small_network.backbone("full"), "weights": "imagenet"},
    },
}
WAYS = {
    "ours": ours,
    "all layers trainable": functools.partial(plain, frozen=False),
    "frozen backbone run in every epoch": functools.partial(plain, frozen=True),
}


def main(words: list[str] | None = None) -> int:
    """Train in some ways, in a process of their own, and print the seconds, a line a way."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    arguments = parser.parse_args(words)
    if arguments.size == "smoke":
        small_network.register()
        builder = small_network.source()
    else:
        builder = data.open_source(arguments.data_dir)
    found = SIZES[arguments.size]
    seconds = [
        WAYS[way](
            builder,
            found["split"],
            data.read_patches(builder, found["validation"]),
            found["target"],
            found["start"],
            arguments.seed,
        )
        for way in arguments.ways
    ]
    print(*seconds, sep="\n")
    return 0


def rows(builder, size):
    """Return the rows of the table; see `benchmarks.rows.row`."""
    seeds, target = range(3 if size == "full" else 1), SIZES[size]["target"]
    # What holds the builder's name/version.
    where = ["--data-dir", str(Path(builder.data_dir).parents[1])] if size == "full" else []

    def seconds(ways, seed):
        command = [sys.executable, "-m", "benchmarks.training_speed", size, *where]
        answer = subprocess.run(
            [*command, "--seed", str(seed), "--ways", *ways],
            stdout=subprocess.PIPE, text=True, check=True,
        ).stdout  # fmt: skip
        print(answer[-400:], flush=True)
        return map(float, answer.splitlines()[-len(ways) :])

    # What is timed has a process to itself; at smoke, where times mean nothing, all share one.
    together = [list(WAYS)] if size == "smoke" else [[way] for way in WAYS]
    found = {way: [] for way in WAYS}
    for seed in seeds:
        for ways in together:
            for way, each in zip(ways, seconds(ways, seed), strict=True):
                found[way].append(each)
    return [
        row(
            f"training to validation AUC {target:.2f}; baseline: {way}",
            "s",
            found["ours"],
            found[way],
            lower_is_better=True,
        )
        for way in list(WAYS)[1:]
    ]


def step_rows(builder, size):
    """Return rows of unfrozen steps, patches per second and share of the machine's peak."""
    backbone = small_network.backbone(size)
    patches = data.read_patches(builder, "train[:128]")
    patches, labels = patches["image"].astype("float32"), patches["label"]
    steps = {
        name: _step(patches, labels, **({"backbone": backbone} | options))
        for name, options in STEPS.items()
        if size == "full" or "backbone" not in options
    }
    speeds = interleaved(steps | {"product": product}, 10 if size == "full" else 1)
    # Backwards costs twice as much as forwards.
    flop = 3 * prediction_speed.flop(classifier.build(weights=None, backbone=backbone))
    first = next(iter(steps))
    pairs = zip(speeds[first], speeds["product"], strict=True)
    return [
        *(row(f"unfrozen step, {name}", "patches/s", speeds[name]) for name in steps),
        row(
            "share of a matrix product's operations per second, step as in `cpu`",
            "share",
            [flop * speed / peak for speed, peak in pairs],
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
