"""The visits that a server holds: one for each open tab, ended by the visitor or by an hour idle.

gradio keeps sessions of its own, and drops the oldest when programs have asked often enough. Visits
are therefore kept here, where a program's calls make none.
"""

import collections
import hashlib
import threading
import time

from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.app.results import RegionResult
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

    def of_region(self, key: str) -> RegionResult | None:
        """Return a visit's region by its key; to look at it is to use the visit."""
        return self._kept("regions", key)

    def of_slide(self, key: str) -> SlideFolder | None:
        """Return the folder of a visit's slide; to look at it is to use the visit."""
        found = self._kept("slides", key)
        return found and found.folder

    def _kept(self, kind, key):
        with self._lock:
            for visit in self._visits.values():
                if key in getattr(visit, kind):
                    visit.used_at = time.monotonic()
                    return getattr(visit, kind)[key]
        return None

    def shown_regions(self) -> set[str]:
        """Return the keys of all regions that are shown."""
        with self._lock:
            regions = [visit.region for visit in self._visits.values()]
        return {region.key for region in regions if region}

    def end(self, session: str) -> None:
        """Stop the work of a visit and delete its files."""
        with self._lock:
            visit = self._visits.pop(_folder_name(session), None)
        if visit:
            visit.close()

    def sweep(self) -> None:
        """End the visits that were not used for an hour, and for which nothing is being read."""
        oldest = time.monotonic() - KEPT_SECONDS
        with self._lock:
            for visit in self._visits.values():
                if visit.is_at_work:
                    visit.used_at = time.monotonic()
            idle = [name for name, visit in self._visits.items() if visit.used_at < oldest]
            old = [self._visits.pop(name) for name in idle]
            self._expired.extend(idle)
        for visit in old:
            visit.close()


def _folder_name(session):
    # The browser chooses the session's name: its digest cannot be a path.
    return hashlib.sha256(str(session).encode()).hexdigest()[:32]
