"""What a student learns from its teachers: their probability of tumour, view by view."""

from collections.abc import Sequence

import keras

from pcam_tf.errors import InputError
from pcam_tf.models import classifier
from pcam_tf.training import augmentation


def _teacher(name):
    return classifier.load(classifier.TEACHERS.get(name, name))


def start_from(name: str, model: keras.Model, backbone: str) -> None:
    """Give a student the weights of a teacher.

    Args:
        name: of `classifier.TEACHERS`, or a run's folder.
        model: the student, of that `backbone`.
        backbone: its name.

    Raises:
        InputError: there is no such teacher, or it is of another network.
    """
    teacher = _teacher(name)
    try:
        model.set_weights(teacher.get_weights())
    except ValueError as error:
        raise InputError(
            f"{name} is another network than {backbone}: the first teacher is what the training "
            "goes on from."
        ) from error


def with_teachers(
    model: keras.Model, teachers: Sequence[str], layers: list[keras.layers.Layer], *, seed: int
) -> keras.Model:
    """Return the model of patches to the student's and the teachers' probability, (batch, 2).

    Function matching after L. Beyer et al., "Knowledge distillation: a good teacher is patient and
    consistent", CVPR 2022: student and teachers see the same view, and mixtures of patches keep the
    teachers from merely repeating the labels that they learnt. Only the student sees the view as
    another scanner might have it.

    Args:
        model: the student.
        teachers: names of `classifier.TEACHERS`, or runs; their log-odds are averaged.
        layers: the augmentation, see `augment.layers`.
        seed: of the mixtures.

    Raises:
        InputError: a teacher is missing.
    """
    views = patches = keras.Input(model.input_shape[1:])
    for layer in layers:
        if not isinstance(layer, augmentation.RandomScanner):
            views = layer(views)
    views = keras.layers.MixUp(alpha=0.4, seed=seed, data_format="channels_last")(views)
    log_odds = []
    for number, name in enumerate(teachers):
        teacher = _teacher(name)
        teacher.name = f"teacher_{number}"
        teacher.trainable = False
        # Log-odds beyond ±7 teach nothing more, and a float32 probability of 1 has none.
        probability = keras.ops.clip(teacher(views, training=False), 1e-3, 1 - 1e-3)
        log_odds.append(keras.ops.log(probability / (1 - probability)))
    taught = keras.ops.sigmoid(keras.layers.average(log_odds))
    for layer in layers:
        if isinstance(layer, augmentation.RandomScanner):
            views = layer(views)
    return keras.Model(patches, keras.layers.concatenate([model(views), taught]))


def cross_entropy(_, probabilities):
    """Return the cross-entropy of the student's to the teachers' probability, (batch,).

    Args:
        probabilities: (batch, 2), see `with_teachers`.
    """
    return keras.losses.binary_crossentropy(probabilities[:, 1:], probabilities[:, :1])
