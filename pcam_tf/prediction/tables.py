"""From a classifier and patches to a predictions table: a row a patch.

Columns are `id`, `label` and `probability` (of the second of two classes) or, with more classes,
`id`, `label` and a `probability_<class>` for each.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tqdm

from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.models import engines, model_files
from pcam_tf.models.engines import Engine
from pcam_tf.prediction import views
from pcam_tf.task import Task

BATCH_SIZE = 128


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

    Raises:
        InputError: the model returns something else, see `engines.probabilities`.
    """
    seen = np.concatenate(list(views.d4_views(patches))) if test_time_augmentation else patches
    predictions = np.concatenate(
        [
            engines.probabilities(model, seen[first : first + BATCH_SIZE])
            for first in range(0, len(seen), BATCH_SIZE)
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
        InputError: the tables are of different classes, or hold something else than probabilities.
    """
    columns = [name for name in tables[0] if name.startswith("probability")]
    if any(
        columns != [name for name in table if name.startswith("probability")] for table in tables
    ):
        raise InputError("the models have different classes: average models of one task.")
    values = np.stack([table[columns].to_numpy("float64") for table in tables])
    if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
        raise InputError("a table to be averaged holds a probability outside 0..1, or none.")
    # A probability of 0 or 1 would outvote every other model.
    clipped = np.clip(values, 1e-6, 1 - 1e-6)
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

    With `rows`, only those rows of it. Where the source knows the slides of its patches, `group`
    names them, and `hospital` the hospital if that is known too, see `data.with_groups`.

    Raises:
        InputError: there is no such split, a record of it is damaged, or the source is of another
            task than the model.
    """
    # Not above: it imports TensorFlow, which pictures are predicted without.
    from pcam_tf import data

    _refuse_another_task(engines.task_of(model), data.task_of(builder))
    table = predict(
        model,
        data.arrays(data.batches(builder, split, batch_size=BATCH_SIZE, rows=rows)),
        total=rows.stop - rows.start if rows else data.count(builder, split),
        test_time_augmentation=test_time_augmentation,
    )
    return data.with_groups(table, builder)


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
    A run without an unfrozen phase has the latter only.
    `predictions-one-view-validation.csv`, and the same of the frozen phase, are for thresholds that
    are applied to a single view, as the web page does in a region.

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
        if name == "predictions" and model_files.is_frozen_only(run_dir):
            continue
        model = classifier.load(run_dir / file)
        for split in ("validation", "test"):
            table = predict_split(
                model, builder, split, test_time_augmentation=test_time_augmentation
            )
            write(table, run_dir / f"{name}-{split}.csv")
            if split == "validation":
                if test_time_augmentation:
                    table = predict_split(model, builder, split)
                write(table, run_dir / f"{name}-one-view-{split}.csv")


def for_kaggle(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as Kaggle's Histopathologic Cancer Detection takes it: `id`, `label`.

    `label` is the probability of the second class, and the id of a picture has no file ending.

    Raises:
        InputError: the table is of more than two classes.
    """
    if "probability" not in table:
        raise InputError("Kaggle's format is for two classes; the table has more: leave it out.")
    names = table["id"].str.replace(r"\.(png|jpe?g|tiff?)$", "", case=False, regex=True)
    return pd.DataFrame({"id": names, "label": table["probability"]})


def write(table: pd.DataFrame, path: str | Path) -> None:
    """Write a predictions table as CSV, whole or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.7g")
