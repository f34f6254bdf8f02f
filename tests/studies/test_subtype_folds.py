"""Folds that share no case, and splits of others."""

import numpy as np
import pandas as pd
import pytest

from pcam_tf.data import breakhis
from pcam_tf.errors import InputError
from pcam_tf.studies import subtype_folds, subtypes
from pcam_tf.task import Task


def table_of(cases=6, fields=4, classes=3):
    rows = [
        {"id": f"{label}-{case}-{field}", "label": label, "group": f"{label}-{case}",
         "patient": f"{label}-{case}AB", "magnification": 100}
        for label in range(classes) for case in range(cases) for field in range(fields)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("seed", range(3))
def test_folds_share_no_case_and_hold_every_class(seed):
    table = table_of()
    fold = subtype_folds.folds(table, 3, seed)
    assert subtype_folds.cut_cases(table, subtype_folds.splits_of(fold)) == []
    assert all(table["label"][fold == number].nunique() == 3 for number in range(3))
    assert np.array_equal(fold, subtype_folds.folds(table, 3, seed))
    leaky = subtype_folds.splits_of(subtype_folds.folds(table, 3, seed, by="image"))
    assert subtype_folds.cut_cases(table, leaky)
    with pytest.raises(InputError, match="a class has 6 cases, fewer than the 7 folds"):
        subtype_folds.folds(table, 7, seed)


def test_folds_of_others_are_read_by_patient(tmp_path):
    table = table_of(cases=2)
    given = table[["patient"]].drop_duplicates().assign(fold=[1, 2] * 3)
    given.to_csv(tmp_path / "folds.csv", index=False)
    first, second = subtype_folds.published(table, tmp_path / "folds.csv")
    assert table["patient"][first[1]].unique().tolist() == ["0-0AB", "1-0AB", "2-0AB"]
    assert np.array_equal(first[0], second[1]) and np.array_equal(first[1], second[0])
    given.iloc[1:].to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(InputError, match="lacks the patient '0-0AB'"):
        subtype_folds.published(table, tmp_path / "folds.csv")


def patients_table(patients):
    cases = [breakhis.case_of(patient) for patient in patients]
    ids = [f"SOB_B_F-{patient}-100-001" for patient in patients]
    return pd.DataFrame({"id": ids, "label": 0, "group": cases, "patient": patients})


def test_the_split_of_eva_holds_out_its_patients_and_cuts_cases():
    table = patients_table(["14-18842", "14-18842D", "14-19979", "14-23060CD", "14-25197"])
    ((train, held_out),) = subtype_folds.published(table, "eva")
    assert (train.tolist(), held_out.tolist()) == ([0, 4], [1, 2, 3])
    assert subtype_folds.cut_cases(table, [(train, held_out)]) == ["14-18842"]
    with pytest.raises(InputError, match="holds out all of the 3 fields, or none"):
        subtype_folds.published(table.iloc[1:4], "eva")


def test_official_folds_hold_out_a_patient_more_than_once(tmp_path):
    table = patients_table(["14-1", "14-2AB", "14-3"])
    for number, tested in enumerate(["14-1", "14-1", "14-2AB", "14-3", "14-3"], start=1):
        lines = [
            f"SOB_B_F-{each}-{X}-001.png|{X}|{number}|{'test' if each == tested else 'train'}"
            for each in table["patient"] for X in (40, 100)
        ]  # fmt: skip
        (tmp_path / f"dsfold{number}.txt").write_text("\n".join(lines) + "\n")
    splits = subtype_folds.published(table, tmp_path)
    assert [held_out.tolist() for _, held_out in splits] == [[0], [0], [1], [2], [2]]
    values = [np.full((len(held_out), 2), 0.5) for _, held_out in splits]
    binary = Task("two", ("a", "b"), side_px=128, mpp=None)
    stored = subtypes.predictions(table.assign(magnification=100), values, splits, binary)
    assert stored["id"].is_unique and stored["fold"].tolist() == [0, 1, 2, 3, 4]
    assert stored["id"][1] == "SOB_B_F-14-1-100-001@1"
    (tmp_path / "dsfold3.txt").write_text("SOB_B_F-14-1-100-001.png|100|3|test\n")
    with pytest.raises(InputError, match="lacks the patient '14-2AB'"):
        subtype_folds.published(table, tmp_path)
    (tmp_path / "dsfold3.txt").write_text("SOB_B_F-14-1-100-001.png,test\n")
    with pytest.raises(InputError, match=r"has the line .*png,test"):
        subtype_folds.published(table, tmp_path)
    (tmp_path / "dsfold3.txt").unlink()
    with pytest.raises(InputError, match=r"there is no .*dsfold3\.txt"):
        subtype_folds.published(table, tmp_path)
