"""Files of named tensors, read without the framework that wrote them: PyTorch's and safetensors."""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from pcam_tf.errors import InputError, first_line, missing_extra
from pcam_tf.files import check_no_pointer


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a file of tensors: `torch.save`'s, zipped or of the older form, or safetensors'.

    No code in the file is run: whatever a pickle names besides tensors is refused.

    Returns:
        Tensor name -> array in the dtype of the file. Names of nested dictionaries are joined by
        dots: `{"teacher": {"cls_token": ...}}` gives `teacher.cls_token`. What is no tensor, such
        as the number of an epoch, is left out.

    Raises:
        InputError: the file is missing, damaged, of another kind, or holds other objects than
            tensors, numbers and texts; or safetensors is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}: give the file of an encoder's weights.")
    check_no_pointer(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        if zipfile.is_zipfile(path):
            return _read_zipped(path)
        return _read_legacy(path)
    except Exception as error:  # a damaged pickle raises whatever its reader meets
        raise InputError(
            f"{path} is not a PyTorch file of tensors ({first_line(error)}): give a state "
            "dictionary that torch.save wrote, or a .safetensors file."
        ) from error


def _read_safetensors(path):
    try:
        from safetensors import SafetensorError, numpy
    except ImportError as error:
        raise missing_extra("safetensors", "transformers") from error
    try:
        return numpy.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a safetensors file ({first_line(error)}).") from error


class _View(NamedTuple):
    """A tensor as a pickle names it: the key, dtype and elements of its storage, and the view."""

    storage: tuple
    offset: int
    shape: tuple
    strides: tuple


_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class _TensorUnpickler(pickle.Unpickler):
    """Admits what a plain file of tensors needs, and nothing else: a pickle can run any code."""

    ALLOWED = {  # noqa: RUF012
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: _View(
            storage, offset, shape, strides
        ),
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        **{("torch", name): np.dtype(dtype) for name, dtype in _DTYPES.items()},
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")
        return self.ALLOWED[module, name]

    def persistent_load(self, saved_id):
        _, dtype, key, _, size, *_ = saved_id
        return key, dtype, size


def _read_zipped(path):
    """Read torch.save's form since 1.6: a zip of one pickle and one file a storage."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        pickled = next(name for name in names if name.endswith("data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in names and archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(pickled) as file:
            views = _named_views(_TensorUnpickler(file).load())
        storages = {}
        for key, dtype, size in {view.storage for view in views.values()}:
            content = archive.read(f"{folder}data/{key}")
            storages[key] = np.frombuffer(content, dtype, size)
    return {name: _tensor(view, storages) for name, view in views.items()}


def _read_legacy(path):
    """Read torch.save's form before 1.6.

    The file holds, one after the other: three header pickles, a pickle of named tensors that refer
    to storages by key, a pickle of the keys, then each storage as its element count (int64) and its
    raw little-endian elements.
    """
    with path.open("rb") as file:
        for _ in range(3):
            _TensorUnpickler(file).load()
        views = _named_views(_TensorUnpickler(file).load())
        dtypes = {view.storage[0]: view.storage[1] for view in views.values()}
        storages = {}
        for key in _TensorUnpickler(file).load():
            count = int(np.fromfile(file, "<i8", 1)[0])
            storages[key] = np.fromfile(file, dtypes[key], count)
            if storages[key].size != count:
                raise EOFError("storage cut short")
    return {name: _tensor(view, storages) for name, view in views.items()}


def _named_views(tree) -> dict[str, _View]:
    if not isinstance(tree, dict):
        raise ValueError("it holds no dictionary of named tensors")
    views = {}
    for name, value in tree.items():
        if isinstance(value, _View):
            views[str(name)] = value
        elif isinstance(value, dict):
            nested = _named_views(value)
            views |= {f"{name}.{inner}": view for inner, view in nested.items()}
    return views


def _tensor(view, storages):
    key, dtype, _ = view.storage
    # Unlike as_strided, this checks that the tensor lies within its storage.
    return np.ndarray(
        view.shape,
        dtype=dtype,
        buffer=storages[key],
        offset=view.offset * dtype.itemsize,
        strides=[stride * dtype.itemsize for stride in view.strides],
    ).copy()
