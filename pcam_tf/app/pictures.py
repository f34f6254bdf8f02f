"""Pictures as visitors give them: their names, their scales, and what is to be said of both."""

import collections
import re
from collections.abc import Iterable

from pcam_tf.data import image_files, image_scale
from pcam_tf.errors import InputError
from pcam_tf.task import Task

# Magnifications of scanners, and their microns per pixel.
POWERS = {"40×": 0.25, "20×": 0.5, "10×": 1.0}


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


def notes_of(task: Task, picture: image_files.Picture, *, is_cropped: bool) -> tuple[str, ...]:
    """Return what is to be said of a picture: doubts, an assumed scale, a part that was not read.

    Args:
        task: at whose scale the picture is.
        picture: as it was read.
        is_cropped: whether only its centre counts.
    """
    lines = [f"About the picture: {note}." for note in picture.doubts]
    if picture.is_assumed:
        # A silent file states no scale at all.
        why = "No usable scale is stated" if lines else "The file does not state its scale"
        lines.append(
            f"{why}. It was read at {task.mpp} microns per pixel. If that is wrong, give it "
            'alone, enter the right number and press "Read again".'
        )
    if is_cropped:
        lines.append(
            "Only the centre of the picture was read: there is no room for a second patch."
        )
    return tuple(lines)


def notes_of_all(notes: Iterable[tuple[str, ...]]) -> list[str]:
    """Return the notes about several pictures, each once, with the number of pictures."""
    counts = collections.Counter(line for lines in notes for line in lines)
    return [f"{'1 picture' if n == 1 else f'{n} pictures'}: {line}" for line, n in counts.items()]
