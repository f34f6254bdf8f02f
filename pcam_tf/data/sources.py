"""Where patches come from: prepared TFDS directories and their splits.

Every source is a prepared TFDS directory with the features `id` (text), `image` (side×side×3
uint8) and `label` (an index into the classes of its task). A file `task.json` beside TFDS's own
files holds the task; without it the source is of PatchCamelyon. Plain `tfds.load` reads all.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from pcam_tf import synthetic, task
from pcam_tf.errors import InputError, first_line, unknown
from pcam_tf.files import check_no_pointer, write_json
from pcam_tf.task import Task

SPLITS = ("train", "validation", "test")
NAME, VERSION = "patch_camelyon", "2.0.0"
TASK_FILE = "task.json"
_WRITTEN_VERSION = "1.0.0"
SYNTHETIC_DIR = Path("data/synthetic")
# 7.5 GB of archives, the same unpacked, and the prepared directory beside them.
DOWNLOAD_BYTES = 25 * 10**9
DOWNLOAD_HOST = "zenodo.org"
# A TFRecord frames each example with its length and two checksums.
_FRAME_BYTES = 16

_WAYS = (
    "prepare one by `python -m pcam_tf prepare --from-hdf5 DIR` or `python -m pcam_tf prepare "
    "--download`, or leave the data directory out for synthetic patches."
)


def open_source(data_dir: str | Path | None = None) -> tfds.core.DatasetBuilder:
    """Open a prepared source of patches.

    Args:
        data_dir: the directory that holds `patch_camelyon/2.0.0`, as TFDS and `prepare` lay it
            out, or one source that `write_source` has made; None or "" for synthetic patches,
            which are made on first use.

    Returns:
        The prepared TFDS builder.

    Raises:
        InputError: no such directory, another version, a damaged or incomplete one.
    """
    if not data_dir:
        return synthetic.builder(SYNTHETIC_DIR)
    version_dir = _version_dir(Path(data_dir))
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
    _check_features(builder, task_of(builder))
    return builder


def _version_dir(data_dir):
    """Return the folder of the one source in a data directory."""
    if not data_dir.is_dir():
        raise InputError(f"there is no data directory {data_dir}: {_WAYS}")
    version_dir = data_dir / NAME / VERSION
    if version_dir.is_dir():
        return version_dir
    written = sorted(path.parent for path in data_dir.glob(f"*/*/{TASK_FILE}"))
    if len(written) == 1:
        return written[0]
    if written:
        names = ", ".join(str(path.relative_to(data_dir)) for path in written)
        raise InputError(f"{data_dir} holds several sources ({names}): keep one in a directory.")
    others = sorted(path.name for path in (data_dir / NAME).glob("*.*.*") if path.is_dir())
    found = f"only version {', '.join(others)}" if others else "nothing"
    raise InputError(f"{data_dir} holds {found} where {NAME}/{VERSION} is needed: {_WAYS}")


def task_of(builder: tfds.core.DatasetBuilder) -> Task:
    """Return the task of a prepared source: what its `task.json` says, else PatchCamelyon's.

    Raises:
        InputError: `task.json` is damaged.
    """
    path = Path(builder.data_dir) / TASK_FILE
    if not path.is_file():
        return task.PCAM
    try:
        return task.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): prepare it anew.") from error


def is_synthetic(builder: tfds.core.DatasetBuilder) -> bool:
    """Return whether the patches of a source are drawn by `synthetic`."""
    return builder.info.name == synthetic.SyntheticPatchCamelyon.name


def _check_features(builder, expected):
    """Refuse a source whose features are not those of its task."""
    features = builder.info.features
    if not {"id", "image", "label"} <= set(features):
        raise InputError(
            f"{builder.data_dir} has features {sorted(features)}; "
            "a source has id, image and label: prepare it anew."
        )
    shape, classes = features["image"].shape, features["label"].num_classes
    if (shape, classes) != (expected.shape, len(expected.classes)):
        raise InputError(
            f"{builder.data_dir} has patches {shape} of {classes} classes; task {expected.name} "
            f"has {expected.shape} of {len(expected.classes)}: prepare it anew."
        )


def write_source(
    splits: Mapping[str, Iterable[dict]], data_dir: str | Path, described: Task
) -> tfds.core.DatasetBuilder:
    """Write patches as a prepared source, whole or not at all.

    Args:
        splits: the name of a split -> its patches, read once: dictionaries of `id` (text, different
            for each patch), `image` (side, side, 3) uint8 and `label` (index of a class).
        data_dir: where to; the source lies in `<data_dir>/<task>/1.0.0`.
        described: the task of the patches.

    Raises:
        InputError: there is such a source already, a patch does not fit the task, or `data_dir`
            cannot be written.
    """
    version_dir = Path(data_dir) / described.name / _WRITTEN_VERSION
    if version_dir.exists():
        raise InputError(f"{version_dir} exists: delete it or choose another data directory.")
    working = Path(data_dir) / f".writing-{os.getpid()}"
    try:
        with synthetic.quiet_tfds():
            _store(splits, working, described)
        version_dir.parent.mkdir(parents=True, exist_ok=True)
        (working / described.name / _WRITTEN_VERSION).rename(version_dir)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {data_dir}: {reason}; choose a writable folder.") from error
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return tfds.builder_from_directory(version_dir)


def _store(splits, data_dir, described):
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=described.shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(names=list(described.classes)),
    }
    try:
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name=described.name,
            version=_WRITTEN_VERSION,
            features=tfds.features.FeaturesDict(features),
            split_datasets={
                split: ((patch["id"], patch) for patch in patches)
                for split, patches in splits.items()
            },
            data_dir=data_dir,
        )
    except (ValueError, TypeError, AttributeError, shuffle.DuplicatedKeysError) as error:
        reason = first_line(error)
        raise InputError(f"the patches do not fit the task {described.name} ({reason}).") from error
    write_json(Path(builder.data_dir) / TASK_FILE, described.to_json())


def _check_size(split: tfds.core.SplitInfo) -> None:
    """Refuse a split whose files are shorter than its description says."""
    missing = [path for path in split.filepaths if not Path(path).is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: prepare the data directory anew.")
    expected = split.num_bytes + _FRAME_BYTES * split.num_examples
    found = sum(Path(path).stat().st_size for path in split.filepaths)
    if found < expected:
        for path in split.filepaths:
            check_no_pointer(path)
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
