"""From picture files to a predictions table, without TensorFlow."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.files import check_name
from pcam_tf.models import engines
from pcam_tf.models.engines import Engine
from pcam_tf.prediction import tables

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def predict_images(
    model: Engine, paths: Iterable[str | Path], *, test_time_augmentation: bool = False
) -> pd.DataFrame:
    """Return the predictions table of image files; `label` is empty, `id` is the file's name.

    Args:
        model: a classifier.
        paths: PNG, JPEG or TIFF files, or folders of such files, at the microns per pixel of the
            model's task. A larger picture is cropped to its centre patch, with a warning.
        test_time_augmentation: average over the eight views of D4.

    Raises:
        InputError: no picture found, one cannot be read (see `image_files.opened`), is smaller
            than a patch, or two have the same name.
    """
    files, side_px = picture_files(paths), engines.task_of(model).side_px
    cropped = 0

    def batches():
        nonlocal cropped
        for first in range(0, len(files), tables.BATCH_SIZE):
            chosen = files[first : first + tables.BATCH_SIZE]
            patches, sizes = zip(*(_read_patch(path, side_px) for path in chosen), strict=True)
            cropped += sum(size != (side_px, side_px) for size in sizes)
            yield {
                "id": [path.name for path in chosen],
                "image": np.stack(patches),
                "label": pd.array([pd.NA] * len(chosen), dtype="Int64"),
            }

    table = tables.predict(
        model, batches(), total=len(files), test_time_augmentation=test_time_augmentation
    )
    if cropped:
        warnings.warn(
            f"{cropped} of {len(files)} pictures are larger than {side_px}×{side_px} px: only "
            "the centre of each was read.",
            stacklevel=2,
        )
    return table


def picture_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the picture files among paths and, sorted, in folders among them.

    Raises:
        InputError: there is none, a path does not exist or is not UTF-8, or two files have the
            same name.
    """
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
            if not inside:
                raise InputError(f"{path} holds no PNG, JPEG or TIFF file.")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"there is no file {path}.")
    if not files:
        raise InputError("no picture was given: give PNG, JPEG or TIFF files, or folders of them.")
    for path in files:
        check_name(path)
    names = pd.Series([path.name for path in files], dtype="str")
    if names.duplicated().any():
        twice = names[names.duplicated()].iloc[0]
        raise InputError(f"two files are called {twice}: the name is the id, so rename one.")
    return files


def _read_patch(path, side_px):
    """Return the centre patch of a picture, uint8 (side, side, 3), and the picture's size."""
    with image_files.opened(path) as picture:
        size = picture.size
        # Before anything is decoded.
        if min(size) < side_px:
            raise InputError(
                f"{path} is {size[0]}×{size[1]} px: a patch has {side_px}×{side_px} px."
            )
        return centre(np.asarray(image_files.as_rgb(picture)), side_px), size


def centre(picture: np.ndarray, side_px: int) -> np.ndarray:
    """Return the centre patch of a picture (height, width, channels) that is not smaller."""
    top, left = ((side - side_px) // 2 for side in picture.shape[:2])
    return picture[top : top + side_px, left : left + side_px]
