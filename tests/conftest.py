"""What the tests share: tiny sources of patches, and where real ones are."""

import pcam_tf  # noqa: F401, I001  (first: it sets what TensorFlow reads when it is imported)

import json
import os
import shutil

import pytest
import tiny_training

from pcam_tf import data, synthetic


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory):
    """Return the folder of the tiny source."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_source(tiny_data_dir):
    """Return a prepared synthetic source of 192 + 64 + 64 patches."""
    return synthetic.builder(tiny_data_dir, synthetic.config_of(**tiny_training.SIZES))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, tiny_source):
    """Return a data directory that looks like an official one, holding synthetic patches."""
    data_dir = tmp_path_factory.mktemp("prepared")
    version_dir = data_dir / "patch_camelyon" / "2.0.0"
    shutil.copytree(tiny_source.data_dir, version_dir)
    for file in version_dir.glob("*.tfrecord*"):
        file.rename(file.with_name(file.name.replace("synthetic_patch_camelyon", "patch_camelyon")))
    info_file = version_dir / "dataset_info.json"
    info = json.loads(info_file.read_text())
    info |= {"name": "patch_camelyon", "version": "2.0.0"}
    info.pop("configName", None)
    info_file.write_text(json.dumps(info))
    return data_dir


@pytest.fixture(scope="session")
def real_source():
    """Return the source of real patches in PCAM_TF_DATA_DIR; skip where there is none."""
    data_dir = os.environ.get("PCAM_TF_DATA_DIR")
    if not data_dir:
        pytest.skip("needs real patches: set PCAM_TF_DATA_DIR to a prepared data directory")
    return data.open_source(data_dir)
