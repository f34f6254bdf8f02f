"""The training of a classifier: frozen phase, then unfrozen phase."""

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pcam_tf import data
from pcam_tf.files import written_whole
from pcam_tf.models import classifier, copies, engines
from pcam_tf.training import (
    augmentation,
    batch_normalization,
    devices,
    distillation,
    features,
    mosaics,
    optimization,
    recipes,
    runs,
)
from pcam_tf.training.recipes import Recipe
from pcam_tf.training.record import Record, build
from pcam_tf.training.runs import Run


def train(
    recipe: Recipe,
    source: tfds.core.DatasetBuilder,
    run_dir: str | Path,
    *,
    training_split: str = "train",
    strategy: tf.distribute.Strategy | None = None,
    after_epoch: Callable[[keras.Model, int], None] | None = None,
) -> keras.Model:
    """Train a classifier, or continue a training, or load the result of a finished run.

    Writes into `run_dir`: `recipe.json`, `history.csv` (a row an epoch), `model-frozen.keras` (the
    best of the frozen phase, where there is one) and `model.keras` (the best so far by
    validation AUC). After a kill, the same call continues after the last finished epoch and ends
    as if it had not been killed. Teachers that are presets are trained first, in the same way, in
    `run_dir/teachers`.

    Args:
        recipe: what to do.
        source: a prepared source, see `data.open_source`.
        run_dir: the run's folder; made where it is missing.
        training_split: what to train on, such as "train[:1000]".
        strategy: several devices for the unfrozen phase, see `devices.open_strategy`; None for one.
            A run may continue with more or fewer devices.
        after_epoch: called after each unfrozen epoch with the classifier as it was validated and
            the number of the epoch, from 1; again for an epoch that was killed before its end.

    Returns:
        The classifier of the best epoch, see `classifier.build`.

    Raises:
        InputError: the folder holds another run, is trained in by another process or cannot be
            written to, the source lacks a split or its validation split a class, a teacher is
            missing or of another network, or the preset needs real patches and these are synthetic.
    """
    recipes.check_patches(recipe.preset, real=not data.is_synthetic(source))
    run = Run(recipe, source, Path(run_dir), training_split)
    runs.refuse_other(run)
    runs.refuse_incomplete(run)
    if runs.is_finished(run.folder):
        runs.remove_leftovers(run)
        return classifier.load(run.folder)
    teachers = _trained_teachers(run, strategy)
    _make_repeatable(recipe.seed)
    model = build(recipe, run.task)
    if teachers and recipe.start_from_teacher:
        distillation.start_from(teachers[0], model, recipe.backbone)
    # Only now, so that a recipe that cannot be built does not take the folder.
    with runs.locked(run):
        runs.refuse_other(run)  # another process may have begun meanwhile
        runs.write_description(run)
        _train(run, model, strategy, after_epoch)
        runs.finish(run)
    return classifier.load(run.folder)


def _trained_teachers(run, strategy):
    """Train the teachers that are presets; return where all teachers lie."""
    teachers = distillation.locations(run.recipe.teachers, recipes.PRESETS, run.folder)
    for name, folder in zip(run.recipe.teachers, teachers, strict=True):
        if name in recipes.PRESETS:
            print(f"teacher {name}", flush=True)
            recipe = dataclasses.replace(recipes.preset(name), seed=run.recipe.seed)
            train(recipe, run.source, folder, training_split=run.training_split, strategy=strategy)
    return teachers


def _train(run, model, strategy, after_epoch):
    """Run the phases that are still to do."""
    with data.readable_errors():
        if runs.has_frozen_phase(run.recipe):
            frozen_phase(run, model)
        if run.recipe.unfrozen_epochs:
            unfrozen_phase(run, model, strategy, after_epoch)


def _make_repeatable(seed):
    keras.utils.set_random_seed(seed)
    if keras.config.backend() == "tensorflow":
        tf.config.experimental.enable_op_determinism()


def frozen_phase(run: Run, model: keras.Model) -> None:
    """Train the head on features that the frozen backbone computes once.

    Args:
        run: what to train and where.
        model: the classifier; it ends with the weights of the best epoch.
    """
    best, recipe = run.folder / "model-frozen.keras", run.recipe
    if not best.is_file():
        classifier.freeze(model)
        extractor = engines.fastest(
            classifier.feature_extractor(model), recipe.frozen_views * run.patches
        )
        file, labels = features.stored_features(
            extractor, run, "train", run.training_split, views=recipe.frozen_views
        )
        validation, validation_labels = features.stored_features(
            extractor, run, "validation", "validation"
        )
        head = classifier.head(model)

        def validate():
            return head.predict(np.load(validation), batch_size=1024, verbose=0)

        def epoch(number):
            return features.shuffled_batches(
                file,
                labels,
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                epoch=number,
                steps=recipe.epoch_steps,
            )

        def epochs(first, last):
            return data.joined(epoch(number) for number in range(first, last))

        _compile(head, run, recipe.frozen_learning_rate, recipe.frozen_epochs * _steps(labels, run))
        record = Record(run, "frozen", model, validate, validation_labels)
        _fit(head, record, epochs, recipe.frozen_epochs, _steps(labels, run), labels)
        with written_whole(best) as temporary:
            shutil.copyfile(run.folder / "model.keras", temporary)
    model.set_weights(classifier.load(best).get_weights())


def unfrozen_phase(
    run: Run,
    model: keras.Model,
    strategy: tf.distribute.Strategy | None = None,
    after_epoch: Callable[[keras.Model, int], None] | None = None,
) -> None:
    """Train backbone and head together on augmented patches.

    Args:
        run: what to train and where.
        model: the classifier to begin with; its weights change.
        strategy: see `train`.
        after_epoch: see `train`.
    """
    recipe, labels = run.recipe, _labels(run, run.training_split)
    # What is trained within mosaics is also chosen by what it predicts within them.
    validated = model if recipe.mosaic == 1 else mosaics.mixed(model, recipe.mosaic)
    classifier.unfreeze(model)
    with devices.scope(strategy):
        trained = _trained_copy(run, model, strategy)
        augmented = _augmented(run, trained)
        steps = recipe.unfrozen_epochs * _steps(labels, run)
        rates = optimization.layer_rates(trained, recipe.layer_decay)
        _compile(augmented, run, recipe.unfrozen_learning_rate, steps, rates)

    def validate():
        model.set_weights(trained.get_weights())
        # What is estimated is drawn as well, and a resumed run has not drawn what came before.
        devices.set_seeds(model.variables, recipe.seed, 0)
        batch_normalization.reestimate(model, _reestimated_from(run))
        patches = data.batches(run.source, "validation", batch_size=256)
        return validated.predict(patches.map(lambda patch: patch["image"]), verbose=0)

    epochs = functools.partial(
        data.epochs,
        run.source,
        run.training_split,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        steps=recipe.epoch_steps,
    )
    record = Record(run, "unfrozen", model, validate, _labels(run, "validation"), after_epoch)
    _fit(augmented, record, epochs, recipe.unfrozen_epochs, _steps(labels, run), labels)


def _trained_copy(run, model, strategy):
    """Return a copy that trains faster on one device, or that several devices keep alike."""
    if strategy is None:
        copy = batch_normalization.fused(model)
        copy.task = run.task
        return copy
    copy = copies.copied(model)
    copy.task = run.task
    devices.synchronise_batch_normalization(copy)
    classifier.unfreeze(copy)
    return copy


def _augmented(run, trained):
    """Return the model of raw patches to what the loss compares."""
    recipe = run.recipe
    layers = augmentation.layers_of(recipe, seed=recipe.seed)
    if recipe.teachers:
        teachers = distillation.locations(recipe.teachers, recipes.PRESETS, run.folder)
        return distillation.with_teachers(
            trained, teachers, layers, seed=recipe.seed, mosaic=recipe.mosaic
        )
    if recipe.mosaic == 1:
        return keras.Sequential([keras.Input(run.task.shape), *layers, trained])
    views = patches = keras.Input(run.task.shape)
    for layer in layers:
        views = layer(views)
    return keras.Model(patches, mosaics.probabilities(trained, views, recipe.mosaic))


def _reestimated_from(run):
    """Yield the batches, all full, from which BatchNormalization's statistics are estimated."""
    recipe = run.recipe
    rows = min(recipe.reestimated_batches, run.patches // recipe.batch_size) * recipe.batch_size
    if rows:
        for batch in data.batches(
            run.source, run.training_split, batch_size=recipe.batch_size, rows=slice(0, rows)
        ):
            yield batch["image"].numpy().astype("float32")


def _labels(run, split):
    batches = data.batches(run.source, split, batch_size=256)
    return np.concatenate([batch["label"] for batch in batches])


def _steps(labels, run):
    return run.recipe.epoch_steps or -(-len(labels) // run.recipe.batch_size)


def _compile(model, run, peak, steps, rates=None):
    model.compile(
        optimizer=optimization.optimizer(run.recipe, peak, steps, rates),
        loss=optimization.loss_of(run.recipe, run.task),
    )
    # Built in the first step instead, it would make TensorFlow trace that step a second time.
    model.optimizer.build(model.trainable_variables)


def _fit(model, record, epochs, last, steps, labels):
    """Run the epochs of one phase, up to `last`, that are still to do."""
    record.set_model(model)
    first = record.finished_epochs()
    if first >= last or record.has_stalled():
        return
    record.restore()
    classes = len(record.run.task.classes)
    weights = (
        optimization.class_weights(labels, classes) if record.run.recipe.class_weights else None
    )
    model.fit(
        epochs(first=first, last=last),
        initial_epoch=first,
        epochs=last,
        steps_per_epoch=steps,
        shuffle=False,
        class_weight=weights,
        callbacks=[record, keras.callbacks.TerminateOnNaN()],
        verbose=1 if record.phase == "unfrozen" else 2,
    )
