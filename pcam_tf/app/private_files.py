"""The folder in which a serving process keeps visitors' pictures, and what removes them.

It is private to the user who serves (mode 0700), and it is removed when the process ends. What a
killed process has left behind is removed at the next start. Uploads are in transit: a visit copies
what it reads, so nothing that another visitor may name is ever deleted but by age.
"""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Container
from pathlib import Path

import filelock

from pcam_tf.errors import InputError

UPLOAD_SECONDS = 600  # an upload is read at once, or after its turn in the queue
QUOTA_BYTES = 8 * 10**9  # uploads and visits together
_SPARE_BYTES = 500 * 10**6  # left free on the disk


class PrivateFiles:
    """The private folder of this process.

    Attributes:
        folder: the folder.
        uploads: in it, what browsers and programs have sent.
        visits: in it, a folder for each visit.
    """

    def __init__(self, parent: Path | None = None):
        """Make the folder, and remove those of processes that have ended.

        Raises:
            InputError: the folder of temporary files cannot be used, or others own the place.
        """
        parent = parent or Path(tempfile.gettempdir()) / f"pcam_tf-{_user()}"
        try:
            _make_private(parent)
            _remove_left(parent)
            name = f"{os.getpid()}-{time.time_ns():x}"
            # The lock is there before the folder: a folder without one belongs to no process.
            self._room, self._reserved = threading.Lock(), 0
            self._lock = filelock.FileLock(parent / f"{name}.lock")
            self._lock.acquire()
            self.folder = parent / name
            self.uploads, self.visits = self.folder / "uploads", self.folder / "visits"
            for each in (self.folder, self.uploads, self.visits):
                each.mkdir(mode=0o700)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot keep files in {parent}: {reason}; set TMPDIR.") from error

    def new_visit(self) -> Path:
        """Return the path of a folder that no other visit has."""
        return self.visits / secrets.token_hex(16)

    def new_upload(self) -> Path:
        """Make a folder for an upload; its name cannot be guessed."""
        folder = self.uploads / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    def upload(self, path: str, kept: Container[Path] = ()) -> Path:
        """Return the path of an upload that a request names.

        Args:
            path: what the request names.
            kept: uploads of which there are copies, so that they may have been deleted.

        Raises:
            InputError: it is another file, or was deleted.
        """
        path = Path(path).resolve()
        if not path.is_relative_to(self.uploads.resolve()):
            raise InputError("that file was not uploaded here.")
        if not path.is_file() and path not in kept:
            raise InputError("the upload has expired: give the picture again.")
        return path

    def check_room(self, size: int = 0) -> None:
        """Refuse what does not fit.

        Args:
            size: bytes that are to be added.

        Raises:
            InputError: there is no room.
        """
        used = sum(_size(path) for path in _files(self.folder))
        free = shutil.disk_usage(self.folder).free
        size += self._reserved
        if used + size > QUOTA_BYTES or free < size + _SPARE_BYTES:
            raise InputError("the server has no room for more pictures: try again in some minutes.")

    def reserved(self, size: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which there is room for something that is being written.

        Raises:
            InputError: there is no room.
        """
        with self._room:
            self.check_room(size)
            self._reserved += size
        context = contextlib.ExitStack()
        context.callback(self._free, size)
        return context

    def _free(self, size):
        with self._room:
            self._reserved -= size

    def sweep(self) -> None:
        """Remove uploads that are older than ten minutes."""
        oldest = time.time() - UPLOAD_SECONDS
        for folder in self.uploads.iterdir():
            with contextlib.suppress(OSError):
                newest = max((path.stat().st_mtime for path in _files(folder)), default=0)
                if max(newest, folder.stat().st_mtime) < oldest:
                    remove(folder)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        remove(self.folder)
        _drop(self._lock)


def copy(source: Path, into: Path) -> Path:
    """Put an upload into a folder under its own name, as a link where the disk can do that.

    Raises:
        InputError: it was deleted meanwhile, or the disk is full.
    """
    copied = into / source.name
    try:
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.link(source, copied)
        except OSError:
            shutil.copyfile(source, copied)
    except FileNotFoundError as error:
        raise InputError("the upload has expired: give the picture again.") from error
    except OSError as error:
        raise InputError("the server has no room for this picture: try again later.") from error
    return copied


def remove(folder: Path) -> None:
    """Delete a folder with all that is in it, or a file, if it is there."""
    if folder.is_file():
        folder.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _user():
    return os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def _make_private(folder):
    """Make a folder that only this user can enter; one that others made is refused."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    is_own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    if not (stat.S_ISDIR(found.st_mode) and is_own):
        raise InputError(f"{folder} belongs to somebody else: set TMPDIR to a folder of your own.")
    folder.chmod(0o700)


def _remove_left(parent):
    """Remove folders whose process has ended: its lock ended with it."""
    for folder in parent.iterdir():
        if not folder.is_dir():
            continue
        lock = filelock.FileLock(parent / f"{folder.name}.lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            continue
        remove(folder)
        _drop(lock)


def _drop(lock):
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def _files(folder):
    """Yield the files in a folder and below it; what is removed meanwhile is left out."""
    if folder.is_file():
        yield folder
    for parent, _, names in os.walk(folder):  # unlike rglob it minds no folder that vanishes
        yield from (Path(parent, name) for name in names)


def _size(path):
    try:
        found = path.lstat()
    except OSError:  # it was removed meanwhile
        return 0
    # A link that a visit made shares its bytes with the upload.
    return found.st_size // found.st_nlink if stat.S_ISREG(found.st_mode) else 0
