"""Features of the frozen backbone: computed once, stored on disk, read back in batches."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tqdm

from pcam_tf import data
from pcam_tf.files import written_whole
from pcam_tf.models.engines import Engine
from pcam_tf.training import augmentation
from pcam_tf.training.runs import Run


def stored_features(
    extractor: Engine, run: Run, name: str, split: str, *, views: int = 1
) -> tuple[Path, np.ndarray]:
    """Return the file of a split's features, and their labels; compute them if they are not there.

    The first view is the patch as it is, which is what a prediction sees. The others are augmented.

    Args:
        extractor: from patches, (n, side, side, 3), to features, (n, features).
        run: whose recipe augments, and whose folder keeps the files.
        name: of the files.
        split: a split or a slice of it.
        views: how often each patch is seen.

    Returns:
        A file of numpy, float16 (views × patches, features), and labels, int8 (views × patches,).
    """
    features_file = run.work_dir / f"features-{name}.npy"
    labels_file = run.work_dir / f"labels-{name}.npy"
    if not features_file.is_file():
        labels = []
        # Written batch by batch: of a memory map, what was written would stay in memory.
        with written_whole(features_file) as temporary, temporary.open("wb") as stored:
            for features, of in _computed(extractor, run, name, split, views):
                if not labels:
                    rows = views * data.count(run.source, split)
                    header = {"descr": "<f2", "fortran_order": False}
                    header["shape"] = (rows, features.shape[1])
                    np.lib.format.write_array_header_1_0(stored, header)
                stored.write(features.astype("<f2").tobytes())
                labels.append(of.astype("int8"))
            with written_whole(labels_file) as temporary_labels:
                np.save(temporary_labels, np.concatenate(labels))
    return features_file, np.load(labels_file)


def _computed(extractor, run, name, split, views):
    """Yield features and labels of each batch of each view."""
    total = views * data.count(run.source, split)
    with tqdm.tqdm(total=total, desc=f"features of {name}", unit="patch") as bar:
        for view in range(views):
            layers = augmentation.layers_of(run.recipe, seed=run.recipe.seed + 100 * view)
            for batch in data.arrays(data.batches(run.source, split, batch_size=256)):
                images = batch["image"].astype("float32")
                for layer in layers if view else []:
                    images = layer(images, training=True)
                yield extractor.predict_on_batch(np.asarray(images)), batch["label"]
                bar.update(len(batch["label"]))


def shuffled_batches(
    file: Path,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    steps: int | None = None,
) -> tf.data.Dataset:
    """Return one epoch of stored features, shuffled, read from disk batch by batch.

    With `steps` it is that many full batches of one pass after the other, as in `data.epochs`.

    Returns:
        Pairs of features, float32 (batch, features), and labels, int64 (batch,).
    """
    width = np.load(file, mmap_mode="r").shape[1]
    order = _order(len(labels), seed, epoch, steps and steps * batch_size)

    def read(rows):
        # Opened anew, so that what was read does not stay in the process's memory.
        features = np.load(file, mmap_mode="r")[rows]
        return features.astype("float32"), labels[rows].astype("int64")

    def batch(rows):
        values, truth = tf.numpy_function(read, [rows], (tf.float32, tf.int64))
        return tf.ensure_shape(values, (None, width)), tf.ensure_shape(truth, (None,))

    return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(batch).prefetch(2)


def _order(rows, seed, epoch, length):
    """Return the rows of an epoch: one pass, or `length` rows of one pass after the other."""
    if length is None:
        return np.random.default_rng([seed, epoch]).permutation(rows)
    begin, end = epoch * length, (epoch + 1) * length
    passes = range(begin // rows, -(-end // rows))
    order = [np.random.default_rng([seed, number]).permutation(rows) for number in passes]
    return np.concatenate(order)[begin % rows :][:length]
