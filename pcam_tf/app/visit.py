"""What one visitor of the page is looking at, and what can be taken home from it."""

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_tf import prediction, slides
from pcam_tf.app import finding_page, findings, overlays, reviews
from pcam_tf.app.findings import Point, Reader
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.models.classifier import PATCH_PX

MOST_PICTURES = 100
_LOGGED = 500  # rows of the log that are kept
_PATCH_BELOW_PX = PATCH_PX + slides.STRIDE_PX  # from this side on a picture is more than a patch
UNKNOWN_SCALE = (
    f"The file does not say its scale: it is taken as {slides.PCAM_MPP} microns per pixel. If that "
    "is wrong, enter the right number and look again."
)


@dataclasses.dataclass
class Found:
    """A patch that was looked at."""

    name: str
    patch: np.ndarray  # uint8 (96, 96, 3)
    probability: float  # calibrated
    notice: str  # where it looks unlike the training data
    review: str = ""  # "agrees" or "disagrees"
    explained: np.ndarray | None = None  # float32 (96, 96), once it has been looked at closely

    @property
    def patch_id(self) -> str:
        """Tells this patch from others, also from one of the same name."""
        return f"{self.name} {hashlib.sha256(self.patch.tobytes()).hexdigest()[:8]}"


@dataclasses.dataclass
class Region:
    """A region that was looked at; its pixels lie in a file."""

    name: str
    file: Path  # of numpy, uint8 (height, width, 3)
    stride_px: int
    heat: np.ndarray  # float32 (rows, columns)
    notice: str

    def pixels(self) -> np.ndarray:
        """Return its pixels, read from the file as they are needed."""
        return np.load(self.file, mmap_mode="r")


@dataclasses.dataclass
class Visit:
    """All that is kept of a visitor: some kilobytes a patch, and a folder."""

    folder: Path
    patches: list[Found] = dataclasses.field(default_factory=list)
    chosen: int | None = None
    region: Region | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    log: list[dict] = dataclasses.field(default_factory=list)


def plain_name(name: str) -> str:
    """Return a file's name as an id: nothing that a shell, a page or a spreadsheet acts upon."""
    return re.sub(r"[^\w.() -]", "_", name)[-80:].lstrip("-. ") or "picture"


def look(
    reader: Reader,
    visit: Visit,
    pictures: Iterable[tuple[str, np.ndarray, float | None]],
    *,
    several: bool,
    mpp: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Look at one patch, one region or several patches, in place of what was there before.

    Args:
        reader: the model.
        visit: the visitor's, changed by this.
        pictures: names, pixels (uint8, RGB) and the microns per pixel that the file states.
        several: whether they are several: of each then only the centre is looked at.
        mpp: microns per pixel, said by the visitor; None to go by the files.
        progress: called with the places of a region done and their total.

    Returns:
        The microns per pixel that the last picture was taken to have.

    Raises:
        InputError: a picture cannot be used; the visit then stays as it was.
    """
    patches, region, notes, used = [], None, [], slides.PCAM_MPP
    cropped = 0
    for name, pixels, stated in pictures:
        name = plain_name(name)
        used = mpp or stated or slides.PCAM_MPP
        if not (mpp or stated) and UNKNOWN_SCALE not in notes:
            notes.append(UNKNOWN_SCALE)
        pixels = slides.rescaled(pixels, used, name)
        if not several and max(pixels.shape[:2]) >= _PATCH_BELOW_PX:
            region = _read(reader, visit, name, pixels, notes, progress)
        else:
            cropped += pixels.shape[:2] != (PATCH_PX, PATCH_PX)
            patches.append(
                _found(reader, name, np.ascontiguousarray(prediction.centre(pixels, PATCH_PX)))
            )
    if cropped:
        which = f"of {cropped} larger pictures" if cropped > 1 else "of a larger picture"
        notes.append(f"Only the centre {which} was looked at: give a region by itself.")
    visit.patches, visit.region, visit.notes = patches, region, notes
    visit.chosen = 0 if len(patches) == 1 else None
    return used


def _read(reader, visit, name, pixels, notes, progress):
    stride_px = slides.affordable_stride(pixels)
    if stride_px > slides.STRIDE_PX:
        notes.append(
            f"The region is large: it was looked at every {stride_px} px instead of every "
            f"{slides.STRIDE_PX} px, so that small foci may be missed. Give a part of it for more."
        )
    heat = slides.heat_map(
        lambda patches: findings.probabilities_once(reader, patches), pixels, stride_px, progress
    )
    places = np.argwhere(np.isfinite(heat))
    if not len(places):
        raise InputError(f"{name} shows no tissue: nothing in it is stained.")
    sample = places[np.linspace(0, len(places) - 1, min(len(places), findings.SAMPLE)).astype(int)]
    notice = findings.unlike_training(
        np.stack([slides.patch_around(pixels, *place, stride_px) for place in sample])
    )
    file = visit.folder / "region.npy"
    visit.folder.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as temporary:
        np.save(temporary, pixels)
    return Region(name, file, stride_px, heat, notice)


def _found(reader, name, patch):
    probability = float(findings.probabilities(reader, patch[None])[0])
    return Found(name, patch, probability, findings.unlike_training(patch[None]))


def look_at_place(reader: Reader, visit: Visit, row: int, column: int) -> None:
    """Look closely at a cell of the region's grid: it becomes the chosen patch.

    Raises:
        InputError: there is no region, no such cell, or no tissue in it.
    """
    region = visit.region
    if region is None:
        raise InputError("there is no region any more: look at it again.")
    patch = slides.patch_around(region.pixels(), row, column, region.stride_px)
    if np.isnan(region.heat[row, column]):
        raise InputError("there is no tissue at this place.")
    visit.patches = [_found(reader, f"{region.name} ({row}, {column})", patch)]
    visit.chosen = 0


def chosen(reader: Reader, visit: Visit) -> Found | None:
    """Return the patch that is looked at closely, with its explanation; None if there is none."""
    if visit.chosen is None:
        return None
    found = visit.patches[visit.chosen]
    if found.explained is None:
        found.explained = findings.explanation(reader, found.patch)
    return found


def review(
    reader: Reader, visit: Visit, point: Point, *, agrees: bool, path: str | Path | None
) -> None:
    """Keep what the visitor says of the model's call on the chosen patch.

    Args:
        reader: the model.
        visit: the visitor's.
        point: at which the call was made.
        agrees: whether the visitor does.
        path: the file of reviews, if one is kept.

    Raises:
        InputError: no patch is chosen, or the file cannot be written.
    """
    if visit.chosen is None:
        raise InputError("choose a patch first.")
    found = visit.patches[visit.chosen]
    if path:
        reviews.append(
            path,
            patch_id=found.patch_id,
            probability=found.probability,
            threshold=point.threshold,
            agrees=agrees,
            model=reader.name,
        )
    found.review = "agrees" if agrees else "disagrees"
    for row in visit.log:
        if row["id"] == found.patch_id:
            row["reviewer"] = found.review


def note(visit: Visit, point: Point, setting: str) -> None:
    """Add to the log what was found."""
    time = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    common = {"time": time, "setting": setting, "reviewer": ""}
    if visit.region and visit.chosen is None:
        share = slides.tumour_share(visit.region.heat, point.threshold)
        row = {"id": visit.region.name, "call": f"{findings.percent(share)} of tissue tumour"}
        rows = [common | row | {"probability": ""}]
    else:
        rows = [
            common
            | {
                "id": found.patch_id,
                "call": findings.call(found.probability, point),
                "probability": f"{found.probability:.4f}",
            }
            for found in visit.patches
        ]
    visit.log = (visit.log + rows)[-_LOGGED:]


def log_table(visit: Visit) -> pd.DataFrame:
    """Return the log: a row for each patch or region looked at, the last one first."""
    columns = ["time", "id", "probability", "call", "setting", "reviewer"]
    return pd.DataFrame(visit.log[::-1], columns=columns)


def predictions_table(visit: Visit) -> pd.DataFrame:
    """Return the predictions table of what is looked at; `label` is empty."""
    if visit.region:
        places = np.argwhere(np.isfinite(visit.region.heat))
        ids = [f"{visit.region.name} ({row}, {column})" for row, column in places]
        found = visit.region.heat[tuple(places.T)]
    else:
        ids = [each.patch_id for each in visit.patches]
        found = [each.probability for each in visit.patches]
    return pd.DataFrame({"id": ids, "label": None, "probability": found})


def write_files(reader: Reader, visit: Visit, point: Point, setting: str) -> dict[str, Path]:
    """Write what can be taken home into the visitor's folder.

    Returns:
        The files of `predictions`, `report` and `log`, and for a region of `heat_map`.

    Raises:
        InputError: the folder cannot be written to.
    """
    names = {"predictions": "predictions.csv", "report": "report.html", "log": "session.csv"}
    files = {key: visit.folder / name for key, name in names.items()}
    prediction.write(predictions_table(visit), files["predictions"])
    prediction.write(log_table(visit), files["log"])
    pictures = []
    if visit.region:
        region = visit.region
        overlay = overlays.heat(region.heat, point.threshold)
        picture = overlays.over_region(region.pixels(), overlay, region.stride_px)
        files["heat_map"] = visit.folder / "heat_map.png"
        with written_whole(files["heat_map"]) as temporary:
            picture.save(temporary, compress_level=1)
        picture.thumbnail((1000, 1000))
        pictures.append(("Heat map: orange is tumour, a line encloses what is called so", picture))
    found = chosen(reader, visit)
    if found:
        overlay = overlays.explanation(found.explained)
        for caption, opacity in (
            ("The patch; the answer is about its centre square", 0),
            ("Explanation: orange speaks for tumour, blue against it", 0.5),
        ):
            pictures.append((caption, overlays.over_patch(found.patch, overlay, opacity)))
    text = finding_page.page(
        "What the model found", _rows(reader, visit, point, setting), pictures, notices(visit)
    )
    with written_whole(files["report"]) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return files


def _rows(reader, visit, point, setting):
    rows = []
    if visit.region:
        share = slides.tumour_share(visit.region.heat, point.threshold)
        rows += [("Region", visit.region.name), ("Tissue called tumour", findings.percent(share))]
    shown = visit.patches if visit.chosen is None else [visit.patches[visit.chosen]]
    for found in shown:
        rows.append((found.name, f"{sentence(found, point)} {reviewed(found)}".strip()))
    time = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return [
        *rows,
        ("Setting", f"{setting}: tumour from {findings.percent(point.threshold)} on"),
        ("What that does", point.meaning),
        ("Model", reader.name),
        ("Date", time),
    ]


def notices(visit: Visit) -> list[str]:
    """Return what to be careful about: unusual pictures, an unknown scale, a coarse look."""
    found = None if visit.chosen is None else visit.patches[visit.chosen]
    lines = [visit.region.notice] if visit.region else []
    if found and found.notice:
        lines.append(f"This place: {found.notice}" if visit.region else found.notice)
    return [line for line in [*lines, *visit.notes] if line]


def sentence(found: Found, point: Point) -> str:
    """Return what the model says of a patch."""
    return (
        f"Called {findings.call(found.probability, point)}: the probability of tumour in the "
        f"centre square is {findings.percent(found.probability)}, "
        f"{findings.in_words(found.probability)}."
    )


def reviewed(found: Found) -> str:
    """Return what the reviewer said of a patch, or ""."""
    return f"The reviewer {found.review}." if found.review else ""
