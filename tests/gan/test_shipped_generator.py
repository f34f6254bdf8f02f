"""The generator that comes with the package: small, of its own card, and no store of copies."""

import numpy as np
import pandas as pd
import pytest

from pcam_tf import evaluation
from pcam_tf.gan import features, generated, memorisation, patches, study_design


@pytest.fixture(scope="module")
def shipped():
    return generated.load()


@pytest.fixture(scope="module")
def training_ids():
    return pd.read_csv(generated.SHIPPED / "training-ids.csv", dtype=str)["id"].to_numpy()


def test_it_is_small_and_names_its_training_patches(shipped, training_ids):
    assert sum(file.stat().st_size for file in generated.SHIPPED.iterdir()) < 5_000_000
    assert study_design.digest(sorted(training_ids)) == shipped.training_ids_sha256


def test_the_shipped_classifier_tells_its_classes_apart(shipped):
    made = [next(generated.images(shipped, label, 64, seed=5)) for label in (0, 1)]
    measured = features.shipped_features(shipped.task, shipped.recipe.side_px)
    probabilities = features.shipped_probabilities()(measured(np.concatenate(made)))
    assert evaluation.auc_interval(np.repeat([0, 1], 64), probabilities)[0] > 0.85


@pytest.mark.real
def test_it_copies_no_training_patch(shipped, training_ids, real_source):
    training = patches.read(real_source, "train", shipped.recipe.side_px, training_ids)
    if training.digest != shipped.training_pixels_sha256:
        pytest.skip("these are not the patches that the generator was trained on")
    for label in range(len(shipped.task.classes)):
        made = next(generated.images(shipped, label, 256, seed=5))
        correlation, _ = memorisation.nearest(made, training.image)
        assert correlation.max() < memorisation.COPY_CORRELATION
