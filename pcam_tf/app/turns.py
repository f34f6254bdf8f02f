"""Whose turn it is at the model: one prediction at a time, small work before large.

Two predictions side by side are both slower. A region or a slide is large work: thousands of
patches, one region at a time, in the order of arrival. Between two of its batches whatever is
small, such as a patch or a place, comes first. Work that nobody waits for any more is stopped at
its next batch.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator

from pcam_tf.errors import InputError

MOST_WAITING = 20  # large works in line; a further one is refused
MOST_AT_WORK = 40  # events at a time; gradio's queue holds further ones
_LOOK_SECONDS = 0.2  # how often work in line looks whether it is still wanted


_stop: contextvars.ContextVar[threading.Event] = contextvars.ContextVar("stop")
_threads = concurrent.futures.ThreadPoolExecutor(MOST_AT_WORK, thread_name_prefix="page")


class Stopped(Exception):
    """Raised in work that nobody waits for any more."""


class LineFull(InputError):
    """Raised when too many large works are in line."""


class Turns:
    """The turns at one model, for any number of threads."""

    def __init__(self):
        self._changed = threading.Condition()
        self._is_busy = False
        self._small = 0  # small works that wait
        self._reading = threading.Lock()
        self._line: list[object] = []  # large works, the first one is at work

    def _take(self, may_begin: Callable[[], bool]):
        self._changed.wait_for(may_begin)
        self._is_busy = True

    def _give(self):
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()

    @contextlib.contextmanager
    def small(self) -> Iterator[None]:
        """Hold the model for something short."""
        with self._changed:
            self._small += 1
            try:
                self._take(lambda: not self._is_busy)
            finally:
                self._small -= 1
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Hold the model for a batch of large work, after all that is small."""
        with self._changed:
            self._take(lambda: not self._is_busy and not self._small)
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def reading(self, stop: threading.Event) -> Iterator[None]:
        """Read a large picture, one at a time: it takes memory, not the model.

        Raises:
            Stopped: `stop` was set.
        """
        while not self._reading.acquire(timeout=_LOOK_SECONDS):
            check(stop)
        try:
            check(stop)
            yield
        finally:
            self._reading.release()

    @contextlib.contextmanager
    def large(
        self, stop: threading.Event, waiting: Callable[[int], None] | None = None
    ) -> Iterator[None]:
        """Be the one large work, after those that came before.

        Args:
            stop: set when the work is not wanted any more.
            waiting: called with the number of large works that come first.

        Raises:
            LineFull: too many are in line.
            Stopped: `stop` was set.
        """
        mine = object()
        with self._changed:
            if len(self._line) > MOST_WAITING:
                raise LineFull("too many regions are waiting: try again in some minutes.")
            self._line.append(mine)
        try:
            before = None
            while True:
                with self._changed:
                    place = self._line.index(mine)
                    if place and place == before:
                        self._changed.wait(_LOOK_SECONDS)
                        place = self._line.index(mine)
                check(stop)
                if place == 0:
                    break
                if waiting and place != before:
                    waiting(place)
                before = place
            yield
        finally:
            with self._changed:
                self._line.remove(mine)
                self._changed.notify_all()


class Work:
    """One piece of work: its turns, and whether it is still wanted."""

    def __init__(self, turns: Turns | None = None):
        self.turns = turns or Turns()
        self.stop = _stop.get(None) or threading.Event()

    def check(self) -> None:
        """Raise `Stopped` if nobody waits for this work any more."""
        check(self.stop)


def check(stop: threading.Event) -> None:
    """Raise `Stopped` if a stop flag is set."""
    if stop.is_set():
        raise Stopped


def in_thread(function: Callable) -> Callable:
    """Return a function for gradio that runs another in a thread, where `Work` can be stopped.

    gradio lets the thread of a cancelled event run on. Here the work ends with its next batch.
    """

    @functools.wraps(function)
    async def handle(*arguments, **options):
        stop, context = threading.Event(), contextvars.copy_context()
        context.run(_stop.set, stop)
        run = functools.partial(context.run, function, *arguments, **options)
        try:
            return await asyncio.get_running_loop().run_in_executor(_threads, run)
        except asyncio.CancelledError:
            stop.set()
            raise

    return handle
