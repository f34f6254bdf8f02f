"""From pictures to results: patches at once, the regions of several pictures one after another."""

import collections
import dataclasses
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from pcam_tf.app import (
    pictures,
    private_files,
    reading,
    results,
    slide_folder,
    slide_uploads,
    turns,
)
from pcam_tf.app.findings import Reader
from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.app.results import PatchResult, Progress
from pcam_tf.app.slide_folder import SlideFolder
from pcam_tf.app.turns import Work
from pcam_tf.app.visit import Batch, OwnSlide, Pending, Visit
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.slides import field_predictors

_RETRY_SECONDS = 2  # until there may be room in the line of regions
_FAILED = "the server could not read it"


def _quietly(*_):
    """Tell nobody of progress."""


def read_pictures(
    reader: Reader,
    visit: Visit,
    given: Iterable[tuple[str, image_files.Picture]],
    *,
    progress: Progress = _quietly,
    work: Work | None = None,
) -> None:
    """Read patches and regions; they replace what the visit held.

    Args:
        reader: the model.
        visit: the visitor's, changed by this.
        given: names, and pictures at the scale of the model's task.
        progress: of regions, see `results.region_result`.
        work: its turns at the model, and whether it is still wanted.

    Raises:
        InputError: a picture cannot be used; the visit then stays as it was.
        turns.Stopped: the work is not wanted any more; likewise.
    """
    work, batch = work or Work(), Batch()
    for name, picture in given:
        name = pictures.safe_name(name)
        batch.items.append(_result(reader, visit, name, picture, None, progress, work))
    _number_copies(batch.items)
    with visit.lock:
        work.check()
        visit.give(batch, batch.only)


def _result(reader, visit, name, picture, source, progress, work):
    """Return the result of a picture, whose pixels are taken."""
    task, pixels = reader.task, picture.pixels
    try:
        if not results.is_region(task, pixels):
            found = results.patch_result(reader, name, pixels, work)
            is_cropped = pixels.shape != task.shape
            found.notes = pictures.notes_of(task, picture, is_cropped=is_cropped)
            found.source = source
            return found
        found = results.region_result(reader, name, picture, progress, work)
        found.notes += pictures.notes_of(task, picture, is_cropped=False)
        found.source = source
        visit.keep_region(found, pixels, work)
        return found
    finally:
        reading.discard(pixels)


def _number_copies(items):
    """Number the patches of the same name and content: an id must not occur twice in a table."""
    seen = collections.Counter()
    for patch in items:
        if isinstance(patch, PatchResult):
            same = dataclasses.replace(patch, copy=1).patch_id
            seen[same] += 1
            patch.copy = seen[same]


@dataclasses.dataclass
class Uploads:
    """Reads what visitors upload."""

    reader: Reader
    files: PrivateFiles

    def read(self, visit: Visit, mpp: float | None, progress: Progress, work: Work) -> float | None:
        """Read the uploads of a visit: a single one whole, of several those that are patches.

        Regions of several are left to `read_regions`. A slide that is larger than a region is
        opened.

        Args:
            visit: the visitor's, changed by this.
            mpp: microns per pixel of the file; of several files, of those larger than a patch that
                state none. None: as they state.
            progress: of a single region.
            work: whether it is still wanted.

        Returns:
            The microns per pixel at which the last picture was read; None if none was read yet.

        Raises:
            InputError: none of them can be used.
            turns.Stopped: the work is not wanted any more.
        """
        batch, refused, used = Batch(uploads=visit.uploads), [], None
        are_several, names = len(batch.uploads) > 1, collections.Counter()
        for upload in batch.uploads:
            work.check()
            name = pictures.safe_name(upload.name)
            names[name] += 1
            number = f" ({names[name]})" if names[name] > 1 else ""
            try:
                if are_several:
                    item, mpp_of_it = self._first_look(visit, upload, mpp, work)
                    if isinstance(item, Pending):
                        item.name += number
                else:
                    item, mpp_of_it = self._read(visit, upload, name, mpp, progress, work)
            except InputError as error:
                work.check()  # what newer work took away is not damaged
                refused.append(str(error))
                if len(refused) == len(batch.uploads):
                    raise
            else:
                batch.items.append(item)
                used = mpp_of_it or used
        _number_copies(batch.items)
        batch.notes = [f"Left out: {reason}" for reason in refused]
        with visit.lock:
            work.check()
            # A file that was taken away meanwhile has no answer.
            batch.uploads = [each for each in batch.uploads if each in visit.given.uploads]
            batch.items = [item for item in batch.items if item.source in batch.uploads]
            visit.give(batch, batch.only)
        return used

    def _first_look(self, visit, upload, mpp, work):
        """Return a patch and its scale, or what is pending of anything larger."""
        name = pictures.safe_name(upload.name)
        if reading.is_large(upload, name):
            return Pending(name, upload), None
        picture = self._one_of_several(visit, upload, mpp, work)
        if results.is_region(self.reader.task, picture.pixels):
            return Pending(name, upload), None
        return self._of_picture(visit, upload, name, picture, _quietly, work)

    def _one_of_several(self, visit, upload, mpp, work):
        """Return a picture at the scale that it states, or else at the one that was entered."""
        if mpp is not None and not slide_uploads.is_slide(upload):
            with image_files.opened(upload, pictures.safe_name(upload.name)) as file:
                # A patch that is silent has the scale of the model.
                is_patch = file.picture.size == (self.reader.task.side_px,) * 2
                if file.mpp is not None or is_patch:
                    mpp = None
            return self.read_one(visit, upload, mpp, work)
        try:
            return self.read_one(visit, upload, None, work)
        except slide_uploads.UnknownScale:
            if mpp is None:
                raise
            return self.read_one(visit, upload, mpp, work)

    def _read(self, visit, upload, name, mpp, progress, work, *, are_several=False):
        """Return what an upload is, and its scale."""
        read = self._one_of_several if are_several else self.read_one
        try:
            picture = read(visit, upload, mpp, work)
        except slide_uploads.LargeSlide as large:
            return self._open_slide(visit, upload, name, mpp and large.mpp, work), large.mpp
        return self._of_picture(visit, upload, name, picture, progress, work)

    def _of_picture(self, visit, upload, name, picture, progress, work):
        try:
            pictures.check_scale(self.reader.task, name, picture)
        except InputError:
            reading.discard(picture.pixels)
            raise
        item = _result(self.reader, visit, name, picture, upload, progress, work)
        return item, picture.mpp

    def read_one(
        self, visit: Visit, upload: Path, mpp: float | None, work: Work
    ) -> image_files.Picture:
        """Return an upload as a picture at the scale of the model's task, see `reading.read`."""
        name = pictures.safe_name(upload.name)
        return reading.read(upload, self.reader.task, mpp, name, visit.folder, work)

    def _open_slide(self, visit, upload, name, mpp, work):
        """Return an upload as a slide, which a job reads when the visitor asks for it."""
        field_predictors.patch_by_patch(self.reader.engine)  # refuses what cannot read slides
        folder, secret = self.files.new_visit(), secrets.token_urlsafe(18)
        try:
            file_name = pictures.safe_name(upload.name)
            private_files.copy(upload, folder).rename(folder / file_name)
            slides = SlideFolder(folder, self.reader, self.reader.sha256, secret)
            key = slide_folder.key_of(file_name, secret)
            if mpp:
                slides.set_scale(key, mpp)
            with upload.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            slide = OwnSlide(key, name, slides, upload, digest)
            with visit.lock:
                work.check()
                visit.keep_slide(slide)
        except BaseException:
            private_files.remove(folder)
            raise
        return slide

    def read_regions(
        self, visit: Visit, mpp: float | None, work: Work, done: Callable[[int], None]
    ) -> None:
        """Read what is pending of the visit's last batch, one after another, until it is stopped.

        Args:
            visit: the visitor's, changed by this.
            mpp: as in `read`.
            work: whether it is still wanted: `visit.reading` is its flag.
            done: called with the index of each item that has a result, under the visit's lock.
        """
        batch = visit.given
        waiting = [item for item in batch.items if isinstance(item, Pending)]
        try:
            for number, item in enumerate(waiting, 1):
                if batch.index(item) is None:  # it was taken away
                    continue
                tell = _teller(visit, f"{number} of {len(waiting)}: {item.name}")
                tell("Reading", 0, 0)
                self._read_pending(visit, batch, item, mpp, tell, work, done)
        except turns.Stopped:
            pass
        finally:
            with visit.lock:
                for item in batch.items:
                    if isinstance(item, Pending) and item.is_waiting:
                        item.said, item.is_waiting = "not read: stopped", False
                visit.progress, visit.changes = "", visit.changes + 1
                if visit.reading is work.stop:
                    visit.reading = None

    def _read_pending(self, visit, batch, item, mpp, tell, work, done):
        reason, found = "", None
        try:
            found = self._in_line(visit, item, mpp, tell, work)
        except InputError as error:
            reason = str(error)
        except turns.Stopped:
            raise
        except Exception:
            logging.getLogger(__name__).exception("a picture could not be read")
            reason = f"{item.name}: {_FAILED}."
        with visit.lock:
            work.check()  # what newer work took away is not damaged
            visit.changes += 1
            if found is None:
                batch.notes.append(f"Left out: {reason}")
                item.said, item.is_waiting = "left out", False
                return
            index = batch.index(item)
            if index is None:  # it was taken away meanwhile
                return
            batch.items[index] = found
            _number_copies(batch.items)
            if visit.batch is batch and batch.only is not None:
                visit.show(batch, batch.only)
            done(index)

    def _in_line(self, visit, item, mpp, tell, work):
        """Return what an upload is; it waits where the line of regions is full."""
        while True:
            try:
                self.files.check_room()
                return self._read(visit, item.source, item.name, mpp, tell, work, are_several=True)[
                    0
                ]
            except turns.LineFull:
                work.stop.wait(_RETRY_SECONDS)
                work.check()


def _teller(visit, about):
    """Return what tells the visit how far the reading of a picture is."""

    def tell(text, done, total):
        is_reading = text == "Reading"
        share = f", {100 * done // total} %" if is_reading and total else ""
        visit.progress = f"{text} {about}{share}" if is_reading else f"{text}, then {about}"

    return tell
