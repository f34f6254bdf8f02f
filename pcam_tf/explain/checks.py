"""Checks of explanations: whether the maps of each method of `explain` can be trusted.

A map that looks right proves nothing: the edges of a patch look right as well, and a random map
finds a nucleus by chance. Both are therefore checked beside the methods, as `CONTROLS`.
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
from pcam_tf.errors import InputError
from pcam_tf.explain import methods
from pcam_tf.models import classifier, copies
from pcam_tf.task import PCAM, Task

STAGES = 6  # of the randomisation, from the head down
SHARES = np.linspace(0, 1, 13)  # of a patch that is deleted or inserted
# Side of what is deleted and inserted at once. Single pixels would favour pixel-fine maps: the
# noise of single pixels, not the missing tissue, would change the probability.
CELL_PX = 8
RESAMPLES = 2000


def _random(_model, patches, _targets=None):
    cells = np.random.default_rng(0).normal(size=(len(patches), *[_cells(patches)] * 2))
    return _enlarged(cells, patches.shape[1]).astype("float32")


def _edges(_model, patches, _targets=None):
    grey = np.asarray(patches, "float32").mean(axis=-1)
    return np.hypot(*(scipy.ndimage.sobel(grey, axis=axis) for axis in (1, 2)))


CONTROLS: dict[str, Callable[..., np.ndarray]] = {"random map": _random, "edges": _edges}


def maps(
    model: keras.Model,
    patches: np.ndarray,
    target: int | None = None,
    names: Sequence[str] = (*methods.METHODS, *CONTROLS),
) -> dict[str, np.ndarray]:
    """Return the maps of methods and controls: name -> float32 (n, side, side).

    Args:
        model: a classifier.
        patches: (n, side, side, 3), RGB 0..255.
        target: see `explain.maps`.
        names: of `explain.METHODS` and `CONTROLS`.

    Raises:
        InputError: a method cannot explain this model.
    """
    return {
        name: CONTROLS[name](model, patches)
        if name in CONTROLS
        else methods.maps(model, patches, name, target)
        for name in tqdm.tqdm(names, desc="explaining", unit="method")
    }


def _cells(patches):
    """Return the number of rows, and of columns, of cells in a patch."""
    return -(-patches.shape[1] // CELL_PX)


def _enlarged(cells, side_px):
    """Return cells (n, rows, rows) as pixels (n, side, side)."""
    pixels = cells.repeat(CELL_PX, axis=1).repeat(CELL_PX, axis=2)
    return pixels[:, :side_px, :side_px]


def _cell_means(maps):
    """Return the mean of maps (n, side, side) in each cell, (n, rows, rows)."""
    starts = np.arange(0, maps.shape[1], CELL_PX)
    sums = np.add.reduceat(np.add.reduceat(maps, starts, axis=1), starts, axis=2)
    sides = np.diff([*starts, maps.shape[1]])
    return sums / np.outer(sides, sides)


def randomisation(
    model: keras.Model, patches: np.ndarray, names: Sequence[str] = tuple(methods.METHODS)
) -> pd.DataFrame:
    """Compare maps of a model with those of the model made random from the head down.

    J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: a map that stays the same
    when the weights are random does not explain the model. The kernels' values are shuffled within
    each layer, which keeps their distribution; BatchNormalization's statistics stay, so that
    nothing overflows. The class that is explained is the one that the unchanged model gives.

    Args:
        model: a classifier; it is not changed.
        patches: (n, side, side, 3), RGB 0..255.
        names: of `explain.METHODS`.

    Returns:
        A row for each method and each of `STAGES` stages: `method`, `layers` (how many are random),
        `lowest` (name of the last of them), `correlation` (Spearman's, mean over the patches, 0
        for a map without contrast), `low` and `high` (95 %).
    """
    patches = np.asarray(patches, "float32")
    targets = methods.targets(model, patches)
    before = {name: methods.maps_of(model, patches, name, targets) for name in names}
    shuffled = copies.copied(model)
    shuffled.task = classifier.task_of(model)
    kernels = [
        (layer.name, weight)
        for layer in reversed(shuffled.layers)
        for weight in layer.weights
        if len(weight.shape) > 1
    ]
    rng = np.random.default_rng(0)
    ends = np.unique(np.geomspace(1, len(kernels), STAGES).round().astype(int))
    rows = []
    for first, last in tqdm.tqdm(list(zip([0, *ends], ends, strict=False)), desc="randomising"):
        for _, weight in kernels[first:last]:
            weight.assign(rng.permuted(np.asarray(weight).ravel()).reshape(weight.shape))
        for name in names:
            after = methods.maps_of(shuffled, patches, name, targets)
            pairs = zip(before[name], after, strict=True)
            correlations = [rank_correlation(*pair) for pair in pairs]
            row = {"method": name, "layers": int(last), "lowest": kernels[last - 1][0]}
            rows.append(row | mean_with_interval(correlations, "correlation"))
    return pd.DataFrame(rows)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's correlation of two maps; 0 where one of them has no contrast."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic)


def curves(
    model: keras.Model, patches: np.ndarray, maps: np.ndarray, target: int | None = None
) -> dict[str, np.ndarray]:
    """Return the probability of the predicted class as a patch is deleted or inserted.

    V. Petsiuk, A. Das and K. Saenko, "RISE: randomized input sampling for explanation of black-box
    models", BMVC 2018. Cells of `CELL_PX` are deleted, or inserted, in the order of their map,
    those that speak most for the predicted class first; the rest of the patch is blurred.

    Args:
        model: a classifier.
        patches: (n, side, side, 3), RGB 0..255.
        maps: their maps, (n, side, side).
        target: the class that the maps explain, see `explain.maps`. Of more than two classes, it
            counts as the predicted class.

    Returns:
        "deletion" and "insertion", each (n, `SHARES`).
    """
    patches = np.asarray(patches, "float32")
    hidden = methods.blurred(patches)
    targets = methods.targets(model, patches, target)
    log_odds = methods.log_odds_of(model, patches, targets)
    # Of two classes, a map for the second is, with its sign reversed, a map for the first.
    reversed_sign = classifier.task_of(model).is_binary & (log_odds < 0)
    sign = np.where(reversed_sign, -1, 1)
    cells = _cell_means(maps)
    for_prediction = sign[:, None] * cells.reshape(len(cells), -1)
    # Cells of equal value, as in a map without contrast, come in random order, not row by row.
    noise = np.random.default_rng(0).random(for_prediction.shape)
    order = np.lexsort((noise, -for_prediction), axis=-1)
    rank = _enlarged(np.argsort(order, axis=-1).reshape(cells.shape), patches.shape[1])[..., None]
    results = {"deletion": [], "insertion": []}
    for share in SHARES:
        is_first = rank < share * cells[0].size
        for name, is_shown in (("deletion", ~is_first), ("insertion", is_first)):
            shown = np.where(is_shown, patches, hidden)
            log_odds = methods.log_odds_of(model, shown, targets)
            results[name].append(scipy.special.expit(sign * log_odds))
    return {name: np.stack(columns, axis=1) for name, columns in results.items()}


def faithfulness(curves: dict[str, np.ndarray]) -> np.ndarray:
    """Return, for each patch, the mean of its insertion curve minus that of its deletion curve."""
    return curves["insertion"].mean(axis=1) - curves["deletion"].mean(axis=1)


def pointing(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return, for each map, whether its highest place lies in the mask, bool (n,).

    J. Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, without their
    tolerance.

    Args:
        maps: (n, side, side).
        masks: bool (n, side, side).
    """
    highest = maps.reshape(len(maps), -1).argmax(axis=1)
    return masks.reshape(len(masks), -1)[np.arange(len(masks)), highest]


def positive_share(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the share of each map's positive values that lies in the mask, (n,); NaN for none.

    Args:
        maps: (n, side, side).
        masks: bool (n, side, side).
    """
    positive = np.maximum(maps, 0)
    total = positive.sum(axis=(1, 2))
    inside = (positive * masks).sum(axis=(1, 2))
    return np.divide(inside, total, out=np.full(len(maps), np.nan), where=total > 0)


def centre_mask(count: int, task: Task = PCAM) -> np.ndarray:
    """Return masks of the labelled centre square, bool (count, side, side).

    Raises:
        InputError: the task's label is about the whole patch.
    """
    if task.centre_px is None:
        raise InputError(f"task {task.name} has no centre square: its label is of the whole patch.")
    masks = np.zeros((count, *task.shape[:2]), bool)
    masks[:, task.centre, task.centre] = True
    return masks


def ablate_centre(
    model: keras.Model, patches: np.ndarray, target: int | None = None
) -> pd.DataFrame:
    """Return probabilities of patches whose centre, or whose surroundings, are hidden.

    What is hidden is blurred in one column, and in another replaced by that of the patch before it
    (of the first patch: the last).

    Args:
        model: a classifier.
        patches: (n, side, side, 3), RGB 0..255.
        target: the class whose probability is returned, see `explain.maps`.

    Returns:
        A row a patch: `whole`, `surroundings blurred`, `surroundings of another`,
        `centre blurred`, `centre of another`.

    Raises:
        InputError: the task has no centre square.
    """
    patches = np.asarray(patches, "float32")
    targets = methods.targets(model, patches, target)
    centre = centre_mask(len(patches), classifier.task_of(model))[..., None]
    others = {"blurred": methods.blurred(patches), "of another": np.roll(patches, 1, axis=0)}
    ablated = {"whole": patches}
    ablated |= {f"surroundings {n}": np.where(centre, patches, o) for n, o in others.items()}
    ablated |= {f"centre {n}": np.where(centre, o, patches) for n, o in others.items()}
    return pd.DataFrame(
        {
            name: scipy.special.expit(methods.log_odds_of(model, each, targets))
            for name, each in ablated.items()
        }
    )


def ablation_summary(
    ablated: pd.DataFrame, labels: np.ndarray, classes: Sequence[str] = PCAM.classes
) -> pd.DataFrame:
    """Return the mean probability of each class and, of two classes, the AUC, with 95 % intervals.

    Args:
        ablated: what `ablate_centre` returned.
        labels: (n,), indices of classes; all of them occur.
        classes: names of the classes.
    """
    labels = np.asarray(labels)
    rows = {
        name: {
            column: format_interval(mean_with_interval(ablated[column][labels == label]))
            for column in ablated
        }
        for label, name in enumerate(classes)
    }
    if len(classes) == 2:
        aucs = {column: evaluation.auc_interval(labels, ablated[column]) for column in ablated}
        rows["AUC"] = {
            column: f"{auc:.3f} ({low:.3f} to {high:.3f})"
            for column, (auc, low, high) in aucs.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def right_and_wrong(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the rows of up to eight patches, ordered by the probability of their true class.

    Two each: correct and most certain, correct and least certain, wrong and least certain, wrong
    and most certain.

    Args:
        labels: (n,), indices of classes.
        probabilities: (n,) of the second of two classes, or (n, classes).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    of_truth = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    is_right = of_truth >= probabilities.max(axis=1)
    order = np.argsort(-of_truth, kind="stable")
    right, wrong = order[is_right[order]], order[~is_right[order]]
    chosen = np.concatenate([right[:2], right[-2:], wrong[:2], wrong[-2:]])
    return np.array(list(dict.fromkeys(chosen.tolist())), int)


def additivity_error(
    model: keras.Model, patches: np.ndarray, maps: np.ndarray, target: int | None = None
) -> np.ndarray:
    """Return how far each map's sum is from the log-odds minus those of the blurred patch, (n,)."""
    targets = methods.targets(model, patches, target)
    whole, hidden = (
        methods.log_odds_of(model, each, targets) for each in (patches, methods.blurred(patches))
    )
    return np.abs(maps.sum(axis=(1, 2)) - (whole - hidden))


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


def format_interval(interval: dict[str, float]) -> str:
    """Return a mean and its interval as text, such as "0.81 (0.75 to 0.86)"."""
    mean = interval.get("mean", interval.get("correlation"))
    return f"{mean:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"
