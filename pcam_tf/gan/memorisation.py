"""Is a generated patch a copy? Its nearest training patch, whatever its turn and its stain.

By pixels: optical densities of all colours together, in cells of 3 px, less their mean and over
their deviation. A gain of the stain or of the light leaves that as it is, and eight views of a
patch make up for turns and reflections. By features: those of a classifier, of the same views.

How near is too near is read from real patches that cannot be copies: those of other slides.
"""

import dataclasses

import numpy as np

from pcam_tf import stain
from pcam_tf.gan.features import Features
from pcam_tf.prediction.views import d4_views

CELL_PX = 3
# Turned and recoloured copies of 1,000 real patches of 48 px had 0.961 and more; the nearest
# training patches of 1,000 patches of other slides had 0.939 and less.
COPY_CORRELATION = 0.95
# Held-out patches that features may call too near.
FALSE_ALARMS = 0.002


def signatures(images: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, cells²) float32 of patches (n, side, side, 3), see the module.

    Their products are correlations. A border of less than a cell is left out.
    """
    density = -np.log((images.astype("float32") + 1) / 256).sum(axis=-1)
    cells = images.shape[1] // CELL_PX
    first = (images.shape[1] - cells * CELL_PX) // 2
    density = density[:, first : first + cells * CELL_PX, first : first + cells * CELL_PX]
    means = density.reshape(-1, cells, CELL_PX, cells, CELL_PX).mean(axis=(2, 4))
    vectors = means.reshape(len(images), -1)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def nearest(images: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest correlation of each patch with a training patch, and that one's row.

    Args:
        images: uint8 (n, side, side, 3); each is compared in its eight views.
        training: uint8 (m, side, side, 3).
    """
    known = signatures(training).T
    best, row = np.full(len(images), -np.inf, "float32"), np.zeros(len(images), int)
    for view in d4_views(images):
        similar = signatures(view) @ known
        chosen = similar.argmax(axis=1)
        values = similar[np.arange(len(images)), chosen]
        row, best = np.where(values > best, chosen, row), np.maximum(values, best)
    return best, row


def nearest_by_features(
    images: np.ndarray, known: np.ndarray, features: Features
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least distance of each patch's eight views to `known` features, and the row.

    Args:
        images: uint8 (n, side, side, 3).
        known: features of training patches, (m, features).
        features: from patches to features.
    """
    squares = np.square(known).sum(axis=1)
    best, row = np.full(len(images), np.inf), np.zeros(len(images), int)
    for view in d4_views(images):
        found = features(np.ascontiguousarray(view))
        distances = squares - 2 * found @ known.T + np.square(found).sum(axis=1, keepdims=True)
        chosen = distances.argmin(axis=1)
        values = np.sqrt(np.maximum(distances[np.arange(len(images)), chosen], 0))
        row, best = np.where(values < best, chosen, row), np.minimum(values, best)
    return best, row


@dataclasses.dataclass(frozen=True)
class Check:
    """What the search for copies found.

    A patch is too near by pixels if its correlation with a training patch is above
    `COPY_CORRELATION`; by features if it is nearer to one than nearly all held-out patches are.
    Typical patches are near by features too, so what features alone find has to be looked at.

    Attributes:
        nearest: highest correlation of each patch with a training patch, (n,).
        by_pixels: how many patches of each kind are too near by pixels.
        by_features: the same by features.
        patches: how many there are of each kind.
    """

    nearest: np.ndarray
    by_pixels: dict[str, int]
    by_features: dict[str, int]
    patches: dict[str, int]


def check(
    images: np.ndarray,
    training: np.ndarray,
    held_out: np.ndarray,
    features: Features,
    known: np.ndarray,
    copied: np.ndarray,
    seed: int = 0,
) -> Check:
    """Look for copies of training patches, and measure how well this search works.

    It is measured on `planted` copies, turned and recoloured, which should all be found, and on
    `held_out` patches, of which none should be. The third kind is `generated`.

    Args:
        images: uint8 (n, side, side, 3).
        training: uint8 (m, side, side, 3).
        held_out: patches of other slides, uint8 (k, side, side, 3).
        features: from patches to features.
        known: features of the training patches, (m, features).
        copied: rows of the training patches from which planted copies are made, of as many as
            there are held-out patches.
        seed: of the planted copies.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(copied)[: len(held_out)]
    planted = disguised(training[chosen], rng)

    def search(patches):
        by_features = nearest_by_features(patches, known, features)
        return nearest(patches, training)[0], by_features[0]

    found = {
        "generated": search(images), "planted": search(planted), "held_out": search(held_out)
    }  # fmt: skip
    limit = np.quantile(found["held_out"][1], FALSE_ALARMS)
    return Check(
        found["generated"][0],
        {kind: int((similar > COPY_CORRELATION).sum()) for kind, (similar, _) in found.items()},
        {kind: int((distance < limit).sum()) for kind, (_, distance) in found.items()},
        {kind: len(similar) for kind, (similar, _) in found.items()},
    )


def disguised(images: np.ndarray, rng: np.random.Generator, strength: float = 0.3) -> np.ndarray:
    """Return copies of patches, each turned or reflected, each stain's density times 1 ± strength.

    Args:
        images: uint8 (n, side, side, 3).
        rng: of the draws.
        strength: of the change of stain.
    """
    views = np.stack(list(d4_views(images)))
    turned = views[rng.integers(len(views), size=len(images)), np.arange(len(images))]
    gain = rng.uniform(1 - strength, 1 + strength, (len(images), 3))
    jitter = np.linalg.inv(stain.MIXING) @ (gain[:, :, None] * stain.MIXING)
    density = -np.log((turned.astype("float32") + 1) / 256)
    density = np.einsum("nijc,ncd->nijd", density, jitter)
    return np.clip(np.round(256 * np.exp(-density) - 1), 0, 255).astype("uint8")
