"""The official HDF5 files, already downloaded, made into a TFDS `patch_camelyon` directory.

The directory is the one TensorFlow Datasets itself would have made from its own download: the
official builder writes it, with the same ids, the same order and the same file names; only where
the patches come from is replaced. Nothing here uses the network.
"""

import contextlib
import gzip
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlparse

import h5py
import numpy as np
import pandas as pd
import tensorflow as tf
from tensorflow_datasets.core.download import DownloadConfig
from tensorflow_datasets.datasets.patch_camelyon import patch_camelyon_dataset_builder
from tqdm import tqdm

from pcam_tf import synthetic
from pcam_tf.data import groups
from pcam_tf.data.writing import bounded_memory, working_folder
from pcam_tf.errors import InputError
from pcam_tf.files import check_no_pointer, is_gzip
from pcam_tf.task import PCAM
from pcam_tf.user_tables import read_csv_as_text

# TFDS's split -> the word in the official file names and ids; in the order TFDS generates them.
FILE_SPLITS = {"test": "test", "train": "train", "validation": "valid"}
# The one official class count that is published beyond doubt: (normal, tumour) of the test split.
OFFICIAL_TEST_COUNTS = (16_391, 16_377)

# Rows held at a time (27 kB each). A block covers whole HDF5 chunks where it can, since a chunk
# read in parts is decompressed once a part; MAX_BLOCK_ROWS (113 MB) bounds it all the same.
BLOCK_ROWS = 1024
MAX_BLOCK_ROWS = 4096
COPY_BYTES = 16 << 20
WORKING_NAME = ".preparing-patch_camelyon"
# The column of the meta files that repeats the label.
_META_LABEL = "center_tumor_patch"

_Builder = patch_camelyon_dataset_builder.Builder
_Files = dict[tuple[str, str], Path]  # (split, "x" or "y") -> file


def prepare_from_hdf5(
    hdf5_dir: str | Path, data_dir: str | Path, *, verify_checksums: bool = False
) -> Path:
    """Write `patch_camelyon/2.0.0` into `data_dir` from the six official HDF5 files.

    The files are `camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5`, each as it is or as
    `.h5.gz`; they are only read. All six are checked before the first patch is written. Everything
    is made in one hidden folder of `data_dir`, which is renamed at the end and removed if
    anything goes wrong; what a killed run left there, the next run removes. `data_dir` serves one
    preparation at a time; a second one is refused. A progress bar on stderr counts patches.

    Args:
        hdf5_dir: the folder with the six files.
        data_dir: what `tfds.load('patch_camelyon', data_dir=..., download=False)` will be given.
        verify_checksums: compare the `.gz` files' SHA-256 with those registered in TFDS.

    Returns:
        The finished folder, `data_dir/patch_camelyon/2.0.0`.

    Raises:
        InputError: files are missing, damaged or not PCam's; the finished folder exists already;
            `data_dir` cannot be written or has no room, or is being prepared by another process.
    """
    sources = _find(Path(hdf5_dir), prefer_packed=verify_checksums)
    data_dir = Path(data_dir)
    finished = data_dir / _Builder.name / str(_Builder.VERSION)
    if finished.exists():
        raise InputError(f"{finished} exists already; use it as it is, or remove it first.")
    try:
        with working_folder(data_dir, WORKING_NAME) as working, _bar() as bar:
            if verify_checksums:
                _verify_checksums(sources)
            _check_room(sources, working)
            files, labels = _unpack_and_check(sources, working)
            slides = slide_names(Path(hdf5_dir), labels)
            bar.reset(total=sum(map(len, labels.values())))
            bar.set_description("preparing patch_camelyon")
            made = _generate(files, working, bar)
            if slides is not None:
                groups.write_groups(slides, made)
            finished.parent.mkdir(exist_ok=True)
            made.replace(finished)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise InputError(
            f"cannot write {finished}: {' '.join(str(reason).split())}; choose a data directory "
            "that is writable and has room."
        ) from error
    return finished


def _bar():
    return tqdm(desc="checking the HDF5 files", unit=" patches")


def slide_names(hdf5_dir: Path, labels: Mapping[str, np.ndarray]) -> pd.DataFrame | None:
    """Return the slide of each patch, from the `*_meta.csv` files beside the HDF5 files.

    Args:
        hdf5_dir: the folder with `camelyonpatch_level_2_split_{train,valid,test}_meta.csv`. A split
            without such a file is left out.
        labels: split -> its labels (n,), in the order of the HDF5 file.

    Returns:
        Columns `id` and `group`, or None if there is no such file.

    Raises:
        InputError: a file has no column `wsi`, or does not have a row for each patch, or says
            other labels than the HDF5 file for more than one patch in a hundred.
    """
    tables = []
    for split, word in FILE_SPLITS.items():
        stem = f"camelyonpatch_level_2_split_{word}_meta.csv"
        path = next((p for p in (hdf5_dir / stem, hdf5_dir / f"{stem}.gz") if p.is_file()), None)
        if path is None:
            continue
        table = read_csv_as_text(path, ("wsi", _META_LABEL))
        if "wsi" not in table or (table["wsi"] == "").any():
            raise InputError(f"{path} does not name the slide of each patch in a column 'wsi'.")
        if len(table) != len(labels[split]):
            raise InputError(
                f"{path} has {len(table):,} rows for {len(labels[split]):,} patches: download it "
                "again, or remove it to prepare the patches without the names of their slides."
            )
        if _META_LABEL in table:
            positive = table[_META_LABEL].str.lower().isin(["true", "1"]).to_numpy()
            if (positive != labels[split]).mean() > 0.01:
                raise InputError(
                    f"{path} is of other patches than the HDF5 files: {_META_LABEL} does not agree "
                    "with the labels. Download it again, or remove it."
                )
        ids = [f"{word}_{row}" for row in range(len(table))]
        tables.append(pd.DataFrame({"id": ids, "group": table["wsi"]}))
    return pd.concat(tables, ignore_index=True) if tables else None


def check_class_counts(counts: Mapping[str, tuple[int, int]]) -> None:
    """Check that full-size splits have the classes PCam's have, and so carry their right names.

    PCam's README once listed the MD5 sums of its validation and test files the wrong way round,
    and some downloads were "corrected" by swapping the files; both splits have 32,768 patches, so
    only their labels tell them apart. Splits of any other size are not judged.

    Args:
        counts: split -> (normal, tumour) patches.

    Raises:
        InputError: the test split is full-size and does not have the test split's classes.
    """
    test, validation = counts["test"], counts["validation"]
    if sum(test) != sum(OFFICIAL_TEST_COUNTS) or test == OFFICIAL_TEST_COUNTS:
        return
    found = f"the test labels are {test[0]:,} normal and {test[1]:,} tumour"
    official = f"{OFFICIAL_TEST_COUNTS[0]:,} and {OFFICIAL_TEST_COUNTS[1]:,}"
    if validation == OFFICIAL_TEST_COUNTS:
        raise InputError(
            f"the validation and test files are swapped: {found}, and the validation labels are "
            f"the official test's {official}; rename valid to test and test to valid, x and y."
        )
    raise InputError(f"{found}, PCam's are {official}; download the test files again.")


def _find(hdf5_dir: Path, *, prefer_packed: bool) -> _Files:
    """Return the six files; of a file that is there twice, the unpacked one unless told."""
    if not os.access(hdf5_dir, os.R_OK | os.X_OK):
        raise InputError(f"there is no folder {hdf5_dir} that may be read; give the HDF5 files'.")
    endings = (".h5.gz", ".h5") if prefer_packed else (".h5", ".h5.gz")
    found, missing = {}, []
    for split, word in FILE_SPLITS.items():
        for key in ("x", "y"):
            stem = f"camelyonpatch_level_2_split_{word}_{key}"
            there = (hdf5_dir / f"{stem}{ending}" for ending in endings)
            path = next((path for path in there if path.is_file()), None)
            if path is None:
                missing.append(f"{stem}.h5")
            elif not os.access(path, os.R_OK):
                raise InputError(f"{path} may not be read; change its permissions.")
            else:
                check_no_pointer(path)
                found[split, key] = path
    if missing:
        raise InputError(
            f"{hdf5_dir} lacks {', '.join(missing)} (each may also end in .h5.gz); "
            "download them from https://zenodo.org/records/2546921."
        )
    return found


def _verify_checksums(sources: _Files) -> None:
    """Compare size and SHA-256 of the packed files with those that TFDS registers."""
    unpacked = [path.name for path in sources.values() if not is_gzip(path)]
    if unpacked:
        raise InputError(
            "published checksums exist for the .h5.gz files only; give those, or leave out the "
            f"verification: {', '.join(unpacked)}."
        )
    registered = {Path(urlparse(url).path).name: i for url, i in _Builder.url_infos.items()}
    for path in sources.values():
        published = registered[path.name.removesuffix(".gz") + ".gz"]
        # The size first: it finds a broken download without reading gigabytes.
        if path.stat().st_size != published.size:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes, the published file "
                f"{int(published.size):,}; download it again."
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != published.checksum:
            raise InputError(
                f"{path} has SHA-256 {digest}, the published file {published.checksum}; "
                "download it again."
            )


def _check_room(sources: _Files, working: Path) -> None:
    """Refuse to start where the disk cannot hold the unpacked files and the prepared patches."""
    needed_bytes = 0
    for (_, key), path in sources.items():
        packed = is_gzip(path)
        size_bytes = _unpacked_bytes(path) if packed else path.stat().st_size
        # PNG hardly compresses tissue: prepared patches need about what x needs.
        needed_bytes += size_bytes * (packed + (key == "x"))
    free_bytes = shutil.disk_usage(working).free
    if free_bytes < needed_bytes:
        raise InputError(
            f"{working.parent} has {free_bytes / 1e9:,.1f} GB free and up to "
            f"{needed_bytes / 1e9:,.1f} GB are needed; choose another data directory or make room."
        )


def _unpacked_bytes(path: Path) -> int:
    """Return what a gzip file unpacks to, from its last four bytes.

    They hold the size modulo 2**32 (RFC 1952); the next such size above the packed one is taken,
    which is right for data that loses less than 4 GiB by packing, as PCam's files do.
    """
    packed_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(packed_bytes - 4, 0))
        modulo = int.from_bytes(file.read(4), "little")
    return modulo + -(-max(packed_bytes - modulo, 0) // 2**32) * 2**32


def _unpack_and_check(sources: _Files, working: Path) -> tuple[_Files, dict[str, np.ndarray]]:
    """Unpack what is packed, check all six files; return HDF5 files and each split's labels."""
    files, labels_of, counts = {}, {}, {}
    for split in FILE_SPLITS:  # the small files first: most mistakes show in them
        source = sources[split, "y"]
        files[split, "y"] = _unpacked(source, working)
        labels = _labels(files[split, "y"], source=source)
        labels_of[split] = labels
        counts[split] = (int(np.sum(labels == 0)), int(np.sum(labels == 1)))
        if sum(counts[split]) != len(labels):
            raise InputError(
                f"{source} has labels other than 0 (normal) and 1 (tumour): "
                f"{sorted(set(labels.tolist()) - {0, 1})[:5]}; download it again."
            )
    check_class_counts(counts)
    for split in FILE_SPLITS:
        source = sources[split, "x"]
        files[split, "x"] = _unpacked(source, working)
        with _opened(files[split, "x"], "x", source=source) as patches:
            if patches.dtype != np.uint8 or patches.shape[1:] != PCAM.shape:
                raise InputError(
                    f"{source}: 'x' is {patches.dtype} {patches.shape}, not uint8 (N, 96, 96, 3)."
                )
            if len(patches) != len(labels_of[split]):
                raise InputError(
                    f"{source} has {len(patches):,} patches and {sources[split, 'y'].name} "
                    f"{len(labels_of[split]):,} labels; download both again."
                )
    return files, labels_of


def _unpacked(source: Path, working: Path) -> Path:
    # By its content: browsers and archivers unpack files and leave their names.
    if not is_gzip(source):
        return source
    unpacked = working / f"unpacked-{source.name}"
    try:
        with gzip.open(source) as packed, unpacked.open("wb") as file:
            shutil.copyfileobj(packed, file, COPY_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{source} is cut off or damaged ({error}); download it again.") from error
    return unpacked


@contextlib.contextmanager
def _opened(path: Path, key: str, *, source: Path) -> Iterator[h5py.Dataset]:
    """Yield the data set `key` of an HDF5 file; `source` is the file's name for the user."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = str(error).split("(")[-1].rstrip(")")
        raise InputError(f"{source} is no whole HDF5 file ({reason}); download it again.") from None
    with file:
        dataset = file.get(key)
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(
                f"{source} has no data set {key!r} but {sorted(file)}; is it PCam's file?"
            )
        yield dataset


def _labels(path: Path, *, source: Path) -> np.ndarray:
    with _opened(path, "y", source=source) as labels:
        if labels.dtype.kind not in "iu" or labels.shape[1:] != (1, 1, 1) or not len(labels):
            raise InputError(
                f"{source}: 'y' is {labels.dtype} {labels.shape}, not integers (N, 1, 1, 1), N > 0."
            )
        try:
            return labels[...].reshape(-1)
        except OSError as error:
            raise InputError(f"{source}: labels cannot be read; download it again.") from error


def _block_rows(patches: h5py.Dataset) -> int:
    chunk_rows = patches.chunks[0] if patches.chunks else 1
    return min(max(BLOCK_ROWS // chunk_rows, 1) * chunk_rows, MAX_BLOCK_ROWS)


def _examples(files: _Files, split: str, bar: tqdm) -> Iterator[tuple[str, dict]]:
    """Yield what the official builder's `_generate_examples` yields, reading block by block."""
    labels = _labels(files[split, "y"], source=files[split, "y"])
    path = files[split, "x"]
    with _opened(path, "x", source=path) as patches:
        block_rows = _block_rows(patches)
        for first in range(0, len(patches), block_rows):
            try:
                block = patches[first : first + block_rows]
            except OSError as error:
                raise InputError(
                    f"{path.name}: patches from row {first:,} on cannot be read "
                    "(the file is damaged); download it again."
                ) from error
            for row, image in enumerate(block, start=first):
                patch_id = f"{FILE_SPLITS[split]}_{row}"
                yield patch_id, {"id": patch_id, "image": image, "label": labels[row]}
                bar.update()


def _generate(files: _Files, working: Path, bar: tqdm) -> Path:
    """Let the official builder write its directory below `working`; return that directory."""
    builder = _Builder(data_dir=working)
    # Replaced on the instance, not by a subclass: TFDS writes the builder's module and name into
    # dataset_info.json, and a plain `tfds.load` looks for them there.
    builder._split_generators = lambda dl_manager: {
        split: _examples(files, split, bar) for split in FILE_SPLITS
    }
    config = DownloadConfig(try_download_gcs=False)
    with bounded_memory(), synthetic.quiet_tfds():
        builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)
