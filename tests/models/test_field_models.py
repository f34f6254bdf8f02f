"""Extractors that read whole fields of any size."""

import numpy as np
import pytest

from pcam_tf.models import field_models


@pytest.mark.parametrize(("layers", "numbers"), [("last", 1280), ("all blocks", 2304)])
def test_fields_of_any_size_are_read(layers, numbers):
    extractor = field_models.field_extractor(layers=layers)
    fields = np.random.default_rng(0).integers(0, 256, (2, 75, 110, 3)).astype("float32")
    whole = extractor.predict_on_batch(fields)
    assert whole.shape == (2, numbers) and np.isfinite(whole).all()
    assert extractor.predict_on_batch(fields[:, :64, :96]).shape == (2, numbers)
    assert not extractor.trainable
