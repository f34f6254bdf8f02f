"""Pretraining without labels: a network learns to draw what is hidden of patches.

After K. He et al., "Masked autoencoders are scalable vision learners", CVPR 2022: most of a patch
is hidden, the hidden pixels are predicted, and each square's are normalised to be compared.
As Z. Xie et al., "SimMIM", CVPR 2022, the network sees hidden squares blank instead of not at all,
and one linear layer draws. So it suits networks whose first layers are convolutions, too.
"""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from keras import ops

from pcam_tf import data, files
from pcam_tf.errors import InputError
from pcam_tf.models import backbones
from pcam_tf.training import augmentation, devices, optimization
from pcam_tf.training.recipes import Recipe

WEIGHTS = "backbone.weights.h5"
_SQUARE_PX = 16
_HIDDEN = 0.6  # share of the squares


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Everything that decides what a pretraining does, apart from the patches.

    Attributes:
        backbone: a key of `backbones.BACKBONES` whose network has tokens: a transformer.
        epochs: passes over the training patches.
        batch_size: patches a step.
        learning_rate: its peak.
        seed: of everything drawn at random.
    """

    backbone: str = "CCT"
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


def pretrain(
    settings: Pretraining, source: tfds.core.DatasetBuilder, run_dir: str | Path
) -> pd.DataFrame:
    """Pretrain a backbone, or continue, and write its weights into `run_dir`.

    Writes `pretraining.json`, `history.csv` and at the end `backbone.weights.h5`, which
    `backbones.connect` takes as `weights`. After a kill, the same call continues after the last
    finished epoch.

    Args:
        settings: what to do.
        source: a prepared source; the labels of its training patches are not read.
        run_dir: the folder; made where it is missing.

    Returns:
        The history: `epoch`, `loss`: of the hidden pixels, in variances of their square.

    Raises:
        InputError: the folder holds another pretraining or cannot be written to, or the network has
            no tokens.
    """
    run_dir = Path(run_dir)
    keras.utils.set_random_seed(settings.seed)
    network, model = build(settings.backbone, data.task_of(source).shape, settings.seed)
    _claim(run_dir, settings, source)
    with files.locked(run_dir / "lock", f"another process pretrains in {run_dir}: wait for it."):
        _claim(run_dir, settings, source)  # another process may have begun, or ended, meanwhile
        history = _history(run_dir)
        if not (run_dir / WEIGHTS).is_file():
            history = _trained(model, settings, source, run_dir, history)
            with files.written_whole(run_dir / WEIGHTS) as temporary:
                network.save_weights(temporary)
            _checkpoint(run_dir, settings.epochs).unlink(missing_ok=True)
    return history


def _trained(model, settings, source, run_dir, history):
    steps = -(-data.count(source, "train") // settings.batch_size)
    rate = optimization.learning_rate(Recipe(""), settings.learning_rate, settings.epochs * steps)
    # Without a running average: `fit` ends by putting it in the weights' place.
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=0.05))
    model.optimizer.build(model.trainable_variables)
    if len(history):
        model.load_weights(_checkpoint(run_dir, len(history)))
    for epoch in range(len(history), settings.epochs):
        devices.set_seeds(model.variables, settings.seed, epoch)
        batches = data.epochs(
            source,
            "train",
            batch_size=settings.batch_size,
            seed=settings.seed,
            first=epoch,
            last=epoch + 1,
        )
        print(f"epoch {epoch + 1} of {settings.epochs}", flush=True)
        found = model.fit(batches.map(lambda patches, _: patches), shuffle=False)
        row = {"epoch": epoch + 1, "loss": found.history["loss"][-1]}
        if not np.isfinite(row["loss"]):
            raise InputError(f"the pretraining diverged in epoch {epoch + 1}: lower its rate.")
        with files.written_whole(_checkpoint(run_dir, epoch + 1)) as temporary:
            model.save_weights(temporary)
        history = pd.DataFrame([*history.to_dict("records"), row])
        with files.written_whole(run_dir / "history.csv") as temporary:
            history.to_csv(temporary, index=False)
        _checkpoint(run_dir, epoch).unlink(missing_ok=True)
    return history


def build(name: str, shape: tuple[int, int, int], seed: int) -> tuple[keras.Model, keras.Model]:
    """Return a network with random weights, and the model that pretrains it.

    Args:
        name: see `Pretraining`.
        shape: of a patch.
        seed: of augmentation and of what is hidden.

    Returns:
        The network without head, and a model from raw patches (batch, *shape), RGB 0..255, to what
        it draws; its loss is within it.

    Raises:
        InputError: the network has no tokens in the rows and columns of a grid.
    """
    backbone = backbones.get(name)
    if shape[0] % _SQUARE_PX or _SQUARE_PX % backbone.side_multiple:
        raise InputError(
            f"{name} cannot be pretrained on patches of {shape[0]} px: choose CCT or DeiTTiny, and "
            f"patches of a multiple of {_SQUARE_PX} px."
        )
    inputs = keras.Input(shape)
    scaled = keras.layers.Rescaling(**backbone.rescaling)(inputs) if backbone.rescaling else inputs
    network = backbone.network(input_tensor=scaled)
    tokens, grid = _tokens(network, name)
    side_px = shape[0] // grid
    drawn = keras.layers.Dense(3 * side_px**2, name="drawn")(tokens[:, -(grid**2) :])
    draw = keras.Model(inputs, drawn)
    patches = views = keras.Input(shape)
    for layer in augmentation.layers_of(
        Recipe("", stain_strength=0.0, rotation_degrees=45.0, scaling=1.3), seed=seed
    ):
        views = layer(views)
    shown, hidden = _Hide(seed + 7)(views)
    return network, keras.Model(patches, _HiddenLoss(side_px)([views, hidden, draw(shown)]))


def _tokens(network, name):
    """Return the last tokens of a network, (batch, tokens, width), and the side of their grid."""
    for layer in reversed(network.layers):
        if isinstance(layer, keras.layers.LayerNormalization) and len(layer.output.shape) == 3:
            tokens = layer.output
            return tokens, int(np.sqrt(tokens.shape[1]))  # without the tokens before the patches'
    raise InputError(f"{name} has no tokens: pretrain a transformer, such as CCT or DeiTTiny.")


class _Hide(keras.layers.Layer):
    """Blank a share of the squares of each patch by its mean colour; also return what is hidden."""

    def __init__(self, seed, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, patches):
        batch, squares = ops.shape(patches)[0], patches.shape[1] // _SQUARE_PX
        drawn = keras.random.uniform((batch, squares, squares, 1), seed=self.generator)
        hidden = ops.cast(drawn < _HIDDEN, "float32")
        hidden = ops.repeat(ops.repeat(hidden, _SQUARE_PX, 1), _SQUARE_PX, 2)
        mean = ops.mean(patches, axis=(1, 2), keepdims=True)
        return patches * (1 - hidden) + mean * hidden, hidden


class _HiddenLoss(keras.layers.Layer):
    """Add the loss of the hidden pixels; return what was drawn."""

    def __init__(self, side_px, **options):
        super().__init__(**options)
        self.side_px = side_px

    def call(self, inputs):
        views, hidden, drawn = inputs
        wanted, weights = _in_squares(views, self.side_px), _in_squares(hidden, self.side_px)
        mean = ops.mean(wanted, axis=-1, keepdims=True)
        deviation = ops.std(wanted, axis=-1, keepdims=True) + 1.0  # grey levels: none is flat
        errors = ops.mean(ops.square(drawn - (wanted - mean) / deviation), axis=-1)
        weights = weights[..., 0]
        self.add_loss(ops.sum(errors * weights) / ops.maximum(ops.sum(weights), 1.0))
        return drawn


def _in_squares(pictures, side_px):
    """Cut pictures (batch, side, side, c) to (batch, squares, side_px · side_px · c), by rows."""
    _, height, width, channels = pictures.shape
    rows, columns = height // side_px, width // side_px
    cut = ops.reshape(pictures, (-1, rows, side_px, columns, side_px, channels))
    cut = ops.transpose(cut, (0, 1, 3, 2, 4, 5))
    return ops.reshape(cut, (-1, rows * columns, side_px**2 * channels))


def _claim(run_dir, settings, source):
    described = dataclasses.asdict(settings) | data.described(source)

    def completed(stored):  # an earlier version noted the number of training patches alone
        if stored.get("patches") == data.count(source, "train"):
            del stored["patches"]
            stored["splits"] = described["splits"]
        return stored

    files.claim(run_dir / "pretraining.json", described, "pretraining", completed)


def _history(run_dir):
    path = run_dir / "history.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["epoch", "loss"])


def _checkpoint(run_dir, epoch):
    return run_dir / f"epoch-{epoch}.weights.h5"
