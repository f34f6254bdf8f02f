import pandas as pd
import pytest
from three_classes import SMALL, drawn

from pcam_tf import evaluation
from pcam_tf.errors import InputError

HEADER = "id,label,probability_a,probability_b,probability_c"
GOOD = ["x,0,0.2,0.3,0.5", "y,1,0.7,0.2,0.1", "z,2,0.1,0.1,0.8"]


def write(path, rows, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_table_of_three_classes_is_read_with_its_types(tmp_path):
    path = write(tmp_path / "t.csv", ["007,2.0,0,0,1,5", "8,0,1,0,0,5"], f"{HEADER},group")
    table = evaluation.read_predictions(path)
    assert table["id"].tolist() == ["007", "8"]
    assert table["group"].tolist() == ["5", "5"]
    assert table["label"].tolist() == [2, 0] and table["label"].dtype == "int64"
    probabilities = evaluation.probabilities_of(table)
    assert probabilities.tolist() == [[0, 0, 1], [1, 0, 0]] and probabilities.dtype == "float64"
    assert evaluation.classes_of(table) == ("a", "b", "c")
    assert evaluation.predicted_classes(table).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("w,0,0.2,0.3,", "a probability that is no number"),
        ("w,0,0.2,0.3,much", "a probability that is no number"),
        ("w,0,-0.2,0.3,0.9", "a probability outside 0..1"),
        ("w,0,0.2,0.3,1.1", "a probability outside 0..1"),
        ("w,0,0.2,0.3,0.4", "do not add up to 1"),
        ("w,3,0.2,0.3,0.5", "a label other than the whole numbers 0 to 2"),
        ("w,-1,0.2,0.3,0.5", "a label other than the whole numbers 0 to 2"),
        ("w,0.5,0.2,0.3,0.5", "a label other than the whole numbers 0 to 2"),
        ("w,a,0.2,0.3,0.5", "a label other than the whole numbers 0 to 2"),
        ("w,,0.2,0.3,0.5", "a label other than the whole numbers 0 to 2"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, says):
    path = write(tmp_path / "t.csv", [*GOOD, row])
    with pytest.raises(InputError) as caught:
        evaluation.read_predictions(path)
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(path), "row 4", "id w", says):
        assert words in message


def test_rounded_probabilities_are_accepted(tmp_path):
    path = write(tmp_path / "t.csv", [*GOOD, "w,1,0.333,0.333,0.333"])
    assert len(evaluation.read_predictions(path)) == 4


def test_one_class_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", ["x,1,0.2,0.3,0.5", "y,1,0.7,0.2,0.1"])
    with pytest.raises(InputError, match="one class only"):
        evaluation.read_predictions(path)


def test_two_columns_of_classes_are_no_table(tmp_path):
    path = write(tmp_path / "t.csv", ["x,1,0.2,0.8"], "id,label,probability_a,probability_b")
    with pytest.raises(InputError, match="no column 'probability'"):
        evaluation.read_predictions(path)


def test_a_table_of_two_classes_may_have_other_columns():
    table = pd.DataFrame({"id": ["x", "y"], "label": [0, 1], "probability": [0.1, 0.5]})
    table = table.assign(probability_a=0, probability_b=0, probability_c=0)
    table = evaluation.check_predictions(table, "mine")
    assert evaluation.classes_of(table) == ("normal", "tumour")
    assert evaluation.classes_of(table, ("benign", "malignant")) == ("benign", "malignant")
    assert evaluation.probabilities_of(table).tolist() == [0.1, 0.5]
    assert evaluation.predicted_classes(table).tolist() == [0, 1]


def test_the_input_is_left_as_it_was():
    table = drawn(20).assign(group="s")
    before = table.copy()
    evaluation.check_predictions(table, "mine")
    evaluation.report(table, validation=table)
    evaluation.confident_errors(table, 3)
    pd.testing.assert_frame_equal(table, before)
    assert SMALL.columns.tolist()[:2] == ["id", "label"]
