"""Fine-tuning of the upper blocks of a backbone and a new head, on crops of fields.

The lower blocks stay as they are: 33 cases do not suffice for them, and what they make of a field,
its map, is then computed once, as it is and in augmented views. A batch draws its classes evenly,
then a case of the class, one of its fields, a view and a crop of the map. Whole fields are
predicted, by the same network.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from pcam_tf.files import written_whole
from pcam_tf.models import classifier, field_models
from pcam_tf.studies import field_features
from pcam_tf.studies.subtype_folds import Split
from pcam_tf.training import optimization, recipes

# The last layer of the lower blocks, and how many pixels one place of its map stands for.
LOWER, STRIDE_PX = "block10_add", 16
CROP = 8  # side of a crop, in places of the map
# Symmetries of the square, as turns by 90° and whether mirrored before; the first changes nothing.
VIEWS = ((0, False), (2, False), (1, True), (3, True))
STEPS = 600
RECIPE = recipes.Recipe(
    preset="subtypes",
    batch_size=32,
    dropout=0.3,
    label_smoothing=0.1,
    weight_decay=0.05,
    unfrozen_learning_rate=5e-4,
    averaging=0.95,
)


def maps_of_views(
    fields: Sequence[np.ndarray], folder: Path, *, shipped: bool, stain_strength: float
) -> list[list[np.ndarray]]:
    """Return the maps of the fields in each view, float16 (height, width, filters).

    Args:
        fields: (height, width, 3) uint8.
        folder: where they are stored once computed.
        shipped: by the shipped model of PCam, not by ImageNet's.
        stain_strength: of `field_features.stain_jittered`, in all views but the first; 0 for none.
    """
    network = None
    found = []
    for number, (turns, mirrored) in enumerate(VIEWS):
        strength = stain_strength if number else 0
        path = folder / f"maps-{'pcam' if shipped else 'imagenet'}-{number}-{strength}.npy"
        if not path.is_file():
            network = network or _lower(shipped)
            seen = field_features.stain_jittered(fields, strength, number) if strength else fields
            seen = [np.rot90(each[:, ::-1] if mirrored else each, turns) for each in seen]
            maps = [each.astype("float16") for each in field_features.by_shape(network, seen)]
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.concatenate([each.reshape(-1, each.shape[-1]) for each in maps]))
        found.append(_split(np.load(path, mmap_mode="r"), fields, swapped=turns % 2 == 1))
    return found


def _lower(shipped):
    network = field_models.field_extractor(classifier.load() if shipped else None)
    return keras.Model(network.input, network.get_layer(LOWER).output)


def _split(places, fields, *, swapped):
    """Return the map of each field from the places of all, which lie one below the other."""
    found, first = [], 0
    for field in fields:
        height, width = (-(-side // STRIDE_PX) for side in field.shape[:2])
        shape = (width, height) if swapped else (height, width)
        found.append(places[first : first + height * width].reshape(*shape, -1))
        first += height * width
    return found


def tuned(
    views: Sequence[Sequence[np.ndarray]],
    shipped: bool,
    labels: np.ndarray,
    units: np.ndarray,
    split: Split,
    seed: int,
) -> np.ndarray:
    """Return what a network that is fine-tuned on the rows of a split says of those held out.

    Args:
        views: see `maps_of_views`; all train, the first is predicted.
        shipped: start from the shipped model of PCam, not from ImageNet.
        labels, units, split, seed: see `subtype_methods.Predictor`.

    Returns:
        float32 (held out, classes).
    """
    train, held_out = split
    keras.utils.set_random_seed(seed)
    network = _upper(int(labels.max()) + 1, shipped)
    network.compile(
        optimizer=optimization.optimizer(RECIPE, RECIPE.unfrozen_learning_rate, STEPS),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=RECIPE.label_smoothing),
    )
    batches = _batches(views, labels, units, train, seed)
    ends = [keras.callbacks.TerminateOnNaN()]
    network.fit(batches, steps_per_epoch=STEPS, shuffle=False, callbacks=ends, verbose=2)
    network.optimizer.finalize_variable_values(network.trainable_variables)
    return np.stack(field_features.by_shape(network, [views[0][row] for row in held_out]))


def _upper(classes, shipped):
    """Return the network of maps: the upper blocks and a new head.

    BatchNormalization keeps its statistics: batches of few cases would spoil them.
    """
    network = field_models.field_extractor(classifier.load() if shipped else None)
    upper = keras.Model(network.get_layer(LOWER).output, network.output)
    features = keras.layers.Dropout(RECIPE.dropout)(upper.output)
    head = keras.layers.Dense(classes, activation="softmax", name="class_probabilities")
    model = keras.Model(upper.input, head(features))
    model.trainable = True
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return model


def _batches(views, labels, units, rows, seed) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield crops of maps (batch, crop, crop, filters) and one-hot labels, for ever."""
    rng = np.random.default_rng(seed)
    one_hot = np.eye(labels.max() + 1, dtype="float32")
    members = {}  # class -> unit -> rows
    for row in rows:
        members.setdefault(labels[row], {}).setdefault(units[row], []).append(row)
    classes = {label: list(of_class.values()) for label, of_class in members.items()}
    while True:
        drawn = rng.choice(list(classes), RECIPE.batch_size)
        crops = np.empty((RECIPE.batch_size, CROP, CROP, views[0][0].shape[-1]), "float32")
        for place, label in enumerate(drawn):
            of_case = classes[label][rng.integers(len(classes[label]))]
            field = views[rng.integers(len(views))][of_case[rng.integers(len(of_case))]]
            y, x = (rng.integers(side - CROP + 1) for side in field.shape[:2])
            crops[place] = field[y : y + CROP, x : x + CROP]
        yield crops, one_hot[drawn]
