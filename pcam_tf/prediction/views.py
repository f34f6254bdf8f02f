"""The views of a patch that test-time augmentation averages over."""

from collections.abc import Iterator

import numpy as np


def d4_views(patches: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the eight symmetric views (dihedral group D4) of patches (n, side, side, channels)."""
    for turned in (patches, np.swapaxes(patches, 1, 2)):
        for vertical in (1, -1):
            for horizontal in (1, -1):
                yield turned[:, ::vertical, ::horizontal]
