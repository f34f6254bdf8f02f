"""A tiny archive in BreakHis's layout and in that of the part with a manifest."""

import hashlib
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pcam_tf import data
from pcam_tf.data import breakhis
from pcam_tf.errors import InputError
from pcam_tf.task import BREAKHIS, BREAKHIS_5, BREAKHIS_MALIGNANT

OFFICIAL = "BreaKHis_v1/histology_slides/breast"
FIELDS = (
    ("benign", "adenosis", "B_A", "14-22549AB", 100),
    ("benign", "fibroadenoma", "B_F", "14-9133", 200),
    ("malignant", "ductal_carcinoma", "M_DC", "14-10926", 200),
    ("malignant", "ductal_carcinoma", "M_DC", "14-10926", 40),
    ("malignant", "ductal_carcinoma", "M_DC", "14-13412", 100),
)


def save(path, size=(700, 460), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size[::-1], 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, "uint8")).save(path)
    return path


def official(folder, fields=FIELDS):
    for kind, name, code, patient, magnification in fields:
        place = folder / OFFICIAL / kind / "SOB" / name / f"SOB_{code}_{patient}"
        file = f"SOB_{code}-{patient}-{magnification}-001.png"
        save(place / f"{magnification}X" / file)
    return folder


def test_the_official_archive_becomes_a_source_of_fields_at_one_scale(tmp_path):
    breakhis.prepare(official(tmp_path / "archive"), tmp_path / "data")
    source = data.open_source(tmp_path / "data")
    assert data.task_of(source) == BREAKHIS
    images, table = breakhis.read_fields(source)
    # 40X has another scale, and patient 14-13412 two labels.
    assert table["id"].tolist() == [
        "SOB_B_A-14-22549AB-100-001", "SOB_B_F-14-9133-200-001", "SOB_M_DC-14-10926-200-001"
    ]  # fmt: skip
    assert table["group"].tolist() == ["14-22549", "14-9133", "14-10926"]
    assert table["patient"].tolist() == ["14-22549AB", "14-9133", "14-10926"]
    assert table["magnification"].tolist() == [100, 200, 200]
    assert table["label"].tolist() == [0, 1, 4]
    assert [image.shape for image in images] == [(294, 448, 3), (147, 224, 3), (147, 224, 3)]
    assert breakhis.read_fields(source, BREAKHIS_5)[1]["label"].tolist() == [0, 2]
    assert breakhis.read_fields(source, BREAKHIS_MALIGNANT)[1]["label"].tolist() == [0, 0, 1]
    with pytest.raises(InputError, match="pcam_tf subtypes"):
        data.count(source, "train")


def test_a_part_with_a_manifest_is_taken_as_it_is(tmp_path):
    path = save(tmp_path / "part/adenosis/14-22549AB/SOB_B_A-14-22549AB-200-i003.png", (224, 147))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = {"path": path.relative_to(tmp_path / "part"), "sha256": digest}
    pd.DataFrame([row]).to_csv(tmp_path / "part/manifest.csv", index=False)
    breakhis.prepare(tmp_path / "part", tmp_path / "data")
    images, _ = breakhis.read_fields(data.open_source(tmp_path / "data"))
    assert np.array_equal(images[0], np.asarray(Image.open(path)))
    save(path, (224, 147), seed=1)
    with pytest.raises(InputError, match="not the file of the manifest"):
        breakhis.prepare(tmp_path / "part", tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("benign/SOB/adenosis/P/100X/SOB_B_A-14-1-100-001.txt.png", "not named as BreakHis"),
        ("benign/SOB/adenosis/P/100X/SOB_B_XY-14-1-100-001.png", "unknown type 'XY'"),
        ("benign/SOB/adenosis/P/100X/SOB_B_A-14-1-001.png", "lacks its magnification"),
        ("benign/SOB/adenosis/P/200X/SOB_B_A-14-1-100-001.png", "folder of the magnification"),
        ("benign/SOB/fibroadenoma/P/100X/SOB_B_A-14-1-100-001.png", "folder of the type"),
        ("malignant/SOB/adenosis/P/100X/SOB_B_A-14-1-100-001.png", "the folder does not"),
        ("benign/SOB/adenosis/P/100X/SOB_M_A-14-1-100-001.png", "letter B or M"),
    ],
)
def test_misnamed_files_are_named(tmp_path, name, message):
    path = save(tmp_path / "archive" / name, (8, 8))
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        breakhis.prepare(tmp_path / "archive", tmp_path / "data")
    assert str(path) in str(raised.value)
    assert not (tmp_path / "data").exists()


def test_damaged_missing_and_foreign_fields_are_named_and_nothing_is_written(tmp_path):
    archive = official(tmp_path / "archive")
    victim = next(archive.rglob("*14-9133-200-001.png"))
    for content, message in (
        (victim.read_bytes()[:1000], "damaged or cut short"),
        (save(tmp_path / "small.png", (300, 200)).read_bytes(), "300 px wide"),
    ):
        victim.write_bytes(content)
        with pytest.raises(InputError, match=message) as raised:
            breakhis.prepare(archive, tmp_path / "data")
        assert str(victim) in str(raised.value)
        assert not list((tmp_path / "data").iterdir())
    pd.DataFrame({"path": ["lost.png"], "sha256": ["0"]}).to_csv(
        archive / "manifest.csv", index=False
    )
    with pytest.raises(InputError, match=r"lost\.png is listed"):
        breakhis.prepare(archive, tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no BreakHis field"):
        breakhis.prepare(tmp_path / "empty", tmp_path / "data")
