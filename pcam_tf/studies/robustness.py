"""How much a model loses when patches are stained, scanned or stored in another way."""

import io
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
import pandas as pd
import scipy.ndimage
import tqdm
from PIL import Image

from pcam_tf import evaluation, prediction, stain
from pcam_tf.errors import InputError

RESAMPLES = 500


def gain(patches: np.ndarray, factor: float, dye: int) -> np.ndarray:
    """Return patches with one dye (0 haematoxylin, 1 eosin) taken up `factor` times as much.

    Patches are unmixed in optical density by Ruifrok and Johnston's vectors, as `stain` has them,
    and a residual at right angles to both.
    """
    densities = stain.optical_density(patches) @ np.linalg.inv(stain.MIXING)
    densities[..., dye] *= factor
    return stain.transmitted(densities @ stain.MIXING)


def _jpeg(patches, quality):
    return np.stack([_recompressed(patch, quality) for patch in patches])


def _recompressed(patch, quality):
    content = io.BytesIO()
    Image.fromarray(patch).save(content, format="JPEG", quality=int(quality))
    return np.asarray(Image.open(content))


def _blur(patches, sigma_px):
    # In float: on uint8, each of the two passes would cut off the decimals and darken the patch.
    levels = patches.astype("float32")
    blurred = scipy.ndimage.gaussian_filter(levels, (0, sigma_px, sigma_px, 0), mode="mirror")
    return grey_levels(blurred)


def _brightness(patches, factor):
    return grey_levels(patches * np.float32(factor))


def grey_levels(values: np.ndarray) -> np.ndarray:
    """Return values rounded to the nearest of the grey levels 0..255, uint8 of the same shape."""
    return np.clip(np.rint(values), 0, 255).astype("uint8")


def _turned(patches, degrees):
    return _resampled(patches, np.radians(degrees), 1.0)


def _scaled(patches, factor):
    return _resampled(patches, 0.0, factor)


def _resampled(patches, angle, factor):
    """Turn and scale patches about their centres, bilinear, borders mirrored."""
    cosine, sine = np.cos(angle) / factor, np.sin(angle) / factor
    matrix = np.array([[cosine, -sine], [sine, cosine]])
    centre = (np.array(patches.shape[1:3]) - 1) / 2
    # Patches and channels stay as they are.
    whole = np.eye(4)
    whole[1:3, 1:3] = matrix
    offset = np.concatenate([[0], centre - matrix @ centre, [0]])
    levels = patches.astype("float32")
    return grey_levels(
        scipy.ndimage.affine_transform(levels, whole, offset, order=1, mode="mirror")
    )


# Name -> what it does, and its levels; the level that changes nothing is in `UNCHANGED`.
SHIFTS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], tuple[float, ...]]] = {
    "haematoxylin gain": (lambda patches, level: gain(patches, level, 0), (0.6, 0.8, 1, 1.25, 1.6)),
    "eosin gain": (lambda patches, level: gain(patches, level, 1), (0.6, 0.8, 1, 1.25, 1.6)),
    "brightness": (_brightness, (0.7, 0.85, 1, 1.15, 1.3)),
    "JPEG quality": (_jpeg, (100, 75, 50, 30, 15)),
    "blur, sigma px": (_blur, (0, 0.5, 1, 1.5, 2)),
    "rotation, degrees": (_turned, (0, 15, 30, 45)),
    "scale": (_scaled, (0.7, 0.85, 1, 1.2, 1.4)),
}
UNCHANGED = {"JPEG quality": 100, "blur, sigma px": 0, "rotation, degrees": 0}


def shifted(patches: np.ndarray, shift: str, level: float) -> np.ndarray:
    """Return patches under a shift of `SHIFTS`; at its unchanged level, the patches themselves.

    Args:
        patches: (n, side, side, 3) uint8.
        shift: a key of `SHIFTS`.
        level: how much, in the unit of that shift.
    """
    if level == UNCHANGED.get(shift, 1):
        return patches
    change, _ = SHIFTS[shift]
    return change(patches, level)


def probabilities_under_shift(
    models: Mapping[str, keras.Model],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    shifts: Mapping[str, tuple[float, ...]] | None = None,
) -> tuple[np.ndarray, dict[tuple[str, float], dict[str, np.ndarray]]]:
    """Predict one view of patches under each shift by each model.

    Patches are read once, batch by batch; only their probabilities are kept.

    Args:
        models: a name -> a classifier of patches.
        batches: dictionaries of `image` (b, side, side, 3) uint8 and `label` (b,).
        shifts: a key of `SHIFTS` -> its levels; None for all.

    Returns:
        The labels (n,), and (shift, level) -> name of the model -> probabilities (n,).

    Raises:
        InputError: there are no patches.
    """
    levels = shifts or {shift: levels for shift, (_, levels) in SHIFTS.items()}
    keys = [(shift, level) for shift in levels for level in levels[shift]]
    labels, parts = [], {key: {name: [] for name in models} for key in keys}
    with tqdm.tqdm(desc=f"{len(keys)} shifts of each patch", unit="patch") as bar:
        for batch in batches:
            labels.append(np.asarray(batch["label"]))
            for first in range(0, len(batch["image"]), prediction.BATCH_SIZE):
                patches = batch["image"][first : first + prediction.BATCH_SIZE]
                for key, by_model in _predicted(models, patches, keys).items():
                    for name, scores in by_model.items():
                        parts[key][name].append(scores)
                bar.update(len(patches))
    if not labels:
        raise InputError("there are no patches to shift.")
    joined = {
        key: {name: np.concatenate(scores) for name, scores in by_model.items()}
        for key, by_model in parts.items()
    }
    return np.concatenate(labels), joined


def _predicted(models, patches, keys):
    """Return (shift, level) -> name of the model -> probabilities of one batch of patches."""
    unchanged, predicted = None, {}
    for shift, level in keys:
        is_unchanged = level == UNCHANGED.get(shift, 1)
        # The unchanged level is the same for all shifts: it is predicted once.
        if is_unchanged and unchanged is not None:
            predicted[shift, level] = unchanged
            continue
        changed = shifted(patches, shift, level)
        predicted[shift, level] = {
            name: prediction.probabilities(model, changed) for name, model in models.items()
        }
        if is_unchanged:
            unchanged = predicted[shift, level]
    return predicted


def auc_under_shift(labels: np.ndarray, probabilities: Mapping) -> pd.DataFrame:
    """Return the AUC of each model at each level of each shift.

    Args:
        labels: (n,) of 0 and 1.
        probabilities: what `probabilities_under_shift` returned for those patches.

    Returns:
        A row each: `shift`, `level`, `model`, `auc`, `low`, `high` (DeLong, patches independent).

    Raises:
        InputError: the patches are of one class.
    """
    if len(np.unique(labels)) < 2:
        raise InputError("the patches are of one class only: AUC needs two; take more of them.")
    rows = []
    for (shift, level), by_model in probabilities.items():
        for model, scores in by_model.items():
            auc, low, high = evaluation.auc_interval(labels, scores)
            rows.append(
                {
                    "shift": shift,
                    "level": level,
                    "model": model,
                    "auc": auc,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def losses(labels: np.ndarray, probabilities: Mapping) -> pd.DataFrame:
    """Return how much AUC each model loses under each shift, on average over its changed levels.

    With two models, also how much less the first loses than the second.

    Args:
        labels: (n,) of 0 and 1.
        probabilities: what `probabilities_under_shift` returned for those patches.

    Returns:
        A row for each shift and one for "all": a column for each model, its mean loss of AUC; with
        two models `saved`, the second's loss minus the first's, with `low` and `high`, the 95 %
        interval of a bootstrap of the patches, the same resamples for both.

    Raises:
        InputError: a shift without its unchanged level.
    """
    shifts = list(dict.fromkeys(shift for shift, _ in probabilities))
    for shift in shifts:
        if (shift, UNCHANGED.get(shift, 1)) not in probabilities:
            raise InputError(f"{shift} needs its unchanged level {UNCHANGED.get(shift, 1)}.")
    labels = np.asarray(labels)
    table = pd.DataFrame({"label": labels})
    everything = np.arange(len(labels))
    mean = _mean_losses(labels, probabilities, shifts, everything)
    rows = [{"shift": shift, **by_model} for shift, by_model in mean.items()]
    models = list(mean["all"])
    if len(models) == 2:
        first, second = models
        resampled = [
            _mean_losses(labels, probabilities, shifts, chosen)
            for chosen in evaluation.resampled_rows(table, RESAMPLES)
        ]
        for row in rows:
            saved = [each[row["shift"]][second] - each[row["shift"]][first] for each in resampled]
            row["saved"] = row[second] - row[first]
            row["low"], row["high"] = np.percentile(saved, evaluation.PERCENTILES)
    return pd.DataFrame(rows)


def _mean_losses(labels, probabilities, shifts, rows):
    """Return shift, or "all" -> model -> mean loss of AUC over the changed levels."""
    truth = labels[rows]
    aucs = {
        key: {model: evaluation.auc(truth, scores[rows]) for model, scores in by_model.items()}
        for key, by_model in probabilities.items()
    }
    found = {}
    for shift in shifts:
        whole = aucs[shift, UNCHANGED.get(shift, 1)]
        changed = [
            by_model
            for (name, level), by_model in aucs.items()
            if name == shift and level != UNCHANGED.get(shift, 1)
        ]
        found[shift] = {
            model: float(np.mean([whole[model] - each[model] for each in changed]))
            for model in whole
        }
    found["all"] = {
        model: float(np.mean([found[shift][model] for shift in shifts])) for model in whole
    }
    return found


def summary_rows(lost: pd.DataFrame) -> list[dict[str, str]]:
    """Return the rows of `losses` as text, for `reports.markdown_table`."""
    models = [column for column in lost if column not in ("shift", "saved", "low", "high")]
    rows = []
    for _, row in lost.iterrows():
        texts = {f"AUC lost by {model}": f"{row[model]:.3f}" for model in models}
        if "saved" in lost:
            texts[f"lost less by {models[0]}"] = (
                f"{row['saved']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            )
        rows.append({"shift": row["shift"], **texts})
    return rows
