"""Generated synthetic tissue against what is true of drawn tissue: nuclei, stains, the centre rule.

Only of drawn patches is it known which stains they have, and that the label follows from the centre
square alone. So a generator that is trained on them can be held against rules, not against looks.
"""

import numpy as np
import scipy.ndimage
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing

from pcam_tf import stain, synthetic
from pcam_tf.gan.features import Features, imagenet_features
from pcam_tf.gan.patches import Patches, centre
from pcam_tf.stain import separation
from pcam_tf.synthetic.patches import SyntheticConfig
from pcam_tf.task import PCAM

# Pixels of haematoxylin, above the mean of the patch by this many deviations, and this many of
# them together are a nucleus.
_DEVIATIONS, _LEAST_PX, _BLUR_PX = 1.0, 8, 1.0
_DRAWN = 500  # patches of each split


def nuclei(images: np.ndarray) -> np.ndarray:
    """Return the number of separate spots of haematoxylin in each patch, int64 (n,).

    Args:
        images: uint8 (n, side, side, 3).
    """
    amounts = separation.separate(stain.optical_density(images))[..., 0]
    amounts = scipy.ndimage.gaussian_filter(amounts, (0, _BLUR_PX, _BLUR_PX))
    flat = amounts.reshape(len(amounts), -1)
    limits = flat.mean(axis=1) + _DEVIATIONS * flat.std(axis=1)
    counts = []
    for patch, limit in zip(amounts, limits, strict=True):
        spots, found = scipy.ndimage.label(patch > limit)
        sizes = np.bincount(spots.ravel(), minlength=found + 1)[1:]
        counts.append(int((sizes >= _LEAST_PX).sum()))
    return np.array(counts)


def stain_errors(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the angle in degrees of each patch's haematoxylin to the nearest known one.

    Args:
        images: uint8 (n, side, side, 3).
        known: unit vectors of haematoxylin of the slides, (slides, 3).

    Returns:
        (n,); NaN for patches whose stains cannot be told apart.
    """
    errors = []
    for image in images:
        vectors = separation.macenko_vectors(separation.macenko_density(image))
        if vectors is None:
            errors.append(np.nan)
            continue
        cosine = (known @ (vectors[0] / np.linalg.norm(vectors[0]))).max()
        errors.append(float(np.degrees(np.arccos(min(cosine, 1.0)))))
    return np.array(errors)


def centre_rule(images: np.ndarray, labels: np.ndarray, features: Features):
    """Return a function that says of patches whether their labelled square holds tumour, bool (n,).

    It is a logistic regression on features of that square alone, trained on drawn patches.

    Args:
        images: drawn patches, uint8 (n, side, side, 3).
        labels: (n,).
        features: of patches as wide as the square.
    """
    model = sklearn.pipeline.make_pipeline(
        sklearn.preprocessing.StandardScaler(),
        sklearn.linear_model.LogisticRegression(C=1e-2, max_iter=300),
    )
    model.fit(features(centre(images, PCAM.centre_px)), labels)
    return lambda images: model.predict(features(centre(images, PCAM.centre_px))) == 1


def rows(generated: Patches, config: SyntheticConfig) -> list[dict]:
    """Return a table: what is measured of generated, training and held-out patches of each class.

    Args:
        generated: by a generator that has seen drawn patches.
        config: of the source of those.
    """
    training, held_out = (
        synthetic.draw_patches(
            count, split=split, seed=config.seed, sorted_slides=config.sorted_slides
        )
        for split, count in (("train", 2 * _DRAWN), ("validation", _DRAWN))
    )
    features = imagenet_features(PCAM.centre_px)
    side = generated.image.shape[1]
    # One half of the training patches; the table is of the other.
    holds_tumour = centre_rule(training.image[::2], training.label[::2], features)
    vectors = np.unique(training.stain_vectors[:, 0], axis=0)
    known = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    table = []
    for label, name in enumerate(PCAM.classes):
        if not (generated.label == label).any():
            continue
        parts = {
            "generated": generated.image[generated.label == label],
            "drawn, training": centre(training.image[1::2][training.label[1::2] == label], side),
            "drawn, other slides": centre(held_out.image[held_out.label == label], side),
        }
        for measure, of in (
            ("nuclei in a patch, mean ± deviation", lambda each: _spread(nuclei(each))),
            ("angle of haematoxylin, degrees, median",
             lambda each: _median(stain_errors(each, known))),
            ("centre square as the label says",
             lambda each, wanted=label: f"{(holds_tumour(each) == wanted).mean():.3f}"),
        ):  # fmt: skip
            table.append({"class": name, "measure": measure}
                         | {kind: of(part) for kind, part in parts.items()})  # fmt: skip
    return table


def _spread(values):
    return f"{values.mean():.1f} ± {values.std():.1f}"


def _median(values):
    found = values[~np.isnan(values)]
    return f"{np.median(found):.1f}" if len(found) else "–"
