"""A predictions table made in parts, by several processes or machines, and joined again.

Shards are whole batches, as the undivided prediction has them, since rounding depends on the size
of a batch: the joined table is that of the undivided prediction, byte for byte. Beside each part
lies a record of what it is a part of.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pcam_tf.errors import InputError
from pcam_tf.files import check_outputs, write_json, written_whole
from pcam_tf.prediction import pictures, tables

_PACKED = {".gz": gzip, ".bz2": bz2, ".xz": lzma}  # as pandas packs by the ending


def parse(text: str) -> tuple[int, int]:
    """Return the number of a shard, from 1, and how many there are, from text such as "2/4".

    Raises:
        InputError: it is no such text.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--shard {text!r} is no shard: give it as 2/4, from 1/4 to 4/4.")
    return number, count


def rows(patches: int, shard: tuple[int, int]) -> slice:
    """Return the rows of the undivided table that a shard has: whole batches, near equal in number.

    Raises:
        InputError: there are more shards than batches.
    """
    number, count = shard
    batches = -(-patches // tables.BATCH_SIZE)
    if count > batches:
        raise InputError(
            f"{patches:,} patches are {batches} batches of {tables.BATCH_SIZE}, which is the "
            f"smallest shard: make at most {batches} shards, not {count}."
        )
    first, last = (batches * each // count * tables.BATCH_SIZE for each in (number - 1, number))
    return slice(first, min(last, patches))


def of_split(builder, split: str, shard: tuple[int, int]) -> tuple[slice, dict]:
    """Return the rows of a split that a shard has, and a description of what is divided.

    Args:
        builder: a prepared source.
        split: a split, or a slice such as "test[:1000]".
        shard: number and count, see `parse`.

    Raises:
        InputError: there is no such split, or there are more shards than batches.
    """
    # Not above: it imports TensorFlow, which pictures may be predicted without.
    from pcam_tf import data

    patches = data.count(builder, split)
    described = {
        "data": builder.info.full_name,
        "bytes": builder.info.splits[split.split("[")[0]].num_bytes,
        "split": split,
        "patches": patches,
    }
    return rows(patches, shard), described


def of_pictures(paths: Sequence[str | Path], shard: tuple[int, int]) -> tuple[list[Path], dict]:
    """Return the picture files that a shard has, and a description of what is divided.

    The description holds a digest of the names and contents of all files.

    Raises:
        InputError: as `pictures.picture_files`, or there are more shards than batches.
    """
    files = pictures.picture_files(paths)
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{content} {path.name}\n".encode())
    described = {"pictures": digest.hexdigest(), "patches": len(files)}
    return files[rows(len(files), shard)], described


def write_part(
    table: pd.DataFrame,
    path: str | Path,
    shard: tuple[int, int],
    described: dict,
    left_out: Sequence[str] = (),
) -> None:
    """Write one part of a table, and its record beside it, at `record_path`.

    Args:
        table: the shard's predictions table.
        path: where to.
        shard: number and count.
        described: of what this is a part, and how it is predicted; the same for all parts.
        left_out: names of damaged pictures of this part, which have no row.

    Raises:
        InputError: `path` cannot be written.
    """
    tables.write(table, path)
    number, count = shard
    content = {"shard": number, "shards": count, "rows": len(table), "of": described}
    content["left_out"] = list(left_out)
    # The table's digest tells a part whose record is of another, say after a kill in between.
    content["sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    write_json(record_path(path), content)


def record_path(path: str | Path) -> Path:
    """Return where the record of a part lies: beside `part-1.csv` at `part-1.csv.shard.json`."""
    return Path(f"{path}.shard.json")


def merge(paths: Sequence[str | Path], output: str | Path) -> int:
    """Join the parts of a table, in whatever order they are given; return the number of rows.

    Raises:
        InputError: a part is missing, given twice, unfinished, changed, or of another prediction
            than the others, or an id occurs twice, or `output` cannot be written or is a part.
    """
    paths = [Path(path) for path in paths]
    check_outputs([output], [*paths, *map(record_path, paths)])
    parts = {}
    for path in paths:
        record, content = _read_part(path)
        if not parts:
            first_path, first = path, record
        _refuse_another(path, record, first_path, first)
        if record["shard"] in parts:
            twice = parts[record["shard"]][0]
            raise InputError(
                f"{twice} and {path} are both shard {record['shard']}/{record['shards']}: give "
                "each shard once."
            )
        parts[record["shard"]] = path, content, record.get("left_out", [])
    missing = [number for number in range(1, first["shards"] + 1) if number not in parts]
    if missing:
        listed = ", ".join(f"{number}/{first['shards']}" for number in missing)
        raise InputError(f"shard {listed} is missing: give its part too, or predict it first.")
    ordered = [parts[number] for number in sorted(parts)]
    left_out = [name for _, _, names in ordered for name in names]
    patches = _refuse_doubled(ordered, first["of"]["patches"], len(left_out))
    headers = {content.split(b"\n", 1)[0]: path for path, content, _ in ordered}
    if len(headers) > 1:
        raise InputError(
            f"{' and '.join(map(str, headers.values()))} have different columns: predict both "
            "from the same data directory."
        )
    packing = _PACKED.get(Path(output).suffix.lower(), io)
    with written_whole(output) as temporary, packing.open(temporary, "wb") as file:
        file.write(ordered[0][1].split(b"\n", 1)[0] + b"\n")
        for _, content, _ in ordered:
            file.write(content.split(b"\n", 1)[1])
    if left_out:
        warnings.warn(
            f"{len(left_out)} damaged pictures are left out of {output}: {', '.join(left_out)}.",
            stacklevel=2,
        )
    return patches


def _read_part(path):
    """Return the record of a part, and its table as bytes."""
    try:
        content = path.read_bytes()
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
        number, count, patches = record["shard"], record["shards"], record["of"]["patches"]
        is_list = isinstance(record.get("left_out", []), list)
        if not (1 <= number <= count and patches > 0 and record["sha256"] and is_list):
            raise ValueError
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename}: a part is a table and its record, as --shard writes "
            "them; copy both, or predict that shard anew."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record_path(path)} is not the record of a shard: predict that shard anew."
        ) from error
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise InputError(
            f"{path} is not the table that its record is about: predict shard {number}/{count} "
            "anew."
        )
    packing = _PACKED.get(path.suffix.lower())
    return record, packing.decompress(content) if packing else content


def _refuse_another(path, record, first_path, first):
    """Refuse a part of another prediction, naming the first thing that differs."""
    values, others = ({"shards": each["shards"]} | each["of"] for each in (record, first))
    for name in values | others:
        if values.get(name) != others.get(name):
            raise InputError(
                f"{path} is of another prediction than {first_path}: {name} is "
                f"{values.get(name)!r} instead of {others.get(name)!r}; predict all shards by the "
                "same command."
            )


def _refuse_doubled(ordered, patches, left_out):
    """Refuse ids that occur twice, and another number of rows than of patches; return the rows."""
    ids = pd.concat(
        [
            pd.read_csv(path, usecols=["id"], dtype="str", keep_default_na=False).assign(path=path)
            for path, _, _ in ordered
        ],
        ignore_index=True,
    )
    doubled = ids[ids["id"].duplicated(keep=False)]
    if len(doubled):
        name = doubled["id"].iloc[0]
        one, other = doubled["path"][doubled["id"] == name].iloc[:2]
        raise InputError(
            f"{name!r} is in {one} and again in {other}: check that no patch of the source occurs "
            "twice, and predict all shards anew."
        )
    if len(ids) + left_out != patches:
        raise InputError(
            f"the parts have {len(ids):,} rows together, of {patches:,} patches: predict all "
            "shards anew."
        )
    return len(ids)
