import io
import json
import weakref

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pcam_tf.data import audit, audit_text
from pcam_tf.errors import InputError


def tissue(patches, seed):
    """Smooth coloured noise: patches with structure that all differ."""
    noise = np.random.default_rng(seed).normal(size=(patches, 96, 96, 3))
    smooth = gaussian_filter(noise, sigma=(0, 6, 6, 0), mode="wrap")
    mean = np.array([180.0, 130.0, 175.0])
    return np.clip(mean + smooth / smooth.std() * 30, 0, 255).astype(np.uint8)


def recompressed(image, quality=75):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def batches(images, labels, ids, batch_size=3):
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        yield {"id": ids[part], "image": images[part], "label": labels[part]}


@pytest.fixture
def planted():
    """Three splits with planted copies, blanks and clashes; row numbers below are the truth."""
    train, validation, test = tissue(12, 0), tissue(6, 1), tissue(5, 2)
    train[1] = train[0]  # the same patch three times, once with the other label
    train[2] = train[0]
    train[4] = recompressed(train[3])  # recompressed in the same split
    train[10] = 245  # two blanks that differ, and an exact copy of one
    train[11] = 244
    validation[5] = 245
    validation[0] = train[5]  # an exact and a near leak
    test[0] = recompressed(train[6])
    test[1] = recompressed(validation[1])
    test[2] = np.rot90(train[7])  # documented: turned copies are not found
    ids = {
        "train": np.array([f"train_{row}".encode() for row in range(12)], object),
        "validation": np.array([f"valid_{row}".encode() for row in range(6)], object),
        "test": np.array([f"test_{row}".encode() for row in range(5)], object),
    }
    ids["train"][9] = b"train_8"
    ids["test"][4] = b"valid_3"
    images = {"train": train, "validation": validation, "test": test}
    labels = {split: np.arange(len(of)) % 2 for split, of in images.items()}
    return images, labels, ids


def run(planted, batch_size=3):
    images, labels, ids = planted
    return audit.audit({s: batches(images[s], labels[s], ids[s], batch_size) for s in images})


def test_statistics_against_numpy(planted):
    images, labels, _ = planted
    found = run(planted)
    for split, of in images.items():
        split_found = found["splits"][split]
        assert split_found["patches"] == len(of)
        assert split_found["normal"] == (labels[split] == 0).sum()
        assert split_found["tumour"] == (labels[split] == 1).sum()
        pixels = of.reshape(-1, 3).astype(float)
        np.testing.assert_allclose(split_found["channel_mean"], pixels.mean(axis=0))
        np.testing.assert_allclose(split_found["channel_std"], pixels.std(axis=0))
        for channel in range(3):
            expected, _ = np.histogram(of[..., channel], bins=256, range=(0, 256))
            np.testing.assert_array_equal(split_found["histograms"][channel], expected)
    assert found["splits"]["train"]["blank"] == {"normal": 1, "tumour": 1}
    assert found["splits"]["validation"]["blank"] == {"normal": 0, "tumour": 1}
    assert found["splits"]["test"]["blank"] == {"normal": 0, "tumour": 0}


def test_exact_duplicates(planted):
    exact = run(planted)["exact_duplicates"]
    none = {"groups": 0, "patches": 0, "copies": 0}
    assert exact["within"] == {
        "train": {"groups": 1, "patches": 3, "copies": 2},
        "validation": none,
        "test": none,
    }
    assert exact["across"] == {
        "train/validation": {"groups": 2, "patches": 4},  # the leak and the blank
        "train/test": {"groups": 0, "patches": 0},
        "validation/test": {"groups": 0, "patches": 0},
    }
    # train_9 bears the id train_8 and is no copy of anything.
    assert exact["examples"] == [
        ["train_0", "train_1", "train_2"],
        ["train_5", "valid_0"],
        ["train_10", "valid_5"],
    ]


def test_near_duplicates(planted):
    near = run(planted)["near_duplicates"]
    none = {"groups": 0, "patches": 0, "copies": 0}
    assert near["within"] == {
        "train": {"groups": 1, "patches": 2, "copies": 1},
        "validation": none,
        "test": none,
    }
    assert near["across"] == {
        "train/validation": {"groups": 0, "patches": 0},
        "train/test": {"groups": 1, "patches": 2},
        "validation/test": {"groups": 1, "patches": 2},
    }
    assert near["examples"] == [
        ["train_3", "train_4"],
        ["train_6", "test_0"],
        ["valid_1", "test_1"],
    ]


def test_label_conflicts_and_id_clashes(planted):
    found = run(planted)
    conflicts = found["label_conflicts"]
    # Rows 0, 1, 2 are one patch labelled 0, 1, 0; row 5 (1) leaks as row 0 (0); blanks 10 and 5.
    assert conflicts["groups"] == 3
    assert conflicts["patches"] == 7
    assert conflicts["examples"][0] == [
        {"id": "train_0", "label": 0},
        {"id": "train_1", "label": 1},
        {"id": "train_2", "label": 0},
    ]
    clashes = found["id_clashes"]
    assert clashes["within"] == {"train": 1, "validation": 0, "test": 0}
    assert clashes["across"] == {"train/validation": 0, "train/test": 0, "validation/test": 1}
    assert clashes["examples"] == ["train_8", "valid_3"]


def test_json_batch_size_and_tables(planted):
    found = run(planted)
    assert json.loads(json.dumps(found)) == found
    assert run(planted, batch_size=100) == found
    lines = audit_text.format_audit(found).splitlines()
    cells = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert cells["train/validation"] == ["train/validation", "2", "4", "0", "0", "0"]
    assert cells["validation/test"] == ["validation/test", "0", "0", "1", "2", "1"]
    first_train = next(line.split() for line in lines if line.split()[:1] == ["train"])
    assert first_train[1:6] == ["12", "6", "6", "1", "1"]
    assert "3 groups of identical patches with different labels (7 patches)" in lines[-1]
    assert max(map(len, lines)) <= 120


def test_near_groups_equal_those_of_every_pair():
    # Four versions of each of 20 patches, drifting apart by random steps: some near, some not,
    # some only through a third.
    random = np.random.default_rng(3)
    base = tissue(20, 4).astype(float)
    drift = [
        random.uniform(0, 0.1, (20, 1, 1, 1)) * (tissue(20, seed) - 160.0) for seed in range(4)
    ]
    images = np.clip(np.concatenate([base + step for step in drift]), 0, 255).astype(np.uint8)
    images = images[random.permutation(len(images))]
    thumbnails = audit._thumbnails(images)
    flat = thumbnails.reshape(len(images), -1).astype(float)
    distance = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(axis=-1))
    direct = linked = distance <= audit.NEAR_RMS
    for _ in range(len(images)):  # transitive closure
        linked = linked | (linked.astype(int) @ linked.astype(int) > 0)
    patches = pd.DataFrame({"exact": range(len(images)), "blank": False})
    groups = audit._near_groups(patches, thumbnails)
    expected = linked.sum(axis=1) > 1
    assert 0 < expected.sum() < len(images)
    assert direct.sum() < linked.sum()
    np.testing.assert_array_equal(groups >= 0, expected)
    same = (groups[:, None] == groups[None]) & (groups >= 0)[:, None]
    np.testing.assert_array_equal(same, linked & expected[:, None])


@pytest.mark.parametrize("quality", [95, 75])
def test_recompression_is_found_whatever_the_patch(quality):
    images = tissue(30, 9)
    copies = np.stack([recompressed(image, quality) for image in images])
    labels = np.zeros(30, int)
    found = audit.audit(
        {
            "train": batches(images, labels, [f"train_{row}" for row in range(30)]),
            "test": batches(copies, labels, [f"test_{row}" for row in range(30)]),
        }
    )
    assert found["near_duplicates"]["across"]["train/test"] == {"groups": 30, "patches": 60}
    assert found["near_duplicates"]["within"]["train"]["groups"] == 0


def test_reads_one_batch_at_a_time():
    alive = []

    def watched():
        for row in range(6):
            image = tissue(1, row)
            assert sum(reference() is not None for reference in alive) <= 1
            alive.append(weakref.ref(image))
            yield {"id": [f"train_{row}"], "image": image, "label": np.zeros(1, int)}
            del image

    assert audit.audit({"train": watched()})["splits"]["train"]["patches"] == 6


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": np.zeros((1, 96, 96, 3), np.float32)}, "patches float32"),
        ({"image": np.zeros((1, 64, 64, 3), np.uint8)}, r"\(1, 64, 64, 3\)"),
        ({"label": np.array([2])}, "labels other than 0 and 1"),
    ],
)
def test_bad_batches(batch, message):
    good = {"id": ["a"], "image": np.zeros((1, 96, 96, 3), np.uint8), "label": np.zeros(1, int)}
    with pytest.raises(InputError, match=message):
        audit.audit({"train": [good | batch]})


def test_empty():
    with pytest.raises(InputError, match="split 'test' has no patches"):
        audit.audit({"test": []})
    with pytest.raises(InputError, match="no split"):
        audit.audit({})


def test_one_split_of_blanks_only():
    white = np.full((3, 96, 96, 3), 250, np.uint8)
    found = audit.audit({"test": batches(white, np.zeros(3, int), ["a", "b", "c"])})
    assert found["splits"]["test"]["blank"] == {"normal": 3, "tumour": 0}
    assert found["near_duplicates"]["examples"] == []
    assert found["exact_duplicates"]["within"]["test"]["copies"] == 2
    assert "test" in audit_text.format_audit(found)


def test_slides_are_counted_and_those_of_two_splits_are_named(planted):
    images, labels, ids = planted
    rows = {f"train_{row}": f"slide_{row % 3}" for row in range(12)}
    rows |= {f"valid_{row}": "slide_2" if row == 4 else "slide_9" for row in range(6)}
    batches_by_split = {name: batches(images[name], labels[name], ids[name]) for name in images}
    found = audit.audit(batches_by_split, groups=pd.Series(rows))
    # The id train_8 occurs twice, and one patch of test has an id of validation.
    assert found["groups"]["within"] == {
        "train": {"groups": 3, "patches": 12, "smallest": 3, "largest": 5},
        "validation": {"groups": 2, "patches": 6, "smallest": 1, "largest": 5},
        "test": {"groups": 1, "patches": 1, "smallest": 1, "largest": 1},
    }
    assert found["groups"]["across"] == {
        "train/validation": {"groups": 1, "patches": 6},
        "train/test": {"groups": 0, "patches": 0},
        "validation/test": {"groups": 1, "patches": 6},
    }
    assert found["groups"]["examples"] == ["slide_2", "slide_9"]
    text = audit_text.format_audit(found)
    assert "train/validation share 1 slides (6 patches): a leak" in text
    assert "train: 3 slides with 3 to 5 patches." in text
