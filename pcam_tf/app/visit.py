"""What one visitor of the page has had read: what was given at once, what is open of it, a log."""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcam_tf.app import private_files, reading
from pcam_tf.app.results import PatchResult, RegionResult
from pcam_tf.app.slide_folder import SlideFolder
from pcam_tf.app.turns import Stopped, Work
from pcam_tf.errors import InputError

MOST_PICTURES = 100
MOST_SLIDES = 4  # of a visit; of those that no job reads, the oldest make room
# Of regions that are not shown, with their uploads: the oldest are deleted.
KEPT_REGION_BYTES = 200 * 10**6


class OwnSlide(NamedTuple):
    """A slide that the visitor gave; the viewer shows it, and a job reads it."""

    key: str
    name: str
    folder: SlideFolder  # of this slide alone
    source: Path  # the file that was given
    sha256: str  # of its file


@dataclasses.dataclass
class Pending:
    """A picture that is not read yet, or is not going to be."""

    name: str
    source: Path  # the file that was given
    said: str = "not read yet"
    is_waiting: bool = True


@dataclasses.dataclass
class Batch:
    """What was given at once: its results in order, and what was left out of it."""

    items: list[PatchResult | RegionResult | OwnSlide | Pending] = dataclasses.field(
        default_factory=list
    )
    notes: list[str] = dataclasses.field(default_factory=list)
    uploads: list[Path] = dataclasses.field(default_factory=list)  # the visit's own copies

    def index(self, item) -> int | None:
        """Return where an item, the very same, stands; None if it was taken away."""
        return next((k for k, each in enumerate(self.items) if each is item), None)

    @property
    def only(self) -> int | None:
        """The index of an item that is the only one and has been read."""
        is_read = len(self.items) == 1 and not isinstance(self.items[0], Pending)
        return 0 if is_read else None

    @property
    def patches(self) -> list[PatchResult]:
        """Those that are patches."""
        return [item for item in self.items if isinstance(item, PatchResult)]

    @property
    def regions(self) -> list[RegionResult]:
        """Those that are regions, as far as they are read."""
        return [item for item in self.items if isinstance(item, RegionResult)]


class Reading(NamedTuple):
    """What a row of the log brings back."""

    batch: Batch
    item: PatchResult | RegionResult | OwnSlide  # of it, that is opened
    place: PatchResult | None  # of a region or slide


@dataclasses.dataclass
class Visit:
    """All that is kept of a visitor: some kilobytes a patch, and a folder.

    `lock` is held while a visit is changed or shown. `stop` is the flag of the work that the visit
    waits for; newer work sets it. `reading` is the flag of the work that reads the regions of a
    batch meanwhile, or None: only another batch ends it. Regions and slides stay when something
    else is shown, for the rows of the log.
    """

    folder: Path
    given: Batch = dataclasses.field(default_factory=Batch)  # the last one; its uploads stay
    regions: dict[str, RegionResult] = dataclasses.field(default_factory=dict)  # by key
    slides: dict[str, OwnSlide] = dataclasses.field(default_factory=dict)  # by key
    log: list[dict] = dataclasses.field(default_factory=list)
    setting: str = ""  # name of the operating point in use
    used_at: float = dataclasses.field(default_factory=time.monotonic)
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    reading: threading.Event | None = None
    progress: str = ""  # of `reading`, in words
    changes: int = 0  # that `reading` made
    shown_changes: int = 0  # of them, when the page was shown the last time
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock, repr=False)
    # Batch, index and place: replaced at once, since others may look without the lock.
    _shown: tuple[Batch, int | None, PatchResult | None] = dataclasses.field(
        default_factory=lambda: (Batch(), None, None)
    )
    is_closed: bool = False  # its files are deleted
    _drops: int = 0
    copies: dict[Path, Path] = dataclasses.field(default_factory=dict)  # of the last uploads

    @property
    def batch(self) -> Batch:
        """What is shown, or of which an item is open."""
        return self._shown[0]

    @property
    def chosen(self) -> int | None:
        """Index of the item that is open."""
        return self._shown[1]

    @property
    def place(self) -> PatchResult | None:
        """The place of the open region or slide that is looked at."""
        return self._shown[2]

    @place.setter
    def place(self, place: PatchResult | None) -> None:
        self._shown = (*self._shown[:2], place)

    @property
    def item(self) -> PatchResult | RegionResult | OwnSlide | None:
        """What is open."""
        batch, chosen, _ = self._shown
        return None if chosen is None else next(iter(batch.items[chosen : chosen + 1]), None)

    @property
    def region(self) -> RegionResult | None:
        """The region that is open."""
        item = self.item
        return item if isinstance(item, RegionResult) else None

    @property
    def slide(self) -> OwnSlide | None:
        """The slide that is open."""
        item = self.item
        return item if isinstance(item, OwnSlide) else None

    @property
    def chosen_patch(self) -> PatchResult | None:
        """The patch that is shown with its explanation: it is open, or a place of what is."""
        item = self.item
        return item if isinstance(item, PatchResult) else self.place

    @property
    def uploads(self) -> list[Path]:
        """The files of the batch that is shown, as far as they are kept."""
        return [path for path in self.batch.uploads if path.exists()]

    @property
    def is_at_work(self) -> bool:
        """Whether pictures or slides of it are being read."""
        return self.reading is not None or any(
            slide.folder.is_being_read for slide in list(self.slides.values())
        )

    def check(self) -> None:
        """Raise `turns.Stopped` if the visit has ended: it must not get files again."""
        if self.is_closed:
            raise Stopped

    def take_uploads(self, paths: Iterable[Path]) -> None:
        """Begin a batch with copies of uploads, in place of those that the visit had.

        Raises:
            InputError: one cannot be copied.
        """
        self._drops += 1
        folder, batch = self.folder / "uploads" / str(self._drops), Batch()
        copies = {}
        for number, path in enumerate(paths):  # two files of one name lie in two folders
            # One that was added to may have expired; the visit has its copy.
            source = path if path.exists() else self.copies.get(path, path)
            copies[path] = private_files.copy(source, folder / str(number))
        batch.uploads, self.copies = list(copies.values()), copies
        self.give(batch)

    def keep_uploads(self, paths: Iterable[Path]) -> None:
        """Take all uploads of the last batch away but some; what is open of those stays open."""
        copies = [self.copies[path] for path in paths if path in self.copies]
        batch, shown = self.given, self.item
        gone = [item for item in batch.items if item.source not in copies]
        for item in gone:
            if isinstance(item, OwnSlide):
                self.close_slide(item)
        batch.items = [item for item in batch.items if all(item is not each for each in gone)]
        batch.uploads = copies
        if self.batch is batch:
            chosen = batch.index(shown)
            place = None if chosen is None else self.place
            self.show(batch, batch.only if chosen is None else chosen, place)

    def give(self, batch: Batch, chosen: int | None = None) -> None:
        """Show a batch, in place of the one that was given before; that is read no more."""
        self.stop_reading()
        self.reading, self.given = None, batch
        self.show(batch, chosen)
        self._drop_old()

    def clear(self) -> None:
        """Forget the answers and what is being read; the uploads and the log stay."""
        self.give(Batch(uploads=self.uploads))

    def stop_reading(self) -> None:
        """Let no more regions of a batch be read."""
        if self.reading:
            self.reading.set()

    def show(self, batch: Batch, chosen: int | None = None, place: PatchResult | None = None):
        """Open an item of a batch, or the batch itself."""
        self._shown = (batch, chosen, place)

    def keep_region(self, region: RegionResult, pixels: np.ndarray, work: Work) -> None:
        """Put the pixels of a region, which `reading.read` returned, into the visit's folder.

        Raises:
            turns.Stopped: it is not wanted any more.
            InputError: the disk is full.
        """
        with self.lock:
            work.check()  # a visit that has ended must not get files again
            region.file = self.folder / f"{region.key}.npy"
            try:
                reading.keep(pixels, region.file)
            except OSError as error:
                raise InputError("the server has no room for this region.") from error
            if region.source:
                with region.source.open("rb") as file:
                    region.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.regions[region.key] = region
            self._drop_old(region)

    def _drop_old(self, *new):
        """Delete old regions, and uploads that neither a region nor the last batch needs."""
        shown = [*new, *self.batch.regions, *self.given.regions]
        others = [each for each in self.regions.values() if all(each is not one for one in shown)]
        room = KEPT_REGION_BYTES
        for region in reversed(others):
            room -= sum(path.stat().st_size for path in (region.file, region.source) if path)
            if room < 0:
                del self.regions[region.key]
                region.file.unlink(missing_ok=True)
        used = {*self.given.uploads, *(region.source for region in self.regions.values())}
        folder = self.folder / "uploads"
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if path not in used:
                private_files.remove(path.parent)

    def keep_slide(self, slide: OwnSlide) -> None:
        """Keep a slide, in place of the oldest that no job reads if there are many.

        Raises:
            InputError: there are too many that are being read.
        """
        while len(self.slides) >= MOST_SLIDES:
            idle = [each for each in self.slides.values() if not each.folder.is_being_read]
            if not idle:
                raise InputError(
                    f"{len(self.slides)} slides of yours are being read: wait for one, or cancel "
                    "one."
                )
            self.close_slide(idle[0])
        self.slides[slide.key] = slide

    def close_slide(self, slide: OwnSlide) -> None:
        """Take a slide away, and its files; a job that reads it ends."""
        self.slides.pop(slide.key, None)
        slide.folder.close()
        private_files.remove(slide.folder.folder)

    def close(self) -> None:
        """End all work and delete all files."""
        self.stop.set()
        with self.lock:
            self.is_closed = True
            self.stop_reading()
            for slide in list(self.slides.values()):
                self.close_slide(slide)
            private_files.remove(self.folder)
