"""A finished training of a tiny generator, which several tests read."""

import pytest
from tiny_generator import run_in

from pcam_tf.gan import training


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("generator")
    training.train(run_in(folder))
    return folder
