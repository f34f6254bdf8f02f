"""Distillation: a student learns the probabilities of its teachers, view by view."""

from collections.abc import Sequence
from pathlib import Path

import keras

from pcam_tf.errors import InputError
from pcam_tf.models import classifier, copies, engines, model_files
from pcam_tf.training import augmentation, mosaics

_SEEN_BY_THE_STUDENT = (augmentation.RandomSurroundings, augmentation.RandomScanner)
SHIPPED = "shipped"  # the name of a teacher: the model that comes with the package


def locations(teachers: Sequence[str], presets: Sequence[str], run_dir: Path) -> list[str]:
    """Return where the models of teachers lie.

    Args:
        teachers: see `recipes.Recipe`.
        presets: names of presets; the run of such a teacher lies within the student's.
        run_dir: the student's folder.
    """
    own = {name: str(Path(run_dir) / "teachers" / name) for name in presets}
    own[SHIPPED] = str(model_files.SHIPPED_MODEL)
    return [own.get(name, name) for name in teachers]


def _teacher(name, student):
    """Load a teacher of the student's task.

    One that returns logits or NaN is refused, since clipping would hide them.
    """
    teacher = classifier.load(name)
    of, wanted = classifier.task_of(teacher), classifier.task_of(student)
    if (of.shape, of.classes) != (wanted.shape, wanted.classes):
        raise InputError(
            f"teacher {name} is of {of.name} ({of.side_px} px; {', '.join(of.classes)}) and the "
            f"patches are of {wanted.name} ({wanted.side_px} px; {', '.join(wanted.classes)}): "
            "choose teachers of one task with the patches."
        )
    engines.probabilities(teacher, engines.probe(teacher.input_shape[1]))
    return teacher


def start_from(name: str, model: keras.Model, backbone: str) -> None:
    """Give a student the weights of a teacher.

    Args:
        name: a `.keras` file or a run's folder, see `locations`.
        model: the student, of that `backbone`.
        backbone: its name.

    Raises:
        InputError: there is no such teacher, or it is of another task or network.
    """
    teacher = _teacher(name, model)
    try:
        copies.set_weights(model, teacher.get_weights())
    except ValueError as error:
        raise InputError(
            f"{name} is another network than {backbone}: the training continues from the first "
            "teacher, so both must be the same network, unless start_from_teacher is False."
        ) from error


def with_teachers(
    model: keras.Model,
    teachers: Sequence[str],
    layers: list[keras.layers.Layer],
    *,
    seed: int,
    mosaic: int = 1,
) -> keras.Model:
    """Return the model of patches to the student's and the teachers' probabilities.

    Function matching after L. Beyer et al., "Knowledge distillation: a good teacher is patient and
    consistent", CVPR 2022: student and teachers see the same view. MixUp keeps the teachers from
    repeating the labels that they were trained on. Other surroundings and what the scanner does
    are seen by the student only, since neither changes the answer.

    Args:
        model: the student.
        teachers: `.keras` files or runs' folders, see `locations`; their log-odds are averaged.
        layers: the augmentation, see `augmentation.layers_of`.
        seed: of MixUp.
        mosaic: see `recipes.Recipe`. Teachers predict patch by patch.

    Returns:
        A model of patches to (batch, 2 × outputs), the student's probabilities first.

    Raises:
        InputError: a teacher is missing, is of another task, or returns no probabilities.
    """
    task = classifier.task_of(model)
    views = patches = keras.Input(model.input_shape[1:])
    own = [layer for layer in layers if isinstance(layer, _SEEN_BY_THE_STUDENT)]
    for layer in layers:
        if layer not in own:
            views = layer(views)
    views = keras.layers.MixUp(alpha=0.4, seed=seed, data_format="channels_last")(views)
    scores = []
    for number, name in enumerate(teachers):
        teacher = _teacher(name, model)
        teacher.name = f"teacher_{number}"
        teacher.trainable = False
        # Log-odds beyond ±7 teach nothing more, and a float32 probability of 1 has none.
        probability = keras.ops.clip(teacher(views, training=False), 1e-3, 1 - 1e-3)
        odds = probability / (1 - probability) if task.is_binary else probability
        scores.append(keras.ops.log(odds))
    mean = keras.layers.average(scores)
    taught = keras.ops.sigmoid(mean) if task.is_binary else keras.ops.softmax(mean)
    for layer in own:
        views = layer(views)
    learnt = model(views) if mosaic == 1 else mosaics.probabilities(model, views, mosaic)
    return keras.Model(patches, keras.layers.concatenate([learnt, taught]))


def cross_entropy(_, probabilities):
    """Return the cross-entropy of the student's to the teachers' probabilities, (batch,).

    Args:
        probabilities: (batch, 2 × outputs), the student's first, see `with_teachers`.
    """
    outputs = probabilities.shape[-1] // 2
    student, taught = probabilities[:, :outputs], probabilities[:, outputs:]
    if outputs == 1:
        return keras.losses.binary_crossentropy(taught, student)
    return keras.losses.categorical_crossentropy(taught, student)
