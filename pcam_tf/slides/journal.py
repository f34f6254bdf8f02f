"""What a heat map has found so far, on disk: a killed process goes on where it was.

The file holds a line that says what it is of, then a record for each unit: its number, a checksum
and the probabilities. A record that a kill cut short is dropped.
"""

import contextlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pcam_tf.files import unwritable

_HEAD = struct.Struct("<II")  # number of the unit, checksum


def read(path: Path, about: dict, counts: list[int]) -> dict[int, np.ndarray]:
    """Return the probabilities of each finished unit by its number, float32.

    Empty if there is no file, or one of something else. What follows the last whole record is cut
    off.

    Args:
        path: of the file.
        about: what it should be of.
        counts: number of cells of each unit.

    Raises:
        InputError: it cannot be read or written.
    """
    finished = {}
    with _named(path):
        if not path.exists():
            return finished
        with path.open("r+b") as file:
            if file.readline() != _line(about):
                return finished
            end = file.tell()
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                number, checksum = _HEAD.unpack(head)
                if number >= len(counts):
                    break
                content = file.read(4 * counts[number])
                if len(content) < 4 * counts[number] or zlib.crc32(content) != checksum:
                    break
                finished[number] = np.frombuffer(content, "<f4")
                end = file.tell()
            file.truncate(end)
    return finished


@contextlib.contextmanager
def appended(path: Path, about: dict, *, anew: bool) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Yield a function that records a unit: its number and its probabilities.

    Args:
        path: of the file.
        about: what it is of.
        anew: begin the file again.

    Raises:
        InputError: it cannot be written.
    """
    with _named(path):
        file = path.open("wb" if anew else "ab")
    try:
        if anew:
            with _named(path):
                file.write(_line(about))
                file.flush()

        def record(number, values):
            content = np.asarray(values, "<f4").tobytes()
            with _named(path):
                file.write(_HEAD.pack(number, zlib.crc32(content)) + content)
                file.flush()

        yield record
    finally:
        with contextlib.suppress(OSError):  # a full disk has been named already
            file.close()


def _line(about):
    return json.dumps(about, sort_keys=True).encode() + b"\n"


@contextlib.contextmanager
def _named(path):
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
