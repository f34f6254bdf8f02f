"""Whole slides that are read in the background: in line, with progress, until they are cancelled.

One slide is read at a time. Its batches take turns at the model with the page's regions, and
whatever is small comes first. What a cancelled or broken job has found is kept by `slide_runs`, and
the next one goes on there.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from pcam_tf.app import turns
from pcam_tf.app.turns import Turns
from pcam_tf.errors import InputError
from pcam_tf.models import engines
from pcam_tf.models.engines import Engine

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
PATCHES = 8  # of a turn: a patch of another visitor waits so long; more are no faster
_FIELDS = 2  # of a turn, one a core
_FAILED = "The server could not read this slide."


@dataclasses.dataclass
class Job:
    """How the reading of a slide stands."""

    state: str = WAITING
    before: int = 0  # other works that come first
    done: int = 0  # cells
    total: int = 0
    reason: str = ""  # why it failed
    seconds_left: float | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    _began: tuple[float, int] | None = None

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (WAITING, RUNNING)

    def tell(self, done: int, total: int) -> None:
        """Note how far it is, and end it if it is to stop.

        Raises:
            turns.Stopped: it was cancelled.
        """
        turns.check(self.stop)
        now = time.monotonic()
        self._began = self._began or (now, done)
        seconds, cells = now - self._began[0], done - self._began[1]
        self.done, self.total = done, total
        self.seconds_left = seconds / cells * (total - done) if cells else None

    def as_json(self) -> dict:
        """Return what a page shows of it."""
        names = ("state", "before", "done", "total", "reason", "seconds_left")
        return {name: getattr(self, name) for name in names}


class EngineInTurns:
    """An engine that predicts for a job: a few patches a turn, until the job is stopped."""

    def __init__(self, engine: Engine, model_turns: Turns, stop: threading.Event):
        self.task, self.file = engine.task, getattr(engine, "file", None)
        self._engine, self._turns, self._stop = engine, model_turns, stop

    def predict_on_batch(self, patches: np.ndarray) -> np.ndarray:
        """Return what the engine returns for patches, float32 (n, side, side, 3).

        Raises:
            turns.Stopped: the job was cancelled.
        """
        found = []
        for first in range(0, len(patches), PATCHES):
            turns.check(self._stop)
            count = min(PATCHES, len(patches) - first)
            # Keras would compile again for another number of patches.
            size = PATCHES if engines.name_of(self._engine) == "tensorflow" else count
            batch = patches[first + np.arange(size) % count]
            with self._turns.batch():
                found.append(self._engine.predict_on_batch(batch)[:count])
        return np.concatenate(found)


def in_turns(predict: Callable, model_turns: Turns, stop: threading.Event) -> Callable:
    """Return what predicts fields for a job, two a turn, until the job is stopped.

    Args:
        predict: of a `FieldPredictor`.
        model_turns: at the model.
        stop: of the job.
    """

    def predict_in_turns(fields, wanted):
        found = []
        for first in range(0, len(fields), _FIELDS):
            turns.check(stop)
            part = slice(first, first + _FIELDS)
            with model_turns.batch():
                found.append(predict(fields[part], wanted[part]))
        return np.concatenate(found)

    return predict_in_turns


class Jobs:
    """The jobs of a server, by the keys of their slides.

    Attributes:
        turns: at the model.
    """

    def __init__(self, model_turns: Turns):
        self.turns = model_turns
        self._line = Turns()  # of slides: a region need not wait for an hour
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(self, key: str, read: Callable[[Job], None]) -> Job:
        """Read a slide, and return the job; one that is under way already goes on.

        Args:
            key: of the slide.
            read: reads the slide, calls `Job.tell`, and raises `InputError` if it cannot.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None or not job.is_active:
                job = self._jobs[key] = Job()
                threading.Thread(target=self._run, args=(job, read), daemon=True).start()
        return job

    def cancel(self, key: str) -> None:
        """Stop a job at its next batch."""
        with self._lock:
            if key in self._jobs:
                self._jobs[key].stop.set()

    def find(self, key: str) -> Job | None:
        """Return the last job of a slide; None without one since the server was started."""
        with self._lock:
            return self._jobs.get(key)

    def stop_all(self) -> None:
        """Stop all jobs: the server ends."""
        with self._lock:
            for job in self._jobs.values():
                job.stop.set()

    def _run(self, job, read):
        def waiting(before):
            job.before = before

        try:
            with self._line.large(job.stop, waiting):
                job.state, job.before = RUNNING, 0
                read(job)
            job.state = DONE
        except turns.Stopped:
            job.state = CANCELLED
        except InputError as error:
            job.state, job.reason = FAILED, str(error)
        except Exception:
            logging.getLogger(__name__).exception("a slide could not be read")
            job.state, job.reason = FAILED, _FAILED
