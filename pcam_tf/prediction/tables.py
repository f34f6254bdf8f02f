"""From a classifier and patches to a predictions table: a row a patch.

Columns are `id`, `label` and `probability` (of the second of two classes) or, with more classes,
`id`, `label` and a `probability_<class>` for each.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tqdm

from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.models import engines
from pcam_tf.models.engines import Engine
from pcam_tf.task import Task

BATCH_SIZE = 128
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def d4_views(patches: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the eight symmetric views (dihedral group D4) of patches (n, side, side, channels)."""
    for turned in (patches, np.swapaxes(patches, 1, 2)):
        for vertical in (1, -1):
            for horizontal in (1, -1):
                yield turned[:, ::vertical, ::horizontal]


def probabilities(
    model: Engine, patches: np.ndarray, *, test_time_augmentation: bool = False
) -> np.ndarray:
    """Return the probabilities of patches, float64.

    Args:
        model: a classifier, see `engines.load` and `classifier.load`.
        patches: (n, side, side, 3), RGB 0..255.
        test_time_augmentation: average over the eight views of D4.

    Returns:
        (n,), of the second of two classes, or (n, classes).
    """
    views = np.concatenate(list(d4_views(patches))) if test_time_augmentation else patches
    predictions = np.concatenate(
        [
            np.asarray(model.predict_on_batch(views[first : first + BATCH_SIZE].astype("float32")))
            for first in range(0, len(views), BATCH_SIZE)
        ]
    )
    outputs = engines.task_of(model).outputs
    by_view = predictions.reshape(-1, len(patches), outputs).mean(axis=0, dtype="float64")
    return by_view[:, 0] if outputs == 1 else by_view


def predict(
    model: Engine,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    total: int,
    test_time_augmentation: bool = False,
) -> pd.DataFrame:
    """Return the predictions table of batches of patches.

    Args:
        model: a classifier.
        batches: dictionaries of `id` (n,), `image` (n, side, side, 3) and `label` (n,) arrays.
        total: the number of patches, for the progress bar.
        test_time_augmentation: average over the eight views of D4.

    Returns:
        Columns `id`, `label` and those of the probabilities, a row a patch, in the order of the
        batches.
    """
    tables, columns = [], engines.task_of(model).probability_columns
    with tqdm.tqdm(total=total, desc="predicting", unit="patch") as bar:
        for batch in batches:
            predicted = probabilities(
                model, batch["image"], test_time_augmentation=test_time_augmentation
            )
            by_column = zip(columns, predicted.reshape(len(predicted), -1).T, strict=True)
            tables.append(
                pd.DataFrame({"id": batch["id"], "label": batch["label"], **dict(by_column)})
            )
            bar.update(len(batch["id"]))
    return pd.concat(tables, ignore_index=True)


def average(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the predictions table whose log-odds are the mean of those of several models.

    With more than two classes the logarithms of the probabilities are averaged, and the result is
    scaled so that the probabilities of a patch add up to 1.

    Args:
        tables: predictions tables of the same patches in the same order, one a model.

    Raises:
        InputError: the tables are of different classes.
    """
    columns = [name for name in tables[0] if name.startswith("probability")]
    if any(
        columns != [name for name in table if name.startswith("probability")] for table in tables
    ):
        raise InputError("the models have different classes: average models of one task.")
    # A probability of 0 or 1 would outvote every other model.
    clipped = np.clip(np.stack([table[columns].to_numpy() for table in tables]), 1e-6, 1 - 1e-6)
    # Not above: importing it takes longer than predicting some dozens of patches.
    import scipy.special

    if len(columns) == 1:
        means = scipy.special.expit(scipy.special.logit(clipped).mean(axis=0))
    else:
        means = scipy.special.softmax(np.log(clipped).mean(axis=0), axis=-1)
    return tables[0].assign(**dict(zip(columns, means.T, strict=True)))


def predict_split(
    model: Engine,
    builder,
    split: str,
    *,
    test_time_augmentation: bool = False,
    rows: slice | None = None,
) -> pd.DataFrame:
    """Return the predictions table of a split (or a slice such as "test[:100]") of a source.

    With `rows`, only those rows of it.

    Raises:
        InputError: there is no such split, a record of it is damaged, or the source is of another
            task than the model.
    """
    # Not above: it imports TensorFlow, which pictures are predicted without.
    from pcam_tf import data

    _refuse_another_task(engines.task_of(model), data.task_of(builder))
    return predict(
        model,
        data.arrays(data.batches(builder, split, batch_size=BATCH_SIZE, rows=rows)),
        total=rows.stop - rows.start if rows else data.count(builder, split),
        test_time_augmentation=test_time_augmentation,
    )


def _refuse_another_task(of_model, of_patches):
    if (of_model.shape, of_model.classes) == (of_patches.shape, of_patches.classes):
        return
    raise InputError(
        f"the model is of {_described(of_model)} and the patches are of {_described(of_patches)}: "
        "choose a model and a data directory of one task."
    )


def _described(task: Task) -> str:
    return f"{task.name} ({task.side_px} px; {', '.join(task.classes)})"


def predict_run(run_dir: str | Path, builder, *, test_time_augmentation: bool) -> None:
    """Write the predictions tables of a finished run's two models on validation and test.

    `predictions-<split>.csv` is of the run's result, `model.keras`, and
    `predictions-frozen-<split>.csv` of the best model of the frozen phase, where there was one.

    Raises:
        InputError: the run lacks a model, or the source a split.
    """
    from pcam_tf.models import classifier

    run_dir = Path(run_dir)
    for file, name in (
        ("model-frozen.keras", "predictions-frozen"),
        ("model.keras", "predictions"),
    ):
        if name == "predictions-frozen" and not (run_dir / file).is_file():
            continue
        model = classifier.load(run_dir / file)
        for split in ("validation", "test"):
            table = predict_split(
                model, builder, split, test_time_augmentation=test_time_augmentation
            )
            write(table, run_dir / f"{name}-{split}.csv")


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
        for first in range(0, len(files), BATCH_SIZE):
            chosen = files[first : first + BATCH_SIZE]
            patches, sizes = zip(*(_read_patch(path, side_px) for path in chosen), strict=True)
            cropped += sum(size != (side_px, side_px) for size in sizes)
            yield {
                "id": [path.name for path in chosen],
                "image": np.stack(patches),
                "label": pd.array([pd.NA] * len(chosen), dtype="Int64"),
            }

    table = predict(
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
        InputError: there is none, a path does not exist, or two files have the same name.
    """
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES
            )
            if not inside:
                raise InputError(f"{path} holds no PNG, JPEG or TIFF file.")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"there is no file {path}.")
    if not files:
        raise InputError("no picture was given: give PNG, JPEG or TIFF files, or folders of them.")
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


def write(table: pd.DataFrame, path: str | Path) -> None:
    """Write a predictions table as CSV, whole or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.7g")
