import builtins
import os
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_files
from torch_files import View

from pcam_tf.errors import InputError
from pcam_tf.models import tensor_files

FLOATS = np.arange(24, dtype="<f4")
INTEGERS = np.array([7, 8, 9], "<i8")
WRITERS = [torch_files.write_legacy, torch_files.write_zipped]
REFUSED = "is not a PyTorch file of tensors"


@pytest.mark.parametrize("write", WRITERS)
def test_strides_offsets_and_shared_storages_are_honoured(write, tmp_path):
    path = write(
        tmp_path / "tensors.pth",
        {
            "whole": View(FLOATS, 0, (2, 3, 4), (12, 4, 1)),
            "transposed": View(FLOATS, 2, (3, 2), (1, 3)),
            "expanded": View(FLOATS, 5, (2, 2), (0, 1)),
            "number": View(INTEGERS, 1, (), ()),
            "empty": View(FLOATS, 0, (0, 3), (3, 1)),
        },
    )
    read = tensor_files.read_tensors(path)
    np.testing.assert_array_equal(read["whole"], FLOATS.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], FLOATS[2:8].reshape(2, 3).T)
    np.testing.assert_array_equal(read["expanded"], [[5, 6], [5, 6]])
    assert read["number"] == 8 and read["number"].dtype == np.int64
    assert read["whole"].dtype == np.float32
    assert read["empty"].shape == (0, 3)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", ["<f2", ml_dtypes.bfloat16])
def test_half_precision_and_nested_dictionaries_are_read(write, dtype, tmp_path):
    tree = {"epoch": 7, "model": {"weight": np.array([1.5, -2], dtype), "name": "vit"}}
    read = tensor_files.read_tensors(write(tmp_path / "x.pth", torch_files.arrays(tree)))
    assert list(read) == ["model.weight"]
    np.testing.assert_array_equal(read["model.weight"].astype("f4"), [1.5, -2])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "view",
    [
        View(FLOATS, 0, (25,), (1,)),
        View(FLOATS, 20, (5,), (1,)),
        View(FLOATS, 0, (1000, 1000), (1000, 1)),
        View(FLOATS, 0, (2,), (-1,)),
        View(FLOATS, -1, (2,), (1,)),
        View(FLOATS, 0, (2, 3), (1,)),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(write, view, tmp_path):
    path = write(tmp_path / "x.pth", {"inside": View(INTEGERS, 0, (3,), (1,)), "outside": view})
    with pytest.raises(InputError, match=REFUSED):
        tensor_files.read_tensors(path)


@pytest.mark.parametrize("write", WRITERS)
def test_truncated_files_are_refused(write, tmp_path):
    path = write(tmp_path / "x.pth", {"whole": View(FLOATS, 0, (2, 3, 4), (12, 4, 1))})
    whole = path.read_bytes()
    tensor_files.read_tensors(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=REFUSED):
            tensor_files.read_tensors(path)


def test_missing_and_other_files_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    for content in (b"PK\x03\x04 a zipped one", b"text\n" * 99, pickle.dumps(None) * 9):
        path.write_bytes(content)
        with pytest.raises(InputError, match=REFUSED):
            tensor_files.read_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no pickle")
    with pytest.raises(InputError, match=REFUSED):
        tensor_files.read_tensors(path)
    big = torch_files.write_zipped(path, {"x": View(FLOATS, 0, (2,), (1,))}, byteorder="big")
    with pytest.raises(InputError, match="big-endian"):
        tensor_files.read_tensors(big)
    with pytest.raises(InputError, match=r"missing\.pth"):
        tensor_files.read_tensors(tmp_path / "missing.pth")


def test_safetensors_are_read_and_damaged_ones_refused(tmp_path, monkeypatch):
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    numpy.save_file({"weight": FLOATS}, path)
    np.testing.assert_array_equal(tensor_files.read_tensors(path)["weight"], FLOATS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="is not a safetensors file"):
        tensor_files.read_tensors(path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"pcam_tf\[transformers\]"):
        tensor_files.read_tensors(path)


class Call:
    """Pickles as a call of a function, which unpickling would make."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("headers", [0, 3, "zipped"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, builtins.open])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, function, protocol, headers):
    """Whether it stands where the header should be or where the tensors should."""
    mark = tmp_path / "executed"
    arguments = {
        os.system: (f"touch {mark}",),
        builtins.open: (str(mark), "w"),
    }.get(function, (f"__import__('pathlib').Path({str(mark)!r}).touch()",))
    content = pickle.dumps(Call(function, *arguments), protocol=protocol)
    # It would run if the file were read without care.
    result = pickle.loads(content)
    if function is builtins.open:
        result.close()
    mark.unlink()

    path = tmp_path / "weights.pth"
    if headers == "zipped":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights/data.pkl", content)
    else:
        path.write_bytes(pickle.dumps(0) * headers + content)
    with pytest.raises(InputError, match="is not a tensor"):
        tensor_files.read_tensors(path)
    assert not mark.exists()
