"""Writes what torch.save writes, zipped or of the older form, without PyTorch."""

import collections
import pickle
import sys
import types
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

KINDS = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "V2": "BFloat16Storage"}


class View(NamedTuple):
    """A tensor: a view of a storage, which is an array of one dimension."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple


def arrays(tensors: Mapping) -> dict:
    """Return a whole view, float32 unless its dtype is given, of each array of a (nested) dict."""

    def view(array):
        if isinstance(array, Mapping):
            return arrays(array)
        if not isinstance(array, np.ndarray):
            return array
        array = array.astype("<f4") if array.dtype == "f8" else array
        strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
        return View(array.reshape(-1), 0, array.shape, strides)

    return {name: view(array) for name, array in tensors.items()}


@contextmanager
def _stand_in_for_torch():
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in KINDS.values():
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*_):
        raise NotImplementedError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch, _rebuild_tensor_v2
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _dump(tree, file, torch, rebuild):
    """Pickle a tree of views; return key -> storage."""
    storages = {}

    class Reference:
        def __init__(self, storage):
            self.key = next((k for k, each in storages.items() if each is storage), None)
            if self.key is None:
                self.key = str(len(storages))
                storages[self.key] = storage

    class Tensor:
        def __init__(self, view):
            self.view = view

        def __reduce__(self):
            storage, offset, shape, strides = self.view
            hooks = collections.OrderedDict()
            return rebuild, (Reference(storage), offset, shape, strides, False, hooks)

    class Pickler(pickle.Pickler):
        def persistent_id(self, each):
            if not isinstance(each, Reference):
                return None
            storage = storages[each.key]
            kind = getattr(torch, KINDS[storage.dtype.str[1:]])
            return "storage", kind, each.key, "cpu", storage.size

    def tensors(each):
        if isinstance(each, View):
            return Tensor(each)
        if isinstance(each, Mapping):
            return collections.OrderedDict((name, tensors(value)) for name, value in each.items())
        return each

    Pickler(file, protocol=2).dump(tensors(tree))
    return storages


def write_legacy(path: Path, tree: Mapping) -> Path:
    """Write what torch.save wrote before it zipped."""
    with _stand_in_for_torch() as torch, path.open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        storages = _dump(tree, file, *torch)
        pickle.dump(sorted(storages), file, protocol=2)
        for key in sorted(storages):
            np.array([storages[key].size], "<i8").tofile(file)
            storages[key].tofile(file)
    return path


def write_zipped(path: Path, tree: Mapping, byteorder: str = "little") -> Path:
    """Write what torch.save has written since 1.6."""
    with _stand_in_for_torch() as torch, zipfile.ZipFile(path, "w") as archive:
        with archive.open("weights/data.pkl", "w") as file:
            storages = _dump(tree, file, *torch)
        archive.writestr("weights/byteorder", byteorder)
        for key, storage in storages.items():
            archive.writestr(f"weights/data/{key}", storage.tobytes())
    return path
