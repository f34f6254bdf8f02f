"""Write a prepared source, whole or not at all, in little memory."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core import shuffle

from pcam_tf import synthetic
from pcam_tf.data.pipelines import arrays, batches
from pcam_tf.data.sources import TASK_FILE, count
from pcam_tf.errors import InputError, first_line
from pcam_tf.files import locked, write_json
from pcam_tf.task import Task

VERSION = "1.0.0"


def write_source(
    splits: Mapping[str, Iterable[dict]],
    data_dir: str | Path,
    described: Task,
    finish: Callable[[Path], None] | None = None,
    features: Mapping[str, object] | None = None,
    description: str | None = None,
) -> tfds.core.DatasetBuilder:
    """Write patches as a prepared source, whole or not at all.

    Args:
        splits: the name of a split -> its patches, read once: dictionaries of `id` (text, different
            for each patch), `image` (side, side, 3) uint8 and `label` (index of a class).
        data_dir: where to; the source lies in `<data_dir>/<task>/1.0.0`.
        described: the task of the patches.
        finish: called with the folder of the source when all patches are written; it may add files.
        features: TFDS features of more that a patch holds, or an `image` of another shape.
        description: of the patches, in TFDS's own file.

    Raises:
        InputError: there is such a source already, a patch does not fit the task, or `data_dir`
            cannot be written, or another process writes there.
    """
    version_dir = Path(data_dir) / described.name / VERSION
    if version_dir.exists():
        raise InputError(f"{version_dir} exists: delete it or choose another data directory.")
    try:
        with (
            working_folder(data_dir, f".preparing-{described.name}") as working,
            synthetic.quiet_tfds(),
        ):
            made = _store(splits, working, described, features or {}, description)
            if finish:
                finish(made)
            version_dir.parent.mkdir(parents=True, exist_ok=True)
            made.rename(version_dir)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {data_dir}: {reason}; choose a writable folder.") from error
    return tfds.builder_from_directory(version_dir)


def changed(
    source: tfds.core.DatasetBuilder, split: str, change: Callable[[np.ndarray], np.ndarray]
) -> Iterator[dict]:
    """Yield the patches of a split for `write_source`, changed, and show how far it is.

    Args:
        source: a prepared source.
        split: a split or a slice of it.
        change: from patches, uint8 (n, side, side, 3), to as many.
    """
    with tqdm.tqdm(total=count(source, split), desc=f"writing {split}", unit="patch") as bar:
        for batch in arrays(batches(source, split, batch_size=256)):
            images = np.asarray(change(batch["image"]))
            for name, image, label in zip(batch["id"], images, batch["label"], strict=True):
                yield {"id": str(name), "image": image, "label": int(label)}
            bar.update(len(images))


def is_written(data_dir: str | Path, described: Task) -> bool:
    """Return whether `data_dir` holds a source of a task that `write_source` has finished."""
    return (Path(data_dir) / described.name / VERSION).is_dir()


def _store(splits, data_dir, described, more, description):
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=described.shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(names=list(described.classes)),
        **more,
    }
    try:
        with bounded_memory():
            builder = tfds.dataset_builders.store_as_tfds_dataset(
                name=described.name,
                version=VERSION,
                features=tfds.features.FeaturesDict(features),
                split_datasets={
                    split: ((patch["id"], patch) for patch in patches)
                    for split, patches in splits.items()
                },
                data_dir=data_dir,
                description=description,
            )
    except InputError:  # a ValueError, too: of what reads the patches
        raise
    except (ValueError, TypeError, AttributeError, shuffle.DuplicatedKeysError) as error:
        reason = first_line(error)
        raise InputError(f"the patches do not fit the task {described.name} ({reason}).") from error
    write_json(Path(builder.data_dir) / TASK_FILE, described.to_json())
    return Path(builder.data_dir)


@contextlib.contextmanager
def working_folder(data_dir: str | Path, name: str) -> Iterator[Path]:
    """Yield an empty hidden folder of `data_dir`, which is removed afterwards.

    It belongs to one process at a time. What a killed process left in it, the next one removes.

    Args:
        data_dir: the folder that holds it; made if missing.
        name: of the hidden folder.

    Raises:
        InputError: another process holds it.
        OSError: it cannot be made.
    """
    working = Path(data_dir) / name
    lock = working / "lock"
    busy = f"{data_dir} is being prepared by another process: wait for it, or choose another."
    with locked(lock, busy):
        try:
            for leftover in working.iterdir():
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                elif leftover != lock:
                    leftover.unlink()
            yield working
        finally:
            shutil.rmtree(working, ignore_errors=True)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Let TFDS shuffle a split through files from 32 MiB on, not in up to 1 GB of memory.

    Its 128 files are sorted one at a time (50 MB each for PCam's training split) and are within
    every system's limit of open files. The order is by hash of the id, whatever the files.
    """
    small = {"MAX_MEM_BUFFER_SIZE": 32 << 20, "BUCKETS_NUMBER": 128}
    before = {name: getattr(shuffle, name) for name in small}
    vars(shuffle).update(small)
    try:
        yield
    finally:
        vars(shuffle).update(before)
