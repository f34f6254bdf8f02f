import pandas as pd
import pytest
from three_classes import SMALL, drawn

from pcam_tf import evaluation
from pcam_tf.errors import InputError

HEADER = "id,label,probability_a,probability_b,probability_c"
GOOD_OF_TWO = ["a,0,0.2", "b,1,0.7", "c,1,0.4"]
OF_TWO = pd.DataFrame({"id": ["a", "b"], "label": [0, 1], "probability": [0.2, 0.7]})
GOOD = ["x,0,0.2,0.3,0.5", "y,1,0.7,0.2,0.1", "z,2,0.1,0.1,0.8"]


def write(path, rows, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_read_predictions_makes_types_right(tmp_path):
    path = write(
        tmp_path / "table.csv",
        ["007,0,0,12", "8,1.0,1,12"],
        header="id,label,probability,group",
    )
    table = evaluation.read_predictions(path)
    assert table["id"].tolist() == ["007", "8"]
    assert table["group"].tolist() == ["12", "12"]
    assert table["label"].tolist() == [0, 1]
    assert table["label"].dtype == "int64"
    assert table["probability"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([*GOOD_OF_TWO, "d,0,"], ["row 4", "id d", "no number"]),
        ([*GOOD_OF_TWO, "d,0,likely"], ["row 4", "id d", "no number"]),
        ([*GOOD_OF_TWO, "d,0,1.01"], ["row 4", "id d", "outside 0..1"]),
        ([*GOOD_OF_TWO, "d,0,-0.01"], ["row 4", "id d", "outside 0..1"]),
        ([*GOOD_OF_TWO, "d,0,inf"], ["row 4", "id d", "outside 0..1"]),
        ([*GOOD_OF_TWO, "d,2,0.5"], ["row 4", "id d", "label other than 0"]),
        ([*GOOD_OF_TWO, "d,0.5,0.5"], ["row 4", "id d", "label other than 0"]),
        ([*GOOD_OF_TWO, "d,tumour,0.5"], ["row 4", "id d", "label other than 0"]),
        ([*GOOD_OF_TWO, "d,,0.5"], ["row 4", "id d", "label other than 0"]),
        ([*GOOD_OF_TWO, "b,0,0.5"], ["row 4", "id b", "second time"]),
        ([*GOOD_OF_TWO, ",0,0.5"], ["row 4", "empty id"]),
        (["a,,0.2", "b,,0.7"], ["no labels"]),
        ([], ["no labels"]),
        (["a,0,0.2", "b,0,0.7"], ["one class only", "AUC"]),
        (["a,1,0.2", "b,1,0.7"], ["one class only", "AUC"]),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, says):
    path = write(tmp_path / "table.csv", rows, "id,label,probability")
    with pytest.raises(InputError) as caught:
        evaluation.read_predictions(path)
    message = str(caught.value)
    assert "\n" not in message
    for words in [str(path), *says]:
        assert words in message


@pytest.mark.parametrize("column", ["id", "label", "probability"])
def test_a_missing_column_is_named(column):
    with pytest.raises(InputError, match=f"mine has no column '{column}'"):
        evaluation.check_predictions(OF_TWO.drop(columns=column), "mine")


def test_an_empty_group_is_named():
    table = drawn(4).assign(label=[0, 1, 0, 1], group=["x", "x", None, "y"])
    with pytest.raises(InputError, match=r"mine, row 3 \(id p2\): an empty group"):
        evaluation.check_predictions(table, "mine")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\x00\xff", b'id,label\n"a,0\n'])
def test_a_file_that_is_not_a_table_is_named(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        evaluation.read_predictions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no predictions table"):
        evaluation.read_predictions(tmp_path / "none.csv")
    with pytest.raises(InputError, match="not a CSV table"):
        evaluation.read_predictions(tmp_path)


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


@pytest.mark.parametrize(
    "content",
    [
        "id,label,probability,group\n007,0,0.25,NA\nNA,1,0.5,2026-11-26\nnull,1,1e0,None\n",
        "id;label;probability;group\n007;0;0,25;NA\nNA;1;0,5;2026-11-26\nnull;1;1;None\n",
        "id\tlabel\tprobability\tgroup\n"
        "007\t0\t0.25\tNA\nNA\t1\t0.5\t2026-11-26\nnull\t1\t1\tNone\n",
        "\ufeffID, Label, Probability, Group\n"
        "007, 0, 0.25, NA\nNA, 1, 0.5, 2026-11-26\nnull, 1, 1, None\n",
        "id,label,probability,group,,\r\n"
        "007,0,.25,NA,,\r\nNA,1,.5,2026-11-26,,\r\nnull,1,1,None,,\r\n",
    ],
    ids=["commas", "semicolons", "tabs", "mark, blanks and capitals", "trailing commas"],
)
def test_tables_of_any_program_are_read_with_their_texts(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode())
    table = evaluation.read_predictions(path)
    assert table["id"].tolist() == ["007", "NA", "null"]
    assert table["group"].tolist() == ["NA", "2026-11-26", "None"]
    assert table["label"].tolist() == [0, 1, 1]
    assert table["probability"].tolist() == [0.25, 0.5, 1.0]


def test_capitals_in_the_columns_of_classes_are_kept_after_the_prefix(tmp_path):
    path = write(tmp_path / "table.csv", GOOD, "Id,LABEL,Probability_A,PROBABILITY_b,probability_C")
    assert evaluation.classes_of(evaluation.read_predictions(path)) == ("A", "b", "C")


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        (["a,0,0.2", "b,1,0.7"], "id,label,probability,label", "two columns 'label'"),
        (
            ["a,0,0.2,x", "b,1,0.7,"],
            "id,label,probability",
            "'x' stands in a column",
        ),
    ],
)
def test_what_is_wrong_with_a_header_is_named(tmp_path, rows, header, says):
    with pytest.raises(InputError, match=says):
        evaluation.read_predictions(write(tmp_path / "table.csv", rows, header))
