"""What the model found in a picture: a patch, or a region; and what explains a patch."""

import dataclasses
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pcam_tf import prediction, slides
from pcam_tf.app import findings, jobs
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.reviews import Origin, Review
from pcam_tf.app.turns import Work
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.models import engines
from pcam_tf.slides import region_fields
from pcam_tf.task import Task

_NOVELTY_SAMPLE = 64  # places of a region that are compared to the training data, 3 ms each
_THUMBNAIL_PX = 88  # twice its side on the page, for dense screens

Progress = Callable[[str, int, int], None]  # what is done, how many are done and their total


@dataclasses.dataclass
class PatchResult:
    """A patch and its prediction."""

    name: str
    patch: np.ndarray  # uint8 (side, side, 3)
    probabilities: np.ndarray | None  # float64 (classes,), calibrated; None: no tissue
    notice: str  # how it differs from the training data, or ""
    notes: tuple[str, ...] = ()  # about the picture
    source: Path | None = None  # the file that was given; None: drawn, or a place
    copy: int = 1  # from 2 on for a further patch of the same name and content
    review: Review | None = None
    cell: tuple[int, int] | None = None  # row and column, if it is a place
    origin: Origin | None = None  # likewise
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
    file: Path | None  # of numpy, uint8 (height, width, 3)
    stride_px: int
    probabilities: np.ndarray  # float32 (rows, columns, classes), calibrated; NaN: no tissue
    notice: str  # how its median place differs from the training data, or ""
    thumbnail: np.ndarray  # uint8 (height, width, 3)
    mpp: float  # of the picture that was given
    source: Path | None = None  # the file that was given; None: drawn
    sha256: str = ""  # of that file
    notes: tuple[str, ...] = ()  # about the picture, and large steps
    is_drawn: bool = False  # by a program: it need not be like the training data
    key: str = dataclasses.field(
        default_factory=lambda: secrets.token_urlsafe(18)
    )  # for the viewer

    def pixels(self) -> np.ndarray:
        """Return its pixels, read from the file as they are needed."""
        return np.load(self.file, mmap_mode="r")


def is_region(task: Task, pixels: np.ndarray) -> bool:
    """Return whether a picture at a task's scale is a region: it has room for a second place."""
    return max(pixels.shape[:2]) >= task.side_px + slides.strides_px(task)[0]


def patch_result(reader: Reader, name: str, pixels: np.ndarray, work: Work) -> PatchResult:
    """Return the prediction for the patch in the middle of a picture."""
    patch = np.array(prediction.centre(pixels, reader.task.side_px))
    if not slides.has_tissue(patch):
        return PatchResult(name, patch, None, "")
    work.check()
    with work.turns.small():
        probabilities = findings.probabilities(reader, patch[None])[0]
    return PatchResult(name, patch, probabilities, findings.novelty_notice(reader, patch[None]))


def region_result(
    reader: Reader,
    name: str,
    picture: image_files.Picture,
    progress: Progress,
    work: Work,
) -> RegionResult:
    """Return the predictions for all places of a region, in its turn; it has no file yet.

    Args:
        reader: the model.
        name: of the region.
        picture: at the scale of the model's task.
        progress: called after every batch, and while the region waits in line.
        work: its turns, and whether it is still wanted.

    Raises:
        InputError: there is no tissue, or there are too many regions in line.
        turns.Stopped: it is not wanted any more.
    """
    pixels = picture.pixels

    def wait(before):
        progress(f"Waiting for {before} other region{'s' * (before > 1)}", 0, before)

    with work.turns.large(work.stop, wait):
        heat, stride_px = _heat(reader, pixels, progress, work)
    places = np.argwhere(np.isfinite(heat).all(axis=-1))
    if not len(places):
        raise InputError(f"{name} shows no tissue: nothing in it is stained.")
    sample = places[np.linspace(0, len(places) - 1, min(len(places), _NOVELTY_SAMPLE)).astype(int)]
    patches = [slides.patch_around(pixels, *place, stride_px, reader.task) for place in sample]
    notice = findings.novelty_notice(reader, np.stack(patches))
    return RegionResult(
        name, None, stride_px, heat, notice, thumbnail(pixels), picture.mpp,
        notes=_step_notes(reader.task, stride_px),
    )  # fmt: skip


def _heat(reader, pixels, progress, work):
    """Return calibrated probabilities, float32 (rows, columns, classes), and the step."""

    def count(done, total):
        progress("Reading", done, total)

    if reader.fields:  # as `slide` reads with this model
        predict = jobs.in_turns(reader.fields.predict, work.turns, work.stop)
        predictor = dataclasses.replace(reader.fields, predict=predict)
        raw = region_fields.heat_map(predictor, pixels, count)
        return findings.calibrated_heat(reader, raw), predictor.step_px

    def predict(patches):
        # Keras would compile again for another number of patches.
        is_keras = engines.name_of(reader.engine) == "tensorflow"
        size = len(patches) if is_keras else jobs.PATCHES
        found = []
        for first in range(0, len(patches), size):
            with work.turns.batch():
                work.check()
                part = patches[first : first + size]
                found.append(findings.probabilities_one_view(reader, part))
        return np.concatenate(found)

    stride_px = slides.affordable_stride(pixels, reader.task)
    return slides.heat_map(predict, pixels, stride_px, count, reader.task), stride_px


def _step_notes(task, stride_px):
    smallest = slides.strides_px(task)[0]
    if stride_px <= smallest:
        return ()
    return (
        f"The region is large: it was read every {stride_px} px instead of every {smallest} px, so "
        "small foci may be missed. Give a smaller region for smaller steps.",
    )


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 (height, width, 3), at most 88 px a side."""
    every = max(max(pixels.shape[:2]) // (4 * _THUMBNAIL_PX), 1)
    picture = Image.fromarray(np.ascontiguousarray(pixels[::every, ::every]))
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return np.asarray(picture)


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
