import dataclasses
import gzip
import hashlib
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from pcam_tf import data
from pcam_tf.data import hdf5
from pcam_tf.errors import InputError

ROWS = {"train": 7, "valid": 5, "test": 4}
SPLIT_OF_WORD = {"train": "train", "valid": "validation", "test": "test"}


def name(word, key):
    return f"camelyonpatch_level_2_split_{word}_{key}.h5"


def write_h5(path, key, values, **storage):
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=values, **storage)


def pack(path):
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


@pytest.fixture
def source(tmp_path):
    """Six tiny files with the official names, and what is in them."""
    folder = tmp_path / "source"
    folder.mkdir()
    random = np.random.default_rng(0)
    content = {}
    for word, rows in ROWS.items():
        images = random.integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8)
        labels = np.arange(rows, dtype=np.uint8) % 2
        write_h5(folder / name(word, "x"), "x", images)
        write_h5(folder / name(word, "y"), "y", labels.reshape(-1, 1, 1, 1))
        content[word] = images, labels
    return folder, content


def assert_holds(data_dir, content):
    """Read by a plain tfds.load, compare every id, image and label with the HDF5 rows."""
    for word, (images, labels) in content.items():
        split = tfds.load(
            "patch_camelyon", split=SPLIT_OF_WORD[word], data_dir=data_dir, download=False
        )
        found = {row["id"].decode(): row for row in split.as_numpy_iterator()}
        assert set(found) == {f"{word}_{row}" for row in range(len(images))}
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            np.testing.assert_array_equal(found[f"{word}_{row}"]["image"], image)
            assert found[f"{word}_{row}"]["label"] == label


@pytest.mark.parametrize("packed", [False, True], ids=["h5", "h5.gz"])
def test_round_trip_through_plain_tfds(source, tmp_path, capfd, packed):
    folder, content = source
    if packed:
        for path in list(folder.iterdir()):
            pack(path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    finished = hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    output = capfd.readouterr()
    assert finished == tmp_path / "data" / "patch_camelyon" / "2.0.0"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["patch_camelyon"]
    assert [path.name for path in (tmp_path / "data" / "patch_camelyon").iterdir()] == ["2.0.0"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert output.out == ""
    lines = [line for line in output.err.replace("\r", "\n").split("\n") if line.strip()]
    assert "16/16" in lines[-1]
    assert all(line.startswith(("checking the HDF5", "preparing patch_")) for line in lines)
    assert_holds(tmp_path / "data", content)


def examples(path):
    """Return a file's examples in order; their bytes differ, since protobuf's maps have none."""
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    features = [tf.train.Example.FromString(record).features.feature for record in records]
    return [{key: of[key].SerializeToString() for key in sorted(of)} for of in features]


def test_same_files_as_the_official_builder(source, tmp_path):
    folder, _ = source
    made = hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    official = hdf5._Builder(data_dir=tmp_path / "official")
    paths = {f"{word}_{key}": folder / name(word, key) for word in ROWS for key in "xy"}
    official._split_generators = lambda dl_manager: {
        split: official._generate_examples(word, paths) for split, word in hdf5.FILE_SPLITS.items()
    }
    official.download_and_prepare()
    assert {path.name for path in made.iterdir()} == {p.name for p in official.data_path.iterdir()}
    for path in made.iterdir():
        theirs = Path(official.data_path) / path.name
        if ".tfrecord" in path.name:
            assert examples(path) == examples(theirs)
        else:
            assert path.read_text() == theirs.read_text()


@pytest.mark.parametrize(
    ("chunk_rows", "expected_block"), [(None, 4), (1, 4), (3, 3), (5, 5), (50, 6)]
)
def test_reads_block_by_block(tmp_path, monkeypatch, chunk_rows, expected_block):
    monkeypatch.setattr(hdf5, "BLOCK_ROWS", 4)
    monkeypatch.setattr(hdf5, "MAX_BLOCK_ROWS", 6)
    rows = 50
    images = np.random.default_rng(1).integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8)
    storage = {"chunks": (chunk_rows, 96, 96, 3)} if chunk_rows else {}
    write_h5(tmp_path / "x.h5", "x", images, **storage)
    write_h5(tmp_path / "y.h5", "y", np.zeros((rows, 1, 1, 1), np.uint8))
    read = []
    original = h5py.Dataset.__getitem__

    def spied(dataset, selection, **keywords):
        values = original(dataset, selection, **keywords)
        if dataset.name == "/x":
            read.append(len(values))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spied)
    files = {("test", "x"): tmp_path / "x.h5", ("test", "y"): tmp_path / "y.h5"}
    with hdf5.tqdm(disable=True) as bar:
        examples = hdf5._examples(files, "test", bar)
        next(examples)
        assert read == [expected_block]
        rest = list(examples)
    assert len(rest) == rows - 1
    assert sum(read) == rows
    assert max(read) == expected_block
    np.testing.assert_array_equal(rest[-1][1]["image"], images[-1])


def missing(folder):
    (folder / name("train", "x")).unlink()
    (folder / name("valid", "y")).unlink()


def empty(folder):
    (folder / name("valid", "x")).write_bytes(b"")


def not_hdf5(folder):
    (folder / name("valid", "y")).write_text("<html>404</html>")


def truncated(folder):
    path = folder / name("train", "x")
    path.write_bytes(path.read_bytes()[:-5000])


def truncated_gz(folder):
    pack(folder / name("train", "x"))
    path = folder / (name("train", "x") + ".gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_gz(folder):
    (folder / name("test", "y")).unlink()
    (folder / (name("test", "y") + ".gz")).write_text("neither packed nor HDF5")


def wrong_key(folder):
    write_h5(folder / name("test", "x"), "images", np.zeros((4, 96, 96, 3), np.uint8))


def wrong_shape(folder):
    write_h5(folder / name("test", "x"), "x", np.zeros((4, 64, 64, 3), np.uint8))


def wrong_dtype(folder):
    write_h5(folder / name("test", "x"), "x", np.zeros((4, 96, 96, 3), np.float32))


def wrong_label_shape(folder):
    write_h5(folder / name("test", "y"), "y", np.zeros(4, np.uint8))


def no_labels(folder):
    write_h5(folder / name("test", "y"), "y", np.zeros((0, 1, 1, 1), np.uint8))


def wrong_rows(folder):
    write_h5(folder / name("test", "y"), "y", np.zeros((3, 1, 1, 1), np.uint8))


def wrong_label(folder):
    write_h5(folder / name("test", "y"), "y", np.full((4, 1, 1, 1), 2, np.uint8))


def damaged_chunk(folder):
    path = folder / name("train", "x")
    images = np.random.default_rng(2).integers(0, 9, (7, 96, 96, 3), dtype=np.uint8)
    write_h5(path, "x", images, chunks=(1, 96, 96, 3), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(5)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)


BAD = [
    (missing, r"lacks camelyonpatch_level_2_split_train_x.h5, camely.*_valid_y.h5 \(.*download"),
    (empty, r"valid_x.h5 is no whole HDF5 file .*download it again"),
    (not_hdf5, r"valid_y.h5 is no whole HDF5 file \(file signature not found\)"),
    (truncated, r"train_x.h5 is no whole HDF5 file \(truncated file"),
    (truncated_gz, r"train_x.h5.gz is cut off or damaged"),
    (not_gz, r"test_y.h5.gz is no whole HDF5 file \(file signature not found"),
    (wrong_key, r"test_x.h5 has no data set 'x' but \['images'\]"),
    (wrong_shape, r"'x' is uint8 \(4, 64, 64, 3\), not uint8 \(N, 96, 96, 3\)"),
    (wrong_dtype, r"'x' is float32"),
    (wrong_label_shape, r"'y' is uint8 \(4,\)"),
    (no_labels, r"'y' is uint8 \(0, 1, 1, 1\)"),
    (wrong_rows, r"test_x.h5 has 4 patches and .*test_y.h5 3 labels"),
    (wrong_label, r"labels other than 0 \(normal\) and 1 \(tumour\): \[2\]"),
    (damaged_chunk, r"train_x.h5: patches from row 0 on cannot be read"),
]


@pytest.mark.parametrize(("damage", "message"), BAD, ids=[damage.__name__ for damage, _ in BAD])
def test_bad_files(source, tmp_path, damage, message):
    folder, _ = source
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "data").rglob("*")) == []


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*/nowhere"):
        hdf5.prepare_from_hdf5(tmp_path / "nowhere", tmp_path / "data")


def test_never_overwrites(source, tmp_path):
    finished = tmp_path / "data" / "patch_camelyon" / "2.0.0"
    finished.mkdir(parents=True)
    (finished / "dataset_info.json").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        hdf5.prepare_from_hdf5(source[0], tmp_path / "data")
    assert [path.read_text() for path in finished.iterdir()] == ["mine"]


def test_data_dir_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*Not a directory; choose"):
        hdf5.prepare_from_hdf5(source[0], tmp_path / "file" / "data")


def test_disk_without_room(source, tmp_path, monkeypatch):
    folder, _ = source
    pack(folder / name("train", "x"))
    needed = 7 * 27_648 + sum(ROWS.values()) * 27_648  # unpacked train, and the patches of all
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed))  # HDF5 adds its headers
    with pytest.raises(InputError, match=r"GB free and up to .* are needed"):
        hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed + 100_000))
    hdf5.prepare_from_hdf5(folder, tmp_path / "data")


def test_disk_that_fills_up(source, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shuffle.Shuffler, "add", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
        hdf5.prepare_from_hdf5(source[0], tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("modulo", "size", "expected"),
    [(100, 50, 100), (50, 50, 50), (7, 100, 2**32 + 7), (5, 2**33, 2**33 + 5)],
)
def test_unpacked_size_beyond_four_gib(tmp_path, modulo, size, expected):
    path = tmp_path / "large.gz"
    with path.open("wb") as file:  # sparse
        file.seek(size - 4)
        file.write(modulo.to_bytes(4, "little"))
    assert hdf5._unpacked_bytes(path) == expected


def test_checksums(source, tmp_path, monkeypatch):
    folder, content = source
    with pytest.raises(InputError, match=r"published checksums exist for the .h5.gz files only"):
        hdf5.prepare_from_hdf5(folder, tmp_path / "data", verify_checksums=True)
    for path in list(folder.iterdir()):
        pack(path)
    with pytest.raises(InputError, match=r"has [\d,]+ bytes, the published file 800,875,929"):
        hdf5.prepare_from_hdf5(folder, tmp_path / "data", verify_checksums=True)
    registered = hdf5._Builder.url_infos
    assert len(registered) == 6
    for url, info in list(registered.items()):
        packed = (folder / info.filename).read_bytes()
        ours = {"size": len(packed), "checksum": hashlib.sha256(packed).hexdigest()}
        monkeypatch.setitem(registered, url, dataclasses.replace(info, **ours))
    hdf5.prepare_from_hdf5(folder, tmp_path / "data", verify_checksums=True)
    assert_holds(tmp_path / "data", content)
    path = folder / (name("valid", "x") + ".gz")
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(InputError, match=r"valid_x.h5.gz has SHA-256"):
        hdf5.prepare_from_hdf5(folder, tmp_path / "other", verify_checksums=True)


def test_class_counts():
    test, other = (16_391, 16_377), (16_399, 16_369)
    train = (131_072, 131_072)
    hdf5.check_class_counts({"train": train, "validation": other, "test": test})
    hdf5.check_class_counts({"train": (4, 3), "validation": (3, 2), "test": (2, 2)})
    with pytest.raises(InputError, match="validation and test files are swapped"):
        hdf5.check_class_counts({"train": train, "validation": test, "test": other})
    with pytest.raises(InputError, match=r"16,384 normal .* PCam's are 16,391 and 16,377"):
        hdf5.check_class_counts(
            {"train": train, "validation": (16_384, 16_384), "test": (16_384, 16_384)}
        )


def test_swapped_labels_are_found_before_patches_are_unpacked(source, tmp_path):
    folder, _ = source
    for word, tumour in (("valid", 16_377), ("test", 16_369)):
        labels = (np.arange(32_768) < tumour).astype(np.uint8).reshape(-1, 1, 1, 1)
        write_h5(folder / name(word, "y"), "y", labels)
    (folder / name("train", "x")).write_bytes(b"")
    with pytest.raises(InputError, match="swapped"):
        hdf5.prepare_from_hdf5(folder, tmp_path / "data")


def test_interrupt_leaves_nothing(source, tmp_path, monkeypatch):
    def interrupt(self, n=1):
        raise KeyboardInterrupt

    monkeypatch.setattr(hdf5.tqdm, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hdf5.prepare_from_hdf5(source[0], tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_second_preparation_is_refused_and_disturbs_nothing(source, tmp_path):
    folder, content = source
    generate = hdf5._generate

    def meanwhile(*given):
        for bad in ({}, {"verify_checksums": True}):
            with pytest.raises(InputError, match=r"data is being prepared by another process"):
                hdf5.prepare_from_hdf5(folder, tmp_path / "data", **bad)
        return generate(*given)

    for path in list(folder.iterdir()):
        pack(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "_generate", meanwhile)
        hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["patch_camelyon"]
    assert_holds(tmp_path / "data", content)


def test_archives_that_were_unpacked_under_their_name_are_read(source, tmp_path):
    folder, content = source
    for path in list(folder.iterdir()):
        path.rename(f"{path}.gz")
    hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    assert_holds(tmp_path / "data", content)


META = ("train", "valid", "test")


def write_meta(folder, content, words=META, **columns):
    """Write the official tables beside the HDF5 files; a slide has three patches."""
    for word in words:
        labels = content[word][1]
        table = {
            "coord_y": range(len(labels)),
            "tumor_patch": labels == 1,
            "center_tumor_patch": labels == 1,
            "wsi": [f"camelyon16_{word}_{row // 3:03d}" for row in range(len(labels))],
        }
        path = folder / f"camelyonpatch_level_2_split_{word}_meta.csv"
        pd.DataFrame(table | columns).to_csv(path)


def test_the_names_of_slides_are_kept_and_plain_tfds_reads_the_patches(source, tmp_path):
    folder, content = source
    write_meta(folder, content)
    hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    assert_holds(tmp_path / "data", content)
    opened = data.open_source(tmp_path / "data")
    groups = data.groups_of(opened)
    assert list(groups) == ["group"] and len(groups) == sum(ROWS.values())
    assert groups.loc["train_5", "group"] == "camelyon16_train_001"
    table = data.with_groups(pd.DataFrame({"id": ["test_3", "test_0"]}), opened)
    assert table["group"].tolist() == ["camelyon16_test_001", "camelyon16_test_000"]


def test_splits_without_names_of_slides_have_no_groups(source, tmp_path):
    folder, content = source
    write_meta(folder, content, ["test"])
    hdf5.prepare_from_hdf5(folder, tmp_path / "data")
    opened = data.open_source(tmp_path / "data")
    ids = {split: pd.DataFrame({"id": [f"{split}_0"]}) for split in ("test", "train")}
    assert list(data.with_groups(ids["test"], opened)) == ["id", "group"]
    assert list(data.with_groups(ids["train"], opened)) == ["id"]
    with pytest.raises(InputError, match=r"groups\.csv lacks the patch 'train_0'"):
        data.with_groups(pd.concat(ids.values()), opened)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"center_tumor_patch": True}, "center_tumor_patch does not agree with the labels"),
        ({"wsi": ""}, "does not name the slide of each patch"),
    ],
)
def test_tables_of_other_patches_are_refused(source, tmp_path, columns, message):
    write_meta(*source, **columns)
    with pytest.raises(InputError, match=message):
        hdf5.prepare_from_hdf5(source[0], tmp_path / "data")
    write_meta(source[0], {word: source[1]["train"] for word in META})
    with pytest.raises(InputError, match=r"has 7 rows for [45] patches"):
        hdf5.prepare_from_hdf5(source[0], tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


KILLED = """
import os, signal, sys
from pcam_tf.data import hdf5

def update(bar, n=1, seen=[]):
    seen.append(n)
    if len(seen) == 9:  # the test split is written, the training split half read
        os.kill(os.getpid(), signal.SIGKILL)

hdf5.tqdm.update = update
hdf5.prepare_from_hdf5(*sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_then_run_again(source, tmp_path):
    folder, content = source
    data_dir = tmp_path / "data"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, folder, data_dir], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in data_dir.iterdir()] == [hdf5.WORKING_NAME]
    assert list(data_dir.rglob("*test.tfrecord*"))
    hdf5.prepare_from_hdf5(folder, data_dir)
    assert [path.name for path in data_dir.iterdir()] == ["patch_camelyon"]
    assert_holds(data_dir, content)
