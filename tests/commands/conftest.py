import keras
import pytest
import tiny_training

from pcam_tf.models import backbones, classifier


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """Return a small, untrained classifier in a file."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(backbone="Tiny", weights=None, crop_px=48)
    path = tmp_path_factory.mktemp("models") / "tiny.keras"
    classifier.save(model, path)
    return path
