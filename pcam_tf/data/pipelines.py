"""How patches reach a model: tf.data pipelines of a prepared source, and arrays from them."""

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pcam_tf.data.sources import count
from pcam_tf.errors import InputError

# Encoded patches take 4 to 25 kB each, so this stays well under 1 GiB.
SHUFFLE_PATCHES = 20_000
# The operations, named at the end of a message, that fail for what is stored.
_READING = re.compile(r"\{\{node [^}]*(decode_image|Decode(Image|Png|Jpeg)|Parse(Single)?Example)")


def batches(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    rows: slice | None = None,
) -> tf.data.Dataset:
    """Return a split as batches, in stored order or shuffled.

    At most `SHUFFLE_PATCHES` encoded patches are held in memory.

    Args:
        builder: a prepared source.
        split: "train", "validation" or "test", or a slice such as "train[:500]".
        batch_size: patches a batch; the last one may be smaller.
        shuffle_seed: shuffle, the same way for the same seed (and the same global seed of
            TensorFlow, if one is set); None for the stored order.
        rows: only these of what would come otherwise, as in slice(128, 256); None for all. A slice
            of the split itself is in another order where TFDS has it in several files, which it
            reads by turns.

    Returns:
        Dictionaries of `id` (batch,) string, `image` (batch, side, side, 3) uint8 and `label`
        (batch,) int64.

    Raises:
        InputError: there is no such split.
    """
    encoded = _encoded(builder, split, shuffle_seed)
    if rows is not None:
        encoded = encoded.skip(rows.start).take(rows.stop - rows.start)
    return _decoded(builder, encoded, batch_size)


def _decoded(builder, encoded, batch_size):
    """Return patches that are not yet decoded as batches of decoded ones."""
    decode = builder.info.features["image"].decode_example

    def decoded(patch):
        return {**patch, "image": decode(patch["image"])}

    return (
        encoded.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size)
        .prefetch(2)
    )


def _encoded(builder, split, shuffle_seed):
    """Return the patches of a split one by one, in stored order or shuffled, not yet decoded."""
    patches = count(builder, split)
    encoded = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
        shuffle_files=False,
    )
    if shuffle_seed is not None:
        encoded = encoded.shuffle(
            min(patches, SHUFFLE_PATCHES), seed=shuffle_seed, reshuffle_each_iteration=False
        )
    return encoded


def epochs(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    batch_size: int,
    seed: int,
    first: int,
    last: int,
    steps: int | None = None,
) -> tf.data.Dataset:
    """Return the batches of training epochs `first` to `last` (from 0, `last` not included).

    An epoch is a pass over the split, or with `steps` that many full batches of one pass after the
    other, so that an epoch may end within a pass. Each pass has its own order, which depends on
    `seed`, its number and TensorFlow's global seed alone: a resumed run sees the batches that an
    uninterrupted one would have seen.

    Returns:
        Pairs of patches, (batch, side, side, 3) uint8, and labels, (batch,) int64.
    """
    if steps is None:
        whole = joined(
            batches(builder, split, batch_size=batch_size, shuffle_seed=seed + 1000 * epoch)
            for epoch in range(first, last)
        )
    else:
        patches = count(builder, split)
        begin, end = (epoch * steps * batch_size for epoch in (first, last))
        passes = range(begin // patches, -(-end // patches))
        encoded = joined(_encoded(builder, split, seed + 1000 * number) for number in passes)
        encoded = encoded.skip(begin % patches).take(end - begin)
        whole = _decoded(builder, encoded, batch_size)
    return whole.map(lambda patch: (patch["image"], patch["label"]))


def joined(datasets: Iterable[tf.data.Dataset]) -> tf.data.Dataset:
    """Return the elements of several datasets, one dataset after the other."""
    return functools.reduce(tf.data.Dataset.concatenate, datasets)


def arrays(patches: Iterable[dict]) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches as numpy arrays, the ids as text.

    Raises:
        InputError: a damaged record was met on the way.
    """
    with readable_errors():
        for batch in patches:
            yield {
                "id": np.array([name.decode() for name in batch["id"].numpy()]),
                "image": batch["image"].numpy(),
                "label": batch["label"].numpy(),
            }


def read_patches(
    builder: tfds.core.DatasetBuilder, split: str, *, ids: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Return the patches of a (small) split or slice as arrays, or those with the given ids.

    Args:
        builder: a prepared source.
        split: a split or a slice such as "train[:32]".
        ids: the patches wanted, in the order wanted; None for all.

    Returns:
        `id` (n,) text, `image` (n, side, side, 3) uint8, `label` (n,) int64.

    Raises:
        InputError: no such split, or an id that is not in it.
    """
    wanted = None if ids is None else list(ids)
    parts = []
    for batch in arrays(batches(builder, split, batch_size=256)):
        keep = slice(None) if wanted is None else np.isin(batch["id"], wanted)
        parts.append({name: values[keep] for name, values in batch.items()})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if wanted is None:
        return joined
    rows = {name: row for row, name in enumerate(joined["id"])}
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise InputError(f"the {split} split holds no patch {missing[0]!r}: check the data source.")
    order = [rows[name] for name in wanted]
    return {name: values[order] for name, values in joined.items()}


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn TensorFlow's report of a damaged record into one clear line.

    Raises:
        InputError: a damaged record was met inside the block.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        if isinstance(error, tf.errors.InvalidArgumentError) and not _READING.search(error.message):
            raise
        raise InputError(
            f"a record of the data directory is damaged ({error.message.splitlines()[0][:120]}): "
            "prepare or copy it anew."
        ) from error
