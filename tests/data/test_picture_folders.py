import json

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from picture_layouts import kaggle, save, wilds

from pcam_tf import data, synthetic
from pcam_tf.data import parquet, picture_folders
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM


@pytest.fixture(scope="module")
def patches():
    """Return 24 synthetic patches."""
    return list(synthetic.draw_patches(24, split="train").image)


def class_folders(folder, patches):
    for row, patch in enumerate(patches):
        split = ("train", "valid", "test")[row % 3]
        name = ("normal", "Tumour")[row % 2]
        save(patch, folder / split / name / f"{row}.png")


def prepared(folder, tmp_path, **options):
    text = picture_folders.prepare(folder, tmp_path / "data", **options)
    return data.open_source(tmp_path / "data"), text


def rows_of(source, split):
    batches = data.arrays(data.batches(source, split, batch_size=8))
    return {
        name: (image, int(label))
        for batch in batches
        for name, image, label in zip(batch["id"], batch["image"], batch["label"], strict=True)
    }


def test_kaggles_layout_is_read_into_one_split_and_says_that_chance_leaks(tmp_path, patches):
    kaggle(tmp_path / "kaggle", patches)
    source, text = prepared(tmp_path / "kaggle", tmp_path)
    found = rows_of(source, "train")
    assert len(found) == 24 and "24 pictures in train" in text
    for row, patch in enumerate(patches):
        image, label = found[f"{row:040x}"]
        assert label == row % 2
        np.testing.assert_array_equal(image, patch)
    assert data.task_of(source).classes == PCAM.classes
    assert "left out: 1 no label in train_labels.csv" in text
    assert len(tfds.load("pictures", split="train", data_dir=tmp_path / "data")) == 24
    with pytest.raises(InputError, match=r"no groups are known.*random split .*leaks"):
        prepared(tmp_path / "kaggle", tmp_path / "again", split_by="group")
    source, text = prepared(tmp_path / "kaggle", tmp_path / "random", split_by="picture")
    assert "which leaks" in text
    assert [data.count(source, split) for split in data.SPLITS] == [17, 3, 4]


def test_the_layout_of_wilds_has_slides_and_hospitals(tmp_path, patches):
    wilds(tmp_path / "wilds", patches)
    source, _ = prepared(tmp_path / "wilds", tmp_path)
    counts = {split: info.num_examples for split, info in source.info.splits.items()}
    assert counts == {"train": 6, "held_out": 2, "validation": 8, "test": 8}
    groups = data.groups_of(source)
    table = data.with_groups(pd.DataFrame({"id": list(rows_of(source, "test"))}), source)
    assert set(table["hospital"]) == {"2"} and set(table["group"]) == {"2", "5"}
    assert len(groups) == 24


def test_folders_of_splits_and_classes_are_read(tmp_path, patches):
    class_folders(tmp_path / "folders", patches)
    save(patches[0], tmp_path / "folders" / "loose.png")
    source, text = prepared(tmp_path / "folders", tmp_path)
    assert [data.count(source, split) for split in data.SPLITS] == [8, 8, 8]
    assert rows_of(source, "test")["test/Tumour/5"][1] == 1
    assert "1 no label" in text
    assert data.task_of(source).centre_px == PCAM.centre_px


def test_a_table_of_labels_gives_splits_groups_and_classes(tmp_path, patches):
    rows = []
    for row, patch in enumerate(patches):
        save(patch[:48, :48], tmp_path / "pictures" / f"{row}.png")
        name = ("ductal", "lobular", "none")[row % 3]
        rows.append({"path": f"{row}.png", "label": name, "group": f"00{row // 3}"})
    labels = tmp_path / "labels.csv"
    pd.DataFrame(rows).to_csv(labels, index=False, sep=";")
    with pytest.raises(InputError, match="give the microns per pixel by --mpp"):
        prepared(tmp_path / "pictures", tmp_path, labels=labels)
    source, _ = prepared(tmp_path / "pictures", tmp_path, labels=labels, mpp=0.5, split_by="group")
    described = data.task_of(source)
    assert described.classes == ("ductal", "lobular", "none")
    assert (described.side_px, described.mpp, described.centre_px) == (48, 0.5, None)
    groups = data.groups_of(source)
    held = {split: set(groups.loc[list(rows_of(source, split)), "group"]) for split in data.SPLITS}
    assert all(held.values()) and sum(map(len, held.values())) == 8
    again, _ = prepared(
        tmp_path / "pictures", tmp_path / "b", labels=labels, mpp=0.5, split_by="group"
    )
    assert set(rows_of(again, "test")) == set(rows_of(source, "test"))


def test_what_cannot_be_used_is_left_out_and_listed(tmp_path, patches):
    folder = tmp_path / "pictures"
    for row in range(8):
        save(patches[row], folder / f"{row}.png")
    save(patches[0][:80, :80], folder / "small.png")
    (folder / "text.png").write_text("no picture")
    save(patches[0], folder / "._hidden.png")
    rows = [{"id": str(row), "label": row % 2} for row in range(8)]
    rows += [{"id": name, "label": 1} for name in ("small", "text", "missing", "0")]
    rows[7]["label"] = ""
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    source, text = prepared(folder, tmp_path, labels=tmp_path / "labels.csv")
    left_out = pd.read_csv(f"{source.data_dir}/left_out.csv")
    reasons = {name.rsplit("/", 1)[-1]: reason for name, reason in left_out.to_numpy()}
    assert set(reasons) == {"7", "small.png", "text.png", "missing", "0.png"}
    assert reasons["7"] == "no label" and reasons["missing"] == "no picture"
    assert reasons["0.png"] == "duplicate id"
    assert sorted(rows_of(source, "train")) == [str(row) for row in range(7)]
    assert "left out:" in text and "left_out.csv" in text


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"id": "0", "label": 1}, {"id": "1", "label": 1}], "all pictures are of the class '1'"),
        (
            [{"id": "0", "label": 1, "group": "a"}, {"id": "1", "label": 0, "group": ""}],
            "the picture '1' has no group",
        ),
        (
            [{"id": "0", "label": 1, "split": "train"}, {"id": "1", "label": 0, "split": ""}],
            "the picture '1' has no split",
        ),
        ([{"id": "0", "class": 1}], "needs the columns id"),
        ([{"id": "none", "label": 1}], "holds no picture with a label"),
    ],
)
def test_tables_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, patches, rows, says):
    for row in range(2):
        save(patches[row], tmp_path / "pictures" / f"{row}.png")
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InputError, match=says) as refused:
        prepared(tmp_path / "pictures", tmp_path, labels=tmp_path / "labels.csv")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "data").exists()


def test_groups_go_whole_into_one_split():
    units = pd.Series([f"slide{row % 9}" for row in range(90)])
    drawn = picture_folders._drawn_splits(units, seed=3)
    assert set(drawn) == set(units) and set(drawn.values()) == set(data.SPLITS)
    assert 0.5 < units.map(drawn).eq("train").mean() < 0.9
    with pytest.raises(InputError, match="2 groups cannot be divided"):
        picture_folders._drawn_splits(pd.Series(["a", "b"]), seed=0)


@pytest.mark.parametrize("seed", range(12))
def test_each_split_has_a_group_however_unequal_they_are(seed):
    for sizes in ([80, 15, 5], [60, 30, 5, 5], [200, 3, 3, 2, 1]):
        names = [chr(97 + number) for number, size in enumerate(sizes) for _ in range(size)]
        drawn = picture_folders._drawn_splits(pd.Series(names), seed=seed)
        assert set(drawn.values()) == {"train", "validation", "test"}


def parquet_file(path, patches, structured=True):
    rows = []
    for row, patch in enumerate(patches):
        save(patch, path.with_suffix(".png"))
        content = path.with_suffix(".png").read_bytes()
        image = {"bytes": content, "path": None} if structured else content
        rows.append({"image": image, "label": bool(row % 2) if structured else row % 2})
    path.with_suffix(".png").unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_parquet_copies_are_read(tmp_path, patches):
    folder = tmp_path / "copy"
    folder.mkdir()
    parquet_file(folder / "train-00000-of-00002.parquet", patches[:10])
    parquet_file(folder / "train-00001-of-00002.parquet", patches[10:16])
    parquet_file(folder / "valid-00000-of-00001.parquet", patches[16:20], structured=False)
    parquet_file(folder / "test-00000-of-00001.parquet", patches[20:])
    parquet.prepare(folder, tmp_path / "data")
    source = data.open_source(tmp_path / "data")
    assert [data.count(source, split) for split in data.SPLITS] == [16, 4, 4]
    image, label = rows_of(source, "train")["train_11"]
    np.testing.assert_array_equal(image, patches[11])
    assert label == 1 and data.task_of(source) == PCAM


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("train-0.parquet", {"image": [b"no picture"], "label": [1]}, "row 0 of"),
        ("train-0.parquet", {"pixels": [b""], "label": [1]}, "needs the columns image and label"),
        ("part-0.parquet", {"image": [b""], "label": [1]}, "does not begin with train"),
        ("train-0.parquet", None, "is not a parquet file"),
        ("readme.txt", None, "holds no parquet file"),
    ],
)
def test_other_parquet_files_are_refused_and_nothing_is_written(tmp_path, name, columns, says):
    folder = tmp_path / "copy"
    folder.mkdir()
    if columns is None:
        (folder / name).write_text(json.dumps("no parquet"))
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    with pytest.raises(InputError, match=says):
        parquet.prepare(folder, tmp_path / "data")
    assert not list((tmp_path / "data").glob("*"))
