"""What misclassified patches have in common: simple measures of the tissue, and errors by them."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import scipy.ndimage
from statsmodels.stats.proportion import proportion_confint

from pcam_tf import stain
from pcam_tf.data import audit
from pcam_tf.errors import InputError
from pcam_tf.synthetic.patches import CENTRE

# How each measure is made, in words for tables and figures.
MEASURES = {
    "darkness": "mean optical density",
    "nuclear density": "share of pixels rich in haematoxylin",
    "nuclear density, centre": "the same in the centre 32×32 px",
    "eosin": "mean eosin density",
    "blank": "share of pixels without tissue (saturation below 0.07)",
    "detail": "edges of the optical density, whose lack is blur",
}
# Natural optical density of haematoxylin above which a pixel counts as nucleus.
NUCLEUS_DENSITY = 0.75
PARTS = ("low", "middle", "high")


def measure(batches: Iterable[dict[str, np.ndarray]]) -> pd.DataFrame:
    """Measure patches, in the patches' own pixels, without any model.

    Args:
        batches: dictionaries of `id` (n,) and `image` (n, 96, 96, 3) uint8.

    Returns:
        A row a patch: `id` and the columns of `MEASURES`, float.
    """
    unmixing = np.linalg.inv(stain.MIXING).astype("float32")
    tables = []
    for batch in batches:
        images = np.asarray(batch["image"])
        density = stain.optical_density(images).astype("float32")
        haematoxylin, eosin, _ = np.moveaxis(density @ unmixing, -1, 0)
        nucleus = haematoxylin > NUCLEUS_DENSITY
        blank = audit.saturation(images) < audit.BLANK_SATURATION
        grey = density.mean(axis=-1)
        edges = scipy.ndimage.laplace(
            scipy.ndimage.gaussian_filter(grey, (0, 0.7, 0.7)), axes=(1, 2)
        )
        tables.append(
            pd.DataFrame(
                {
                    "id": batch["id"],
                    "darkness": grey.mean(axis=(1, 2)),
                    "nuclear density": nucleus.mean(axis=(1, 2)),
                    "nuclear density, centre": nucleus[:, CENTRE, CENTRE].mean(axis=(1, 2)),
                    "eosin": eosin.mean(axis=(1, 2)),
                    "blank": blank.mean(axis=(1, 2)),
                    "detail": edges.std(axis=(1, 2)),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def by_measure(predictions: pd.DataFrame, measures: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return how many patches are misclassified in the low, middle and high third of each measure.

    Thirds are of all patches of the table together, whatever their class.

    Args:
        predictions: a checked predictions table.
        measures: what `measure` returned for the same patches, in any order.
        threshold: from which on a patch is called tumour.

    Returns:
        A row for each measure, third and kind of error ("missed tumour" among tumour patches,
        "false alarm" among normal ones): `measure`, `third`, `error`, `patches`, `wrong`, `share`
        with its Wilson `low` and `high`. A measure with fewer than three values has fewer thirds.

    Raises:
        InputError: a patch that was not measured.
    """
    table = _joined(predictions, measures)
    wrong = (table["probability"] >= threshold) != (table["label"] == 1)
    rows = []
    for name in MEASURES:
        thirds = pd.qcut(table[name].rank(method="average"), 3, duplicates="drop")
        names = PARTS if thirds.cat.categories.size == 3 else ("low", "high")
        for third, part in zip(thirds.cat.categories, names, strict=False):
            for label, error in ((1, "missed tumour"), (0, "false alarm")):
                chosen = (thirds == third) & (table["label"] == label)
                count, of = int(wrong[chosen].sum()), int(chosen.sum())
                if not of:
                    continue
                low, high = proportion_confint(count, of, method="wilson")
                rows.append(
                    {
                        "measure": name,
                        "third": part,
                        "error": error,
                        "patches": of,
                        "wrong": count,
                        "share": count / of,
                        "low": low,
                        "high": high,
                    }
                )
    return pd.DataFrame(rows)


def confident(
    predictions: pd.DataFrame, measures: pd.DataFrame, threshold: float, share: float = 0.5
) -> pd.DataFrame:
    """Compare the most confident errors to the patches of their class that are classified right.

    Args:
        predictions: a checked predictions table.
        measures: what `measure` returned for the same patches.
        threshold: from which on a patch is called tumour.
        share: how many of the errors of each kind count as confident, those furthest from it.

    Returns:
        A row for each kind of error and measure: `error`, `measure`, `errors` (how many), `median`
        of them, `median_right` of the patches of that class that are right, and `difference` of
        the two in standard deviations of all patches; the largest differences first.

    Raises:
        InputError: a patch that was not measured.
    """
    table = _joined(predictions, measures)
    distance = (table["probability"] - threshold).abs()
    wrong = (table["probability"] >= threshold) != (table["label"] == 1)
    rows = []
    for label, error in ((1, "missed tumour"), (0, "false alarm")):
        errors = distance[wrong & (table["label"] == label)].sort_values(ascending=False)
        errors = errors.index[: int(np.ceil(share * len(errors)))]
        right = table[~wrong & (table["label"] == label)]
        if not len(errors) or not len(right):
            continue
        for name in MEASURES:
            median, of_right = table.loc[errors, name].median(), right[name].median()
            spread = table[name].std()
            rows.append(
                {
                    "error": error,
                    "measure": name,
                    "errors": len(errors),
                    "median": median,
                    "median_right": of_right,
                    "difference": (median - of_right) / spread if spread > 0 else 0.0,
                }
            )
    columns = ["error", "measure", "errors", "median", "median_right", "difference"]
    found = pd.DataFrame(rows, columns=columns)
    order = found["difference"].abs().sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def _joined(predictions, measures):
    missing = predictions.loc[~predictions["id"].isin(measures["id"]), "id"]
    if len(missing):
        raise InputError(
            f"{len(missing):,} patches of the table were not measured, such as {missing.iloc[0]}: "
            "give the split that the predictions are of."
        )
    return predictions.merge(measures, on="id", how="left", validate="one_to_one")


def summary_rows(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return the rows of `by_measure` as text, a row a measure, for `reports.markdown_table`."""
    rows = []
    for (name, error), of in found.groupby(["measure", "error"], sort=False):
        cells = {
            f"{third} third": f"{row['share']:.3f} ({row['low']:.3f}–{row['high']:.3f})"
            for third, row in of.set_index("third").iterrows()
        }
        cells = {f"{third} third": cells.get(f"{third} third", "") for third in PARTS}
        rows.append({"measure": name, "error": error, **cells})
    return rows
