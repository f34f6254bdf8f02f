"""What one visitor of the page has had read: patches, a region, a log."""

import collections
import dataclasses
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcam_tf import prediction, slides
from pcam_tf.app import findings, private_files, reading
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.reviews import Review
from pcam_tf.app.turns import Work
from pcam_tf.data import image_files, image_scale
from pcam_tf.errors import InputError
from pcam_tf.task import Task

MOST_PICTURES = 100
REGION_FILE = "region.npy"
_NOVELTY_SAMPLE = 64  # places of a region that are compared to the training data, 3 ms each


@dataclasses.dataclass
class PatchResult:
    """A patch and its prediction."""

    name: str
    patch: np.ndarray  # uint8 (side, side, 3)
    probabilities: np.ndarray | None  # float64 (classes,), calibrated; None: no tissue
    notice: str  # how it differs from the training data, or ""
    copy: int = 1  # from 2 on for a further patch of the same name and content
    review: Review | None = None
    cell: tuple[int, int] | None = None  # row and column, if it is a place of a region
    explanations: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)  # by class

    @property
    def patch_id(self) -> str:
        """Name, content and number: differs for any two patches that are read together."""
        number = f" ({self.copy})" if self.copy > 1 else ""
        return f"{self.name} {hashlib.sha256(self.patch.tobytes()).hexdigest()[:8]}{number}"

    @property
    def has_tissue(self) -> bool:
        """Whether there is tissue in the patch, and so a prediction."""
        return self.probabilities is not None


@dataclasses.dataclass
class RegionResult:
    """A region and the predictions of its places; its pixels lie in a file."""

    name: str
    file: Path  # of numpy, uint8 (height, width, 3)
    stride_px: int
    probabilities: np.ndarray  # float32 (rows, columns, classes), calibrated; NaN: no tissue
    notice: str  # how its median place differs from the training data, or ""
    mpp: float = 0.0  # of the picture that was given
    key: str = dataclasses.field(
        default_factory=lambda: secrets.token_urlsafe(18)
    )  # for the viewer

    def pixels(self) -> np.ndarray:
        """Return its pixels, read from the file as they are needed."""
        return np.load(self.file, mmap_mode="r")


class Reading(NamedTuple):
    """What was read at once, and which patch of it: a row of the log brings it back."""

    patches: list[PatchResult]
    index: int
    notes: list[str]
    region_key: str  # "" of what is no place of a region


class Answer(NamedTuple):
    """What the page says of the chosen patch: all that a reviewer judges."""

    patch_id: str
    call: int  # index of the class
    threshold: float | None
    setting: str  # name of the operating point

    @property
    def token(self) -> str:
        """The answer as text, which a browser gives back with the reviewer's judgement."""
        return json.dumps(self)


class OwnSlide(NamedTuple):
    """A slide that the visitor gave; the viewer shows it, and a job reads it."""

    key: str
    name: str
    folder: Any  # `SlideFolder` of this slide alone


@dataclasses.dataclass
class Visit:
    """All that is kept of a visitor: some kilobytes a patch, and a folder.

    `lock` is held while a visit is changed or shown. `stop` is the flag of the work that the visit
    waits for; newer work sets it.
    """

    folder: Path
    patches: list[PatchResult] = dataclasses.field(default_factory=list)
    chosen: int | None = None  # index of the patch that is shown with its explanation
    region: RegionResult | None = None
    slide: OwnSlide | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    log: list[dict] = dataclasses.field(default_factory=list)
    setting: str = ""  # name of the operating point in use
    uploads: list[Path] = dataclasses.field(default_factory=list)  # the visit's own copies
    used_at: float = dataclasses.field(default_factory=time.monotonic)
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock, repr=False)

    def take_uploads(self, paths: Iterable[Path]) -> None:
        """Copy uploads into the visit, in place of those that it had.

        Raises:
            InputError: one cannot be copied.
        """
        folder = self.folder / "uploads"
        private_files.remove(folder)
        self.uploads = []
        for number, path in enumerate(paths):  # two files of one name lie in two folders
            self.uploads.append(private_files.copy(path, folder / str(number)))

    def clear(self) -> None:
        """Forget the answers; the log stays."""
        self.patches, self.chosen, self.region, self.notes = [], None, None, []
        self.close_slide()
        (self.folder / REGION_FILE).unlink(missing_ok=True)

    def close_slide(self) -> None:
        """Take the slide away, and its files; a job that reads it ends."""
        if self.slide:
            self.slide.folder.close()
            private_files.remove(self.slide.folder.folder)
            self.slide = None

    @property
    def chosen_patch(self) -> PatchResult | None:
        """The patch that is shown with its explanation."""
        return None if self.chosen is None else self.patches[self.chosen]


def safe_name(name: str) -> str:
    """Return a file's name without characters that a shell, a page or a spreadsheet acts upon."""
    return re.sub(r"[^\w.() -]", "_", name)[-80:].lstrip("-. ") or "picture"


def entered_mpp(value: float | str | None) -> float | None:
    """Return microns per pixel that a visitor or a program entered; None for nothing or 0.

    Raises:
        InputError: it is no number; text such as "0.25" or "0,25" is one.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        return float(text.replace(",", ".")) or None
    except ValueError as error:
        low, high = image_scale.PLAUSIBLE_MPP
        raise InputError(
            f"{text[:40]!r} as microns per pixel: give a number from {low:g} to {high:g}."
        ) from error


def check_scale(task: Task, name: str, picture: image_files.Picture) -> None:
    """Refuse a picture larger than a patch whose scale nobody has stated.

    A patch is as large as the model's own; of anything else a wrong scale would go unnoticed.

    Raises:
        InputError: the scale is unknown.
    """
    if picture.is_assumed and max(picture.pixels.shape[:2]) > task.side_px:
        raise InputError(
            f"{name} does not state its scale: choose at what magnification it was scanned, or "
            'enter its microns per pixel and press "Read again".'
        )


def assumed_scale(task: Task, *, is_silent: bool) -> str:
    """Return the note about a file without a usable scale; a silent one states none."""
    why = "The file does not state its scale. It" if is_silent else "No usable scale is stated. It"
    return (
        f"{why} was read at {task.mpp} microns per pixel. If that is wrong, enter the right number "
        'and press "Read again".'
    )


def read_pictures(
    reader: Reader,
    visit: Visit,
    pictures: Iterable[tuple[str, image_files.Picture]],
    *,
    several: bool,
    progress: Callable[[str, int, int], None] | None = None,
    work: Work | None = None,
) -> float:
    """Predict one patch, one region or several patches; they replace what the visit held.

    Args:
        reader: the model.
        visit: the visitor's, changed by this.
        pictures: names, and pictures at the scale of the model's task.
        several: whether there are several pictures: then only the centre of each is read.
        progress: called with what is done, how many are done and their total.
        work: its turns at the model, and whether it is still wanted.

    Returns:
        The microns per pixel at which the last picture was read.

    Raises:
        InputError: a picture cannot be used; the visit then stays as it was.
        turns.Stopped: the work is not wanted any more; likewise.
    """
    task, work = reader.task, work or Work()
    # A picture with room for a second place is a region.
    region_px = task.side_px + slides.strides_px(task)[0]
    patches, region, doubts, used, cropped = [], None, [], task.mpp, 0
    is_assumed = False
    for name, picture in pictures:
        name, pixels, used = safe_name(name), picture.pixels, picture.mpp
        doubts += [note for note in picture.doubts if note not in doubts]
        is_assumed = is_assumed or picture.is_assumed
        if not several and max(pixels.shape[:2]) >= region_px:
            try:
                region = _region_result(reader, visit, name, pixels, progress, work)
            finally:
                reading.discard(pixels)
        else:
            cropped += pixels.shape != task.shape
            centre = np.array(prediction.centre(pixels, task.side_px))
            reading.discard(pixels)
            patches.append(_patch_result(reader, name, centre, work))
    _number_copies(patches)
    notes = [
        f"About a picture: {note}." if several else f"About the picture: {note}." for note in doubts
    ]
    notes += [assumed_scale(task, is_silent=not doubts)] if is_assumed else []
    if region and region.stride_px > slides.strides_px(task)[0]:
        notes.append(
            f"The region is large: it was read every {region.stride_px} px instead of every "
            f"{slides.strides_px(task)[0]} px, so small foci may be missed. Give a smaller region "
            "for smaller steps."
        )
    if cropped:
        which = f"of {cropped} larger pictures" if cropped > 1 else "of a larger picture"
        notes.append(f"Only the centre {which} was read. Give a region as a single file.")
    with visit.lock:
        work.check()
        if region:
            region.mpp = used
        visit.patches, visit.region, visit.notes = patches, region, notes
        visit.chosen = 0 if len(patches) == 1 else None
    return used


def _patch_result(reader, name, patch, work):
    if slides.has_tissue(patch):
        return _predicted(reader, name, patch, work)
    return PatchResult(name, patch, None, "")


def _number_copies(patches):
    """Number the patches of the same name and content: an id must not occur twice in a table."""
    seen = collections.Counter()
    for patch in patches:
        same = patch.patch_id
        seen[same] += 1
        patch.copy = seen[same]


def _predicted(reader, name, patch, work):
    work.check()
    with work.turns.small():
        probabilities = findings.probabilities(reader, patch[None])[0]
    return PatchResult(name, patch, probabilities, findings.novelty_notice(reader, patch[None]))


def _region_result(reader, visit, name, pixels, progress, work):
    def predict(patches):
        with work.turns.batch():
            work.check()
            return findings.probabilities_one_view(reader, patches)

    def count(done, total):
        if progress:
            progress("Reading", done, total)

    def wait(before):
        if progress:
            progress(f"Waiting: regions that come first: {before}.", 0, before)

    with work.turns.large(work.stop, wait):
        stride_px = slides.affordable_stride(pixels, reader.task)
        heat = slides.heat_map(predict, pixels, stride_px, count, reader.task)
    places = np.argwhere(np.isfinite(heat).all(axis=-1))
    if not len(places):
        raise InputError(f"{name} shows no tissue: nothing in it is stained.")
    sample = places[np.linspace(0, len(places) - 1, min(len(places), _NOVELTY_SAMPLE)).astype(int)]
    patches = [slides.patch_around(pixels, *place, stride_px, reader.task) for place in sample]
    notice = findings.novelty_notice(reader, np.stack(patches))
    file = visit.folder / REGION_FILE
    with visit.lock:
        work.check()  # a visit that has ended must not get files again
        reading.keep(pixels, file)
    return RegionResult(name, file, stride_px, heat, notice)


def read_place(reader: Reader, visit: Visit, row: int, column: int) -> None:
    """Choose the patch around a cell of the region's grid; its probability is the heat map's own.

    Raises:
        InputError: there is no region, no such cell, or no tissue in it; then no patch is chosen.
    """
    with visit.lock:
        region, visit.patches, visit.chosen = visit.region, [], None
    if region is None:
        raise InputError("the region is no longer stored: read it again.")
    patch = slides.patch_around(region.pixels(), row, column, region.stride_px, reader.task)
    probabilities = region.probabilities[row, column].astype("float64")
    if np.isnan(probabilities).any():
        raise InputError("there is no tissue at this place.")
    notice = findings.novelty_notice(reader, patch[None])
    name = place_name(reader, region, row, column)
    found = PatchResult(name, patch, probabilities, notice, cell=(row, column))
    with visit.lock:
        if visit.region is region:
            visit.patches, visit.chosen = [found], 0


def place_name(reader: Reader, region: RegionResult, row: int, column: int) -> str:
    """Return what a place of a region is called: by its centre, from the top left."""
    x, y = ((each + 0.5) * region.stride_px * reader.task.mpp for each in (column, row))
    return f"{region.name}, x {x:.0f} µm, y {y:.0f} µm"


def explained_class(reader: Reader, patch: PatchResult, point: Point) -> int:
    """Return the index of the class that is explained: the second of two, else the called one.

    The patch must have tissue.
    """
    return 1 if reader.task.is_binary else int(findings.calls(patch.probabilities, point))


def is_explained(reader: Reader, patch: PatchResult) -> bool:
    """Return whether there is a saliency map: not without tissue, nor of every model."""
    return patch.has_tissue and reader.method is not None


def explanation(reader: Reader, patch: PatchResult, point: Point) -> np.ndarray:
    """Return a patch's saliency map, float32 (side, side), computed the first time."""
    target = explained_class(reader, patch, point)
    if target not in patch.explanations:
        patch.explanations[target] = findings.explanation(reader, patch.patch, target)
    return patch.explanations[target]


def answer(visit: Visit, point: Point) -> Answer | None:
    """Return what the page says of the chosen patch; None where there is nothing to judge."""
    patch = visit.chosen_patch
    if patch is None or not patch.has_tissue:
        return None
    call = int(findings.calls(patch.probabilities, point))
    return Answer(patch.patch_id, call, point.threshold, visit.setting)


def judged(
    reader: Reader, visit: Visit, point: Point, token: str, *, agrees: bool, **words: str | bool
) -> Review:
    """Return the review of the answer that the reviewer saw.

    Args:
        reader: the model, of two classes.
        visit: the visitor's.
        point: the operating point in use.
        token: of the answer that was shown when the reviewer judged.
        agrees: whether the reviewer agrees with the call.
        words: `reviewer`, `unsure` and `comment`, see `Review`.

    Raises:
        InputError: that is not what the page shows by now, or there is nothing to judge.
    """
    patch, shown = visit.chosen_patch, answer(visit, point)
    if patch and not patch.has_tissue:
        raise InputError("there is no tissue in this patch, so there is no call to review.")
    if shown is None or shown.token != token:
        raise InputError(
            "nothing was saved: the page has another answer by now. Look at it, and judge again."
        )
    return Review(
        patch_id=shown.patch_id,
        probability=float(patch.probabilities[1]),
        threshold=shown.threshold,
        setting=shown.setting,
        call=shown.call,
        label=shown.call if agrees else 1 - shown.call,
        model=reader.name,
        **words,
    )


def keep_review(visit: Visit, review: Review, text: str) -> None:
    """Keep a review with the chosen patch, and its text in the log."""
    visit.chosen_patch.review = review
    for row in visit.log:
        if row["id"] == review.patch_id:
            row["reviewer"] = text
