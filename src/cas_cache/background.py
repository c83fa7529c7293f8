"""Pushing while an evaluation goes on, and before the process ends.

A push runs in a thread of its own as soon as a chunk's worth of rows is pending, or once the oldest of them has been
pending for some seconds: a process that is killed, or that ends without exit hooks, leaves few rows behind. Only while
rows are pending, a second thread keeps the time; it ends when the cache is closed or dropped. `flush` runs one more and
waits for it, so that Ctrl-C ends the waiting at once, whatever a request takes. When the process ends, every
`BackgroundPush` with rows since its last close is flushed. A failed push or a killed process never loses rows: they
stay pending in the mirror, and stderr says so.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import signal
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from cas_cache import threads
from cas_cache.deadline import Deadline
from cas_cache.errors import CasCacheError
from cas_cache.progress import bar_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.progress import Bar
    from cas_cache.upload import Waiting

logger = logging.getLogger(__name__)

ENOUGH_BYTES = 48 << 20
"""Waiting vectors that make a push worth while: one full chunk, so that packs are not small."""

PUSH_SECONDS = 30.0
"""Maximum time that a row is pending before a push begins, by default."""

RESUME_SECONDS = 5.0
"""The same for rows that an earlier process left: a program that pushes or closes the cache at once does it itself."""

RETRY_SECONDS = 60.0
"""After a push that failed, the next one by time starts after this time at least."""

LOOK_SECONDS = 1.0
"""If a push is running when rows are due, the next one is tried after this time at least."""

PATIENCE = 1.0
"""Seconds after which a flush says on a terminal what it does, besides its bar."""

LONG_PATIENCE = 15.0
"""The same where there is no terminal: a process that seems to hang at its end says why."""

FIRST_TICK, TICK = 0.02, 0.2
"""Seconds between two looks at what was sent."""


class BackgroundPush:
    """Runs one push at a time, off the caller's thread.

    Args:
        push: Pushes all that waits. Its exceptions are kept and raised by the next `check` or `flush`.
        waiting: Returns what waits, None if nothing does; no request is made for it. None if that is not known.
        progress: Whether `flush` shows a bar; None shows it on a terminal only.
        seconds: How long a row is pending before a push begins; infinite for pushes by size alone.
    """

    def __init__(
        self,
        push: Callable[[], None],
        waiting: Callable[[], Waiting | None] | None = None,
        progress: Callable[[], bool | None] = lambda: None,
        *,
        seconds: float = PUSH_SECONDS,
    ) -> None:
        self._push = push
        self._what_waits = waiting
        self._progress = progress
        self._seconds = seconds
        self._settled = False
        self._deadline = Deadline(self._on_time)
        self.forked()
        _flush_at_exit(self)

    def forked(self) -> None:
        """Forget what a thread is doing: in a forked process there is none."""
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._deadline.forked()
        self._ended = threading.Event()
        self._ended.set()
        self._error: Exception | None = None

    @property
    def settled(self) -> bool:
        """Whether it was closed, and told of no rows since: nothing is left to do, or somebody said to leave it."""
        return self._settled

    @property
    def running(self) -> bool:
        """Whether a push runs now."""
        # Not is_alive(): a join that Ctrl-C interrupts marks a running thread as stopped (seen in CPython 3.11).
        return not self._ended.is_set()

    def notify(self, waiting: int) -> None:
        """Say that `waiting` more bytes wait."""
        with self._lock:
            self._waiting += waiting
            if waiting:
                self._expect(self._seconds)
            if self._waiting >= ENOUGH_BYTES and not self.running:
                self._start()

    def resume(self) -> None:
        """Say on stderr that an earlier process left rows, if one did, and push them soon."""
        try:
            waits = None if self._what_waits is None else self._what_waits()
        except (CasCacheError, OSError) as err:
            logger.info("pending rows cannot be counted: %s", err)
            return
        if waits is not None:
            _say(f"{waits} from an earlier run or another process. They are pushed in the background.")
            with self._lock:
                self._expect(min(self._seconds, RESUME_SECONDS))

    def abandon(self) -> None:
        """Start no more pushes by time, because the cache was dropped: its rows go up when the process ends."""
        self._deadline.abandon()

    def check(self) -> None:
        """Raise what the last push raised, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # with its traceback it would be a cycle, which keeps what was open in its frames

    def flush(self) -> None:
        """Wait for a push that is running, push what still waits, and raise what went wrong.

        Where rows are left waiting, for whatever reason, one line on stderr says how many, where, and what pushes them.

        Raises:
            KeyboardInterrupt: At once. What is on its way goes on in the background as long as the process does.
        """
        try:
            self._run_to_the_end()
        except KeyboardInterrupt:
            self.say_what_is_left("interrupted")
            raise
        if self._error is not None:
            self.say_what_is_left("not everything was pushed")
        self.check()

    def close(self) -> None:
        """Flush, and let go until there are more rows: what fails now is not tried again when the process ends."""
        self._settled = True
        self._deadline.stop()
        _WITH_ROWS.discard(self)
        self.flush()

    def finish(self) -> None:
        """Close, when the process ends and nobody is left to catch anything but Ctrl-C."""
        self._settled = True
        self._deadline.stop()
        try:
            self._run_to_the_end()
        except KeyboardInterrupt:
            self.say_what_is_left("interrupted")
            raise
        except Exception as err:  # noqa: BLE001 - the process ends as it would have
            self._error = err
        if self._error is not None:
            logger.info("the last push failed", exc_info=self._error)
            self.say_what_is_left(f"the last push failed ({type(self._error).__name__}): {self._error}")

    def say_what_is_left(self, why: str) -> None:
        """Say on stderr that rows wait, if there are any."""
        try:
            waits = None if self._what_waits is None else self._what_waits()
        except Exception as err:  # noqa: BLE001 - a mirror that is damaged, or gone: the reason is what can be said
            _say(f"{why} What waits cannot be told: {err}")
            return
        if waits is not None:
            _say(f"{why.rstrip('.')}. {waits}. To push what waits: {waits.command}")
        elif self._what_waits is None:
            _say(why)

    def _run_to_the_end(self) -> None:
        """Wait for a push that is running, then push what still waits."""
        waits = None if self._what_waits is None else self._what_waits()
        with _Watch(waits, self._progress()) as watch:
            watch.wait(self._ended)
            # What an earlier push left undone is done now, or fails again.
            self._error = None
            if self._what_waits is None or self._what_waits() is not None:
                with self._lock:
                    ended = self._start()
                watch.wait(ended)

    def _expect(self, seconds: float) -> None:
        """Start a push in some seconds, unless one is expected already. The caller holds the lock."""
        self._settled = False
        _WITH_ROWS.add(self)
        self._deadline.set(seconds)

    def _on_time(self) -> None:
        with self._lock:
            if self.running:
                self._deadline.set(max(self._seconds, LOOK_SECONDS))
            elif not self._settled:
                self._start()

    def _start(self) -> threading.Event:
        self._waiting = 0
        self._deadline.clear()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._ended,), name="cas-cache-push", daemon=True)
        try:
            threads.start(self._thread)
        except RuntimeError:  # no more threads
            self._ended.set()
            raise
        return self._ended

    def _run(self, ended: threading.Event) -> None:
        try:
            self._push()
        except Exception as err:  # noqa: BLE001 - kept, and raised on the caller's thread
            self._error = err
            if not self._settled:
                self._deadline.set(max(self._seconds, RETRY_SECONDS))
        else:
            self._error = None  # an earlier push may have failed; this one took its rows
        finally:
            ended.set()


class _Watch:
    """Waits for pushes in a way that Ctrl-C ends, and shows what is sent meanwhile."""

    def __init__(self, waits: Waiting | None, progress: bool | None) -> None:
        self._waits = waits
        self._sent = 0 if waits is None else waits.sent()
        self._bar: Bar | None = None
        self._is_said = False
        self._began = time.monotonic()
        if waits is not None:
            logger.info("pushing: %s", waits)
            self._bar = bar_of("push", waits.bytes, progress if sys.stderr is not None else False)
        self._said_after = PATIENCE if self._is_shown else math.inf if progress is False else LONG_PATIENCE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def wait(self, ended: threading.Event) -> None:
        """Wait until a push has ended."""
        tick = FIRST_TICK
        while not ended.wait(tick):
            self._look()
            tick = TICK

    @property
    def _is_shown(self) -> bool:
        return self._bar is not None and not self._bar.disable

    def _look(self) -> None:
        if self._waits is None or self._bar is None:
            return
        if not self._is_said and time.monotonic() - self._began > self._said_after:
            self._is_said = True
            self._bar.clear()
            _say(f"pushing: {self._waits}. Ctrl-C leaves them there.")
        self._bar.update(min(self._waits.sent() - self._sent, self._waits.bytes) - self._bar.n)


_registered = False
_OPEN: weakref.WeakSet[BackgroundPush] = weakref.WeakSet()
_WITH_ROWS: set[BackgroundPush] = set()
"""Those that were told of rows, kept alive until they are closed: the cache's last user may return long before that."""


def _forget() -> None:
    # A forked worker runs threading's hook when it ends; what waits is its parent's to push.
    for pusher in list(_OPEN):
        pusher.forked()
    _OPEN.clear()
    _WITH_ROWS.clear()


os.register_at_fork(after_in_child=_forget)


def _flush_at_exit(pusher: BackgroundPush) -> None:
    global _registered  # noqa: PLW0603 - once for each process
    if not _registered:
        _registered = True
        # Plain atexit handlers run after thread pools have been shut, and asyncio resolves host names in one: a push
        # from there fails. threading's own hook runs before, in the reverse order of registration; it is private,
        # so where it is missing the plain one has to do.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_flush_open)
    _OPEN.add(pusher)


def _flush_open() -> None:
    """Flush what nobody has closed. Ctrl-C leaves the rest, and ends the process."""
    open_ = list(_OPEN)
    todo = [pusher for pusher in open_ if not pusher.settled]
    try:
        while todo:
            todo.pop(0).finish()
    except KeyboardInterrupt:
        for pusher in todo:
            pusher.say_what_is_left("interrupted")
        _end_as_interrupted()
    # Ctrl-C while the program closed a cache, and nobody caught it.
    if getattr(sys, "last_type", None) is KeyboardInterrupt and any(pusher.running for pusher in open_):
        _end_as_interrupted()


def _end_as_interrupted() -> None:
    """End the process as Ctrl-C does, without the requests that are on their way.

    The interpreter would wait for the threads that send them: minutes, with 48 MiB an object and a slow line. Nothing
    is lost by that: a pack that is not published yet is pushed again, under the same name.
    """
    # Private, and what the interpreter would call next; where it is missing, handlers of others do not run.
    run_exit_handlers = getattr(atexit, "_run_exitfuncs", None)
    if run_exit_handlers is not None:
        with suppress(BaseException):
            run_exit_handlers()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    os._exit(130)


def _say(line: str) -> None:
    """Write a line to stderr: at the end of a process warnings and logs may reach nobody any more."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"cas_cache: {line}\n")
            sys.stderr.flush()
