"""Tables that compare the methods of `explain` by the checks."""

import keras
import numpy as np
import pandas as pd

from pcam_tf.explain import checks
from pcam_tf.models import classifier


def ranking(
    model: keras.Model,
    patches: np.ndarray,
    maps_by_method: dict[str, np.ndarray],
    randomised: pd.DataFrame,
) -> pd.DataFrame:
    """Return a row for each method and control: the results of the checks on any patches.

    Args:
        model: a classifier.
        patches: (n, side, side, 3), RGB 0..255.
        maps_by_method: what `checks.maps` returned for them.
        randomised: what `checks.randomisation` returned.

    Returns:
        Index the method; `faithfulness` (insertion minus deletion), `more than random` (that, minus
        the random map's, patch by patch), `after randomisation` (correlation when every layer is
        random), `centre` (where the task has a centre square: share of the positive values that
        lies in it; by chance its share of the patch) and `additivity` (largest error, log-odds),
        the first four with their 95 % intervals as text.
    """
    task = classifier.task_of(model)
    scores = {
        name: checks.faithfulness(checks.curves(model, patches, maps))
        for name, maps in maps_by_method.items()
    }
    last = randomised[randomised["layers"] == randomised["layers"].max()].set_index("method")
    rows = {}
    for name, maps in maps_by_method.items():
        adds_up = name in ("integrated gradients", "SHAP")
        error = checks.additivity_error(model, patches, maps).max() if adds_up else None
        row = {
            "faithfulness": checks.format_interval(checks.mean_with_interval(scores[name])),
            "more than random": checks.format_interval(
                checks.mean_with_interval(scores[name] - scores["random map"])
            ),
            "after randomisation": (
                checks.format_interval(last.loc[name].to_dict()) if name in last.index else ""
            ),
        }
        if task.centre_px is not None:
            shares = checks.positive_share(maps, checks.centre_mask(len(patches), task))
            row["centre"] = checks.format_interval(checks.mean_with_interval(shares))
        rows[name] = row | {"additivity": "" if error is None else f"{error:.3f}"}
    return pd.DataFrame.from_dict(rows, orient="index")


def localisation(maps_by_method: dict[str, np.ndarray], masks: np.ndarray) -> pd.DataFrame:
    """Return a row for each method and control: how well its maps find what the masks mark.

    Args:
        maps_by_method: what `checks.maps` returned.
        masks: bool (n, side, side), such as the tumour's nuclei of synthetic patches.

    Returns:
        Index the method, and "area" for the share of the patch that the masks cover, which is the
        score of a map that knows nothing; `pointing game` and `share inside`, with 95 % intervals.
    """
    area = checks.format_interval(checks.mean_with_interval(masks.mean(axis=(1, 2))))
    rows = {
        name: {
            "pointing game": checks.format_interval(
                checks.mean_with_interval(checks.pointing(maps, masks))
            ),
            "share inside": checks.format_interval(
                checks.mean_with_interval(checks.positive_share(maps, masks))
            ),
        }
        for name, maps in maps_by_method.items()
    }
    rows["area"] = {"pointing game": area, "share inside": area}
    return pd.DataFrame.from_dict(rows, orient="index")
