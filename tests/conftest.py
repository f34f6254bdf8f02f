"""What the tests share: tiny sources of patches, and where real ones are."""

import os

import pytest

from pcam_tf import data, synthetic


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory):
    """Return a prepared synthetic source of 192 + 64 + 64 patches."""
    config = synthetic.config_of(seed=1, train=192, validation=64, test=64)
    return synthetic.builder(tmp_path_factory.mktemp("tiny"), config)


@pytest.fixture(scope="session")
def real_source():
    """Return the source of real patches in PCAM_TF_DATA_DIR; skip where there is none."""
    data_dir = os.environ.get("PCAM_TF_DATA_DIR")
    if not data_dir:
        pytest.skip("needs real patches: set PCAM_TF_DATA_DIR to a prepared data directory")
    return data.open_source(data_dir)
