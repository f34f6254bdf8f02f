"""The visits that a server holds: one for each open tab, ended by the visitor or by an hour idle.

gradio keeps sessions of its own, and drops the oldest when programs have asked often enough. Visits
are therefore kept here, where a program's calls make none.
"""

import collections
import hashlib
import threading
import time

from pcam_tf.app import private_files
from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.app.slide_folder import SlideFolder
from pcam_tf.app.visit import Visit
from pcam_tf.errors import InputError

KEPT_SECONDS = 3600
MOST = 200  # visits at a time; a further visitor is refused, since nobody's visit is dropped
_REMEMBERED = 1000  # visits that have expired


class Visits:
    """The visits of a server, by the names that browsers give their sessions."""

    def __init__(self, files: PrivateFiles):
        self.files = files
        self._visits: dict[str, Visit] = {}
        self._expired = collections.deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def begin(self, session: str) -> Visit:
        """Return the visit of a session, a new one if there is none.

        Raises:
            InputError: there are too many visits.
        """
        name = _folder_name(session)
        with self._lock:
            if name not in self._visits:
                if len(self._visits) >= MOST:
                    raise InputError("too many visitors at once: try again in some minutes.")
                self._visits[name] = Visit(self.files.visits / name)
            visit = self._visits[name]
            visit.used_at = time.monotonic()
            return visit

    def find(self, session: str) -> Visit:
        """Return the visit of a session.

        Raises:
            InputError: there is none, or it has expired.
        """
        name = _folder_name(session)
        with self._lock:
            visit = self._visits.get(name)
            if visit:
                visit.used_at = time.monotonic()
                return visit
            if name in self._expired:
                raise InputError(
                    "this visit has expired: pictures are deleted after an hour without use. Give "
                    "the picture again."
                )
        raise InputError("give a picture first.")

    def of_region(self, key: str) -> Visit | None:
        """Return the visit whose region has a key; to look at a region is to use its visit."""
        with self._lock:
            for visit in self._visits.values():
                if visit.region and visit.region.key == key:
                    visit.used_at = time.monotonic()
                    return visit
        return None

    def of_slide(self, key: str) -> SlideFolder | None:
        """Return the folder of a visit's slide; to look at it is to use the visit."""
        with self._lock:
            for visit in self._visits.values():
                if visit.slide and visit.slide.key == key:
                    visit.used_at = time.monotonic()
                    return visit.slide.folder
        return None

    def region_keys(self) -> set[str]:
        """Return the keys of all regions that there are."""
        with self._lock:
            return {visit.region.key for visit in self._visits.values() if visit.region}

    def end(self, session: str) -> None:
        """Stop the work of a visit and delete its files."""
        with self._lock:
            visit = self._visits.pop(_folder_name(session), None)
        if visit:
            _close(visit)

    def sweep(self) -> None:
        """End the visits that were not used for an hour."""
        oldest = time.monotonic() - KEPT_SECONDS
        with self._lock:
            idle = [name for name, visit in self._visits.items() if visit.used_at < oldest]
            old = [self._visits.pop(name) for name in idle]
            self._expired.extend(idle)
        for visit in old:
            _close(visit)


def _close(visit):
    visit.stop.set()
    with visit.lock:
        visit.close_slide()
        private_files.remove(visit.folder)


def _folder_name(session):
    # The browser chooses the session's name: its digest cannot be a path.
    return hashlib.sha256(str(session).encode()).hexdigest()[:32]
