"""What misclassified patches have in common: simple measures of the tissue, and errors by them."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import scipy.ndimage
from statsmodels.stats.proportion import proportion_confint

from pcam_tf import stain
from pcam_tf.data import audit
from pcam_tf.errors import InputError
from pcam_tf.stain import separation
from pcam_tf.task import PCAM, Task

# How each measure is made, in words for tables and figures.
MEASURES = {
    "darkness": "mean optical density",
    "nuclear density": "share of pixels rich in haematoxylin",
    "nuclear density, centre": "the same in the centre square that the label is about",
    "eosin": "mean eosin density",
    "blank": "share of pixels without tissue (saturation below 0.07)",
    "detail": "edges of the optical density, whose lack is blur",
}
# Natural optical density of haematoxylin above which a pixel counts as nucleus.
NUCLEUS_DENSITY = 0.75
PARTS = ("low", "middle", "high")


def measure(batches: Iterable[dict[str, np.ndarray]], task: Task = PCAM) -> pd.DataFrame:
    """Measure patches, in the patches' own pixels, without any model.

    Args:
        batches: dictionaries of `id` (n,), `label` (n,) and `image` (n, side, side, 3) uint8.
        task: of the patches.

    Returns:
        A row a patch: `id`, `label` and the columns of `MEASURES`, float; "nuclear density,
        centre" only where the task has a centre square.
    """
    tables = []
    for batch in batches:
        images = np.asarray(batch["image"])
        density = stain.optical_density(images).astype("float32")
        haematoxylin, eosin = np.moveaxis(separation.separate(density), -1, 0)
        nucleus = haematoxylin > NUCLEUS_DENSITY
        centre = nucleus[:, task.centre, task.centre]
        blank = audit.saturation(images) < audit.BLANK_SATURATION
        grey = density.mean(axis=-1)
        edges = scipy.ndimage.laplace(
            scipy.ndimage.gaussian_filter(grey, (0, 0.7, 0.7)), axes=(1, 2)
        )
        tables.append(
            pd.DataFrame(
                {
                    "id": batch["id"],
                    "label": batch["label"],
                    "darkness": grey.mean(axis=(1, 2)),
                    "nuclear density": nucleus.mean(axis=(1, 2)),
                    "nuclear density, centre": centre.mean(axis=(1, 2)),
                    "eosin": eosin.mean(axis=(1, 2)),
                    "blank": blank.mean(axis=(1, 2)),
                    "detail": edges.std(axis=(1, 2)),
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    return table if task.centre_px else table.drop(columns="nuclear density, centre")


def by_measure(
    predictions: pd.DataFrame,
    measures: pd.DataFrame,
    threshold: float,
    classes: Sequence[str] = PCAM.classes,
) -> pd.DataFrame:
    """Return how many patches are misclassified in the low, middle and high third of each measure.

    Thirds are of all patches of the table together, whatever their class.

    Args:
        predictions: a checked predictions table.
        measures: what `measure` returned for the same patches, in any order.
        threshold: from which on a patch is called the second class.
        classes: names of the two classes.

    Returns:
        A row for each measure, third and kind of error ("missed" and the name of the second class,
        or "false alarm" among patches of the first): `measure`, `third`, `error`, `patches`,
        `wrong`, `share` with its Wilson `low` and `high`. A measure with fewer than three values
        has fewer thirds.

    Raises:
        InputError: a patch that was not measured or has another label, or more than two classes.
    """
    table = _joined(predictions, measures)
    wrong = (table["probability"] >= threshold) != (table["label"] == 1)
    rows = []
    for name in _measures_of(table):
        thirds = pd.qcut(table[name].rank(method="average"), 3, duplicates="drop")
        names = PARTS if thirds.cat.categories.size == 3 else ("low", "high")
        for third, part in zip(thirds.cat.categories, names, strict=False):
            for label, error in _errors(classes):
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
    predictions: pd.DataFrame,
    measures: pd.DataFrame,
    threshold: float,
    share: float = 0.5,
    classes: Sequence[str] = PCAM.classes,
) -> pd.DataFrame:
    """Compare the most confident errors to the patches of their class that are classified right.

    Args:
        predictions: a checked predictions table.
        measures: what `measure` returned for the same patches.
        threshold: from which on a patch is called the second class.
        share: how many of the errors of each kind count as confident, those furthest from it.
        classes: names of the two classes.

    Returns:
        A row for each kind of error and measure: `error`, `measure`, `errors` (how many), `median`
        of them, `median_right` of the patches of that class that are right, and `difference` of
        the two in standard deviations of all patches; the largest differences first.

    Raises:
        InputError: a patch that was not measured or has another label, or more than two classes.
    """
    table = _joined(predictions, measures)
    distance = (table["probability"] - threshold).abs()
    wrong = (table["probability"] >= threshold) != (table["label"] == 1)
    rows = []
    for label, error in _errors(classes):
        errors = distance[wrong & (table["label"] == label)].sort_values(ascending=False)
        errors = errors.index[: int(np.ceil(share * len(errors)))]
        right = table[~wrong & (table["label"] == label)]
        if not len(errors) or not len(right):
            continue
        for name in _measures_of(table):
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


def _errors(classes):
    """Return the label and the name of each kind of error."""
    return (1, f"missed {classes[1]}"), (0, "false alarm")


def _measures_of(table):
    return [name for name in MEASURES if name in table]


def _joined(predictions, measures):
    if "probability" not in predictions:
        raise InputError("the predictions are of more than two classes: this study is for two.")
    missing = predictions.loc[~predictions["id"].isin(measures["id"]), "id"]
    if len(missing):
        raise InputError(
            f"{len(missing):,} patches of the table were not measured, such as {missing.iloc[0]}: "
            "give the split that the predictions are of."
        )
    table = predictions.merge(
        measures, on="id", how="left", validate="one_to_one", suffixes=("", " of the data")
    )
    others = table.loc[table["label"] != table["label of the data"], "id"]
    if len(others):
        raise InputError(
            f"{len(others):,} patches have another label in the table than in the data, such as "
            f"{others.iloc[0]}: give the data that the predictions are of."
        )
    return table.drop(columns="label of the data")


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
