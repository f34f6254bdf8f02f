import errno
import json
import os

import pytest

from pcam_tf import errors, files
from pcam_tf.errors import InputError


def test_unknown_suggests_the_nearest_in_any_case_and_lists_all():
    error = errors.unknown("backbone", "mobilenetv3smal", ["Xception", "MobileNetV3Small"])
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)
    assert str(error) == (
        "unknown backbone 'mobilenetv3smal': did you mean 'MobileNetV3Small'? "
        "There are: MobileNetV3Small, Xception."
    )


def test_unknown_suggests_nothing_if_nothing_is_near():
    assert "did you mean" not in str(errors.unknown("split", "holdout", ["train", "test"]))


def test_a_missing_extra_is_named_with_its_command():
    error = errors.missing_extra("shap", "explain")
    assert isinstance(error, InputError)
    assert str(error) == "shap is not installed: run `pip install 'pcam_tf[explain]'`."


def test_a_file_appears_only_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.weights.h5"
    with files.written_whole(path) as temporary:
        # In the same folder, so that the renaming is atomic; Keras looks at the suffixes.
        assert temporary.parent == path.parent
        assert temporary.name.endswith("table.weights.h5")
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path, stop):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(stop), files.written_whole(path) as temporary:
        temporary.write_text("half")
        raise stop
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with (
        pytest.raises(InputError, match=f"cannot write {path}: {os.strerror(errno.ENOSPC)}"),
        files.written_whole(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_impossible_path_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "table.csv", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot write") as caught:
            files.write_json(path, {})
        assert "\n" not in str(caught.value)
    assert {each.name for each in tmp_path.iterdir()} == {"file", "folder"}


def test_json_rereads_and_keeps_the_order_of_its_keys(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"text": "0.97 µm"}}
    files.write_json(tmp_path / "report.json", content)
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read == content
    assert list(read) == ["b", "a"]


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "report.json", {"set": {1}})
    assert not list(tmp_path.iterdir())
