"""Seconds from nothing to a validation AUC, against what a notebook would do instead.

Three ways to the same place, by the same backbone from ImageNet, the clock stopped while
validation is predicted: ours (the head on features that are computed once), everything trainable
from the first epoch, and a frozen backbone that is run anew in every epoch. The plain ways turn and
mirror patches, as notebooks do, and are looked at every quarter of an epoch.
"""

import dataclasses
import tempfile
import time

import keras
import numpy as np
import sklearn.metrics
import tensorflow as tf

from benchmarks import prediction_speed
from benchmarks.rows import row
from pcam_tf import augment, classifier, data, prediction, recipes, training

RECIPE = dataclasses.replace(
    recipes.preset("cpu"), frozen_views=1, frozen_epochs=4, unfrozen_epochs=0
)
MOST_EPOCHS = 4


def validation_auc(model, validation):
    """Return the AUC of one view of each validation patch."""
    step = prediction.BATCH_SIZE
    found = [
        prediction.probabilities(model, validation["image"][first : first + step])
        for first in range(0, len(validation["image"]), step)
    ]
    return sklearn.metrics.roc_auc_score(validation["label"], np.concatenate(found))


def ours(builder, split, validation, target, weights):
    """Return the seconds of a frozen phase until the target, NaN if it is not met.

    Features of validation are counted; the epochs after the one that meets the target are not.
    """
    recipe = dataclasses.replace(RECIPE, weights=weights)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        training.train(recipe, builder, folder, training_split=split)
        seconds = time.perf_counter() - started
        history = training.history(folder)
    met = history["validation_auc"] >= target
    if not met.any():
        return float("nan")
    return seconds - history["seconds"][met.idxmax() + 1 :].sum()


def plain(builder, split, validation, target, weights, *, frozen):
    """Return the seconds of `fit` from ImageNet until the target, NaN if it is not met."""
    patches = data.count(builder, split)
    quarter = max(patches // RECIPE.batch_size // 4, 1)
    started, paused = time.perf_counter(), 0.0
    model = classifier.build(weights=weights)
    (classifier.freeze if frozen else classifier.unfreeze)(model)
    turned = keras.Sequential([keras.Input(model.input_shape[1:]), augment.RandomD4(0), model])
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


WAYS = {
    "EfficientNetLite0, 96 px": {},
    "EfficientNetLite0, 64 px": {"crop_px": 64},
    "EfficientNetB0, 96 px": {"backbone": "EfficientNetB0"},
    "MobileNetV2, 96 px": {"backbone": "MobileNetV2"},
}


def steps_per_second(builder, split, steps, ways):
    """Return patches a second of unfrozen steps by how they are computed, and the peak's share.

    Returns:
        name -> patches a second; and the share of the machine's own peak, a large matrix product
        timed in between, that the steps of the preset `cpu` reach.
    """
    speeds, product = {}, []
    batch = next(iter(data.epochs(builder, split, batch_size=64, seed=0, first=0, last=1)))
    side = 2048
    a = tf.random.normal((side, side))
    multiply = tf.function(lambda a: tf.matmul(a, a))
    multiply(a)
    for name, options in ways.items():
        model = classifier.build(weights=None, **options)
        classifier.unfreeze(model)
        model.compile(optimizer="adam", loss="binary_crossentropy")
        model.train_on_batch(*batch)
        seconds = []
        for _ in range(steps):
            started = time.perf_counter()
            model.train_on_batch(*batch)
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            multiply(a).numpy()
            product.append(2 * side**3 / (time.perf_counter() - started))
        speeds[name] = len(batch[1]) / float(np.median(seconds))
        if not options:
            flop = 3 * prediction_speed.flop(model)  # backwards twice as much as forwards
    return speeds, speeds["EfficientNetLite0, 96 px"] * flop / float(np.median(product))


def rows(builder, size):
    """Return the rows of the table; see `benchmarks.rows.row`."""
    smoke = size == "smoke"
    split, target, weights = ("train[:512]", 0.0, None) if smoke else ("train", 0.90, "imagenet")
    validation = data.take(builder, "validation[:64]" if smoke else "validation[:1500]")
    words = (builder, split, validation, target, weights)
    first = [ours(*words)]
    found = [
        row(
            f"training to validation AUC {target:.2f}, against {name}",
            "s",
            first,
            [plain(*words, frozen=frozen)],
            lower_is_better=True,
            note="one run each",
        )
        for name, frozen in (("everything trainable", False), ("frozen, features anew", True))
    ]
    ways = dict(list(WAYS.items())[:1]) if smoke else WAYS
    speeds, share = steps_per_second(builder, "train[:64]", 1 if smoke else 8, ways)
    found += [row(f"unfrozen step, {name}", "patches/s", [speed]) for name, speed in speeds.items()]
    found.append(row("of the machine's peak, in that step, EfficientNetLite0", "share", [share]))
    return found
