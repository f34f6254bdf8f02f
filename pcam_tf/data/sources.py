"""Where patches come from: prepared TFDS directories and their splits.

Every source is a prepared TFDS directory with the features `id` (text), `image` (side×side×3
uint8) and `label` (an index into the classes of its task). A file `task.json` beside TFDS's own
files holds the task; without it the source is of PatchCamelyon. Plain `tfds.load` reads all.
"""

import json
import os
import shutil
import socket
from collections.abc import Collection
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import resource
from tensorflow_datasets.datasets.patch_camelyon import patch_camelyon_dataset_builder

from pcam_tf import synthetic, task
from pcam_tf.errors import InputError, first_line, unknown
from pcam_tf.files import check_no_pointer
from pcam_tf.task import Task

SPLITS = ("train", "validation", "test")
NAME, VERSION = "patch_camelyon", "2.0.0"
TASK_FILE = "task.json"
# Of a source of whole fields, which differ in size; patches are crops of them.
FIELD_SHAPE = (None, None, 3)
SYNTHETIC_DIR = Path("data/synthetic")
# 7.5 GB of archives, the same unpacked, and the prepared directory beside them.
DOWNLOAD_BYTES = 25 * 10**9
DOWNLOAD_HOST = "zenodo.org"
# A TFRecord frames each example with its length and two checksums.
_FRAME_BYTES = 16
_INFO_FILE = "dataset_info.json"

_WAYS = (
    "prepare one by `python -m pcam_tf prepare` (--from-hdf5 DIR, --from-images DIR, "
    "--from-parquet DIR or --download), or leave the data directory out for synthetic patches."
)


def open_source(data_dir: str | Path | None = None) -> tfds.core.DatasetBuilder:
    """Open a prepared source of patches.

    Args:
        data_dir: the directory that holds `patch_camelyon/2.0.0`, as TFDS and `prepare` lay it
            out, or one source that `write_source` has made; None or "" for synthetic patches, which
            are made on first use.

    Returns:
        The prepared TFDS builder.

    Raises:
        InputError: no such directory, another version, a damaged or incomplete one.
    """
    if not data_dir:
        return synthetic.builder(SYNTHETIC_DIR)
    version_dir = _version_dir(Path(data_dir))
    for path in version_dir.iterdir():
        check_no_pointer(path)
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
    inside = _folder_above(data_dir)
    if inside:
        raise InputError(
            f"{data_dir} is part of a data directory: give the folder above, {inside}."
        )
    there = sources_in(data_dir)
    version_dir = data_dir / NAME / VERSION
    if version_dir in there:
        return version_dir
    if len(there) == 1:
        return there[0]
    if there:
        names = ", ".join(str(path.relative_to(data_dir)) for path in there)
        raise InputError(f"{data_dir} holds several sources ({names}): keep one in a directory.")
    others = sorted(path.name for path in (data_dir / NAME).glob("*.*.*") if path.is_dir())
    found = f"only version {', '.join(others)}" if others else "nothing"
    raise InputError(f"{data_dir} holds {found} where {NAME}/{VERSION} is needed: {_WAYS}")


def sources_in(data_dir: str | Path) -> list[Path]:
    """Return the folders of the sources in a data directory."""
    data_dir = Path(data_dir)
    official = data_dir / NAME / VERSION
    written = sorted(path.parent for path in data_dir.glob(f"*/*/{TASK_FILE}"))
    return [official, *written] if official.is_dir() and official not in written else written


def _folder_above(folder: Path) -> Path | None:
    """Return the data directory of a folder that is itself a source, or holds its versions."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (links stay)
    if (folder / _INFO_FILE).is_file():
        return folder.parent.parent
    versions = [path.parent for path in folder.glob(f"*/{_INFO_FILE}")]
    is_named = folder.name == NAME or any((path / TASK_FILE).is_file() for path in versions)
    return folder.parent if versions and is_named else None


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


def ordered(splits: Collection[str]) -> list[str]:
    """Return names of splits: the usual ones in their order, then others."""
    known = [split for split in SPLITS if split in splits]
    return known + sorted(set(splits) - set(known))


def described(builder: tfds.core.DatasetBuilder) -> dict:
    """Return what distinguishes a prepared source from others, as JSON can hold it.

    Every directory of PatchCamelyon has the same name and version, a subset as well; so the number
    of patches of each split and their bytes are there too.
    """
    return {
        "source": f"{builder.info.name} {builder.info.version}",
        "splits": {
            name: [split.num_examples, split.num_bytes]
            for name, split in builder.info.splits.items()
        },
    }


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
    if shape not in (expected.shape, FIELD_SHAPE) or classes != len(expected.classes):
        raise InputError(
            f"{builder.data_dir} has patches {shape} of {classes} classes; task {expected.name} "
            f"has {expected.shape} of {len(expected.classes)}: prepare it anew."
        )


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
    if builder.info.features["image"].shape == FIELD_SHAPE:
        raise InputError(
            f"{builder.data_dir} holds whole fields of different sizes, without splits: use "
            "`python -m pcam_tf subtypes`."
        )
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
    """Download and prepare the official data set (7.5 GB) by TFDS, unless it is there already.

    Free disk and, if an archive is missing, the reachability of the host are checked before
    anything is written.

    Raises:
        InputError: too little room, the host does not answer, or the download failed.
    """
    data_dir = Path(data_dir)
    if (data_dir / NAME / VERSION).is_dir():
        open_source(data_dir)
        return
    existing = next(
        path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    missing, needed = _missing_archives(data_dir / "downloads")
    if free < needed:
        raise InputError(
            f"{data_dir} has {free / 1e9:.0f} GB free and the download needs "
            f"{needed / 1e9:.0f} GB: choose another --data-dir."
        )
    otherwise = (
        "try again later, or fetch the six .h5.gz files in any other way (the data set's page "
        "lists mirrors) and run `python -m pcam_tf prepare --from-hdf5 DIR`."
    )
    if missing:
        try:
            socket.create_connection((DOWNLOAD_HOST, 443), timeout=10).close()
        except OSError as error:
            raise InputError(f"{DOWNLOAD_HOST} does not answer ({error}): {otherwise}") from error
    try:
        tfds.builder(f"{NAME}:{VERSION}", data_dir=data_dir).download_and_prepare()
    except Exception as error:  # throttling, checksums and broken connections all differ
        reason = first_line(error)
        raise InputError(f"the download failed ({reason}): {otherwise}") from error


def _missing_archives(downloads: Path) -> tuple[list[str], int]:
    """Return the archives that TFDS would not find in its folder, and the bytes that are needed."""
    missing, needed = [], DOWNLOAD_BYTES
    for url, info in patch_camelyon_dataset_builder.Builder.url_infos.items():
        named = downloads / resource.get_dl_fname(url, info.checksum)
        places = [path for path in (downloads / "manual" / info.filename, named) if path.is_file()]
        if not places:
            missing.append(info.filename)
            continue
        needed -= int(info.size)
        if (downloads / "extracted" / f"GZIP.{places[0].name}").is_file():
            needed -= int(info.size)
    return missing, needed


def chosen_dir(data_dir: str | Path | None = None) -> str | None:
    """Return the data directory given, else that of PCAM_TF_DATA_DIR, else None (synthetic)."""
    return str(data_dir) if data_dir else os.environ.get("PCAM_TF_DATA_DIR") or None
