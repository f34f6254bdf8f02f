"""FROC: how many lesions are found at a given number of false positives a slide.

The measure of the Camelyon16 challenge: B. Ehteshami Bejnordi et al., Diagnostic assessment of deep
learning algorithms for detection of lymph node metastases in women with breast cancer, JAMA 318
(2017). It starts from outlines here, while the challenge's script needs a mask of each slide.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage import measure

from pcam_tf import user_tables
from pcam_tf.errors import InputError
from pcam_tf.evaluation import intervals
from pcam_tf.files import printable
from pcam_tf.slides import annotations, lesions

RATES = (0.25, 0.5, 1, 2, 4, 8)  # false positives a slide
PIXEL = 32  # level-0 pixels of a mask pixel: level 5 of a slide
GROWTH_UM = 75 / 2  # by which outlines grow: two lesions less than 75 µm apart become one
ITC_UM = 200 + 75  # isolated tumour cells: a grown region with a shorter major axis
FEW_SLIDES = 10


@dataclasses.dataclass(frozen=True)
class SlideResult:
    """What was found on a slide."""

    slide: str
    regions: pd.DataFrame  # kind ("lesion", "itc"), x, y, major_axis_um, best; index from 1
    detections: pd.DataFrame  # confidence, x, y, verdict, region (0: none)

    @property
    def lesions(self) -> np.ndarray:
        """The best confidence of each lesion, 0 for a missed one, float64 (lesions,)."""
        return self.regions.loc[self.regions["kind"] == "lesion", "best"].to_numpy(float)

    @property
    def itc(self) -> int:
        """The number of regions of isolated tumour cells."""
        return int((self.regions["kind"] == "itc").sum())

    @property
    def false_positives(self) -> np.ndarray:
        """The confidence of each false positive, float64 (n,)."""
        is_false = self.detections["verdict"] == "false_positive"
        return self.detections.loc[is_false, "confidence"].to_numpy(float)


def read_slides(path: str | Path) -> pd.DataFrame:
    """Read the table of slides: `slide`, and `width`, `height` (level-0 pixels), `mpp`.

    Raises:
        InputError: there is no such table, a column is missing, or a number is impossible.
    """
    columns = ["slide", "width", "height", "mpp"]
    table = user_tables.read_csv_as_text(path, columns)
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"{printable(path)} has no column {missing[0]}: it needs {columns}.")
    for name in columns[1:]:
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = ~(np.isfinite(numbers) & (numbers > 0))
        if bad.any():
            slide = table["slide"][bad].iloc[0]
            raise InputError(f"{printable(path)}, slide {slide}: {name} is not a number above 0.")
        table[name] = numbers
    if table["slide"].duplicated().any():
        slide = table["slide"][table["slide"].duplicated()].iloc[0]
        raise InputError(f"{printable(path)} has the slide {slide} twice.")
    return table[columns]


def read_detections(path: str | Path, width: float, height: float) -> pd.DataFrame:
    """Read `confidence,x,y` in level-0 pixels, with or without that header; no row is allowed.

    Raises:
        InputError: the file cannot be read, or a row is not three numbers within the slide.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(path)} cannot be read as CSV.") from error
    rows = [(number, line.split(",")) for number, line in enumerate(lines, 1) if line.strip()]
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["confidence", "x", "y"]:
        rows = rows[1:]
    values = []
    for number, cells in rows:
        where = f"{printable(path)}, line {number}"
        try:
            confidence, x, y = (float(cell) for cell in cells)
        except ValueError as error:
            raise InputError(f"{where}: give three numbers, confidence,x,y.") from error
        if not 0 <= confidence < np.inf:
            raise InputError(f"{where}: the confidence has to be a number from 0 on.")
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"{where}: the point lies outside the slide.")
        values.append((confidence, x, y))
    return pd.DataFrame(values, columns=["confidence", "x", "y"], dtype=float)


def region_map(
    outlines: annotations.Outlines, width: float, height: float, mpp: float
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the number of the region at each mask pixel, int (rows, columns), and the regions.

    Outlines grow by 37.5 µm, enclosed holes are filled, and what then hangs together, corners
    included, is a region. Regions shorter than 275 µm are isolated tumour cells.
    """
    shape = (int(-(-height // PIXEL)), int(-(-width // PIXEL)))
    labels, rows = np.zeros(shape, np.int32), []
    mask = annotations.tumour_mask(outlines, shape, PIXEL)
    if mask.any():  # a distance to nothing would be to the corner
        growth = GROWTH_UM / (PIXEL * mpp)
        part = _surroundings(mask, int(np.ceil(growth)) + 1)
        grown = ndimage.distance_transform_edt(~mask[part]) < growth
        labels[part] = measure.label(ndimage.binary_fill_holes(grown), connectivity=2)
    for region in measure.regionprops(labels):
        axis = float(region.axis_major_length * PIXEL * mpp)
        y, x = ((each + 0.5) * PIXEL for each in region.centroid)
        rows.append(("itc" if axis < ITC_UM else "lesion", x, y, axis, 0.0))
    columns = ["kind", "x", "y", "major_axis_um", "best"]
    return labels, pd.DataFrame(rows, columns=columns, index=range(1, len(rows) + 1))


def _surroundings(mask, margin):
    """Return the slices of the part of a mask that holds all of it, with a margin."""
    parts = []
    for axis in (1, 0):
        places = np.flatnonzero(mask.any(axis=axis))
        parts.append(slice(max(places[0] - margin, 0), places[-1] + margin + 1))
    return tuple(parts)


def judge(
    slide: str, detections: pd.DataFrame, labels: np.ndarray, regions: pd.DataFrame
) -> SlideResult:
    """Return the verdict on each detection: `hit`, `false_positive` or `ignored_itc`."""
    rows = (detections["y"].to_numpy() // PIXEL).astype(int)
    columns = (detections["x"].to_numpy() // PIXEL).astype(int)
    region = labels[rows, columns]
    kinds = regions["kind"].reindex(region).to_numpy()
    verdicts = pd.Series(kinds).map({"lesion": "hit", "itc": "ignored_itc"})
    verdicts = verdicts.fillna("false_positive").to_numpy(object)
    judged = detections.assign(verdict=verdicts, region=region)
    best = judged.groupby("region")["confidence"].max().reindex(regions.index).fillna(0.0)
    return SlideResult(slide, regions.assign(best=best.astype(float)), judged)


def judge_folders(
    detections: str | Path, outlines: str | Path, slides: pd.DataFrame
) -> tuple[list[SlideResult], list[str]]:
    """Judge all slides of a table, by the files `<slide>.csv` and `<slide>.xml` or `.geojson`.

    In a folder that `slide` wrote, detections are `<slide>/lesions.csv`.

    A slide without a file of outlines is normal. A slide without a file of detections is not
    counted, nor are its lesions, as in the challenge's script.

    Returns:
        The result of each slide, and the slides that were not counted.

    Raises:
        InputError: a folder or all detections are missing, or a file is not what it should be.
    """
    detections, outlines = Path(detections), Path(outlines)
    for folder in (detections, outlines):
        if not folder.is_dir():
            raise InputError(f"{printable(folder)} is no folder.")
    files = {path.parent.name: path for path in detections.glob(f"*/{lesions.FILE}")}
    files = files or {path.stem: path for path in detections.glob("*.csv")}
    unknown = files.keys() - set(slides["slide"]) - {"slides"}  # the table itself
    if unknown:
        where = files[min(unknown)].relative_to(detections)
        raise InputError(f"the table of slides has no row for {where}.")
    results, missing = [], []
    for slide, width, height, mpp in slides.itertuples(index=False):
        if slide not in files:
            missing.append(slide)
            continue
        points = read_detections(files[slide], width, height)
        results.append(
            judge(slide, points, *region_map(_outlines(outlines, slide), width, height, mpp))
        )
    if not results:
        raise InputError(f"{printable(detections)} holds no detections of any slide, <slide>.csv.")
    return results, missing


def _outlines(folder, slide):
    files = [folder / f"{slide}{suffix}" for suffix in annotations.SUFFIXES]
    files = [file for file in files if file.is_file()]
    if len(files) > 1:
        raise InputError(f"{slide} has two files of outlines: {files[0].name}, {files[1].name}.")
    return annotations.read_outlines(files[0]) if files else annotations.Outlines([], [])


def curve(
    lesions: list[np.ndarray], itc: Iterable[int], false_positives: list[np.ndarray]
) -> pd.DataFrame:
    """Return the FROC curve: columns `threshold`, `false_positives` a slide, `sensitivity`.

    As in the challenge's script, the lowest confidence is not used as a threshold. A missed lesion
    and a region of isolated tumour cells stand with 0, so normally it is this 0.

    Args:
        lesions: for each slide the best confidence of its lesions, 0 for a missed one.
        itc: for each slide the number of regions of isolated tumour cells.
        false_positives: for each slide their confidences.

    Returns:
        Highest threshold first, after the point (0, 0); sensitivity is NaN without lesions.
    """
    slides = len(lesions)
    found, false = np.sort(np.concatenate(lesions)), np.sort(np.concatenate(false_positives))
    thresholds = np.unique(np.concatenate([found, false, np.zeros(sum(itc))]))[:0:-1]
    hits = len(found) - np.searchsorted(found, thresholds)
    wrong = len(false) - np.searchsorted(false, thresholds)
    table = {
        "threshold": np.append(np.nan, thresholds),
        "false_positives": np.append(0, wrong) / slides,
        "sensitivity": np.append(0, hits) / len(found) if len(found) else np.nan,
    }
    return pd.DataFrame(table)


def sensitivities(points: pd.DataFrame) -> np.ndarray:
    """Return the sensitivity at each of the six rates, float64 (6,); NaN without lesions."""
    return np.interp(RATES, points["false_positives"], points["sensitivity"])


def summary(results: list[SlideResult], resamples: int = intervals.RESAMPLES) -> dict:
    """Return the FROC of slides, with 95 % intervals by a bootstrap of slides.

    Returns:
        `sensitivities` {rate: value} and their `mean`, None without lesions; `intervals` of both,
        {"low", "high"}, None for one slide; the numbers of `slides`, `lesions`, `lesions_found`,
        `itc`, `detections` and `false_positives`; `curve`; `per_slide`.
    """
    lesions, itc = [each.lesions for each in results], [each.itc for each in results]
    false_positives = [each.false_positives for each in results]
    points = curve(lesions, itc, false_positives)
    values = _with_mean(points)
    names = [*(f"{rate:g}" for rate in RATES), "mean"]
    rng, samples = np.random.default_rng(0), []
    for _ in range(resamples if len(results) > 1 else 0):
        chosen = rng.integers(len(results), size=len(results))
        parts = ([values[each] for each in chosen] for values in (lesions, itc, false_positives))
        samples.append(_with_mean(curve(*parts)))
    bounds = [(None, None)] * len(names)
    if samples:
        bounds = [intervals.percentile_interval(column) for column in np.transpose(samples)]
    metrics = [intervals.metric(*each) for each in zip(values, bounds, strict=True)]
    return {
        "sensitivities": {
            name: each["value"] for name, each in zip(names[:-1], metrics, strict=False)
        },
        "mean": metrics[-1]["value"],
        "intervals": {
            name: {"low": each["low"], "high": each["high"]}
            for name, each in zip(names, metrics, strict=True)
        },
        "slides": len(results),
        "lesions": int(sum(map(len, lesions))),
        "lesions_found": int(sum((each > 0).sum() for each in lesions)),
        "itc": int(sum(itc)),
        "detections": sum(len(each.detections) for each in results),
        "false_positives": int(sum(map(len, false_positives))),
        "curve": points.astype(object).where(points.notna(), None).to_dict("records"),
        "per_slide": [_slide_summary(each) for each in results],
    }


def _with_mean(points):
    values = sensitivities(points)
    return np.append(values, values.mean())


def _slide_summary(result):
    return {
        "slide": result.slide,
        "lesions": len(result.lesions),
        "itc": result.itc,
        "detections": len(result.detections),
        "false_positives": len(result.false_positives),
        "regions": result.regions.rename_axis("region").reset_index().to_dict("records"),
    }
