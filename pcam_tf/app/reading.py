"""Pictures of visitors, at a task's scale: large ones are read by a process of their own."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np

from pcam_tf.app import private_files, slide_uploads, turns
from pcam_tf.app.turns import Work
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.task import Task

_LARGE_PX = 4_000_000  # decoded, 12 MB; a process takes a second to begin
_LONGEST_S = 120
_LOOK_S = 0.1  # how often it is looked whether the picture is still wanted


def read(
    path: Path, task: Task, mpp: float | None, name: str, folder: Path, work: Work
) -> image_files.Picture:
    """Read an upload at the scale of a task.

    Args:
        path: of the upload.
        task: whose scale it is brought to.
        mpp: its microns per pixel; None: as the file states, or else the task's.
        name: what to call it in messages.
        folder: of the visit; the pixels of a large picture lie in it, as a `numpy.memmap`, until
            `keep` or `discard`.
        work: whether it is still wanted.

    Raises:
        InputError: as `image_files.read` or, of a slide, `slide_uploads.read`.
        turns.Stopped: it is not wanted any more.
    """
    is_slide = slide_uploads.is_slide(path)
    if not (is_slide or _has_many_pixels(path, name)):
        return image_files.read(path, task, mpp, name)
    request = {"file": str(path), "task": task.to_json(), "mpp": mpp, "name": name}
    request["is_slide"] = is_slide
    into = folder / secrets.token_hex(8)
    try:
        with work.turns.reading(work.stop):
            into.mkdir(mode=0o700, parents=True)
            answer = _answer(request | {"pixels": str(into / "pixels.npy")}, work)
        if "refused" in answer:
            raise InputError(answer["refused"].replace(f"{path.parent}/", ""))
        if "unknown_scale" in answer:
            raise slide_uploads.UnknownScale(answer["unknown_scale"])
        if "large_slide" in answer:
            raise slide_uploads.LargeSlide(name, answer["large_slide"])
        pixels = np.load(into / "pixels.npy", mmap_mode="r")
    except BaseException:
        private_files.remove(into)
        raise
    return image_files.Picture(**answer | {"pixels": pixels, "doubts": tuple(answer["doubts"])})


def is_large(path: Path, name: str) -> bool:
    """Return whether a process of its own reads an upload: a slide, or above 4 megapixels.

    Raises:
        InputError: it is no picture.
    """
    return slide_uploads.is_slide(path) or _has_many_pixels(path, name)


def _has_many_pixels(path, name):
    with image_files.opened(path, name) as file:
        width, height = file.picture.size
    return width * height > _LARGE_PX


def keep(pixels: np.ndarray, file: Path) -> None:
    """Put pixels that `read` returned into a file of numpy."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if isinstance(pixels, np.memmap):
        Path(pixels.filename).replace(file)
        discard(pixels)
    else:
        with written_whole(file) as temporary:
            np.save(temporary, pixels)


def discard(pixels: np.ndarray) -> None:
    """Delete the file of pixels that `read` returned, if there is one."""
    if isinstance(pixels, np.memmap):
        private_files.remove(Path(pixels.filename).parent)


def _answer(request, work):
    """Return what a process says of a picture; it ends when the picture is not wanted any more."""
    command = [sys.executable, "-m", "pcam_tf.app.picture_worker"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said, waited = json.dumps(request), 0.0
    with process:
        while True:
            try:
                content, _ = process.communicate(said, timeout=_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                said, waited = None, waited + _LOOK_S
                if work.stop.is_set() or waited > _LONGEST_S:
                    process.kill()
                    turns.check(work.stop)
                    raise InputError(f"{request['name']} takes too long to read.") from None
    if process.returncode:
        raise InputError(
            f"{request['name']} is not a picture that can be read (damaged or too large for the "
            "server's memory)."
        )
    return json.loads(content)
