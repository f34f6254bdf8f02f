"""Predictions tables: read, check, and ask for their classes, probabilities and errors.

A table has the columns `id` and `label`, and may have `group`, the slide or patient that a patch
comes from. With two classes, `label` is 0 or 1 and `probability` is that of the second class. With
k > 2 classes, `label` is 0 to k - 1 and each class has a column `probability_<class>`; the order of
these columns is the order of the classes. The functions below `check_predictions` expect a table
that it has checked.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf import task
from pcam_tf.errors import InputError, first_line
from pcam_tf.files import printable
from pcam_tf.task import PCAM, Task
from pcam_tf.user_tables import numbers, read_csv_as_text

PREFIX = "probability_"
# Probabilities that were rounded to a few digits need not add up to 1 exactly.
SUM_TOLERANCE = 0.01
# Slides of Camelyon16 whose outlines are known to be wrong or incomplete, as the notes that come
# with the data say (G. Litjens et al., GigaScience 7, 2018).
LABEL_FAULTS = ("normal_86", "test_49", "test_114")


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check a predictions table, a CSV file of any program.

    Returns:
        Columns `id` (text), `label` (int64), the probabilities (float64) and, if there, `group`
        (text).

    Raises:
        InputError: no such file, no table (see `read_csv_as_text`), or its content cannot be
            evaluated (see `check_predictions`).
    """
    return check_predictions(_read_texts(path), str(path))


def _read_texts(path):
    """Return a table as texts, so that ids and groups such as NA, 007 or a date stay as they are.

    Empty cells are missing values.
    """
    if not Path(path).exists():
        raise InputError(f"there is no predictions table {printable(path)}.")
    table = read_csv_as_text(path, ("id", "label", "probability", "group", "hospital"))
    table = table.rename(
        columns={
            column: PREFIX + column[len(PREFIX) :]
            for column in table
            if column.lower().startswith(PREFIX)
        }
    )
    return table.where(table.apply(lambda texts: texts.str.strip() != ""))


def task_of(path: str | Path) -> Task | None:
    """Return the task of the run in whose folder a table lies; None where no run says its task.

    It is read from `recipe.json` beside the table. Runs of earlier versions record no task.

    Args:
        path: the predictions table; it need not exist.

    Raises:
        InputError: `recipe.json` is no recipe.
    """
    recipe = Path(path).with_name("recipe.json")
    if not recipe.is_file():
        return None
    try:
        recorded = json.loads(recipe.read_text(encoding="utf-8")).get("task")
        return task.from_json(recorded) if recorded else None
    except (OSError, ValueError, AttributeError, InputError) as error:
        raise InputError(f"{recipe} is not a recipe ({first_line(error)}).") from error


def check_predictions(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a predictions table with its types made right, or say what is wrong with it.

    Args:
        table: what is claimed to be a predictions table.
        name: what to call it in a message.

    Raises:
        InputError: a missing column, a repeated or empty id, a label that is no class, a
            probability that is not a number in 0..1, probabilities of more than two classes that
            do not add up to 1, an empty group, or only one class.
    """
    columns = probability_columns(table)
    _refuse_missing_columns(table, columns, name)
    table = table.copy()
    ids = table["id"].astype("str").where(table["id"].notna())
    labels = _as_numbers(table["label"])
    probabilities = table[columns].apply(_as_numbers)
    checks = [
        (ids.isna(), "an empty id: give each patch one"),
        (ids.duplicated(), "an id for the second time: each patch has one row"),
        *_label_checks(labels, columns),
        *_probability_checks(probabilities),
    ]
    if "group" in table:
        checks.append(
            (table["group"].isna(), "an empty group: give each patch its slide or patient")
        )
    for wrong, what in checks:
        if wrong.any():
            row = int(np.argmax(wrong.to_numpy()))
            raise InputError(f"{name}, row {row + 1} (id {table['id'].iloc[row]}): {what}.")
    if labels.nunique() < 2:
        raise InputError(f"{name} holds one class only: AUC needs patches of two classes.")
    return table.assign(
        id=ids,
        label=labels.astype("int64"),
        **{column: probabilities[column].astype("float64") for column in columns},
    )


def _as_numbers(column):
    """Return numbers, or texts of numbers, as float64; NaN for what is neither."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype("float64")
    return numbers(column.astype("str").where(column.notna(), ""))


def _refuse_missing_columns(table, columns, name):
    missing = [column for column in ("id", "label", *columns) if column not in table]
    if missing:
        raise InputError(
            f"{name} has no column {missing[0]!r}: a predictions table has id,label,probability, "
            f"or with more than two classes id,label,{PREFIX}<class>, a column for each class."
        )
    if table["label"].isna().all():
        raise InputError(f"{name} has no labels: only patches whose truth is known are evaluated.")


def _label_checks(labels, columns):
    if len(columns) == 1:
        return [(~labels.isin([0, 1]), "a label other than 0 and 1, the numbers of the classes")]
    last = len(columns) - 1
    return [
        (~labels.isin(range(len(columns))), f"a label other than the whole numbers 0 to {last}")
    ]


def _probability_checks(probabilities):
    checks = [
        (probabilities.isna().any(axis=1), "a probability that is no number"),
        (
            ~((probabilities >= 0) & (probabilities <= 1)).all(axis=1),
            "a probability outside 0..1",
        ),
    ]
    if probabilities.shape[1] > 1:
        off = (probabilities.sum(axis=1) - 1).abs() > SUM_TOLERANCE
        checks.append((off, "probabilities that do not add up to 1"))
    return checks


def probability_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the columns of probabilities, in the order of the classes.

    `probability` unless the table has three or more columns `probability_<class>` instead.
    """
    several = [str(column) for column in table if str(column).startswith(PREFIX)]
    if "probability" in table or len(several) < 3:
        return ["probability"]
    return several


def is_binary(table: pd.DataFrame) -> bool:
    """Return whether a table is of two classes."""
    return "probability" in table


def classes_of(table: pd.DataFrame, classes: Sequence[str] = PCAM.classes) -> tuple[str, ...]:
    """Return the names of a table's classes.

    Args:
        table: a checked predictions table.
        classes: the names of two classes, which a table of two does not hold.

    Raises:
        InputError: the table is of two classes and `classes` are not two names.
    """
    if not is_binary(table):
        return tuple(column.removeprefix(PREFIX) for column in probability_columns(table))
    if len(classes) != 2:
        raise InputError(f"the table is of two classes, not of {len(classes)}: name two classes.")
    return tuple(classes)


def probabilities_of(table: pd.DataFrame) -> np.ndarray:
    """Return the probabilities, float64: (n,) of the second of two classes, else (n, classes)."""
    values = table[probability_columns(table)].to_numpy("float64")
    return values[:, 0] if is_binary(table) else values


def predicted_classes(table: pd.DataFrame, threshold: float = 0.5) -> np.ndarray:
    """Return the index of the predicted class of each patch, int64 (n,).

    Two classes: the second where its probability is at least `threshold`. More: the most probable
    class, the first of equally probable ones.
    """
    probabilities = probabilities_of(table)
    if is_binary(table):
        return (probabilities >= threshold).astype("int64")
    return probabilities.argmax(axis=1)


def one_against_rest(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return, for each class that has patches, the table of two classes: it or any other.

    Args:
        table: a checked predictions table of more than two classes.

    Returns:
        The class -> a table with `id`, `label` (1: the class), `probability` (of the class) and,
        if there, `group`. Functions for two classes take such tables.
    """
    kept = [column for column in ("id", "group") if column in table]
    return {
        name: table[kept].assign(
            label=(table["label"] == index).astype("int64"), probability=table[PREFIX + name]
        )
        for index, name in enumerate(classes_of(table))
        if (table["label"] == index).any()
    }


def confident_errors(
    predictions: pd.DataFrame,
    count: int,
    threshold: float = 0.5,
    classes: Sequence[str] = PCAM.classes,
) -> pd.DataFrame:
    """Return the errors that the model was most sure of, the worst first.

    With two classes these are the errors furthest from the threshold; with more, those with the
    highest probability of the predicted class.

    Args:
        predictions: a checked predictions table.
        count: how many errors at most.
        threshold: from which on a patch is predicted to be of the second of two classes.
        classes: the names of two classes, which a table of two does not hold.

    Returns:
        Rows of the table with a column `error`: "missed tumour" or "false alarm"; with more than
        two classes the true and the predicted class, such as "lobular predicted as ductal".
    """
    names = np.array(classes_of(predictions, classes))
    labels = predictions["label"].to_numpy()
    predicted = predicted_classes(predictions, threshold)
    probabilities = probabilities_of(predictions)
    if is_binary(predictions):
        distance = np.abs(probabilities - threshold)
        kinds = np.where(labels == 1, f"missed {names[1]}", "false alarm")
    else:
        distance = probabilities.max(axis=1)
        pairs = zip(names[labels], names[predicted], strict=True)
        kinds = np.array([f"{truth} predicted as {other}" for truth, other in pairs])
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-distance[wrong], kind="stable")][:count]
    return predictions.iloc[order].assign(error=kinds[order])


def label_faults(predictions: pd.DataFrame) -> np.ndarray:
    """Return which patches come from a slide with known label faults, bool (n,).

    A slide is recognised by the end of its name in the column `group`, such as
    "camelyon16_test_049"; without groups, none is known.
    """
    if "group" not in predictions:
        return np.zeros(len(predictions), bool)
    parts = predictions["group"].astype("str").str.extract(r"(normal|tumor|test)_0*(\d+)$")
    return (parts[0] + "_" + parts[1]).isin(LABEL_FAULTS).to_numpy()
