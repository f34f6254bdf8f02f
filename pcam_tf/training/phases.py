"""The training of a classifier: frozen phase, then unfrozen phase."""

import dataclasses
import json
import shutil
import time
import zlib
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import sklearn.metrics
import tensorflow as tf
import tqdm

from pcam_tf import data
from pcam_tf.errors import InputError
from pcam_tf.files import write_json, written_whole
from pcam_tf.models import classifier, engines
from pcam_tf.training import augmentation, batch_normalization, devices, distillation
from pcam_tf.training.recipes import Recipe

HISTORY_COLUMNS = ["phase", "epoch", "loss", "validation_loss", "validation_auc", "seconds"]


def train(
    recipe: Recipe,
    builder,
    run_dir: str | Path,
    *,
    training_split: str = "train",
    workers: devices.Workers = devices.ONE,
) -> keras.Model | None:
    """Train a classifier, or go on with a training, or return the one of a finished run.

    Writes into `run_dir`: `recipe.json`, `history.csv` (a row an epoch), `model-frozen.keras` (the
    best of the frozen phase, unless there are teachers) and `model.keras` (the best so far by
    validation AUC). After a kill, the same call goes on from the last finished epoch and ends as if
    it had not been killed.

    Of several workers the chief alone does the frozen phase, validates, and reads and writes
    `run_dir`; the others need no folder. A run may go on with more or fewer workers.

    Args:
        recipe: what to do.
        builder: a prepared source, see `data.open_source`.
        run_dir: the run's folder; made where it is missing.
        training_split: what to train on, such as "train[:1000]".
        workers: the devices that train together, see `strategies.open_workers`.

    Returns:
        The classifier of the best epoch, (batch, 96, 96, 3) RGB 0..255 to (batch, 1); None on
        workers other than the chief.

    Raises:
        InputError: the folder holds a run of another recipe or other patches, or it cannot be
            written, or the source lacks a split, or a teacher is missing or of another network, or
            another worker has ended, or has another recipe or other patches.
    """
    run_dir = Path(run_dir)
    described = _description(recipe, builder, training_split)
    if workers.is_chief:
        _refuse_another(run_dir, described)
    _refuse_another_chief(workers, described)
    if workers.told(workers.is_chief and is_finished(run_dir))[0]:
        return classifier.load(run_dir) if workers.is_chief else None
    keras.utils.set_random_seed(recipe.seed)
    if keras.config.backend() == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    small = dataclasses.replace(recipe, resize_px=None) if recipe.unresized_epochs else recipe
    model = _build(small)
    if recipe.teachers:
        distillation.start_from(recipe.teachers[0], model, recipe.backbone)
    # Only now, so that a recipe that cannot be built does not take the folder.
    if workers.is_chief:
        write_json(run_dir / "recipe.json", described)
    with data.readable_errors(), workers.readable_errors():
        if workers.is_chief and not recipe.teachers:
            _frozen_phase(model, small, builder, run_dir, training_split)
        if recipe.unresized_epochs:
            last = min(recipe.unresized_epochs, recipe.unfrozen_epochs)
            _unfrozen_phase(model, small, builder, run_dir, training_split, last, workers)
            # Its weights and the optimizer's state come from the last epoch's checkpoint.
            model = _build(dataclasses.replace(recipe, weights=None))
        if recipe.unfrozen_epochs > recipe.unresized_epochs:
            last = recipe.unfrozen_epochs
            _unfrozen_phase(model, recipe, builder, run_dir, training_split, last, workers)
    if not workers.is_chief:
        return None
    shutil.rmtree(_work_dir(run_dir), ignore_errors=True)
    write_json(run_dir / "finished.json", {"epochs": len(history(run_dir))})
    return classifier.load(run_dir)


def history(run_dir: str | Path) -> pd.DataFrame:
    """Return a run's history: phase, epoch (from 1), losses, validation AUC, seconds.

    Raises:
        InputError: the folder holds no history.
    """
    path = Path(run_dir) / "history.csv"
    if not path.is_file():
        raise InputError(f"{run_dir} holds no run: there is no history.csv in it.")
    return pd.read_csv(path)


def is_finished(run_dir: str | Path) -> bool:
    """Return whether both phases of a run have ended."""
    return (Path(run_dir) / "finished.json").is_file()


def _work_dir(run_dir):
    """Return the folder of what only an unfinished run needs: features, checkpoints."""
    return run_dir / "unfinished"


def _description(recipe, builder, training_split):
    splits = {split: split for split in data.SPLITS} | {"train": training_split}
    return {
        "recipe": dataclasses.asdict(recipe) | {"teachers": list(recipe.teachers)},
        "data": {
            "name": builder.info.name,
            "version": str(builder.info.version),
            "patches": {name: data.count(builder, split) for name, split in splits.items()},
        },
    }


def _refuse_another(run_dir, described):
    """Refuse a folder that holds a run of another recipe or other patches."""
    path = run_dir / "recipe.json"
    if not path.is_file():
        return
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
        different = [
            f"{part}.{key} {existing[part].get(key)!r} instead of {value!r}"
            for part, values in described.items()
            for key, value in values.items()
            if existing[part].get(key) != value
        ]
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is not a run's recipe: delete the run or name another."
        ) from error
    if different:
        raise InputError(
            f"{run_dir} holds a run of another recipe ({different[0]}): delete it or name another."
        )


def _refuse_another_chief(workers, described):
    """Refuse to train with a chief whose recipe or patches are others than this worker's."""
    digest = zlib.crc32(json.dumps(described).encode())
    if workers.told(digest)[0] != digest:
        raise InputError(
            f"worker {workers.index} has another recipe, or other patches, than worker 0: give "
            "all of them the same command and the same data."
        )


def _build(recipe):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if recipe.mixed_precision else "float32")
    try:
        return classifier.build(
            backbone=recipe.backbone,
            weights=recipe.weights,
            crop_px=recipe.crop_px,
            resize_px=recipe.resize_px,
            dropout=recipe.dropout,
            stochastic_depth=recipe.stochastic_depth,
        )
    finally:
        keras.config.set_dtype_policy(policy)


def _frozen_phase(model, recipe, builder, run_dir, training_split):
    """Train the head on features that the frozen backbone computes once."""
    best = run_dir / "model-frozen.keras"
    if not best.is_file():
        classifier.freeze(model)
        patches = recipe.frozen_views * data.count(builder, training_split)
        extractor = engines.fastest(classifier.feature_extractor(model), patches)
        file, labels = _features(extractor, recipe, builder, run_dir, "train", training_split)
        validation, validation_labels = _features(
            extractor, recipe, builder, run_dir, "validation", "validation"
        )

        def epochs(first, last):
            dataset = _feature_batches(file, labels, recipe, first)
            for epoch in range(first + 1, last):
                dataset = dataset.concatenate(_feature_batches(file, labels, recipe, epoch))
            return dataset

        _fit(
            "frozen",
            classifier.head(model),
            saved=model,
            recipe=recipe,
            run_dir=run_dir,
            last=recipe.frozen_epochs,
            epochs=epochs,
            patches=len(labels),
            validation=(lambda head: head.predict(np.load(validation), batch_size=1024, verbose=0)),
            validation_labels=validation_labels,
            class_weight=_class_weight(recipe, labels),
        )
        with written_whole(best) as temporary:
            shutil.copy(run_dir / "model.keras", temporary)
    model.set_weights(classifier.load(best).get_weights())


def _features(extractor, recipe, builder, run_dir, name, split):
    """Return the file of features, float16 (views × patches, features), and their labels."""
    views = recipe.frozen_views if name == "train" else 1
    features_file = _work_dir(run_dir) / f"features-{name}.npy"
    labels_file = _work_dir(run_dir) / f"labels-{name}.npy"
    if not features_file.is_file():
        patches = data.count(builder, split)
        labels = []
        bar = tqdm.tqdm(total=views * patches, desc=f"features of {name}", unit="patch")
        # Written batch by batch: of a memory map, what was written would stay in memory.
        with written_whole(features_file) as temporary, temporary.open("wb") as stored:
            for view in range(views):
                augmentation = _augmentation(recipe, seed=recipe.seed + 100 * view)
                for batch in data.arrays(data.batches(builder, split, batch_size=256)):
                    images = batch["image"].astype("float32")
                    # The first view is the patch as it is, which is what a prediction sees.
                    for layer in augmentation if view else []:
                        images = layer(images, training=True)
                    features = extractor.predict_on_batch(np.asarray(images))
                    if not labels:
                        shape = (views * patches, features.shape[1])
                        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(stored, header)
                    stored.write(features.astype("<f2").tobytes())
                    labels.append(batch["label"].astype("int8"))
                    bar.update(len(batch["label"]))
            bar.close()
            with written_whole(labels_file) as temporary_labels:
                np.save(temporary_labels, np.concatenate(labels))
    return features_file, np.load(labels_file)


def _feature_batches(file, labels, recipe, epoch):
    """Return one epoch of the head's training: shuffled batches read from disk."""
    width = np.load(file, mmap_mode="r").shape[1]
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(labels))

    def read(rows):
        # Opened anew, so that what was read does not stay in the process's memory.
        features = np.load(file, mmap_mode="r")[rows]
        return features.astype("float32"), labels[rows].astype("int64")

    def batch(rows):
        values, truth = tf.numpy_function(read, [rows], (tf.float32, tf.int64))
        return (
            tf.ensure_shape(values, (None, width)),
            tf.ensure_shape(truth, (None,)),
        )

    return tf.data.Dataset.from_tensor_slices(order).batch(recipe.batch_size).map(batch).prefetch(2)


def _unfrozen_phase(model, recipe, builder, run_dir, training_split, last, workers):
    """Train backbone and head together, on augmented patches, up to epoch `last`."""
    classifier.unfreeze(model)
    trained = _trained_copy(workers, model, recipe)
    with workers.scope():
        layers = _augmentation(recipe, seed=recipe.seed)
        if recipe.teachers:
            augmented = distillation.with_teachers(
                trained, recipe.teachers, layers, seed=recipe.seed
            )
        else:
            augmented = keras.Sequential([keras.Input(model.input_shape[1:]), *layers, trained])
    validation_labels = np.concatenate(
        [batch["label"] for batch in data.batches(builder, "validation", batch_size=256)]
    )
    labels = (
        np.concatenate(
            [batch["label"] for batch in data.batches(builder, training_split, batch_size=256)]
        )
        if recipe.class_weights
        else None
    )

    def validation(_):
        model.set_weights(trained.get_weights())
        patches = data.batches(builder, "validation", batch_size=256)
        return model.predict(patches.map(lambda patch: patch["image"]), verbose=0)

    def epochs(first, last):
        chosen = {"batch_size": recipe.batch_size, "seed": recipe.seed}
        chosen |= {"first": first, "last": last}
        if workers.strategy is None:
            return data.epochs(builder, training_split, **chosen)
        own, replicas = workers.own, workers.replicas
        return data.shares(builder, training_split, own=own, replicas=replicas, **chosen)

    _fit(
        "unfrozen",
        augmented,
        saved=model,
        recipe=recipe,
        run_dir=run_dir,
        last=last,
        epochs=epochs,
        patches=data.count(builder, training_split),
        validation=validation,
        validation_labels=validation_labels,
        class_weight=_class_weight(recipe, labels),
        workers=workers,
    )


def _trained_copy(workers, model, recipe):
    """Return a copy that trains faster on one device, or that all replicas keep alike."""
    if workers.strategy is None:
        return batch_normalization.fused(model)
    with workers.scope():
        copy = devices.synchronised(_build(dataclasses.replace(recipe, weights=None)))
        classifier.unfreeze(copy)
        copy.set_weights(model.get_weights())
        workers.spread(copy.variables)
    return copy


def _augmentation(recipe, *, seed):
    return augmentation.layers(
        seed=seed,
        stain_strength=recipe.stain_strength,
        rotation_degrees=recipe.rotation_degrees,
        scaling=recipe.scaling,
        shift_px=recipe.shift_px,
        brightness=recipe.brightness,
        blur_px=recipe.blur_px,
        jpeg_quality=recipe.jpeg_quality,
    )


def _class_weight(recipe, labels):
    if not recipe.class_weights:
        return None
    counts = np.bincount(labels, minlength=2)
    return {label: len(labels) / (2 * max(count, 1)) for label, count in enumerate(counts)}


def _fit(
    phase,
    model,
    *,
    saved,
    recipe,
    run_dir,
    last,
    epochs,
    patches,
    validation,
    validation_labels,
    class_weight,
    workers=devices.ONE,
):
    """Run the epochs of one phase, up to `last`, that are still to do."""
    total = getattr(recipe, f"{phase}_epochs")
    steps = -(-patches // recipe.batch_size)
    with workers.scope():
        model.compile(
            optimizer=_optimizer(recipe, getattr(recipe, f"{phase}_learning_rate"), total * steps),
            loss=distillation.cross_entropy
            if recipe.teachers
            else keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing),
        )
    record = _Record(phase, saved, recipe, run_dir, validation, validation_labels, workers)
    record.set_model(model)
    first = record.restore()
    if first >= last or workers.told(record.has_stalled())[0]:
        return
    callbacks = [record, keras.callbacks.TerminateOnNaN()]
    if workers.strategy is not None:
        workers.fit(
            model,
            epochs(first, last),
            first=first,
            last=last,
            patches=patches,
            batch_size=recipe.batch_size,
            class_weight=class_weight,
            callbacks=callbacks,
        )
        return
    model.fit(
        epochs(first, last),
        initial_epoch=first,
        epochs=last,
        steps_per_epoch=steps,
        shuffle=False,
        class_weight=class_weight,
        callbacks=callbacks,
        verbose=1 if phase == "unfrozen" else 2,
    )


def _optimizer(recipe, peak, steps):
    warm_up = round(recipe.warm_up * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 100, max(steps - warm_up, 1), warmup_target=peak, warmup_steps=warm_up
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=recipe.weight_decay,
        use_ema=True,
        ema_momentum=recipe.averaging,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class _Record(keras.callbacks.Callback):
    """After each epoch: validate with the averaged weights, keep the best, note it, checkpoint.

    The chief does. Other workers only do to their weights what the chief does to its own.

    Keras's BackupAndRestore does not keep what early stopping has counted; here all of that is
    read off `history.csv`. A row in it is what makes an epoch finished: it is written last.
    """

    def __init__(self, phase, saved, recipe, run_dir, validation, validation_labels, workers):
        super().__init__()
        self.phase, self.saved, self.recipe, self.run_dir = phase, saved, recipe, run_dir
        self.validation, self.validation_labels = validation, validation_labels
        self.workers = workers
        self.averager = keras.callbacks.SwapEMAWeights()
        self.path = run_dir / "history.csv"
        self.history = (
            history(run_dir)
            if workers.is_chief and self.path.is_file()
            else pd.DataFrame(columns=HISTORY_COLUMNS)
        )

    def set_model(self, model):
        super().set_model(model)
        self.averager.set_model(model)

    def restore(self) -> int:
        """Load the checkpoint of the phase's last finished epoch; return how many there are."""
        done = int(self.workers.told((self.history.phase == self.phase).sum())[0])
        if done:
            with self.workers.scope():
                self.model.optimizer.build(self.model.trainable_variables)
            if self.workers.is_chief:
                self.model.load_weights(self._checkpoint(done))
            self.workers.spread(self.model.variables + self.model.optimizer.variables)
        return done

    def has_stalled(self) -> bool:
        """Return whether the phase has gone `patience` epochs without a better AUC."""
        aucs = self.history.validation_auc[self.history.phase == self.phase].to_numpy()
        return len(aucs) > 0 and len(aucs) - 1 - aucs.argmax() >= self.recipe.patience

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        self.workers.set_seeds(self.model.variables, self.recipe.seed, epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.averager.on_test_begin()
        if self.workers.is_chief:
            probabilities = np.asarray(self.validation(self.model), "float64").ravel()
            auc = sklearn.metrics.roc_auc_score(self.validation_labels, probabilities)
            if not self.history.validation_auc.max() >= auc:
                self._save_best()
        self.averager.on_test_end()
        if not self.workers.is_chief:
            return
        with written_whole(self._checkpoint(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        row = {
            "phase": self.phase,
            "epoch": epoch + 1,
            "loss": logs["loss"],
            "validation_loss": sklearn.metrics.log_loss(self.validation_labels, probabilities),
            "validation_auc": auc,
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        row = pd.DataFrame([row])
        self.history = pd.concat([self.history, row]) if len(self.history) else row
        with written_whole(self.path) as temporary:
            self.history.to_csv(temporary, index=False)
        self._checkpoint(epoch).unlink(missing_ok=True)
        print(f" {self.phase} epoch {epoch + 1}: validation AUC {auc:.4f}", flush=True)
        if self.has_stalled():
            self.model.stop_training = True

    def _save_best(self):
        best = self.saved
        if self.recipe.mixed_precision:
            best = _build(dataclasses.replace(self.recipe, mixed_precision=False, weights=None))
            best.set_weights(self.saved.get_weights())
        classifier.save(best, self.run_dir / "model.keras")

    def _checkpoint(self, epoch):
        return _work_dir(self.run_dir) / f"{self.phase}-{epoch}.weights.h5"
