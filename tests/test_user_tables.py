import gzip
import os
import threading

import pandas as pd
import pytest

from pcam_tf import user_tables
from pcam_tf.errors import InputError

COLUMNS = ("id", "label", "group")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("id,label\na,1\nb,0\n", [("a", "1"), ("b", "0")]),
        ("id;label\na;0,5\n", [("a", "0,5")]),
        ("id\tlabel\na b\t1\n", [("a b", "1")]),
        ("\ufeffid,label\na,1\n", [("a", "1")]),
        (" ID , Label\na, 1\n", [("a", "1")]),
        ("id,label,\na,1,\nb,0,\n", [("a", "1"), ("b", "0")]),
        ("id,label\na,1,\nb,0,\n", [("a", "1"), ("b", "0")]),
        (",id,label\n0,a,1\n1,b,0\n", [("a", "1"), ("b", "0")]),
        ("id,label\r\na,1\r\n\r\n", [("a", "1")]),
        ("\nid,label\na,1", [("a", "1")]),
        ('id,label\n"a,b",1\n', [("a,b", "1")]),
        ("id,label\n007,NA\nnull,None\n2020-01-01,\nnan,1e3\n",
         [("007", "NA"), ("null", "None"), ("2020-01-01", ""), ("nan", "1e3")]),
        ("id,label\n", []),
    ],
)  # fmt: skip
def test_every_cell_is_read_as_its_text(tmp_path, text, rows):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table = user_tables.read_csv_as_text(path, COLUMNS)
    assert list(table) == ["id", "label"]
    assert list(table.itertuples(index=False, name=None)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b",,\n", "is empty"),
        (b"id,ID\na,b\n", "two columns 'id'"),
        (b"id,label\na,0,5\n", "row 1: '5' stands in a column without a name"),
        (b"id,label,\na,1,\nb,0,x\n", "row 2: 'x' stands in a column without a name"),
        (b"id,label\na,1,2,3\n", "is not a CSV table"),
        (b'id,label\n"a,1\n', "is not a CSV table"),
        (b"id,label\n\xff,1\n", "not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_what_is_no_table_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        user_tables.read_csv_as_text(path, COLUMNS)
    assert "\n" not in str(caught.value) and "table.csv" in str(caught.value)


def test_packed_tables_pipes_and_what_is_not_there(tmp_path):
    packed, pipe = tmp_path / "table.csv.gz", tmp_path / "pipe"
    packed.write_bytes(gzip.compress(b"id\na\n"))
    assert list(user_tables.read_csv_as_text(packed)["id"]) == ["a"]
    packed.write_bytes(gzip.compress(b"id\na\n" * 99)[:-9])
    with pytest.raises(InputError, match="is not a CSV table"):
        user_tables.read_csv_as_text(packed)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=["id\na\n"])
    writer.start()
    assert list(user_tables.read_csv_as_text(pipe)["id"]) == ["a"]
    writer.join()
    with pytest.raises(InputError, match="there is no table"):
        user_tables.read_csv_as_text(tmp_path / "missing.csv")
    with pytest.raises(InputError, match="is not a CSV table"):
        user_tables.read_csv_as_text(tmp_path)


def test_numbers():
    found = user_tables.numbers(pd.Series(["0.5", " 0,25 ", "x", "", "1e-3"], dtype="str"))
    assert found.fillna(-1).tolist() == [0.5, 0.25, -1, -1, 1e-3]
