import numpy as np
import pytest

from pcam_tf import synthetic
from pcam_tf.studies import shared_tissue


def test_the_same_tissue_is_found_at_another_place_and_other_tissue_is_not(monkeypatch):
    generator = np.random.default_rng(0)
    drawn = synthetic.draw_patches(12, split="train").image.mean(axis=-1).astype("float32")
    wide = np.pad(drawn, ((0, 0), (24, 24), (24, 24)), mode="reflect")
    shifted = wide[:3, 24 + 10 : 120 + 10, 24 - 17 : 120 - 17] * 0.8 + 20
    shifted += generator.normal(0, 3, shifted.shape)
    blank = np.full((2, 96, 96), 240.0) + generator.normal(0, 1, (2, 96, 96))
    grey = np.concatenate([drawn, shifted, blank]).astype("float32")
    # The same features for all, so that every pair is a candidate.
    monkeypatch.setattr(shared_tissue, "NEIGHBOURS", len(grey) - 1)
    pairs = shared_tissue.overlapping(grey, np.ones((len(grey), 4)))
    assert sorted(map(tuple, pairs)) == [(0, 12), (1, 13), (2, 14)]


def test_correlation_is_that_of_numpy():
    image = np.random.default_rng(1).uniform(0, 255, (20, 20))
    template = image[3:11, 5:13] + np.random.default_rng(2).normal(0, 60, (8, 8))
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8)).reshape(-1, 64)
    expected = max(np.corrcoef(window, template.ravel())[0, 1] for window in windows)
    assert shared_tissue._largest_correlation(template, image) == pytest.approx(expected, abs=1e-6)
