"""How far two sets of patches are from each other, measured in features of patches.

The features are those of this package's own classifier of patches, not Inception's, so the numbers
cannot be compared with those of other papers. Each is read beside the same number for two sets of
real patches.
"""

import numpy as np
import scipy.spatial.distance
import sklearn.neighbors

from pcam_tf.gan.memorisation import signatures


def kid(first: np.ndarray, second: np.ndarray) -> float:
    """Return the kernel inception distance of two sets of features: squared, unbiased.

    M. Bińkowski et al., "Demystifying MMD GANs", ICLR 2018: the maximum mean discrepancy with the
    kernel (x·y / features + 1)³. Around 0, below it as well, for two samples of one distribution.

    Args:
        first: (n, features), n at least 2.
        second: (m, features), m at least 2.
    """
    first, second = np.asarray(first, "float64"), np.asarray(second, "float64")

    def kernel(one, other):
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(values):
        products = kernel(values, values)
        return (products.sum() - np.trace(products)) / (len(values) * (len(values) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
    """Return the share of generated patches among the real ones, and the reverse.

    T. Kynkäänniemi et al., NeurIPS 2019: a set is the balls around its members, each as wide as the
    distance to the member's `neighbours`-th nearest. Compare sets of about the same size.

    Args:
        real: features (n, features).
        generated: features (m, features).
        neighbours: which neighbour a ball reaches to.
    """
    return _covered(real, generated, neighbours), _covered(generated, real, neighbours)


def _covered(balls, points, neighbours):
    """Return the share of `points` within a ball of `balls`."""
    nearest = sklearn.neighbors.NearestNeighbors(n_neighbors=neighbours + 1).fit(balls)
    radii = nearest.kneighbors(balls)[0][:, -1]  # the nearest of all is the point itself
    distances = scipy.spatial.distance.cdist(points, balls)
    return float((distances <= radii).any(axis=1).mean())


def diversity(features: np.ndarray) -> float:
    """Return the mean distance of a patch to the nearest other one, in units of features.

    Copies and near copies make it fall towards 0; blurred or strange patches need not.

    Args:
        features: (n, features), n at least 2. It falls with n, so compare equal numbers.
    """
    nearest = sklearn.neighbors.NearestNeighbors(n_neighbors=2).fit(features)
    return float(nearest.kneighbors(features)[0][:, 1].mean())


def shared_layout(images: np.ndarray) -> float:
    """Return the mean correlation of two patches, place by place.

    About 0 for real patches; towards 1 if all have their dark and light in the same places, of
    whatever colours, or none of them has any.

    Args:
        images: uint8 (n, side, side, 3), n at least 2.
    """
    vectors = signatures(images).astype("float64")
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 0.5]  # those of flat patches are 0
    if len(vectors) < 2:
        return 1.0
    total, count = vectors.sum(axis=0), len(vectors)
    return float((total @ total - count) / (count * (count - 1)))
