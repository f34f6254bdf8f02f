import shutil
import socket
from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import tiny_training
from tensorflow_datasets.core.download.resource import get_dl_fname
from tensorflow_datasets.datasets.patch_camelyon import patch_camelyon_dataset_builder

from pcam_tf import data, synthetic
from pcam_tf.data import pipelines
from pcam_tf.errors import InputError


@pytest.fixture
def data_dir(prepared, tmp_path):
    """Return a copy of the prepared data directory, to do damage to."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def records(data_dir, split="train"):
    return next((data_dir / "patch_camelyon" / "2.0.0").glob(f"*-{split}.tfrecord*"))


def ids(batches) -> list[str]:
    return [name for batch in data.arrays(batches) for name in batch["id"]]


def labels(patches) -> list[int]:
    return [int(label) for _, batch in patches for label in batch]


@pytest.mark.parametrize(
    ("split", "prefix"), [("train", "train"), ("validation", "valid"), ("test", "test")]
)
def test_every_patch_comes_once_as_it_was_drawn(tiny_source, split, prefix):
    count = tiny_training.SIZES[split]
    drawn = synthetic.draw_patches(count, split=split, seed=tiny_training.SIZES["seed"])
    stored = data.read_patches(tiny_source, split)
    rows = [int(name.removeprefix(f"{prefix}_")) for name in stored["id"]]
    assert sorted(rows) == list(range(count)) and data.count(tiny_source, split) == count
    np.testing.assert_array_equal(stored["image"], drawn.image[rows])
    np.testing.assert_array_equal(stored["label"], drawn.label[rows])
    assert stored["image"].dtype == np.uint8
    assert stored["label"].dtype == np.int64


def test_the_stored_order_is_that_of_tfds(tiny_source):
    plain = tiny_source.as_dataset(split="train", shuffle_files=False)
    expected = [row["id"].decode() for row in tfds.as_numpy(plain)]
    assert ids(data.batches(tiny_source, "train", batch_size=50)) == expected
    # The size of a batch changes nothing but the batches.
    sizes = [len(batch["id"]) for batch in data.batches(tiny_source, "train", batch_size=50)]
    assert sizes == [50, 50, 50, 42]


def test_a_seed_is_an_order(tiny_source):
    def shuffled(seed):
        return ids(data.batches(tiny_source, "train", batch_size=64, shuffle_seed=seed))

    stored = ids(data.batches(tiny_source, "train", batch_size=64))
    first, again, other = shuffled(1), shuffled(1), shuffled(2)
    assert first == again
    assert first != other and first != stored
    assert sorted(first) == sorted(other) == sorted(stored)
    batches = data.batches(tiny_source, "train", batch_size=64, shuffle_seed=1)
    assert ids(batches) == ids(batches) == first


def test_shuffling_keeps_each_patch_with_its_label(tiny_source):
    patches = data.read_patches(tiny_source, "train")
    known = {
        name: (image.tobytes(), label)
        for name, image, label in zip(*(patches[key] for key in patches), strict=True)
    }
    assert list(patches) == ["id", "image", "label"]
    for batch in data.arrays(data.batches(tiny_source, "train", batch_size=64, shuffle_seed=9)):
        for name, image, label in zip(batch["id"], batch["image"], batch["label"], strict=True):
            assert known[name] == (image.tobytes(), label)


@pytest.mark.parametrize(("largest", "passed"), [(100, 100), (20_000, 192)])
def test_the_shuffle_buffer_is_bounded(tiny_source, monkeypatch, largest, passed):
    seen = []
    shuffle = tf.data.Dataset.shuffle

    def spy(self, buffer_size, *args, **options):
        # Encoded patches are shuffled, which are a tenth of decoded ones.
        assert self.element_spec["image"].dtype == tf.string
        seen.append(buffer_size)
        return shuffle(self, buffer_size, *args, **options)

    monkeypatch.setattr(tf.data.Dataset, "shuffle", spy)
    monkeypatch.setattr(pipelines, "SHUFFLE_PATCHES", largest)
    shuffled = ids(data.batches(tiny_source, "train", batch_size=64, shuffle_seed=1))
    assert seen == [passed]
    assert sorted(shuffled) == sorted(ids(data.batches(tiny_source, "train", batch_size=64)))


def test_nothing_is_cached(tiny_source, monkeypatch):
    monkeypatch.setattr(tf.data.Dataset, "cache", lambda *_: pytest.fail("cached"))
    assert len(ids(data.batches(tiny_source, "test", batch_size=64, shuffle_seed=1))) == 64


def test_a_resumed_run_sees_the_batches_of_the_uninterrupted_one(tiny_source):
    def seen(first, last):
        epochs = data.epochs(
            tiny_source, "train", batch_size=50, seed=7, first=first, last=last
        ).as_numpy_iterator()
        return [(images.sum(), tuple(labels)) for images, labels in epochs]

    whole = seen(0, 3)
    assert len(whole) == 3 * 4
    assert seen(1, 3) == whole[4:]
    assert seen(2, 3) == whole[8:]
    assert whole[:4] != whole[4:8] != whole[8:]
    # A batch never holds patches of two epochs.
    assert [len(labels) for _, labels in whole] == [50, 50, 50, 42] * 3


def test_epochs_of_equal_steps_go_through_every_pass_to_its_end(tiny_source):
    def seen(first, last):
        epochs = data.epochs(
            tiny_source, "train", batch_size=50, seed=7, first=first, last=last, steps=3
        ).as_numpy_iterator()
        return [image.sum() for images, _ in epochs for image in images]

    whole = seen(0, 3)
    assert len(whole) == 3 * 3 * 50
    assert seen(1, 3) == whole[150:] and seen(2, 3) == whole[300:]
    # Passes of 192 patches, each in an order of its own.
    assert sorted(whole[:192]) == sorted(whole[192:384])
    assert whole[:192] != whole[192:384]


def test_slices(tiny_source):
    stored = ids(data.batches(tiny_source, "train", batch_size=64))
    for words, expected in (
        ("train[:5]", stored[:5]),
        ("train[5:12]", stored[5:12]),
        ("train[-3:]", stored[-3:]),
        ("train[:25%]", stored[:48]),
    ):
        assert list(data.read_patches(tiny_source, words)["id"]) == expected
        assert data.count(tiny_source, words) == len(expected)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("tset", "unknown split 'tset': did you mean 'test'"),
        ("valid", "did you mean 'validation'"),
        ("trian[:5]", "did you mean 'train'"),
        ("train[oops]", "cannot slice"),
        ("train[", "cannot slice"),
        ("train[:1000]", "1000.*192"),
        ("train[:0]", "holds no patch"),
        ("train[9:2]", "holds no patch"),
    ],
)
def test_splits_and_slices_that_are_not_there_are_refused(tiny_source, split, message):
    for function in (data.count, data.read_patches):
        with pytest.raises(InputError, match=message) as caught:
            function(tiny_source, split)
        assert "\n" not in str(caught.value)


def test_take_returns_the_patches_asked_for_in_their_order(tiny_source):
    every = data.read_patches(tiny_source, "train")
    rows = [150, 3, 77, 3]
    chosen = data.read_patches(tiny_source, "train", ids=every["id"][rows])
    for name in ("id", "image", "label"):
        np.testing.assert_array_equal(chosen[name], every[name][rows])
    with pytest.raises(InputError, match="the test split holds no patch 'train_3'"):
        data.read_patches(tiny_source, "test", ids=["test_1", "train_3"])


def test_a_prepared_directory_reads_like_its_source(data_dir, tiny_source):
    opened, expected = (
        data.read_patches(s, "test") for s in (data.open_source(data_dir), tiny_source)
    )
    for name in ("id", "image", "label"):
        np.testing.assert_array_equal(opened[name], expected[name])


def test_without_a_directory_there_are_synthetic_patches(tiny_source, monkeypatch):
    monkeypatch.setattr(synthetic, "builder", lambda data_dir: (tiny_source, data_dir))
    for nothing in (None, ""):
        assert data.open_source(nothing) == (tiny_source, data.SYNTHETIC_DIR)


def test_the_directory_given_goes_before_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("PCAM_TF_DATA_DIR", raising=False)
    assert data.chosen_dir() is None
    monkeypatch.setenv("PCAM_TF_DATA_DIR", "")
    assert data.chosen_dir() is None
    monkeypatch.setenv("PCAM_TF_DATA_DIR", "elsewhere")
    assert data.chosen_dir() == "elsewhere"
    assert data.chosen_dir("here") == "here"


def refused(data_dir, message):
    with pytest.raises(InputError, match=message) as caught:
        data.open_source(data_dir)
    assert "\n" not in str(caught.value)


def test_directories_without_patches_are_refused(tmp_path):
    refused(tmp_path / "missing", "there is no data directory .*--from-hdf5.*--download")
    refused(tmp_path, "holds nothing where patch_camelyon/2.0.0 is needed")
    (tmp_path / "patch_camelyon" / "1.0.0").mkdir(parents=True)
    refused(tmp_path, "holds only version 1.0.0 where patch_camelyon/2.0.0 is needed")
    (tmp_path / "patch_camelyon" / "2.0.0").mkdir()
    refused(tmp_path, "prepare it anew")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"splits": 3}', '{"name": "patch_camelyon"}'])
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_descriptions_are_refused(data_dir, file, content):
    (data_dir / "patch_camelyon" / "2.0.0" / file).write_text(content)
    refused(data_dir, "prepare it anew")


def test_other_features_are_refused(tmp_path):
    builder = tfds.testing.DummyDataset(data_dir=tmp_path)
    builder.download_and_prepare()
    version_dir = tmp_path / "patch_camelyon" / "2.0.0"
    shutil.copytree(builder.data_dir, version_dir)
    refused(tmp_path, r"has features \['id'\]; a source has id, image and label")


def test_missing_and_truncated_records_are_refused_before_they_are_read(data_dir):
    file = records(data_dir)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    refused(data_dir, "is truncated: the train split has .* bytes")
    file.write_bytes(b"")
    refused(data_dir, "is truncated: the train split has 0 of")
    file.unlink()
    refused(data_dir, "is missing")


@pytest.mark.parametrize("read", ["take", "arrays"])
def test_a_damaged_record_of_the_right_size_is_told_in_one_line(data_dir, read):
    file = records(data_dir, "test")
    content = bytearray(file.read_bytes())
    half = len(content) // 2
    content[half : half + 50] = bytes(50)
    file.write_bytes(content)
    source = data.open_source(data_dir)
    with pytest.raises(InputError, match="a record of the data directory is damaged") as caught:
        if read == "take":
            data.read_patches(source, "test")
        else:
            ids(data.batches(source, "test", batch_size=16))
    assert "\n" not in str(caught.value)
    # Nothing is wrong with the other splits.
    assert len(data.read_patches(source, "validation")["id"]) == 64


def test_a_record_whose_image_is_no_image_is_told_in_one_line(data_dir):
    file = records(data_dir, "test")
    first = next(iter(tf.data.TFRecordDataset(str(file)))).numpy()
    example = tf.train.Example.FromString(first)
    # Longer than any real one, so that the size of the file gives nothing away.
    example.features.feature["image"].bytes_list.value[0] = bytes(30_000)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(64):
            writer.write(example.SerializeToString())
    patches = data.batches(data.open_source(data_dir), "test", batch_size=16)
    with pytest.raises(InputError, match="a record of the data directory is damaged"):
        ids(patches)


@pytest.mark.parametrize(
    "message",
    [
        "Incompatible shapes: [2] vs. [3]",
        "Incompatible shapes: [2] vs. [3] [[{{node classifier/image/Conv2D}}]]",
        "image must be at least 3-D [[{{node random_image_record/assert}}]]",
    ],
)
def test_other_errors_of_tensorflow_are_not_blamed_on_the_data(message):
    with pytest.raises(tf.errors.InvalidArgumentError), data.readable_errors():
        raise tf.errors.InvalidArgumentError(None, None, message)


@pytest.mark.parametrize("content", [b"", bytes(99), b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_errors_of_decoding_are_errors_of_the_data(content):
    encoded = tf.data.Dataset.from_tensors(content)
    with pytest.raises(InputError, match="a record of the data"), data.readable_errors():
        list(encoded.map(lambda each: tf.io.decode_image(each, channels=3)))


@pytest.mark.parametrize("part", ["patch_camelyon", "patch_camelyon/2.0.0"])
def test_a_folder_inside_a_data_directory_is_told_the_folder_above(prepared, part):
    refused(prepared / part, f"give the folder above, {prepared}\\.$")


@pytest.fixture
def no_download(monkeypatch):
    """Make sure that nothing is downloaded, whatever goes wrong."""
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: pytest.fail("a download was begun"))


DiskUsage = namedtuple("DiskUsage", "total used free")


def test_a_download_needs_room(tmp_path, monkeypatch, no_download):
    asked = []

    def small(path):
        asked.append(path)
        return DiskUsage(10**11, 9 * 10**10, 10**10)

    monkeypatch.setattr(shutil, "disk_usage", small)
    with pytest.raises(InputError, match="has 10 GB free and the download needs 25 GB"):
        data.download(tmp_path / "new" / "folder")
    # The disk asked is the one that the folder will be on, and nothing was made there.
    assert asked == [tmp_path]
    assert not list(tmp_path.iterdir())


def test_a_set_that_is_there_is_not_downloaded(data_dir, monkeypatch, no_download):
    for module, name in ((shutil, "disk_usage"), (socket, "create_connection")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("asked"))
    data.download(data_dir)
    records(data_dir).write_bytes(b"")
    with pytest.raises(InputError, match="is truncated"):
        data.download(data_dir)


@pytest.mark.parametrize("folder", ["downloads", "downloads/manual"])
def test_archives_that_are_there_are_not_asked_for(tmp_path, monkeypatch, folder):
    prepared = []

    class Prepared:
        def download_and_prepare(self):
            prepared.append(folder)

    def make_archives(urls):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for url, info in urls:
            name = info.filename if "manual" in folder else get_dl_fname(url, info.checksum)
            (tmp_path / folder / name).touch()

    urls = list(patch_camelyon_dataset_builder.Builder.url_infos.items())
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: Prepared())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 0, 18 * 10**9))
    make_archives(urls[1:])
    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(InputError, match="does not answer"):
        data.download(tmp_path)
    make_archives(urls)
    data.download(tmp_path)
    assert prepared == [folder]


def unreachable(address, timeout):
    raise socket.gaierror(-3, "Temporary failure in name resolution")


def test_a_download_needs_its_host(tmp_path, monkeypatch, no_download):
    def unreachable(address, timeout):
        assert address == ("zenodo.org", 443) and timeout <= 30
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 0, 10**12))
    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(InputError, match=r"zenodo\.org does not answer .*--from-hdf5 DIR"):
        data.download(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_download_that_breaks_off_names_the_other_way(tmp_path, monkeypatch):
    class Broken:
        def download_and_prepare(self):
            raise tfds.download.DownloadError("checksum mismatch\nand more")

    def builder(name, *, data_dir):
        assert (name, data_dir) == ("patch_camelyon:2.0.0", tmp_path)
        return Broken()

    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 0, 10**12))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(InputError, match=r"the download failed \(checksum mismatch\): .*from-hdf5"):
        data.download(tmp_path)


@pytest.mark.real
def test_real_patches_read_whole_and_keep_their_rows(real_source):
    for split, prefix in (("train", "train_"), ("validation", "valid_"), ("test", "test_")):
        patches = data.read_patches(real_source, f"{split}[:64]")
        assert patches["image"].shape == (64, 96, 96, 3)
        assert set(patches["label"]) == {0, 1}
        assert all(name.startswith(prefix) for name in patches["id"])
