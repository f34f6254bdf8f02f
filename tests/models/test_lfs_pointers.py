"""A clone without Git LFS holds pointers in the place of files: every reader says so."""

import shutil

import pytest

from pcam_tf import data
from pcam_tf.data import hdf5, image_files
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, engines, model_files

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def load_export(folder):
    shutil.copy(model_files.SHIPPED_MODEL, folder / "model.keras")
    (folder / "model.litert").write_bytes(POINTER)
    engines.load(folder, "litert")


def load_weights(folder):
    path = folder / "a.weights.h5"
    path.write_bytes(POINTER)
    backbones._load_file(None, "MobileNetV2", path)


def prepare(folder):
    for word in hdf5.FILE_SPLITS.values():
        for key in "xy":
            (folder / f"camelyonpatch_level_2_split_{word}_{key}.h5").write_bytes(POINTER)
    hdf5.prepare_from_hdf5(folder, folder / "prepared")


def written(folder, name):
    path = folder / name
    path.write_bytes(POINTER)
    return path


READERS = {
    "model": lambda folder: classifier.load(written(folder, "model.keras")),
    "run": lambda folder: engines.load(written(folder, "model.keras").parent),
    "digest": lambda folder: model_files.digest(written(folder, "model.keras")),
    "export": load_export,
    "weights": load_weights,
    "HDF5": prepare,
    "picture": lambda folder: image_files.opened(written(folder, "a.png")).__enter__(),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_pointer_is_named_and_what_to_do(tmp_path, kind):
    with pytest.raises(InputError, match=r"is a Git LFS pointer.*git lfs pull") as error:
        READERS[kind](tmp_path)
    assert "\n" not in str(error.value)


def test_a_data_directory_of_pointers_is_named(prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    record = next(copy.rglob("*test.tfrecord*"))
    record.write_bytes(POINTER)
    with pytest.raises(InputError, match="is a Git LFS pointer"):
        data.open_source(copy)
