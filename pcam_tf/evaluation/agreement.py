"""How far two readers agree: the share of patches and Cohen's kappa.

J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
Measurement 20, 1960. Kappa is 1 where all labels agree and 0 where as many agree as by chance.
"""

import math
import warnings

import numpy as np
import pandas as pd
from statsmodels.stats.inter_rater import cohens_kappa

from pcam_tf.evaluation import intervals

CHOSEN_BY_READERS = (
    "The readers chose these patches themselves and saw the model's calls, so this is no measure "
    "of how good the model is."
)


def agreement(first: np.ndarray, second: np.ndarray) -> dict:
    """Return how far two readers agree on the same patches, with 95 % intervals.

    Args:
        first: labels, int (n,).
        second: likewise.

    Returns:
        JSON-able: `patches`, `agreed`, `share` with Wilson's `low` and `high`, and `kappa` with
        `kappa_low` and `kappa_high` by its asymptotic variance; kappas are None where both readers
        give one and the same label to all, or there is no patch.
    """
    first, second = np.asarray(first, int), np.asarray(second, int)
    patches, agreed = len(first), int((first == second).sum())
    found = {"patches": patches, "agreed": agreed, "share": agreed / patches if patches else None}
    low, high = intervals.wilson(agreed, patches) if patches else (None, None)
    found |= {"low": low, "high": high}
    kappas = [None] * 3
    classes = np.unique(np.concatenate([first, second]))
    if len(classes) > 1:
        counts = pd.crosstab(first, second).reindex(index=classes, columns=classes, fill_value=0)
        with warnings.catch_warnings():  # of intervals that it has no use for
            warnings.simplefilter("ignore")
            result = cohens_kappa(counts.to_numpy())
        kappas = [result.kappa, result.kappa_low, result.kappa_upp]
        kappas = [None if math.isnan(value) else float(np.clip(value, -1, 1)) for value in kappas]
    return found | dict(zip(("kappa", "kappa_low", "kappa_high"), kappas, strict=True))


def sentence(pair: str, found: dict) -> str:
    """Return an agreement as a line of text.

    Args:
        pair: the two readers.
        found: what `agreement` returned.
    """
    text = (
        f"{pair}: {found['agreed']:,} of {found['patches']:,} patches "
        f"({found['low']:.2f}–{found['high']:.2f})"
    )
    if found["kappa"] is None:
        return f"{text}; one label only, so there is no kappa"
    return (
        f"{text}, Cohen's kappa {found['kappa']:.2f} "
        f"({found['kappa_low']:.2f}–{found['kappa_high']:.2f})"
    )
