"""PatchCamelyon as parquet files, as Hugging Face's copies have it, made into a prepared source."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from pcam_tf.data import image_files, sources, writing
from pcam_tf.errors import InputError, first_line
from pcam_tf.task import PCAM

_SPLIT = re.compile(r"^(train|validation|valid|val|test)\b", re.IGNORECASE)
_NAMES = {"valid": "validation", "val": "validation"}


def prepare(folder: str | Path, data_dir: str | Path) -> Path:
    """Write the patches of parquet files as a prepared source, whole or not at all.

    A file's name begins with its split: `train-00000-of-00013.parquet`. Columns: `image`, a PNG
    as `bytes` in a structure or by itself, and `label`, 0 or 1. An id is the split and the row.

    Returns:
        The folder of the source.

    Raises:
        InputError: no such file, another content, a damaged picture, or `data_dir` cannot be
            written.
    """
    by_split = {}
    for path in sorted(Path(folder).rglob("*.parquet")):
        found = _SPLIT.match(path.name)
        if not found:
            raise InputError(f"{path}: its name does not begin with train, validation or test.")
        split = found[1].lower()
        by_split.setdefault(_NAMES.get(split, split), []).append(path)
    if not by_split:
        raise InputError(f"{folder} holds no parquet file (train-….parquet): give another folder.")
    opened = {split: [_opened(path) for path in paths] for split, paths in by_split.items()}
    splits = {
        split: _patches(split, zip(by_split[split], opened[split], strict=True))
        for split in sources.SPLITS
        if split in by_split
    }
    return Path(writing.write_source(splits, data_dir, PCAM).data_dir)


def _opened(path):
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} is not a parquet file ({first_line(error)}).") from error
    if not {"image", "label"} <= set(file.schema_arrow.names):
        names = ", ".join(file.schema_arrow.names)
        raise InputError(f"{path} needs the columns image and label; it has {names}.")
    return file


def _patches(split, files) -> Iterator[dict]:
    """Read the rows of a split one batch at a time."""
    number = 0
    for path, file in files:
        total = file.metadata.num_rows
        with tqdm(total=total, desc=f"preparing {split}: {path.name}", unit=" patches") as bar:
            for batch in file.iter_batches(256, columns=["image", "label"]):
                for row in batch.to_pylist():
                    yield {"id": f"{split}_{number}", **_patch(row, f"row {number} of {path}")}
                    number += 1
                bar.update(len(batch))


def _patch(row, name):
    content = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
    if not isinstance(content, bytes) or row["label"] not in (0, 1):
        raise InputError(f"{name} holds no picture with a label of 0 or 1.")
    with image_files.opened(content, name) as picture:
        pixels = picture.pixels()
    if pixels.shape != PCAM.shape:
        height, width = np.shape(pixels)[:2]
        raise InputError(f"{name} has {width}×{height} px, not {PCAM.side_px}×{PCAM.side_px}.")
    return {"image": pixels, "label": int(row["label"])}
