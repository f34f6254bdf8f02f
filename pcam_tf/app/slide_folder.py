"""A folder of slides that is served: its slides by name, and their heat maps, which are kept.

Results lie in a folder beside them as the `slide` command writes them, so that either finds what
the other made. A request names a slide by a digest of its file's name, never by a path.
"""

import collections
import hashlib
import json
import threading
from pathlib import Path

import numpy as np

from pcam_tf.app import findings
from pcam_tf.app.findings import Reader
from pcam_tf.app.jobs import Job
from pcam_tf.app.viewed import Viewed
from pcam_tf.data import image_scale
from pcam_tf.errors import InputError
from pcam_tf.files import printable, write_json
from pcam_tf.slides import heat_maps, reader

RESULTS = "pcam_tf_results"  # in the folder of slides
_SCALE = "scale.json"
_MOST_OPEN = 8


def key_of(name: str, secret: str = "") -> str:
    """Return the key by which a slide is asked for, from its file's name and a secret."""
    return hashlib.sha256((secret + name).encode("utf-8", "surrogateescape")).hexdigest()[:24]


class SlideFolder:
    """The slides of a folder, for any number of threads; at most eight are open at a time.

    Attributes:
        folder: of the slides.
        results: in it, a folder of results for each slide.
        is_closed: whether its slides are not wanted any more.
        job: the last one that reads a slide of it, or None.
    """

    def __init__(self, folder: str | Path, model: Reader, digest: str, secret: str = ""):
        """Look at a folder.

        Args:
            folder: of the slides; subfolders are not looked into.
            model: whose heat maps are shown.
            digest: SHA-256 of the model, with which heat maps of others are told apart.
            secret: makes keys that cannot be guessed, for a folder that is one visitor's.

        Raises:
            InputError: there is no such folder.
        """
        self.folder = Path(folder).absolute()
        self.results = self.folder / RESULTS
        self.is_closed = False
        self.job: Job | None = None
        self._model, self._digest, self._secret = model, digest, secret
        self._open: collections.OrderedDict[str, Viewed] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.files()

    @property
    def is_being_read(self) -> bool:
        """Whether a slide waits for its turn or is read."""
        return self.job is not None and self.job.is_active

    def files(self) -> dict[str, Path]:
        """Return the slides' files by key, in the order of their names.

        Raises:
            InputError: the folder cannot be read.
        """
        try:
            found = sorted(
                path for path in self.folder.iterdir()
                if path.suffix.lower() in reader.SUFFIXES
                and not path.name.startswith(".") and path.is_file()
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"cannot read {printable(self.folder)}: {error.strerror}.") from error
        return {key_of(path.name, self._secret): path for path in found}

    def result_folder(self, path: Path) -> Path:
        """Return where the results of a slide lie."""
        return self.results / reader.name_of(path)

    def find(self, key: str) -> Viewed | None:
        """Return a slide with its heat map as far as there is one; None for an unknown key.

        Raises:
            InputError: the slide cannot be read, or its scale is unknown.
        """
        path = self.files().get(key)
        if path is None:
            return None
        with self._lock:
            if self.is_closed:
                return None
            if key not in self._open:
                self._open[key] = self._opened(key, path)
            self._open.move_to_end(key)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)  # closed after its last reader
            return self._open[key]

    def forget(self, key: str) -> None:
        """Open a slide anew when it is asked for next: its heat map or its scale has changed."""
        with self._lock:
            self._open.pop(key, None)

    def close(self) -> None:
        """Give up all slides: the server ends, or the visit to which they belong.

        Others may be reading from one; its file is closed after its last reader.
        """
        self.is_closed = True
        if self.job:
            self.job.stop.set()
        with self._lock:
            self._open.clear()

    def _opened(self, key, path):
        slide = reader.open_slide(path, self.scale(path))
        try:
            heat_map = heat_maps.read(self.result_folder(path))
        except InputError:  # not read yet, or not whole
            return Viewed(key, path.name, slide, notes=slide.notes)
        if not self._is_current(heat_map, path, slide):
            note = "There is a heat map of another model, file or scale: read the slide anew."
            return Viewed(key, path.name, slide, notes=(*slide.notes, note))
        raw = heat_map.probabilities
        heat = findings.calibrated_heat(self._model, raw)
        return Viewed(key, path.name, slide, heat_map.grid, heat, raw, slide.notes)

    def _is_current(self, heat_map, path, slide):
        settings = heat_map.settings
        return (
            settings.get("model", {}).get("sha256") == self._digest
            and settings.get("slide", {}).get("bytes") == path.stat().st_size
            and np.isclose(heat_map.grid.level0_mpp, slide.mpp)
        )

    def lacks_scale(self, key: str) -> bool:
        """Return whether a slide is fine but for its scale, which nobody has stated."""
        try:
            with reader.opened(self.files()[key], 1.0) as slide:
                return slide.backend.mpp is None and self.scale(slide.path) is None
        except (InputError, KeyError):
            return False

    def scale(self, path: Path) -> float | None:
        """Return the microns per pixel that a visitor gave for a slide, or None."""
        try:
            text = (self.result_folder(path) / _SCALE).read_text(encoding="utf-8")
            return float(json.loads(text)["mpp"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def set_scale(self, key: str, mpp: float) -> None:
        """Keep the microns per pixel of a slide whose file states none.

        Raises:
            InputError: no such slide, an impossible scale, or it cannot be kept.
        """
        path = self.files().get(key)
        if path is None:
            raise InputError("there is no such slide.")
        image_scale.check_mpp(mpp)
        write_json(self.result_folder(path) / _SCALE, {"mpp": mpp})
        self.forget(key)
