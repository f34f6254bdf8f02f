"""Tables of a study and a tiny study of drawn subtypes."""

import numpy as np
import pandas as pd
import pytest

from pcam_tf.data import breakhis
from pcam_tf.errors import InputError
from pcam_tf.evaluation import predictions_table, reports
from pcam_tf.studies import field_features, subtype_tables, subtypes
from pcam_tf.synthetic import subtypes as drawn
from pcam_tf.task import Task


def drawn_task(classes):
    return Task("three", drawn.TASK.classes[:classes], side_px=128, mpp=None)


def table_of(cases=6, fields=4, classes=3):
    rows = [
        {"id": f"{label}-{case}-{field}", "label": label, "group": f"{label}-{case}",
         "patient": f"{label}-{case}AB", "magnification": 100}
        for label in range(classes) for case in range(cases) for field in range(fields)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_ids_and_groups_of_stored_predictions_stay_texts(tmp_path):
    table = table_of(cases=2).assign(id=lambda rows: "0" + rows["id"])
    table.loc[0, ["id", "group"]] = ["NA", "007"]
    rows = np.arange(len(table))
    values = [np.full((len(table), 3), 1 / 3)]
    stored = subtypes.predictions(table, values, [(rows[:0], rows)], drawn_task(3))
    stored.to_csv(tmp_path / "table.csv", index=False)
    read = subtypes.read(tmp_path / "table.csv")
    assert (read.loc[0, "id"], read.loc[0, "group"]) == ("NA", "007")
    assert read["id"].tolist() == table["id"].tolist()
    assert read["magnification"].dtype == read["fold"].dtype == "int64"


@pytest.mark.parametrize(("height", "width", "expected"), [(128, 128, 1), (147, 224, 4)])
def test_crops_cover_a_field(height, width, expected):
    field = np.arange(height * width * 3).reshape(height, width, 3)
    crops = field_features.crops(field, 128)
    assert crops.shape == (expected, 128, 128, 3)
    assert np.array_equal(crops[-1][-1, -1], field[-1, -1])
    with pytest.raises(InputError, match="smaller than a crop of 300 px"):
        field_features.crops(field, 300)


def test_a_study_of_drawn_subtypes_resumes_and_tells_them_apart(tmp_path):
    source = breakhis.write_fields(drawn.draw_fields(3, 2), tmp_path / "data", drawn.TASK)
    fields, table = breakhis.read_fields(source)
    names = ["colour and texture"]
    found = subtypes.study(
        drawn.TASK, fields, table, tmp_path / "run", names=names, seeds=(0,), count=3
    )
    again = subtypes.study(
        drawn.TASK, [], table, tmp_path / "run", names=names, seeds=(0,), count=3
    )
    honest = found["colour and texture", "case", 0]
    assert honest.equals(again["colour and texture", "case", 0])
    assert {"group", "magnification", "fold"} <= set(honest)
    predictions_table.check_predictions(honest, "the table")
    assert (predictions_table.predicted_classes(honest) == honest["label"]).mean() > 0.5
    (row,) = subtype_tables.gap_rows(found)
    assert row["method"] == "colour and texture"
    assert subtype_tables.summary_rows(found)[0]["top 2, cases"]
    (row,) = subtype_tables.magnification_rows(found, names[0])
    assert "| 100X          | 36     | 18 " in reports.markdown_table([row])
    with pytest.raises(InputError, match="another study"):
        subtypes.study(drawn.TASK, fields, table, tmp_path / "run", names=names, count=2)
    with pytest.raises(InputError, match="unknown method"):
        subtypes.study(drawn.TASK, fields, table, tmp_path / "run", names=["colour"], count=3)
