"""Write files whole or not at all, and find out before the work whether they can be written."""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pcam_tf.errors import InputError

_LINKS = 40  # as many as Linux follows
# What some network file systems answer if a file is to be locked.
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_POINTER = b"version https://git-lfs"


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; put the file at `path` when the block ends without error.

    An ordinary file is written beside its place and renamed, so that it appears whole. It keeps
    the mode and the owner of the file that it replaces. A link is followed: the file that it points
    to is replaced, not the link. What is no ordinary file (a device, a pipe, standard output) is
    never replaced: the content is written into it at the end.

    The temporary name keeps the suffixes of `path`, because Keras and numpy choose the format by
    them. If the block raises, the temporary file is removed and an older `path` stays unchanged.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            target = _target(path)
            if target is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                temporary = folder / path.name
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = _beside(target)
                stack.callback(_remove, temporary)
                # Made here, by the umask, whatever mode the block would give it.
                temporary.open("wb").close()
            yield temporary
            if target is None:
                # Who reads standard output may stop early, as `head` does.
                stopped = BrokenPipeError if is_standard_output(path) else ()
                with contextlib.suppress(stopped):
                    _write_through(temporary, path)
            else:
                _keep_mode(target, temporary)
                temporary.replace(target)
        except OSError as error:
            raise unwritable(path, error) from error


def _beside(target, prefix=".writing"):
    return target.with_name(f"{prefix}-{os.getpid()}-{target.name}")


def _remove(path):
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def unwritable(path: str | Path, error: OSError) -> InputError:
    """Return the error for a file that cannot be written: which, why, and what to do."""
    reason = error.strerror or error
    return InputError(
        f"cannot write {printable(path)}: {reason}; choose a folder that is writable and has room."
    )


def _target(path: Path) -> Path | None:
    """Return the ordinary file that is replaced, links followed; None for anything else.

    Raises:
        OSError: `path` is a folder, may not be written, or cannot be reached.
    """
    number = _descriptor(path)
    if number is not None:
        _check_open(number)
        return None
    try:
        found = path.stat()
    except FileNotFoundError:
        # A new file, or a link that points to one: the link stays.
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(None, "it is a folder")
    if not os.access(path, os.W_OK):
        raise PermissionError(None, "it may not be written")
    return Path(os.path.realpath(path)) if stat.S_ISREG(found.st_mode) else None


def _descriptor(path: Path) -> int | None:
    """Return the number of this process's open file that `path` names: 1 for /dev/stdout."""
    own = re.compile(rf"/dev/fd|/proc/{os.getpid()}/(task/\d+/)?fd")
    for _ in range(_LINKS):
        folder = Path(os.path.realpath(path.parent))
        if own.fullmatch(str(folder)) and path.name.isdigit():
            return int(path.name)
        try:
            path = folder / (folder / path.name).readlink()
        except OSError:
            return None  # no link
    return None


def _check_open(number):
    """Refuse an open file that was opened for reading only, as by `<(...)`, or that is closed."""
    import fcntl  # not above: Windows has none, nor names for open files

    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise PermissionError(None, "it is open for reading only")


def is_ordinary(path: str | Path) -> bool:
    """Return whether `path` is, or would become, an ordinary file: no device, pipe or folder."""
    path = Path(path)
    try:
        return _descriptor(path) is None and stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def is_standard_output(path: str | Path) -> bool:
    """Return whether `path` is a name of standard output, such as /dev/stdout."""
    return _descriptor(Path(path)) == 1


def _write_through(source: Path, path: Path) -> None:
    """Copy the content of a file into a device, a pipe or an open file."""
    number = _descriptor(path)
    if number is not None and sys.__stdout__ is not None:
        sys.__stdout__.flush()  # what was printed before comes first
    # An open file goes on where it is: to open it anew would begin at its start.
    into = path if number is None else os.dup(number)
    with source.open("rb") as content, open(into, "wb") as file:  # noqa: PTH123 (or a number)
        shutil.copyfileobj(content, file)


def _keep_mode(target: Path, temporary: Path) -> None:
    """Give a file the mode and, where this process may, the owner of the one it replaces."""
    if not target.exists():
        return
    found = target.stat()
    if hasattr(os, "chown") and (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(OSError):
            os.chown(temporary, found.st_uid, found.st_gid)
    temporary.chmod(stat.S_IMODE(found.st_mode))


def check_outputs(outputs: Iterable[str | Path | None], inputs: Iterable[str | Path] = ()) -> None:
    """Refuse outputs that cannot be written, or that would overwrite an input or each other.

    To be called before the work begins. The trial leaves nothing behind.

    Args:
        outputs: files that will be written; None for one that was not asked for.
        inputs: files that are read. One file under two names, by links say, is recognised.

    Raises:
        InputError: an output cannot be written, is one of the inputs, or is given twice.
    """
    read, before = {}, {}
    for path in map(Path, inputs):
        read.setdefault(_identity(path), path)
    for path in (Path(path) for path in outputs if path is not None):
        own = _identity(path)
        if own is not None and own in read:
            other = "" if path == read[own] else f", {printable(read[own])}"
            raise InputError(
                f"the output {printable(path)} would replace what this command reads{other}: "
                "give it another name."
            )
        if own is not None and own in before:
            raise InputError(
                f"{printable(before[own])} and {printable(path)} are one file: give each output "
                "its own name."
            )
        before[own] = path
        _try_to_write(path)


def _identity(path):
    """Return what all paths to one ordinary file share, also before it is there; None of others."""
    if not is_ordinary(path):
        return None
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _try_to_write(path):
    try:
        target = _target(path)
        if target is None:
            return
        folder = target.parent
        trial = _beside(target, ".testing")
        if not folder.is_dir():
            # What is missing will be made within the nearest folder that is there.
            there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
            trial = _beside(there / "place", ".testing")
        try:
            trial.open("wb").close()
        finally:
            _remove(trial)
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def locked(path: str | Path, busy: str) -> Iterator[None]:
    """Hold a lock during the block; only one process at a time can.

    The lock belongs to the process, not to the file: one that was killed leaves no lock behind.

    Args:
        path: of the lock's file, which is made, with its folder, if it is missing.
        busy: the message if another process holds the lock.

    Raises:
        InputError: another process holds the lock, or the file cannot be made.
    """
    import filelock  # not above: it takes longer to import than all of this module

    path = Path(path)
    lock = filelock.FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(busy) from error
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _WITHOUT_LOCKS:
            raise unwritable(path, error) from error
        warnings.warn(
            f"this file system has no locks: see that no other process uses "
            f"{printable(path.parent)}.",
            stacklevel=3,
        )
    try:
        yield
    finally:
        lock.release()


def printable(path: str | Path) -> str:
    """Return a path as text that any stream takes: what is no UTF-8 in it becomes escapes."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")


def check_name(path: str | Path) -> None:
    r"""Refuse a path whose bytes are no UTF-8: it can be opened, but not be named in a table.

    Raises:
        InputError: it has such bytes; the message shows them as escapes such as \udcff.
    """
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the name {printable(path)} is not UTF-8: rename the file.") from error


def is_pointer(path: str | Path) -> bool:
    """Return whether an ordinary file is a Git LFS pointer: the place-holder of a file."""
    if not (is_ordinary(path) and Path(path).is_file()):
        return False
    with Path(path).open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def is_gzip(path: str | Path) -> bool:
    """Return whether an ordinary file is packed by gzip, whatever its name says."""
    if not (is_ordinary(path) and Path(path).is_file()):
        return False
    with Path(path).open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def check_no_pointer(path: str | Path) -> None:
    """Refuse a Git LFS pointer, which a clone without Git LFS holds instead of the file.

    Raises:
        InputError: it is one.
    """
    if is_pointer(path):
        raise InputError(
            f"{printable(path)} is a Git LFS pointer, not the file itself: run `git lfs pull`."
        )


def write_json(path: str | Path, content: dict) -> None:
    """Write `content` as indented JSON, whole or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def claim(
    path: str | Path,
    content: dict,
    what: str,
    completed: Callable[[dict], dict] = lambda stored: stored,
) -> None:
    """Note in a JSON file what its folder is for; refuse a folder that is for something else.

    Args:
        path: of the file.
        content: what the folder is for.
        what: the word for it, as in "study".
        completed: from what an earlier version noted to what this one would.

    Raises:
        InputError: the folder holds another; the message names what differs. Or `path` cannot be
            written, or is damaged.
    """
    path, wanted = Path(path), _as_json(content)
    if path.is_file():
        try:
            stored = _as_json(completed(json.loads(path.read_text(encoding="utf-8"))))
            different = [name for name in wanted | stored if stored.get(name) != wanted.get(name)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged: delete the {what} or name another.") from error
        if different:
            words = different[0].removesuffix("_sha256").replace("_", " ")
            raise InputError(
                f"{path.parent} holds another {what} (it differs in {words}): delete it or name "
                "another."
            )
    write_json(path, content)


def _as_json(content):
    """Return what is read of `content` that was written as JSON: lists in place of tuples."""
    return json.loads(json.dumps(content))
