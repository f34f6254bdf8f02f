"""How much a model loses when patches are stained, scanned or stored in another way."""

import io
from collections.abc import Callable, Mapping

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
    return scipy.ndimage.gaussian_filter(patches, (0, sigma_px, sigma_px, 0), mode="mirror")


def _brightness(patches, factor):
    return np.clip(np.rint(patches * np.float32(factor)), 0, 255).astype("uint8")


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
    return scipy.ndimage.affine_transform(patches, whole, offset, order=1, mode="mirror")


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
        patches: (n, 96, 96, 3) uint8.
        shift: a key of `SHIFTS`.
        level: how much, in the unit of that shift.
    """
    if level == UNCHANGED.get(shift, 1):
        return patches
    change, _ = SHIFTS[shift]
    return change(patches, level)


def probabilities_under_shift(
    models: Mapping[str, keras.Model],
    patches: np.ndarray,
    *,
    shifts: Mapping[str, tuple[float, ...]] | None = None,
) -> dict[tuple[str, float], dict[str, np.ndarray]]:
    """Predict one view of patches under each shift by each model.

    Args:
        models: a name -> a classifier of patches.
        patches: (n, 96, 96, 3) uint8.
        shifts: a key of `SHIFTS` -> its levels; None for all.

    Returns:
        (shift, level) -> name of the model -> probabilities (n,).
    """
    levels = shifts or {shift: levels for shift, (_, levels) in SHIFTS.items()}
    todo = [(shift, level) for shift in levels for level in levels[shift]]
    unchanged, found = None, {}
    with tqdm.tqdm(total=len(todo) * len(patches), desc="shifting", unit="patch") as bar:
        for shift, level in todo:
            same = level == UNCHANGED.get(shift, 1)
            if not same or unchanged is None:
                changed = shifted(patches, shift, level)
                predicted = {name: _predicted(model, changed) for name, model in models.items()}
                unchanged = predicted if same else unchanged
            found[shift, level] = unchanged if same else predicted
            bar.update(len(patches))
    return found


def _predicted(model, patches):
    step = prediction.BATCH_SIZE
    return np.concatenate(
        [
            prediction.probabilities(model, patches[first : first + step])
            for first in range(0, len(patches), step)
        ]
    )


def auc_under_shift(labels: np.ndarray, probabilities: Mapping) -> pd.DataFrame:
    """Return the AUC of each model at each level of each shift.

    Args:
        labels: (n,) of 0 and 1.
        probabilities: what `probabilities_under_shift` returned for those patches.

    Returns:
        A row each: `shift`, `level`, `model`, `auc`, `low`, `high` (DeLong, patches independent).
    """
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
