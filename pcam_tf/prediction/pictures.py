"""From picture files to a predictions table, without TensorFlow."""

import collections
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.files import check_name, printable
from pcam_tf.models import engines
from pcam_tf.models.engines import Engine
from pcam_tf.prediction import tables
from pcam_tf.task import Task

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Messages about many files name so many of them.
_MOST_NAMED = 5
log = logging.getLogger(__name__)


def predict_images(
    model: Engine,
    paths: Iterable[str | Path],
    *,
    test_time_augmentation: bool = False,
    mpp: float | None = None,
    left_out: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Return the predictions table of image files; `label` is empty, `id` is the file's name.

    Each picture is rescaled to the microns per pixel of the model's task, as on the web page, and
    of a picture that is then larger than a patch the centre patch is read.

    Args:
        model: a classifier.
        paths: PNG, JPEG or TIFF files, or folders of such files.
        test_time_augmentation: average over the eight views of D4.
        mpp: microns per pixel of all pictures; None: as each file states, or else the task's.
        left_out: gets the names of pictures that show their damage only when they are decoded,
            and what is wrong; they have no row in the table. Without it, such a picture raises.

    Raises:
        InputError: no picture found, two have the same name, or one cannot be read or is smaller
            than a patch (see `image_files.read`). Headers of all files are checked first.
    """
    files, task = picture_files(paths), engines.task_of(model)
    check_headers(files, task, mpp)
    notes, damaged = collections.Counter(), {}

    def batches():
        for first in range(0, len(files), tables.BATCH_SIZE):
            read = {}
            for path in files[first : first + tables.BATCH_SIZE]:
                try:
                    read[path.name] = _read_patch(path, task, mpp, notes)
                except InputError as error:
                    if left_out is None:
                        raise
                    damaged[path.name] = str(error)
            if not read and len(damaged) == len(files):
                raise InputError(next(iter(damaged.values())))
            if read:
                yield {
                    "id": list(read),
                    "image": np.stack(list(read.values())),
                    "label": pd.array([pd.NA] * len(read), dtype="Int64"),
                }

    table = tables.predict(
        model, batches(), total=len(files), test_time_augmentation=test_time_augmentation
    )
    _say(notes, len(files))
    for error in damaged.values():
        warnings.warn(f"left out: {error}", stacklevel=2)
    if left_out is not None:
        left_out |= damaged
    return table


def _read_patch(path, task, mpp, notes):
    """Return the centre patch of a picture, uint8 (side, side, 3), and count its notes."""
    picture = image_files.read(path, task, mpp)
    notes.update(f": {each}" for each in picture.doubts)
    if picture.change:
        notes[f": {picture.change}"] += 1
    if picture.is_assumed:
        notes[f" without a usable scale: taken to have {task.mpp} microns per pixel"] += 1
    if picture.pixels.shape != task.shape:
        side = f"{task.side_px}×{task.side_px} px"
        notes[f" are larger than {side}: only the centre of each was read"] += 1
    return centre(picture.pixels, task.side_px)


def _say(notes, total):
    """Log what is usual, and warn of what is not; each with the number of pictures."""
    for text, count in notes.items():
        message = f"{count} of {total} pictures{text}."
        if text.startswith((": rescaled", " without")):
            log.info(message)
        else:
            warnings.warn(message, stacklevel=3)


def check_headers(files: Iterable[Path], task: Task, mpp: float | None = None) -> None:
    """Refuse files whose headers show that they cannot be read, before any work.

    Raises:
        InputError: one message for all such files, which names the first of them.
    """
    reasons = []
    for path in files:
        try:
            image_files.check(path, task, mpp)
        except InputError as error:
            reasons.append(str(error))
    if len(reasons) == 1:
        raise InputError(reasons[0])
    if reasons:
        listed = " ".join(reasons[:_MOST_NAMED])
        more = f" And {len(reasons) - _MOST_NAMED} more." if len(reasons) > _MOST_NAMED else ""
        raise InputError(f"{len(reasons)} pictures cannot be read: {listed}{more}")


def picture_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the picture files among paths and, sorted, in folders among them.

    Subfolders are not read. In a folder hidden files, folders named as pictures and dead links are
    left out, with a warning that counts them. A file that is given twice, also through a link, is
    one picture.

    Raises:
        InputError: there is none, a path does not exist or is not UTF-8, or two files have the
            same name.
    """
    paths = [Path(path) for path in paths]
    files = []
    for path in paths:
        if path.is_dir():
            inside = _files_in(path)
            nothing = f"{printable(path)} holds no PNG, JPEG or TIFF file"
            # A pattern such as `*.tif` also gives folders of such names.
            if not inside and not (path.suffix.lower() in SUFFIXES and len(paths) > 1):
                raise InputError(f"{nothing}; subfolders are not read.")
            if not inside:
                warnings.warn(f"{nothing}: it is a folder.", stacklevel=2)
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"there is no file {printable(path)}.")
    if not files:
        raise InputError("no picture was given: give PNG, JPEG or TIFF files, or folders of them.")
    for path in files:
        check_name(path)
    # A link stands behind the file that it leads to, so that the file's own name is the id.
    own = {path.resolve(): path for path in reversed(files)}
    own |= {path.resolve(): path for path in files if not path.is_symlink()}
    once = list(dict.fromkeys(own[path.resolve()] for path in files))
    if len(once) < len(files):
        warnings.warn(
            f"{len(files) - len(once)} pictures are given twice, also through links: each is read "
            "once.",
            stacklevel=2,
        )
    names = pd.Series([path.name for path in once], dtype="str")
    if names.duplicated().any():
        twice = names[names.duplicated()].iloc[0]
        raise InputError(f"two files are called {twice}: the name is the id, so rename one.")
    return once


def _files_in(folder):
    """Return the picture files of a folder, sorted, and say what else was left out."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {printable(folder)} ({error.strerror}).") from error
    files, skipped = [], collections.Counter()
    for path in inside:
        is_named = path.suffix.lower() in SUFFIXES
        if path.name.startswith("."):
            skipped["hidden"] += is_named
        elif path.is_dir():
            skipped["subfolders"] += 1
        elif not is_named:
            continue
        elif path.is_file():
            files.append(path)
        else:
            skipped["dead links or no ordinary files"] += 1
    listed = ", ".join(f"{count} {kind}" for kind, count in skipped.items() if count)
    if listed:
        warnings.warn(f"in {printable(folder)} were not read: {listed}.", stacklevel=3)
    return files


def centre(picture: np.ndarray, side_px: int) -> np.ndarray:
    """Return the centre patch of a picture (height, width, channels) that is not smaller."""
    top, left = ((side - side_px) // 2 for side in picture.shape[:2])
    return picture[top : top + side_px, left : left + side_px]
