"""From a classifier and patches to a predictions table: `id,label,probability`, a row a patch."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tqdm

from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.models.engines import Engine
from pcam_tf.models.model_files import PATCH_PX

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
    """Return the probability of tumour of each patch, (n,) float64.

    Args:
        model: a classifier, see `engines.load` and `classifier.load`.
        patches: (n, 96, 96, 3), RGB 0..255.
        test_time_augmentation: average over the eight views of D4, at eight times the cost.
    """
    views = np.concatenate(list(d4_views(patches))) if test_time_augmentation else patches
    predictions = [
        np.asarray(model.predict_on_batch(views[first : first + BATCH_SIZE].astype("float32")))
        for first in range(0, len(views), BATCH_SIZE)
    ]
    return np.concatenate(predictions).reshape(-1, len(patches)).mean(axis=0, dtype="float64")


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
        batches: dictionaries of `id` (n,), `image` (n, 96, 96, 3) and `label` (n,) arrays.
        total: the number of patches, for the progress bar.
        test_time_augmentation: average over the eight views of D4.

    Returns:
        Columns `id`, `label` and `probability`, a row a patch, in the order of the batches.
    """
    tables = []
    with tqdm.tqdm(total=total, desc="predicting", unit="patch") as bar:
        for batch in batches:
            tables.append(
                pd.DataFrame(
                    {
                        "id": batch["id"],
                        "label": batch["label"],
                        "probability": probabilities(
                            model, batch["image"], test_time_augmentation=test_time_augmentation
                        ),
                    }
                )
            )
            bar.update(len(batch["id"]))
    return pd.concat(tables, ignore_index=True)


def average(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the predictions table whose log-odds are the mean of those of several models.

    Args:
        tables: predictions tables of the same patches in the same order, one a model.
    """
    probabilities = np.stack([table["probability"].to_numpy() for table in tables])
    # Not above: importing it takes longer than predicting some dozens of patches.
    import scipy.special

    # A probability of 0 or 1 would outvote every other model.
    log_odds = scipy.special.logit(np.clip(probabilities, 1e-6, 1 - 1e-6))
    return tables[0].assign(probability=scipy.special.expit(log_odds.mean(axis=0)))


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
        InputError: there is no such split, or a record of it is damaged.
    """
    # Not above: it imports TensorFlow, which pictures are predicted without.
    from pcam_tf import data

    return predict(
        model,
        data.arrays(data.batches(builder, split, batch_size=BATCH_SIZE, rows=rows)),
        total=rows.stop - rows.start if rows else data.count(builder, split),
        test_time_augmentation=test_time_augmentation,
    )


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
        paths: PNG, JPEG or TIFF files, or folders of such files, at about 0.97 microns per pixel.
            A larger picture is cropped to its centre 96×96 px, with a warning.
        test_time_augmentation: average over the eight views of D4.

    Raises:
        InputError: no picture found, one cannot be read (see `image_files.opened`), is smaller
            than 96×96 px, or two have the same name.
    """
    files = picture_files(paths)
    cropped = 0

    def batches():
        nonlocal cropped
        for first in range(0, len(files), BATCH_SIZE):
            chosen = files[first : first + BATCH_SIZE]
            patches, sizes = zip(*(_read_patch(path) for path in chosen), strict=True)
            cropped += sum(size != (PATCH_PX, PATCH_PX) for size in sizes)
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
            f"{cropped} of {len(files)} pictures are larger than {PATCH_PX}×{PATCH_PX} px: only "
            "the centre of each was looked at.",
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


def _read_patch(path):
    """Return the centre 96×96 px of a picture, uint8 RGB, and the picture's size."""
    with image_files.opened(path) as picture:
        size = picture.size
        # Before anything is decoded.
        if min(size) < PATCH_PX:
            raise InputError(
                f"{path} is {size[0]}×{size[1]} px: a patch has {PATCH_PX}×{PATCH_PX} px."
            )
        return centre(np.asarray(image_files.as_rgb(picture))), size


def centre(picture: np.ndarray) -> np.ndarray:
    """Return the centre 96×96 px of a picture (height, width, channels) that is not smaller."""
    top, left = ((side - PATCH_PX) // 2 for side in picture.shape[:2])
    return picture[top : top + PATCH_PX, left : left + PATCH_PX]


def write(table: pd.DataFrame, path: str | Path) -> None:
    """Write a predictions table as CSV, whole or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.7g")
