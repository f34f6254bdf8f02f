"""Reviewers' judgements of patches: a CSV that only grows, and that `evaluation` can read.

Reviewers have seen the model's call and have chosen the patches themselves. A score against such
labels measures how far they agree with the model, not how good the model is.
"""

import codecs
import csv
import dataclasses
import datetime
import errno
import io
import itertools
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import filelock
import pandas as pd

from pcam_tf import evaluation, files, user_tables
from pcam_tf.errors import InputError
from pcam_tf.evaluation import agreement

# The columns of earlier files, then those of today: where a place of a region or slide lies.
_FIRST = ("id", "label", "probability", "agrees", "threshold", "time", "model")
_SECOND = (*_FIRST, "setting", "call", "reviewer", "unsure", "comment")
COLUMNS = (*_SECOND, "file", "file_sha256", "x_um", "y_um", "x_px", "y_px")
_EARLIER = (_FIRST, _SECOND)
_HEADER = ",".join(COLUMNS) + "\n"


class Origin(NamedTuple):
    """Of which file a place is, and where its centre lies in it."""

    file: str  # its name
    sha256: str
    x_um: float
    y_um: float
    x_px: float  # of the picture as it was given, of a slide at level 0
    y_px: float


@dataclasses.dataclass(frozen=True)
class Review:
    """A reviewer's judgement of a patch, with what was judged: the call and its setting.

    `label` and `call` are indices of classes; `probability` and `threshold` are of the second.
    """

    patch_id: str  # the same for the same patch
    probability: float
    threshold: float
    setting: str  # name of the operating point
    call: int  # the model's
    label: int  # the reviewer's
    model: str  # its name
    reviewer: str = ""  # a name or initials
    unsure: bool = False
    comment: str = ""
    origin: Origin | None = None  # of a place of a region or slide

    @property
    def agrees(self) -> bool:
        """Whether the reviewer's label is the model's call."""
        return self.label == self.call


def append(path: str | Path, review: Review) -> None:
    """Add a review to a file, which is created if there is none.

    The row is on the disk when this returns. Several processes may write to one file. Only models
    of two classes can be reviewed.

    Raises:
        InputError: the file cannot be written, or is not a file of reviews.
    """
    cells = {
        "id": review.patch_id,
        "label": review.label,
        "probability": f"{review.probability:.7g}",
        "agrees": _yes(review.agrees),
        "threshold": f"{review.threshold:.7g}",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": review.model,
        "setting": review.setting,
        "call": review.call,
        "reviewer": review.reviewer,
        "unsure": _yes(review.unsure),
        "comment": review.comment,
    }
    if review.origin:
        name, sha256, *place = review.origin
        cells |= {"file": cell(name, 80), "file_sha256": sha256}
        cells |= dict(zip(COLUMNS[-4:], (f"{each:.2f}" for each in place), strict=True))
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(cells)
    _append(Path(path), line.getvalue())


def cell(text: str | None, longest: int) -> str:
    """Return what a reviewer typed as one line that no spreadsheet program takes for a formula."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())[:longest]
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _yes(condition):
    return "yes" if condition else "no"


def check(path: str | Path) -> None:
    """Create a file of reviews, or check that rows can be added to an existing one.

    Raises:
        InputError: the file cannot be written, or is not a file of reviews.
    """
    _append(Path(path), "")


def _append(path, text):
    # Of a link the file that it points to, so that all who write to it wait for one lock.
    path = Path(os.path.realpath(path))
    if not files.is_ordinary(path):
        raise InputError(f"cannot write {path}: reviews are kept in an ordinary file; name one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock is an empty, hidden file beside the reviews. It is left there: to delete it
        # while another process waits for it would give two processes the lock.
        with filelock.FileLock(path.with_name(f".{path.name}.lock")), path.open("ab+", 0) as file:
            _append_line(file, path, text)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {path}: {reason}; choose a file that is writable and has room."
        ) from error


def _append_line(file, path, text):
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        text = _HEADER + text
    else:
        file.seek(0)
        _check_header(file.readline(), path)
        # If a crash left half a line at the end, the new line starts on a line of its own.
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            text = "\n" + text
    content = text.encode()
    # One write: if the process is killed, all of it is written or nothing.
    if os.write(file.fileno(), content) < len(content):
        file.truncate(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _check_header(line, path):
    """Refuse to add to another file, or to one that a spreadsheet program has written anew."""
    if line == _HEADER.encode():
        return
    if line in [(",".join(columns) + "\n").encode() for columns in _EARLIER]:
        raise InputError(
            f"{path} is a file of reviews of an earlier version, with fewer columns: it is left as "
            "it is, and `evaluate --latest` reads it. Choose another file."
        )
    traces = _traces(line)
    if not traces:
        raise InputError(f"{path} is not a file of reviews: choose another name.")
    raise InputError(
        f"{path} was saved by a spreadsheet program ({', '.join(traces)}): it is left as it is, "
        "and `evaluate --latest` reads it. Rename it or choose another file, then review again."
    )


def _traces(line: bytes) -> list[str]:
    """Return what a spreadsheet program has changed in the header of a file of reviews.

    Nothing for an unchanged header, and for that of any other file.
    """
    found = ["a byte order mark"] if line.startswith(codecs.BOM_UTF8) else []
    text = line.decode("utf-8-sig", "replace")
    separator = max(user_tables.SEPARATORS, key=text.count)
    cells = next(csv.reader([text], delimiter=separator), [])
    names = [cell.strip().lower() for cell in cells]
    while names and not names[-1]:
        names.pop()
    columns = next((each for each in (COLUMNS, *_EARLIER) if sorted(each) == sorted(names)), None)
    if columns is None:
        return []
    changes = {
        "semicolons": separator == ";",
        "tabs": separator == "\t",
        "Windows line ends": line.endswith(b"\r\n"),
        "empty columns": len(cells) > len(names),
        "quoted or renamed columns": separator.join(columns) not in text,
    }
    return found + [name for name, is_there in changes.items() if is_there]


def latest(path: str | Path) -> pd.DataFrame:
    """Read a file of reviews as a predictions table with the last review of each patch.

    The last is the one of the latest time; where a time cannot be read, the one of the last row. A
    file that a spreadsheet program has saved is read as well, with a warning.

    Returns:
        Columns `id`, `label` (the reviewers'), `probability` (the model's) and the others.

    Raises:
        InputError: no such file, or its content cannot be evaluated, such as one class only.
    """
    table = read(path)
    if "id" in table:
        table = table.drop_duplicates("id", keep="last").reset_index(drop=True)
    return evaluation.check_predictions(table, str(path))


def agreements(path: str | Path) -> dict[str, dict]:
    """Return how far reviewers agree with the model and with each other.

    The last review that each reviewer gave of a patch counts.

    Returns:
        What `agreement.agreement` returns, and the number of labels that were `unsure`, by the
        names of the two. Nothing for a table that holds no reviews.

    Raises:
        InputError: no such file, or it cannot be read.
    """
    table = read(path)
    if not {"id", "label", "probability", "threshold"} <= set(table):
        return {}
    # Files of the first version name no reviewer and no call.
    for column in {"reviewer", "unsure"} - set(table):
        table[column] = ""
    table["call"] = (table["probability"] >= table["threshold"]).astype(int)
    table = table.drop_duplicates(["id", "reviewer"], keep="last")
    found, readers = {}, {}
    for name, rows in table.groupby("reviewer"):
        who = name or "a reviewer without a name"
        found[f"the model and {who}"] = _agreement(rows["call"], rows)
        readers[who] = rows
    for one, other in itertools.combinations(readers, 2):
        both = readers[one].merge(readers[other], on="id", suffixes=("", "_of_other"))
        if len(both):
            found[f"{one} and {other}"] = _agreement(both["label_of_other"], both)
    return found


def _agreement(others, rows):
    unsure = [column for column in rows if column.startswith("unsure")]
    count = int((rows[unsure] == "yes").any(axis=1).sum())
    return agreement.agreement(others, rows["label"]) | {"unsure": count}


def read(path: str | Path) -> pd.DataFrame:
    """Read all rows of a file of reviews, the last review of all at the end.

    Raises:
        InputError: no such file, or a number in it is none.
    """
    table = user_tables.read_csv_as_text(path, COLUMNS).fillna("")
    with Path(path).open("rb") as file:
        traces = _traces(file.readline())
    times = pd.to_datetime(
        table.get("time", pd.Series("", table.index)), format="ISO8601", utc=True, errors="coerce"
    )
    if set(_FIRST) <= set(table) and (times.isna() & (table["time"] != "")).any():
        traces.append("times in another format")
    if times.notna().all():
        table = table.iloc[times.argsort(kind="stable")].reset_index(drop=True)
    for column in {"label", "probability", "threshold"} & set(table):
        table[column] = _numbers(table, column, traces, path)
    for column in {"id", "group"} & set(table):
        table[column] = table[column].where(table[column] != "")
    if traces:
        warnings.warn(
            f"{path} was saved by a spreadsheet program ({', '.join(traces)}) and was read all the "
            "same; digits that were lost in it are lost. To look at reviews, open a copy.",
            stacklevel=3,
        )
    return table


def _numbers(table, column, traces, path):
    """Return a column as numbers, and add to `traces` if decimal commas were in it."""
    values = user_tables.numbers(table[column])
    wrong = (values.isna() & (table[column] != "")).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{path} (id {table['id'].iloc[row]}): {table[column].iloc[row]!r} is no {column}. A "
            "spreadsheet program may have rewritten it: take the row from a copy of before."
        )
    if table[column].str.contains(",").any() and "decimal commas" not in traces:
        traces.append("decimal commas")
    return values
