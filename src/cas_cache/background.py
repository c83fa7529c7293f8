"""Pushing during a run, and before the process ends.

A push runs in a thread of its own as soon as a chunk's worth of rows is pending, or once the oldest of them has been
pending for some seconds: a process that is killed, or that ends without exit hooks, leaves few rows behind. While rows
are pending, a second thread keeps the time; it ends when the cache is closed or dropped. `flush` runs one more push and
waits for it in such a way that Ctrl-C ends the wait at once, however long a request takes. When the process ends, every
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

from cas_cache.deadline import Deadline
from cas_cache.errors import CasCacheError
from cas_cache.progress import bar_of
from cas_cache.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.progress import Bar
    from cas_cache.upload import Waiting

logger = logging.getLogger(__name__)

ENOUGH_BYTES = 48 << 20
"""Bytes of pending vectors that start a push: one full chunk, so that packs are not small."""

PUSH_SECONDS = 30.0
"""Default maximum seconds that a row is pending before a push starts."""

RESUME_SECONDS = 5.0
"""The same for rows that an earlier process left. A program that pushes or closes the cache at once then does it
itself."""

RETRY_SECONDS = 60.0
"""Minimum seconds from a failed push to the next one by time."""

LOOK_SECONDS = 1.0
"""Minimum seconds to the next attempt if a push is running when rows are due."""

PATIENCE = 1.0
"""Seconds after which a flush writes a line to a terminal, in addition to its bar."""

LONG_PATIENCE = 15.0
"""The same without a terminal: a process that seems to hang at its end says why."""

FIRST_TICK, TICK = 0.02, 0.2
"""Seconds between two updates of the bar: before the first, and later."""


class BackgroundPush:
    """Runs one push at a time, in a thread of its own.

    Args:
        push: Pushes all pending rows. The next `check` or `flush` raises its error.
        waiting: Returns the pending rows, None if there are none; it sends no request. None if they cannot be counted.
        progress: Returns True if `flush` shows a bar; None shows it on a terminal only.
        seconds: Maximum time that a row is pending before a push starts; infinity for pushes by size only.
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
        """Reset the state of threads: a forked process has none of them."""
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._deadline.forked()
        self._ended = threading.Event()
        self._ended.set()
        self._error: Exception | None = None

    @property
    def settled(self) -> bool:
        """True if it was closed and no rows were added since: nothing is left to do, or it was told to leave it."""
        return self._settled

    @property
    def running(self) -> bool:
        """True if a push is running."""
        # Not is_alive(): a join interrupted by Ctrl-C marks a running thread as stopped (seen in CPython 3.11).
        return not self._ended.is_set()

    def notify(self, waiting: int) -> None:
        """Report that `waiting` more bytes are pending."""
        with self._lock:
            self._waiting += waiting
            if waiting:
                self._expect(self._seconds)
            if self._waiting >= ENOUGH_BYTES and not self.running:
                self._start()

    def resume(self) -> None:
        """Write to stderr that an earlier process left rows, if one did, and push them soon."""
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
        """Start no more pushes by time, because the cache was dropped. Its rows are pushed when the process ends."""
        self._deadline.abandon()

    def check(self) -> None:
        """Raise the error of the last push, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback would form a reference cycle and keep open files alive

    def flush(self) -> None:
        """Wait for a running push, push the rows that are still pending, and raise the error of a failed push.

        If rows stay pending, for whatever reason, one line on stderr says how many, where, and how to push them.

        Raises:
            KeyboardInterrupt: At once. Running requests continue in the background while the process lives.
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
        """Flush, and stop until rows are added: if this push fails, it is not repeated when the process ends."""
        self._settled = True
        self._deadline.stop()
        _WITH_ROWS.discard(self)
        self.flush()

    def finish(self) -> None:
        """Close at the end of the process, where no caller is left to catch an error other than Ctrl-C."""
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
        """Write to stderr that rows are pending, if there are any."""
        try:
            waits = None if self._what_waits is None else self._what_waits()
        except Exception as err:  # noqa: BLE001 - a mirror that is damaged, or gone: report the reason instead
            _say(f"{why} The pending rows cannot be counted: {err}")
            return
        if waits is not None:
            _say(f"{why.rstrip('.')}. {waits}. To push the pending rows: {waits.command}")
        elif self._what_waits is None:
            _say(why)

    def _run_to_the_end(self) -> None:
        """Wait for a running push, then push the rows that are still pending."""
        waits = None if self._what_waits is None else self._what_waits()
        with _Watch(waits, self._progress()) as watch:
            watch.wait(self._ended)
            # This push repeats what an earlier one failed to do, or fails again, so the earlier error is dropped.
            self._error = None
            if self._what_waits is None or self._what_waits() is not None:
                with self._lock:
                    ended = self._start()
                watch.wait(ended)

    def _expect(self, seconds: float) -> None:
        """Start a push in some seconds, unless one is scheduled already. The caller holds the lock."""
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
            self._error = None  # this push has taken the rows of an earlier push that failed
        # Set last: a waiting thread reads the error as soon as it is set.
        finally:
            ended.set()


class _Watch:
    """Waits for pushes in a way that Ctrl-C can interrupt, and shows progress meanwhile."""

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
            self._update()
            tick = TICK

    @property
    def _is_shown(self) -> bool:
        return self._bar is not None and not self._bar.disable

    def _update(self) -> None:
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
"""Objects with pending rows, kept alive until they are closed: the caches may be dropped long before that."""


def _forget() -> None:
    # A forked worker runs threading's exit hook when it ends, but the pending rows are its parent's to push.
    for pusher in list(_OPEN):
        pusher.forked()
    _OPEN.clear()
    _WITH_ROWS.clear()


os.register_at_fork(after_in_child=_forget)


def _flush_at_exit(pusher: BackgroundPush) -> None:
    global _registered  # noqa: PLW0603 - once for each process
    if not _registered:
        _registered = True
        # Plain atexit handlers run after thread pools are shut down, and asyncio resolves host names in one, so a push
        # from there fails. threading's own hook runs earlier, in reverse order of registration. It is private, so the
        # plain one is the fallback.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_flush_open)
    _OPEN.add(pusher)


def _flush_open() -> None:
    """Flush every object that was not closed. Ctrl-C leaves the rest pending and ends the process."""
    open_ = list(_OPEN)
    todo = [pusher for pusher in open_ if not pusher.settled]
    try:
        while todo:
            todo.pop(0).finish()
    except KeyboardInterrupt:
        for pusher in todo:
            pusher.say_what_is_left("interrupted")
        _end_as_interrupted()
    # Ctrl-C interrupted the closing of a cache, and the program did not catch it.
    if getattr(sys, "last_type", None) is KeyboardInterrupt and any(pusher.running for pusher in open_):
        _end_as_interrupted()


def _end_as_interrupted() -> None:
    """End the process as Ctrl-C does, without waiting for running requests.

    The interpreter would wait for the threads that send them, which takes minutes with 48 MiB objects and a slow
    connection. Nothing is lost: a pack that is not published yet is pushed again, under the same name.
    """
    # Private, and the interpreter's own next step. If it is missing, exit handlers of other libraries do not run.
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
    """Write a line to stderr, because warnings and logs may not be shown any more at the end of a process."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"cas_cache: {line}\n")
            sys.stderr.flush()
