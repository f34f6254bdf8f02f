"""Folds of fields: by case, at random, and those that others have published.

A split is a pair of row numbers: those that train and those that are held out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.model_selection

from pcam_tf.errors import InputError
from pcam_tf.user_tables import read_csv_as_text

Split = tuple[np.ndarray, np.ndarray]

EVA = "eva"
# The patients that kaiko-ai/eva holds out, without the year before the number
# (src/eva/vision/data/datasets/classification/breakhis.py; there with fields at 40X).
EVA_HELD_OUT = (
    *("18842D", "19979", "15275", "15792", "16875", "3909", "5287"),
    *("16716", "2773", "5695", "16184CD", "23060CD", "21998CD", "21998EF"),
)
# Spanhol et al.: a line is `name of the picture|magnification|fold|train or test`.
OFFICIAL_FILES = tuple(f"dsfold{number}.txt" for number in range(1, 6))


def folds(table: pd.DataFrame, count: int, seed: int, by: str = "case") -> np.ndarray:
    """Return the fold of each field, int64 (n,), with about the same classes in each.

    Args:
        table: columns `label` and `group`.
        count: number of folds.
        seed: of the shuffle.
        by: "case": a group lies in one fold. "image": fields are drawn one by one, which leaks.

    Raises:
        InputError: a class has fewer groups (or fields) than there are folds.
    """
    units = table["group"] if by == "case" else table.index.to_series()
    fewest = units.groupby(table["label"]).nunique().min()
    if fewest < count:
        raise InputError(f"a class has {fewest} {by}s, fewer than the {count} folds.")
    splitter = sklearn.model_selection.StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    fold = np.empty(len(table), "int64")
    parts = splitter.split(np.zeros(len(table)), table["label"], units)
    for number, (_, rows) in enumerate(parts):
        fold[rows] = number
    return fold


def splits_of(fold: np.ndarray) -> list[Split]:
    """Return the splits in which each fold is held out once."""
    return [
        (np.flatnonzero(fold != number), np.flatnonzero(fold == number))
        for number in np.unique(fold)
    ]


def published(table: pd.DataFrame, source: str | Path) -> list[Split]:
    """Return the splits of others. They may cut through cases, see `cut_cases`.

    Args:
        table: columns `id`, `label` and `patient`.
        source: "eva"; a folder with `dsfold1.txt` to `dsfold5.txt`, the official five, in which a
            patient may be held out several times; or a CSV with the columns patient and fold.

    Raises:
        InputError: no such source, a field or patient is missing in it, or no field is held out or
            trains.
    """
    if str(source) == EVA:
        number = table["patient"].str.split("-").str[-1]
        held_out = [number.isin(EVA_HELD_OUT).to_numpy()]
    elif Path(source).is_dir():
        held_out = [_official(table, Path(source) / name) for name in OFFICIAL_FILES]
    else:
        fold = _patients_folds(table, source)
        held_out = [fold == number for number in np.unique(fold)]
    for rows in held_out:
        if rows.all() or not rows.any():
            raise InputError(f"{source} holds out all of the {len(rows)} fields, or none.")
    return [(np.flatnonzero(~rows), np.flatnonzero(rows)) for rows in held_out]


def _official(table, path):
    """Return whether each field is held out by one of the five official files, bool (n,)."""
    if not path.is_file():
        raise InputError(f"there is no {path}: the official folds are {OFFICIAL_FILES[0]} to "
                         f"{OFFICIAL_FILES[-1]}.")  # fmt: skip
    parts = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        columns = [column.strip() for column in line.split("|")]
        if len(columns) != 4 or columns[3] not in ("train", "test"):
            raise InputError(f"{path} has the line {line[:60]!r}: not name|X|fold|train or test.")
        parts[_patient_of(columns[0])] = columns[3]
    missing = [patient for patient in table["patient"] if patient not in parts]
    if missing:
        raise InputError(f"{path} lacks the patient {missing[0]!r}.")
    return (table["patient"].map(parts) == "test").to_numpy()


def _patient_of(name):
    """Return the patient in a file name: "14-22549AB" of "SOB_B_A-14-22549AB-100-001.png"."""
    return "-".join(name.split("-")[1:3])


def _patients_folds(table, path):
    given = read_csv_as_text(path, ("patient", "fold"))
    if not {"patient", "fold"} <= set(given) or given["patient"].duplicated().any():
        raise InputError(f"{path} needs the columns patient and fold, each patient once.")
    fold = table["patient"].map(given.set_index("patient")["fold"])
    if fold.isna().any():
        raise InputError(f"{path} lacks the patient {table['patient'][fold.isna()].iloc[0]!r}.")
    return fold.astype("category").cat.codes.to_numpy("int64")


def cut_cases(table: pd.DataFrame, splits: Sequence[Split]) -> list[str]:
    """Return the cases that train and are held out in one split, which leaks."""
    groups = table["group"].to_numpy()
    return sorted({
        group for train, held_out in splits
        for group in set(groups[train]) & set(groups[held_out])
    })  # fmt: skip
