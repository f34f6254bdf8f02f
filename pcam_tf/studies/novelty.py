"""Whether a patch looks unlike the training data: measured on its pixels, whatever model reads it.

A classifier answers any picture, also one of which it has never seen the like. Here colours and
sharpness of a patch are held against those of the training patches. They say nothing of what the
tissue is: another organ, stained and scanned alike, passes. And a notice is no sign of an error:
among ordinary patches the model errs no more often where they are unusual.
"""

import collections
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage
import scipy.special
import scipy.stats
import sklearn.mixture
import sklearn.preprocessing
import tqdm
from statsmodels.stats.proportion import proportion_confint

from pcam_tf import stain, synthetic
from pcam_tf.data import audit
from pcam_tf.errors import InputError
from pcam_tf.studies import robustness
from pcam_tf.task import PCAM

SHIPPED_REFERENCE = Path(__file__).parent.parent / "shipped" / "novelty.json"
# What each measure is when it is low and when it is high, as `sentence` says it.
MEASURES = {
    "haematoxylin": ("little haematoxylin", "much haematoxylin"),
    "eosin": ("little eosin", "much eosin"),
    "residual": ("a colour that neither dye has", "a colour that neither dye has"),
    "haematoxylin contrast": ("little contrast of haematoxylin", "much contrast of haematoxylin"),
    "eosin contrast": ("little contrast of eosin", "much contrast of eosin"),
    "residual contrast": ("a single hue", "hues that neither dye has"),
    "haematoxylin with eosin": ("dyes in unusual places", "dyes in the same places"),
    "haematoxylin with residual": ("an unusual hue of the nuclei", "an unusual hue of the nuclei"),
    "eosin with residual": ("an unusual hue of the eosin", "an unusual hue of the eosin"),
    "blank": ("no glass", "much glass"),
    "lightest": ("very bright light", "no bright spot"),
    "lightest hue": ("a yellow light", "a blue light"),
    "detail": ("blur", "much fine detail"),
    "sharpness": ("blur", "unusual sharpness or noise"),
    "grain": ("noise or sharpening", "blur"),
    "blocks": ("an unusually even surface", "blocks of strong compression"),
}
COMPONENTS = 12  # the training slides' stains and scanners are several clouds, not one
PER_COMPONENT = 100  # training patches at least, for a cloud's 152 numbers
ORDINARY = 0.99  # of the validation patches that choose the threshold
CHUNK = 256  # patches measured at once, some 200 MB
JPEG_PX = 8  # the side of JPEG's blocks
# Of `robustness.SHIFTS`, and how strongly patches are changed to see whether they are noticed.
SHIFTS = {
    "blur, sigma px": (1, 2, 4),
    "brightness": (0.5, 0.75, 1.5),
    "JPEG quality": (30, 5),
    "scale": (0.5, 2),
}


def measures(patches: np.ndarray) -> pd.DataFrame:
    """Measure patches, without any model; 3 ms a patch among many, 9 ms alone.

    Args:
        patches: (n, side, side, 3) uint8.

    Returns:
        A row a patch, float64, the columns of `MEASURES`. The first nine are mean, logarithm of
        the standard deviation, and correlations of the natural optical densities of haematoxylin,
        eosin and the residual; `blank` is the root of the share of pixels without tissue;
        `lightest` the logarithm of the density that 2 % of the pixels lie below, and its hue red's
        density above blue's; `detail` and `sharpness` logarithms of the edges, and of the fine
        ones over the coarse; `grain` the correlation of neighbouring slopes; `blocks` the
        logarithm of the steps between blocks of 8 px over those inside, where that is largest.

    Raises:
        InputError: the patches are not uint8 (n, side, side, 3), sides of 16 px or more.
    """
    patches = np.asarray(patches)
    shape = patches.shape
    is_square = len(shape) == 4 and shape[1] == shape[2] >= 2 * JPEG_PX and shape[3] == 3
    if patches.dtype != np.uint8 or not is_square:
        raise InputError(
            "novelty is measured on uint8 (n, side, side, 3), sides of 16 px or more, not on "
            f"{patches.dtype} {shape}."
        )
    chunks = [_measures(patches[row : row + CHUNK]) for row in range(0, len(patches), CHUNK)]
    return pd.concat(chunks or [_measures(patches)], ignore_index=True)


def _measures(patches):
    colour = stain.optical_density(patches).astype("float32")
    dyes = np.moveaxis(colour @ np.linalg.inv(stain.MIXING).astype("float32"), -1, 0)
    means = dyes.mean(axis=(2, 3))
    centred = (dyes - means[:, :, None, None]).reshape(3, len(patches), patches.shape[1] ** 2)
    covariance = np.einsum("inp,jnp->ijn", centred, centred) / centred.shape[-1]
    # What is added in roots and logarithms keeps pictures of one colour finite.
    deviation = np.sqrt(np.maximum(covariance[range(3), range(3)], 0))
    correlation = covariance / (deviation[:, None] * deviation[None] + 1e-3)
    density = colour.mean(axis=-1)
    fine, coarse = _edges(density, 0.7) + 1e-3, _edges(density, 2.0) + 1e-3
    flat = density.reshape(len(patches), patches.shape[1] ** 2)
    hue = (colour[..., 0] - colour[..., 2]).reshape(flat.shape)
    blank = (audit.saturation(patches) < audit.BLANK_SATURATION).mean(axis=(1, 2))
    slopes = np.diff(patches.astype("float32").mean(axis=-1), axis=2)
    grain = (slopes[:, :, 1:] * slopes[:, :, :-1]).mean(axis=(1, 2)) + 0.5
    columns = [
        *means,
        *np.log(deviation + 0.01),
        *(correlation[pair] for pair in ((0, 1), (0, 2), (1, 2))),
        np.sqrt(blank),
        np.log(np.maximum(np.percentile(flat, 2, axis=1), 0) + 0.02),
        np.percentile(hue, 5, axis=1),
        np.log(fine),
        np.log(fine / coarse),
        grain / ((slopes**2).mean(axis=(1, 2)) + 1),
        _blocks(patches),
    ]
    return pd.DataFrame(dict(zip(MEASURES, columns, strict=True)), dtype="float64")


def _edges(density, sigma_px):
    smooth = scipy.ndimage.gaussian_filter(density, (0, sigma_px, sigma_px))
    return scipy.ndimage.laplace(smooth, axes=(1, 2)).std(axis=(1, 2))


def _blocks(patches):
    """Return the logarithm of steps on a grid of 8 px over those off it, for the grid that fits.

    Any grid may be the one: patches that are cut from a compressed slide do not begin at a block,
    as those of the training data may do, and that alone makes no patch unusual.
    """
    grey = patches.astype("float32").mean(axis=-1)
    found = []
    for axis, across in ((1, 2), (2, 1)):
        steps = np.abs(np.diff(grey, axis=axis)).mean(axis=across)
        on = np.stack([steps[:, phase::JPEG_PX].mean(axis=1) for phase in range(JPEG_PX)])
        found.append(np.log((on + 0.5) / (on.mean(axis=0) + 0.5)).max(axis=0))
    return np.mean(found, axis=0)


def _measures_like(patches, reference):
    """Return the measures of patches that are as large as those of the reference."""
    # The first references name no side: they are of PatchCamelyon.
    side_px = reference.get("side_px", PCAM.side_px)
    patches = np.asarray(patches)
    if patches.shape[1:3] != (side_px, side_px):
        raise InputError(
            f"the reference is of uint8 (n, {side_px}, {side_px}, 3), not of {patches.dtype} "
            f"{patches.shape}: learn one of your own patches (`novelty --fit`)."
        )
    return measures(patches)


def score(patches: np.ndarray, reference: Mapping | None = None) -> np.ndarray:
    """Return how surprising patches are after the training patches, float64 (n,).

    The negative logarithm of the density, in nats, of a mixture of Gaussians over the scaled
    measures: near a single cloud half a squared Mahalanobis distance, plus a constant. One cloud
    would be too wide: between two stains of the training data it would call anything ordinary.

    Args:
        patches: (n, side, side, 3) uint8.
        reference: what `fit` returned; None for the shipped one. Compare to its `threshold`,
            `THRESHOLD` for the shipped one.

    Raises:
        InputError: the patches are not uint8 or not of the side of the reference.
    """
    reference = shipped() if reference is None else reference
    return _surprise(_scaled(_measures_like(patches, reference), reference), reference)


def _scaled(table, reference):
    values = table[reference["measures"]].to_numpy()
    return (values - reference["centre"]) / np.asarray(reference["scale"])


def _surprise(scaled, reference):
    return -scipy.special.logsumexp(_log_densities(scaled, reference), axis=0)


def _log_densities(scaled, reference):
    """Return the weighted log density of each component, (components, n)."""
    clouds = zip(reference["weights"], reference["means"], reference["covariances"], strict=True)
    return np.stack(
        [
            np.log(weight)
            + np.atleast_1d(scipy.stats.multivariate_normal.logpdf(scaled, mean, covariance))
            for weight, mean, covariance in clouds
        ]
    )


@functools.cache
def shipped() -> dict:
    """Return the reference that the package ships, of the patches the shipped model learnt from."""
    return json.loads(SHIPPED_REFERENCE.read_text(encoding="utf-8"))


def __getattr__(name: str) -> float:
    # Read when it is asked for: a reference can then be made where there is none.
    if name == "THRESHOLD":
        return shipped()["threshold"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def furthest(patches: np.ndarray, reference: Mapping | None = None) -> list[str]:
    """Name for each patch the measure that takes it furthest from the training patches, in words.

    That is the one most standard deviations from the centre of the nearest cloud. Measures hang
    together, and what is unusual may be how, so the words are a hint at the reason, no finding.

    Raises:
        InputError: the patches are not uint8 or not of the side of the reference.
    """
    reference = shipped() if reference is None else reference
    return _furthest(_scaled(_measures_like(patches, reference), reference), reference)


def _furthest(scaled, reference):
    if not len(scaled):
        return []
    words = []
    nearest = _log_densities(scaled, reference).argmax(axis=0)
    for values, cloud in zip(scaled, nearest, strict=True):
        spread = np.sqrt(np.diagonal(reference["covariances"][cloud]))
        off = (values - reference["means"][cloud]) / spread
        measure = int(np.abs(off).argmax())
        words.append(MEASURES[reference["measures"][measure]][int(off[measure] > 0)])
    return words


def sentence(
    score: float, patch: np.ndarray | None = None, reference: Mapping | None = None
) -> str:
    """Return a notice for a pathologist; "" where the score is ordinary.

    Args:
        score: what `score` returned for the patch.
        patch: (side, side, 3) uint8, to say also what is unusual about it.
        reference: as for `score`.

    Raises:
        InputError: the patch is not uint8, or not of the side of the reference.
    """
    reference = shipped() if reference is None else reference
    if score <= reference["threshold"]:
        return ""
    what = "" if patch is None else f": {furthest(np.asarray(patch)[None], reference)[0]}"
    counted = reference["false_alarms"]
    one_in = float(f"{counted['patches'] / max(counted['noticed'], 1):.1g}")
    return (
        f"Looks unlike the training data{what}. The model's measured accuracy may not hold here "
        f"(about 1 in {one_in:,.0f} ordinary patches gets this notice, more on new slides)."
    )


def fit(train_batches: Iterable[Mapping], validation_batches: Iterable[Mapping]) -> dict:
    """Learn what training patches look like, and how often validation patches look otherwise.

    The threshold is the 99th percentile of the first half of the validation patches; how often it
    raises a false alarm is counted in the second half. Both halves may share slides. How much
    slides differ shows where the 99th percentile of the training patches is held against all of
    validation.

    Args:
        train_batches: dictionaries of `image` (B, side, side, 3) uint8.
        validation_batches: likewise; at least 200 patches, in an order that says nothing.

    Returns:
        JSON-able: `measures` (names), `side_px` of the patches, `centre` and `scale` of each
        measure (median and interquartile range of the training patches), `weights`, `means` and
        `covariances` of the clouds, `threshold`, `train_patches`, and the counts `false_alarms`
        and `false_alarms_new_slides` (`patches`, `noticed`, `share`, Wilson `low` and `high`).

    Raises:
        InputError: too few patches, or they are not uint8 (B, side, side, 3).
    """
    train, side_px = _measured(train_batches)
    validation, validation_side_px = _measured(validation_batches)
    if side_px != validation_side_px:
        raise InputError(
            f"training patches have {side_px} px, validation patches {validation_side_px} px."
        )
    if len(train) < PER_COMPONENT * COMPONENTS or len(validation) < 200:
        raise InputError(
            f"{len(train):,} training and {len(validation):,} validation patches are too few: give "
            f"{PER_COMPONENT * COMPONENTS:,} and 200 or more."
        )
    scaler = sklearn.preprocessing.RobustScaler().fit(train.to_numpy())
    # A measure that never varies would be divided by nothing: RobustScaler then leaves it as it is.
    mixture = sklearn.mixture.GaussianMixture(COMPONENTS, reg_covar=1e-3, random_state=0)
    mixture.fit(scaler.transform(train.to_numpy()))
    reference = {
        "measures": list(MEASURES),
        "side_px": side_px,
        "centre": _rounded(scaler.center_),
        "scale": _rounded(scaler.scale_),
        "weights": _rounded(mixture.weights_),
        "means": _rounded(mixture.means_),
        "covariances": _rounded(mixture.covariances_),
        "train_patches": len(train),
    }
    of_train, of_validation = (
        _surprise(_scaled(table, reference), reference) for table in (train, validation)
    )
    choosing, counting = np.split(of_validation, [len(of_validation) // 2])
    threshold = float(np.quantile(choosing, ORDINARY))
    noticed = int((of_validation > np.quantile(of_train, ORDINARY)).sum())
    return {
        **reference,
        "threshold": threshold,
        "false_alarms": _share(int((counting > threshold).sum()), len(counting)),
        "false_alarms_new_slides": _share(noticed, len(of_validation)),
    }


def _measured(batches):
    """Return the measures of all patches, and their side."""
    tables, side_px = [pd.DataFrame(columns=list(MEASURES), dtype="float64")], 0
    for batch in batches:
        side_px = batch["image"].shape[1]
        tables.append(measures(batch["image"]))
    return pd.concat(tables[1:] or tables, ignore_index=True), side_px


def _rounded(values):
    # Six digits are more than pixels bear; a double takes three times the room.
    return [_rounded(row) for row in values] if np.ndim(values) else float(f"{values:.6g}")


def _share(noticed, patches):
    low, high = proportion_confint(noticed, patches, method="wilson")
    return {
        "patches": patches,
        "noticed": noticed,
        "share": noticed / patches,
        "low": float(low),
        "high": float(high),
    }


def changed(patches: np.ndarray, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Yield patches as they are and made unusual in ways that are known, and foreign pictures.

    Args:
        patches: (n, side, side, 3) uint8.
        seed: of the noise and of the synthetic patches.

    Yields:
        What was done, and (n, side, side, 3) uint8. The first two should pass: nothing, and the
        same moved by 4 px, which no pathologist would see.
    """
    yield "as they are", patches
    yield "moved by 4 px", np.roll(patches, (4, 4), axis=(1, 2))
    for dye, name in enumerate(("haematoxylin", "eosin")):
        for factor in (0.4, 2):
            yield f"{name} gain {factor}", robustness.gain(patches, factor, dye)
    for shift, levels in SHIFTS.items():
        for level in levels:
            yield f"{shift} {level}", robustness.shifted(patches, shift, level)
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 25, patches.shape).astype("float32")
    yield "noise of 25 levels added", robustness.grey_levels(patches + noise)
    yield "inverted", 255 - patches
    yield "red and blue swapped", patches[..., ::-1]
    yield "synthetic tissue", _synthetic(len(patches), patches.shape[1], seed)
    yield "noise alone", rng.integers(0, 256, patches.shape, dtype="uint8")
    yield "blank", robustness.grey_levels(240 + noise / 12)


def _synthetic(count, side_px, seed):
    """Return drawn patches of any side: their centre, or mirrored at the border."""
    drawn = synthetic.draw_patches(count, split="test", seed=seed).image
    missing = max(side_px - drawn.shape[1], 0)
    border = (missing // 2, missing - missing // 2)
    drawn = np.pad(drawn, ((0, 0), border, border, (0, 0)), mode="reflect")
    first = (drawn.shape[1] - side_px) // 2
    return drawn[:, first : first + side_px, first : first + side_px]


def detection(
    batches: Iterable[Mapping[str, np.ndarray]], reference: Mapping | None = None
) -> pd.DataFrame:
    """Count how many patches of each kind of `changed` get a notice, and why.

    Patches are read once, batch by batch; only the counts are kept.

    Args:
        batches: dictionaries of `image` (b, side, side, 3) uint8.
        reference: as for `score`.

    Returns:
        A row each: `kind`, `patches`, `noticed`, `share`, Wilson `low` and `high` (patches taken
        as independent), and `furthest`, the words that most of the noticed ones get.

    Raises:
        InputError: there are no patches, or they are not those of the reference.
    """
    reference = shipped() if reference is None else reference
    counts, words = collections.Counter(), collections.defaultdict(collections.Counter)
    chunks = (
        batch["image"][first : first + CHUNK]
        for batch in batches
        for first in range(0, len(batch["image"]), CHUNK)
    )
    with tqdm.tqdm(desc="measuring", unit="patch") as bar:
        for seed, patches in enumerate(chunks):
            for kind, images in changed(patches, seed):
                scaled = _scaled(_measures_like(images, reference), reference)
                is_noticed = _surprise(scaled, reference) > reference["threshold"]
                counts[kind] += len(images)
                words[kind].update(_furthest(scaled[is_noticed], reference))
            bar.update(len(patches))
    if not counts:
        raise InputError("there are no patches to measure.")
    return pd.DataFrame(
        {
            "kind": kind,
            **_share(words[kind].total(), patches),
            # Of words that are as frequent, the first in the alphabet.
            "furthest": min(words[kind], key=lambda each: (-words[kind][each], each), default=""),
        }
        for kind, patches in counts.items()
    )


def summary_rows(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return the rows of `detection` as text, for `reports.markdown_table`."""
    return [
        {
            "patches": row["kind"],
            "how many": f"{row['patches']:,}",
            "noticed": f"{row['share']:.3f} ({row['low']:.3f}–{row['high']:.3f})",
            "most often for": row["furthest"],
        }
        for _, row in found.iterrows()
    ]
