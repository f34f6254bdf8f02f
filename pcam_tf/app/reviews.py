"""What reviewers said of patches: a CSV that only grows, and that `evaluation` can read.

A reviewer has seen the model's call before saying anything, and chose what to look at. A score
against such labels says how far they agree, not how good the model is.
"""

import contextlib
import csv
import datetime
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pcam_tf import evaluation
from pcam_tf.errors import InputError

try:
    import fcntl
except ImportError:  # on Windows: there an appending write alone has to do
    fcntl = None

COLUMNS = ("id", "label", "probability", "agrees", "threshold", "time", "model")
_HEADER = ",".join(COLUMNS) + "\n"


def append(
    path: str | Path,
    *,
    patch_id: str,
    probability: float,
    threshold: float,
    agrees: bool,
    model: str,
) -> None:
    """Add a reviewer's judgement of a patch to a file, which is begun if need be.

    The row is on the disk when this returns. Several processes may write to one file.

    Args:
        path: of the file of reviews.
        patch_id: the same for the same patch.
        probability: of tumour, as the model said, 0..1.
        threshold: from which probability on the model's call was tumour.
        agrees: whether the reviewer's label is the model's call; if not, it is the other one.
        model: which model it was.

    Raises:
        InputError: the file cannot be written, or is something other than a file of reviews.
    """
    called = probability >= threshold
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        [
            patch_id,
            int(called == agrees),
            f"{probability:.7g}",
            "yes" if agrees else "no",
            f"{threshold:.7g}",
            time,
            model,
        ]
    )
    _append(Path(path), line.getvalue())


def check(path: str | Path) -> None:
    """Begin a file of reviews, or make sure that an old one can be added to.

    Raises:
        InputError: the file cannot be written, or is something other than a file of reviews.
    """
    _append(Path(path), "")


def _append(path, text):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path) as file:
            size = os.lseek(file, 0, os.SEEK_END)
            if size == 0:
                text = _HEADER + text
            else:
                _check_header(file, path)
                # A line that a power cut has torn does not take the next one with it.
                os.lseek(file, size - 1, os.SEEK_SET)
                if os.read(file, 1) != b"\n":
                    text = "\n" + text
            content = text.encode()
            # One write: a process that is killed has written all of it or nothing.
            if os.write(file, content) < len(content):
                os.ftruncate(file, size)
                raise OSError(28, "No space left on device")
            os.fsync(file)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {path}: {reason}; choose a file that is writable and has room."
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        yield file
    finally:
        os.close(file)


def _check_header(file, path):
    os.lseek(file, 0, os.SEEK_SET)
    expected = _HEADER.encode()
    if os.read(file, len(expected)) != expected:
        raise InputError(f"{path} is no file of reviews: choose another name.")


def latest(path: str | Path) -> pd.DataFrame:
    """Read a file of reviews as a predictions table: of each patch, what was said last.

    Returns:
        Columns `id`, `label` (the reviewers'), `probability` (the model's) and the others.

    Raises:
        InputError: no such file, or its content cannot be evaluated, such as one class only.
    """
    table = evaluation.read_table(path)
    if "id" in table:
        table = table.drop_duplicates("id", keep="last").reset_index(drop=True)
    return evaluation.check_predictions(table, str(path))
