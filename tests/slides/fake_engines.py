"""Engines whose answer is known: what a heat map should show can be computed."""

import numpy as np

from pcam_tf.task import PCAM


class CentreEngine:
    """Returns how little green the centre of a patch lets pass."""

    task = PCAM

    def __init__(self):
        self.seen = 0

    def predict_on_batch(self, patches):
        self.seen += len(patches)
        centre = patches[:, PCAM.centre, PCAM.centre, 1]
        return 1 - centre.mean(axis=(1, 2), keepdims=True)[..., 0] / 255


class StoppedEngine(CentreEngine):
    """Is stopped by Ctrl-C after so many patches."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def predict_on_batch(self, patches):
        if self.seen + len(patches) > self.most:
            raise KeyboardInterrupt
        return super().predict_on_batch(patches)


class SilentEngine(CentreEngine):
    """Returns nothing that is a number."""

    def predict_on_batch(self, patches):
        return np.full((len(patches), 1), np.nan, "float32")
