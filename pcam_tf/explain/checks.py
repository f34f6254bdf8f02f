"""Whether explanations deserve trust: each method of `explain` held against what can be known.

A map that looks right proves nothing: the edges of a patch look right as well, and a random map
finds a nucleus by chance. So both are judged beside the methods, as `CONTROLS`.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import pandas as pd
import scipy.ndimage
import scipy.special
import scipy.stats
import tqdm

from pcam_tf import evaluation
from pcam_tf.explain import methods
from pcam_tf.models.classifier import PATCH_PX

CENTRE = slice(32, 64)  # PCam labels a patch by these rows and columns alone
STAGES = 6  # of the randomisation, from the head down
SHARES = np.linspace(0, 1, 13)  # of a patch that is deleted or inserted
# Side of what is deleted and inserted at once. Single pixels would favour pixel-fine maps for the
# noise that they put into the patch rather than for what they take away from it.
CELL_PX = 8
RESAMPLES = 2000


def _random(_, patches):
    cells = np.random.default_rng(0).normal(size=(len(patches), *[PATCH_PX // CELL_PX] * 2))
    return np.kron(cells, np.ones((CELL_PX, CELL_PX))).astype("float32")


def _edges(_, patches):
    grey = np.asarray(patches, "float32").mean(axis=-1)
    return np.hypot(*(scipy.ndimage.sobel(grey, axis=axis) for axis in (1, 2)))


CONTROLS: dict[str, Callable[[keras.Model, np.ndarray], np.ndarray]] = {
    "random map": _random,
    "edges": _edges,
}


def maps(model: keras.Model, patches: np.ndarray) -> dict[str, np.ndarray]:
    """Return the maps of every method and control: name -> float32 (n, 96, 96)."""
    found = {}
    for name in tqdm.tqdm([*methods.METHODS, *CONTROLS], desc="explaining", unit="method"):
        control = CONTROLS.get(name)
        found[name] = control(model, patches) if control else methods.maps(model, patches, name)
    return found


def randomisation(
    model: keras.Model, patches: np.ndarray, names: Sequence[str] = tuple(methods.METHODS)
) -> pd.DataFrame:
    """Compare maps of a model with those of the model made random from the head down.

    J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: a map that stays when the
    model is gone does not explain it. The kernels' values are shuffled within each layer, which
    keeps their distribution; BatchNormalization's statistics stay, so that nothing overflows.

    Args:
        model: a classifier; it is not changed.
        patches: (n, 96, 96, 3), RGB 0..255.
        names: of `explain.METHODS`.

    Returns:
        A row for each method and each of `STAGES` stages: `method`, `layers` (how many are random),
        `lowest` (name of the last of them), `correlation` (Spearman's, mean over the patches, 0
        for a map without contrast), `low` and `high` (95 %).
    """
    before = {method: methods.maps(model, patches, method) for method in names}
    changed = keras.models.clone_model(model)
    changed.set_weights(model.get_weights())
    kernels = [
        (layer.name, weight)
        for layer in reversed(changed.layers)
        for weight in layer.weights
        if len(weight.shape) > 1
    ]
    rng = np.random.default_rng(0)
    ends = np.unique(np.geomspace(1, len(kernels), STAGES).round().astype(int))
    rows = []
    for first, last in tqdm.tqdm(list(zip([0, *ends], ends, strict=False)), desc="randomising"):
        for _, weight in kernels[first:last]:
            weight.assign(rng.permuted(np.asarray(weight).ravel()).reshape(weight.shape))
        for method in names:
            after = methods.maps(changed, patches, method)
            found = [rank_correlation(*pair) for pair in zip(before[method], after, strict=True)]
            rows.append(
                {
                    "method": method,
                    "layers": int(last),
                    "lowest": kernels[last - 1][0],
                    **mean_with_interval(found, "correlation"),
                }
            )
    return pd.DataFrame(rows)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's correlation of two maps; 0 where one of them has no contrast."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic)


def curves(model: keras.Model, patches: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probability of the model's own call as a patch is deleted or inserted.

    V. Petsiuk, A. Das and K. Saenko, "RISE: randomized input sampling for explanation of black-box
    models", BMVC 2018. Cells of `CELL_PX` go, or come, in the order in which the map says that they
    speak for the call; what is not there is blurred.

    Args:
        model: a classifier.
        patches: (n, 96, 96, 3), RGB 0..255.
        found: their maps, (n, 96, 96).

    Returns:
        "deletion" and "insertion", each (n, `SHARES`).
    """
    patches = np.asarray(patches, "float32")
    hidden = methods.blurred(patches)
    tumour = methods.log_odds(model, patches) > 0
    rows = PATCH_PX // CELL_PX
    cells = found.reshape(len(found), rows, CELL_PX, rows, CELL_PX).mean(axis=(2, 4))
    spoken = np.where(tumour[:, None], 1, -1) * cells.reshape(len(found), -1)
    # Places of equal value, as in a map without contrast, come in random order, not row by row.
    noise = np.random.default_rng(0).random(spoken.shape)
    rank = np.argsort(np.lexsort((noise, -spoken), axis=-1), axis=-1).reshape(cells.shape)
    rank = rank.repeat(CELL_PX, axis=1).repeat(CELL_PX, axis=2)[..., None]
    results = {"deletion": [], "insertion": []}
    for share in SHARES:
        foremost = rank < share * rows**2
        for name, there in (("deletion", ~foremost), ("insertion", foremost)):
            log_odds = methods.log_odds(model, np.where(there, patches, hidden))
            results[name].append(scipy.special.expit(np.where(tumour, log_odds, -log_odds)))
    return {name: np.stack(columns, axis=1) for name, columns in results.items()}


def faithfulness(by_name: dict[str, np.ndarray]) -> np.ndarray:
    """Return, for each patch, the mean of its insertion curve minus that of its deletion curve."""
    return by_name["insertion"].mean(axis=1) - by_name["deletion"].mean(axis=1)


def pointing(found: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return, for each map, whether its highest place lies in the mask, bool (n,).

    J. Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, without their
    tolerance.

    Args:
        found: maps (n, 96, 96).
        masks: bool (n, 96, 96).
    """
    highest = found.reshape(len(found), -1).argmax(axis=1)
    return masks.reshape(len(masks), -1)[np.arange(len(masks)), highest]


def positive_share(found: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return, for each map, the share of what is above 0 that lies in the mask, (n,); NaN for none.

    Args:
        found: maps (n, 96, 96).
        masks: bool (n, 96, 96).
    """
    positive = np.maximum(found, 0)
    total = positive.sum(axis=(1, 2))
    inside = (positive * masks).sum(axis=(1, 2))
    return np.divide(inside, total, out=np.full(len(found), np.nan), where=total > 0)


def centre_mask(count: int) -> np.ndarray:
    """Return masks of the labelled centre square, bool (count, 96, 96)."""
    masks = np.zeros((count, PATCH_PX, PATCH_PX), bool)
    masks[:, CENTRE, CENTRE] = True
    return masks


def without(model: keras.Model, patches: np.ndarray) -> pd.DataFrame:
    """Return probabilities of patches as they are, with the centre alone, and without it.

    What is taken away is blurred, and once more replaced by another patch of the batch, the next.

    Args:
        model: a classifier.
        patches: (n, 96, 96, 3), RGB 0..255.

    Returns:
        A row a patch: `whole`, `surroundings blurred`, `surroundings of another`,
        `centre blurred`, `centre of another`.
    """
    patches = np.asarray(patches, "float32")
    centre = centre_mask(len(patches))[..., None]
    others = {"blurred": methods.blurred(patches), "of another": np.roll(patches, 1, axis=0)}
    changed = {"whole": patches}
    changed |= {f"surroundings {n}": np.where(centre, patches, o) for n, o in others.items()}
    changed |= {f"centre {n}": np.where(centre, o, patches) for n, o in others.items()}
    return pd.DataFrame(
        {name: scipy.special.expit(methods.log_odds(model, each)) for name, each in changed.items()}
    )


def without_summary(changed: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """Return what `without` found: the mean of each class, and the AUC, with 95 % intervals.

    Args:
        changed: what `without` returned.
        labels: (n,) of 0 and 1, both among them.
    """
    labels = np.asarray(labels)
    rows = {
        name: {
            column: text(mean_with_interval(changed[column][labels == label])) for column in changed
        }
        for label, name in enumerate(("normal", "tumour"))
    }
    aucs = {column: evaluation.auc_interval(labels, changed[column]) for column in changed}
    rows["AUC"] = {
        column: f"{auc:.3f} ({low:.3f} to {high:.3f})" for column, (auc, low, high) in aucs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def right_and_wrong(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the rows of up to eight patches: two each, from right and sure to wrong and sure."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    for_truth = np.where(labels == 1, probabilities, 1 - probabilities)
    order = np.argsort(-for_truth, kind="stable")
    right, wrong = order[for_truth[order] >= 0.5], order[for_truth[order] < 0.5]
    chosen = np.concatenate([right[:2], right[-2:], wrong[:2], wrong[-2:]])
    return np.array(list(dict.fromkeys(chosen.tolist())), int)


def additivity(model: keras.Model, patches: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return by how much each map's sum misses the log-odds minus those of the blurred patch."""
    added = methods.log_odds(model, patches) - methods.log_odds(model, methods.blurred(patches))
    return np.abs(found.sum(axis=(1, 2)) - added)


def mean_with_interval(values, name: str = "mean") -> dict[str, float]:
    """Return the mean of values, NaN left out, as `name`, with `low` and `high` (bootstrap, 95 %).

    Values of different patches are taken as independent.
    """
    values = np.asarray(values, "float64")
    values = values[np.isfinite(values)]
    if not len(values):
        return {name: np.nan, "low": np.nan, "high": np.nan}
    chosen = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5])
    return {name: float(values.mean()), "low": float(low), "high": float(high)}


def ranking(
    model: keras.Model, patches: np.ndarray, found: dict[str, np.ndarray], random: pd.DataFrame
) -> pd.DataFrame:
    """Return a row for each method and control: what the checks on any patches say.

    Args:
        model: a classifier.
        patches: (n, 96, 96, 3), RGB 0..255.
        found: what `maps` returned for them.
        random: what `randomisation` returned.

    Returns:
        Index the method; `faithfulness` (insertion minus deletion), `more than random` (that, minus
        the random map's, patch by patch), `after randomisation` (correlation when every layer is
        random), `centre` (share of what is above 0 in the centre 32×32 px: a ninth by chance) and
        `additivity` (largest miss, log-odds), the first four with their 95 % intervals as text.
    """
    scores = {name: faithfulness(curves(model, patches, each)) for name, each in found.items()}
    last = random[random["layers"] == random["layers"].max()].set_index("method")
    rows = {}
    for name, each in found.items():
        added = name in ("integrated gradients", "SHAP")
        rows[name] = {
            "faithfulness": text(mean_with_interval(scores[name])),
            "more than random": text(mean_with_interval(scores[name] - scores["random map"])),
            "after randomisation": text(last.loc[name].to_dict()) if name in last.index else "",
            "centre": text(mean_with_interval(positive_share(each, centre_mask(len(patches))))),
            "additivity": f"{additivity(model, patches, each).max():.3f}" if added else "",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def localisation(found: dict[str, np.ndarray], masks: np.ndarray) -> pd.DataFrame:
    """Return a row for each method and control: how well it finds what the masks mark.

    Args:
        found: what `maps` returned.
        masks: bool (n, 96, 96), such as the tumour's nuclei of synthetic patches.

    Returns:
        Index the method, and "area" for the share of the patch that the masks cover, which is what
        a map without knowledge scores; `pointing game` and `share inside`, with 95 % intervals.
    """
    area = text(mean_with_interval(masks.mean(axis=(1, 2))))
    rows = {
        name: {
            "pointing game": text(mean_with_interval(pointing(each, masks))),
            "share inside": text(mean_with_interval(positive_share(each, masks))),
        }
        for name, each in found.items()
    }
    rows["area"] = {"pointing game": area, "share inside": area}
    return pd.DataFrame.from_dict(rows, orient="index")


def text(interval: dict[str, float]) -> str:
    """Return a mean and its interval as text, such as "0.81 (0.75–0.86)"."""
    mean = interval.get("mean", interval.get("correlation"))
    return f"{mean:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"
