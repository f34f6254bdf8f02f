"""Where patches come from, and how they reach a model: sources, splits, tf.data pipelines.

Every source is a prepared TFDS directory with the features of `patch_camelyon`: `id` (text),
`image` (96×96×3 uint8) and `label` (0 normal, 1 tumour).
"""

import contextlib
import functools
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pcam_tf import synthetic
from pcam_tf.errors import InputError, first_line, unknown

SPLITS = ("train", "validation", "test")
NAME, VERSION = "patch_camelyon", "2.0.0"
SYNTHETIC_DIR = Path("data/synthetic")
# 7.5 GB of archives, the same unpacked, and the prepared directory beside them.
DOWNLOAD_BYTES = 25 * 10**9
DOWNLOAD_HOST = "zenodo.org"
# Encoded patches take 4 to 25 kB each, so this stays well under 1 GiB.
SHUFFLE_PATCHES = 20_000
# A TFRecord frames each example with its length and two checksums.
_FRAME_BYTES = 16

_WAYS = (
    "prepare one by `python -m pcam_tf prepare --from-hdf5 DIR` or `python -m pcam_tf prepare "
    "--download`, or leave the data directory out for synthetic patches."
)


def open_source(data_dir: str | Path | None = None) -> tfds.core.DatasetBuilder:
    """Open a prepared source of patches.

    Args:
        data_dir: the directory that holds `patch_camelyon/2.0.0`, as TFDS and
            `prepare` lay it out; None or "" for synthetic patches, which are made on first use.

    Returns:
        The prepared TFDS builder.

    Raises:
        InputError: no such directory, another version, a damaged or incomplete one.
    """
    if not data_dir:
        return synthetic.builder(SYNTHETIC_DIR)
    data_dir = Path(data_dir)
    version_dir = data_dir / NAME / VERSION
    if not data_dir.is_dir():
        raise InputError(f"there is no data directory {data_dir}: {_WAYS}")
    if not version_dir.is_dir():
        others = sorted(path.name for path in (data_dir / NAME).glob("*.*.*") if path.is_dir())
        found = f"only version {', '.join(others)}" if others else "nothing"
        raise InputError(f"{data_dir} holds {found} where {NAME}/{VERSION} is needed: {_WAYS}")
    try:
        builder = tfds.builder_from_directory(version_dir)
        for split in builder.info.splits.values():
            _check_size(split)
    except InputError:
        raise
    except Exception as error:  # a damaged description raises whatever its parser meets
        reason = first_line(error)
        raise InputError(
            f"{version_dir} is not a TFDS directory that can be read ({reason}): prepare it anew."
        ) from error
    if set(builder.info.features) != {"id", "image", "label"}:
        raise InputError(
            f"{version_dir} has features {sorted(builder.info.features)}; "
            "patch_camelyon has id, image and label: prepare it anew."
        )
    return builder


def _check_size(split: tfds.core.SplitInfo) -> None:
    """Refuse a split whose files are shorter than its description says."""
    missing = [path for path in split.filepaths if not Path(path).is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: prepare the data directory anew.")
    expected = split.num_bytes + _FRAME_BYTES * split.num_examples
    found = sum(Path(path).stat().st_size for path in split.filepaths)
    if found < expected:
        raise InputError(
            f"{split.filepaths[0]} is truncated: the {split.name} split has {found:,} of "
            f"{expected:,} bytes; prepare or copy the data directory anew."
        )


def count(builder: tfds.core.DatasetBuilder, split: str) -> int:
    """Return the number of patches in a split, or in a slice of it such as "train[:500]".

    Raises:
        InputError: there is no such split, or no patch in the slice.
    """
    whole = split.split("[")[0]
    if whole not in builder.info.splits:
        raise unknown("split", whole, builder.info.splits)
    try:
        patches = builder.info.splits[split].num_examples
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"cannot slice {split!r} ({str(error).splitlines()[0]}): write a slice as train[:500] "
            "or train[:10%]."
        ) from error
    if patches < 1:
        raise InputError(f"{split!r} holds no patch: choose a larger slice.")
    return patches


def batches(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    cache: str | Path | None = None,
    rows: slice | None = None,
) -> tf.data.Dataset:
    """Return a split as batches, in stored order or shuffled.

    At most `SHUFFLE_PATCHES` encoded patches are held in memory, unless `cache` is "memory".

    Args:
        builder: a prepared source.
        split: "train", "validation" or "test", or a slice such as "train[:500]".
        batch_size: patches a batch; the last one may be smaller.
        shuffle_seed: shuffle, the same way for the same seed (and the same global seed of
            TensorFlow, if one is set); None for the stored order.
        cache: "memory", or the path of a file, to keep the encoded patches after the first pass.
        rows: only these of what would come otherwise, as in slice(128, 256); None for all. A slice
            of the split itself is in another order where TFDS has it in several files, which it
            reads by turns.

    Returns:
        Dictionaries of `id` (batch,) string, `image` (batch, 96, 96, 3) uint8 and `label`
        (batch,) int64.

    Raises:
        InputError: there is no such split.
    """
    encoded = _encoded(builder, split, shuffle_seed, cache)
    if rows is not None:
        encoded = encoded.skip(rows.start).take(rows.stop - rows.start)
    decode = builder.info.features["image"].decode_example

    def decoded(patch):
        return {**patch, "image": decode(patch["image"])}

    return (
        encoded.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size)
        .prefetch(2)
    )


def _encoded(builder, split, shuffle_seed, cache=None):
    """Return the patches of a split one by one, in stored order or shuffled, not yet decoded."""
    patches = count(builder, split)
    encoded = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
        shuffle_files=False,
    )
    if cache is not None:
        encoded = encoded.cache("" if cache == "memory" else str(cache))
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
) -> tf.data.Dataset:
    """Return the batches of training epochs `first` to `last` (from 0, `last` not included).

    Each epoch has its own order, which depends on `seed`, its number and TensorFlow's global seed
    alone: a resumed run sees the batches that an uninterrupted one would have seen.

    Returns:
        Pairs of patches, (batch, 96, 96, 3) uint8, and labels, (batch,) int64.
    """
    joined = _joined(
        batches(builder, split, batch_size=batch_size, shuffle_seed=_epoch_seed(seed, epoch))
        for epoch in range(first, last)
    )
    return joined.map(lambda patch: (patch["image"], patch["label"]))


def _epoch_seed(seed, epoch):
    return seed + 1000 * epoch


def _joined(datasets):
    return functools.reduce(tf.data.Dataset.concatenate, datasets)


def shares(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    batch_size: int,
    seed: int,
    first: int,
    last: int,
    replicas: int,
    own: range,
) -> tf.data.Dataset:
    """Return some replicas' shares of the batches of `epochs`, when several train together.

    Replica r of n has patches r, r + n, r + 2 n and so on of each batch, so that the shares of all
    replicas are the batch, and differ in size by one patch at most. Only these are decoded.

    Args:
        builder: a prepared source.
        split: what to train on, such as "train".
        batch_size: patches a step, of all replicas together.
        seed: with `first` and `last` as in `epochs`.
        first: the first epoch, from 0.
        last: the epoch to end before.
        replicas: how many there are.
        own: the numbers of those whose shares are wanted.

    Returns:
        Dictionaries of `id` (n,) string, `image` (n, 96, 96, 3) uint8, `label` (n,) int64 and `of`,
        () int32, the size of the batch; for each batch one for each of `own`, in that order. A
        share of a last, small batch may be empty.

    Raises:
        InputError: there is no such split.
    """
    feature = builder.info.features["image"]

    def share_out(batch):
        def share(replica):
            own_part = {name: values[replica::replicas] for name, values in batch.items()}
            return own_part | {"of": tf.shape(batch["label"])[0]}

        return tf.data.Dataset.range(own.start, own.stop).map(share)

    def decoded(share):
        signature = tf.TensorSpec(feature.shape, tf.uint8)
        images = tf.map_fn(feature.decode_example, share["image"], fn_output_signature=signature)
        return {**share, "image": images}

    joined = _joined(
        _encoded(builder, split, _epoch_seed(seed, epoch)).batch(batch_size)
        for epoch in range(first, last)
    )
    return (
        joined.flat_map(share_out)
        .map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(2)
    )


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


def take(
    builder: tfds.core.DatasetBuilder, split: str, *, ids: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Return the patches of a (small) split or slice as arrays, or those with the given ids.

    Args:
        builder: a prepared source.
        split: a split or a slice such as "train[:32]".
        ids: the patches wanted, in the order wanted; None for all.

    Returns:
        `id` (n,) text, `image` (n, 96, 96, 3) uint8, `label` (n,) int64.

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
        lowered = error.message.lower()
        if not any(word in lowered for word in ("record", "corrupt", "image", "jpeg", "png")):
            raise
        raise InputError(
            f"a record of the data directory is damaged ({error.message.splitlines()[0][:120]}): "
            "prepare or copy it anew."
        ) from error


def download(data_dir: str | Path) -> None:
    """Download and prepare the official data set (7.5 GB) by TFDS.

    Free disk and the reachability of the host are checked before anything is written.

    Raises:
        InputError: too little room, the host does not answer, or the download failed.
    """
    data_dir = Path(data_dir)
    existing = next(
        path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    if free < DOWNLOAD_BYTES:
        raise InputError(
            f"{data_dir} has {free / 1e9:.0f} GB free and the download needs "
            f"{DOWNLOAD_BYTES / 1e9:.0f} GB: choose another --data-dir."
        )
    otherwise = (
        "try again later, or fetch the six .h5.gz files in any other way (the data set's page "
        "lists mirrors) and run `python -m pcam_tf prepare --from-hdf5 DIR`."
    )
    try:
        socket.create_connection((DOWNLOAD_HOST, 443), timeout=10).close()
    except OSError as error:
        raise InputError(f"{DOWNLOAD_HOST} does not answer ({error}): {otherwise}") from error
    try:
        tfds.builder(f"{NAME}:{VERSION}", data_dir=data_dir).download_and_prepare()
    except Exception as error:  # throttling, checksums and broken connections all differ
        reason = first_line(error)
        raise InputError(f"the download failed ({reason}): {otherwise}") from error


def chosen_dir(data_dir: str | Path | None = None) -> str | None:
    """Return the data directory given, else that of PCAM_TF_DATA_DIR, else None (synthetic)."""
    return str(data_dir) if data_dir else os.environ.get("PCAM_TF_DATA_DIR") or None
