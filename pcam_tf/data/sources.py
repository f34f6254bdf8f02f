"""Where patches come from: prepared TFDS directories and their splits.

Every source is a prepared TFDS directory with the features of `patch_camelyon`: `id` (text),
`image` (96×96×3 uint8) and `label` (0 normal, 1 tumour).
"""

import os
import shutil
import socket
from pathlib import Path

import tensorflow_datasets as tfds

from pcam_tf import synthetic
from pcam_tf.errors import InputError, first_line, unknown

SPLITS = ("train", "validation", "test")
NAME, VERSION = "patch_camelyon", "2.0.0"
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
