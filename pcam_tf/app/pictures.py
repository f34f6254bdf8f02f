"""Pictures as visitors give them: their names, their scales, and what is to be said of both."""

import re

from pcam_tf.data import image_files, image_scale
from pcam_tf.errors import InputError
from pcam_tf.task import Task


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


class Notes:
    """What is to be said of the pictures of a batch, each thing once."""

    def __init__(self, task: Task, *, are_several: bool):
        self._task, self._are_several = task, are_several
        self._doubts, self._is_assumed, self._cropped = [], False, 0

    def add(self, picture: image_files.Picture, *, is_cropped: bool) -> None:
        """Note what is doubtful in a picture, and whether only its centre was read."""
        self._doubts += [note for note in picture.doubts if note not in self._doubts]
        self._is_assumed = self._is_assumed or picture.is_assumed
        self._cropped += is_cropped

    def lines(self) -> list[str]:
        """Return it in sentences."""
        about = "a" if self._are_several else "the"
        lines = [f"About {about} picture: {note}." for note in self._doubts]
        if self._is_assumed:
            lines.append(_assumed_scale(self._task, is_silent=not self._doubts))
        if self._cropped:
            which = f"of {self._cropped} larger pictures" if self._cropped > 1 else "of the picture"
            lines.append(f"Only the centre {which} was read: there is no room for a second patch.")
        return lines


def _assumed_scale(task, *, is_silent):
    """Return the note about a file without a usable scale; a silent one states none."""
    why = "The file does not state its scale. It" if is_silent else "No usable scale is stated. It"
    return (
        f"{why} was read at {task.mpp} microns per pixel. If that is wrong, enter the right number "
        'and press "Read again".'
    )
