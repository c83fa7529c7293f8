"""Pushing during a run, and before the process ends.

One thread for each cache keeps the time and pushes: as soon as a chunk's worth of rows is pending, or once the oldest
of them has been pending for some seconds. A process that is killed, or that ends without exit hooks, leaves few rows
behind. The thread exists only while rows are pending. `close` runs one more push and waits for it in such a way that
Ctrl-C ends the wait at once, however long a request takes. When the process ends, every `BackgroundPush` that has rows
since its last close is closed. A failed push or a killed process never loses rows: they stay pending in the mirror, and
stderr says so.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from cas_cache.errors import CasCacheError
from cas_cache.progress import bar_of, is_shown
from cas_cache.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.upload import PendingRows, Upload

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

PATIENCE = 1.0
"""Seconds after which `close` writes a line to a terminal, in addition to its bar."""

LONG_PATIENCE = 15.0
"""The same without a terminal: a process that seems to hang at its end says why."""

FIRST_TICK, TICK = 0.02, 0.2
"""Seconds between two updates of the bar: before the first, and later."""

JOIN_SECONDS = 1.0
"""Maximum seconds that `close` waits for the end of a thread that has nothing left to do; it takes a millisecond."""


class BackgroundPush:
    """Runs one push at a time, in a thread that exists only while rows are pending.

    Args:
        upload: Pushes the rows. The next `check` or `close` raises its error.
        seconds: Maximum time that a row is pending before a push starts; infinity for pushes by size only.

    Attributes:
        settled: True if it was closed and no rows were added since: nothing is left to do, or it was told to leave it.
    """

    def __init__(self, upload: Upload, *, seconds: float = PUSH_SECONDS) -> None:
        self.settled = False
        self._upload = upload
        self._seconds = seconds
        self._error: Exception | None = None
        self.forked()
        _close_at_exit(self)

    def forked(self) -> None:
        """Reset the state of the thread: a forked process does not have it."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_working = False
        """True until the thread has decided to end."""
        self._is_pushing = False
        self._has_rows = False
        """True if the thread must not end: rows are pending that the last push did not send."""
        self._bytes = 0
        self._due = math.inf
        """Time of the next push."""

    @property
    def running(self) -> bool:
        """True if a push is running or about to start."""
        return self._is_pushing or (self._is_working and self._has_rows and self._due <= time.monotonic())

    @property
    def failed(self) -> bool:
        """True if the last push failed; `check` raises its error."""
        return self._error is not None

    def wait(self, seconds: float) -> bool:
        """Wait until no push is running, but not longer than some seconds; return True if none is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.running, seconds)

    def notify(self, size: int) -> None:
        """Report that `size` more bytes are pending."""
        with self._changed:
            self._bytes += size
            if self._bytes >= ENOUGH_BYTES:
                self._expect(0)
            elif size:
                self._expect(self._seconds)

    def resume(self) -> None:
        """Write to stderr that an earlier process left rows, if one did, and push them soon."""
        try:
            pending = self._upload.pending()
        except (CasCacheError, OSError) as err:
            logger.info("pending rows cannot be counted: %s", err)
            return
        if pending is not None:
            _write(f"{pending} from an earlier run or another process. They are pushed in the background.")
            with self._changed:
                self._expect(min(self._seconds, RESUME_SECONDS))

    def check(self) -> None:
        """Raise the error of the last push, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback would form a reference cycle and keep open files alive

    def close(self) -> None:
        """Wait for a running push, push the rows that are still pending, and raise the error of a failed push.

        If rows stay pending, for whatever reason, one line on stderr says how many, where, and how to push them. They
        are not pushed again when the process ends, unless rows are added.

        Raises:
            KeyboardInterrupt: At once. Running requests continue in the background while the process lives.
        """
        self._push_all()
        if self._error is not None:
            self.report_pending("not everything was pushed")
        self.check()

    def finish(self) -> None:
        """Close at the end of the process, where no caller is left to catch an error other than Ctrl-C."""
        try:
            self._push_all()
        except Exception as err:  # noqa: BLE001 - the process ends as it would have
            self._error = err
        if self._error is not None:
            logger.info("the last push failed", exc_info=self._error)
            self.report_pending(f"the last push failed ({type(self._error).__name__}): {self._error}")

    def report_pending(self, reason: str) -> None:
        """Write to stderr that rows are pending, if there are any."""
        try:
            pending = self._upload.pending()
        except Exception as err:  # noqa: BLE001 - a mirror that is damaged, or gone: report the reason instead
            _write(f"{reason} The pending rows cannot be counted: {err}")
            return
        if pending is not None:
            _write(f"{reason.rstrip('.')}. {pending}. To push the pending rows: {pending.command}")

    def _push_all(self) -> None:
        with self._changed:
            self.settled = True
            self._has_rows = False
            self._changed.notify_all()
        try:
            pending = self._upload.pending()
            with _Watch(pending, self._upload.progress) as watch:
                watch.wait(self)
                # The next push repeats what an earlier one failed to do, or fails again.
                self._error = None
                if self._upload.pending() is not None:
                    self._push_now()
                    watch.wait(self)
        except KeyboardInterrupt:
            self.report_pending("interrupted")
            raise
        if not self._has_rows and self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def _push_now(self) -> None:
        with self._changed:
            self._has_rows = True
            self._due = -math.inf
            self._changed.notify_all()
            if not self._is_working:
                self._start_thread(threads.start)

    def _expect(self, seconds: float) -> None:
        """Push in some seconds at the latest. The caller holds the lock."""
        self.settled = False
        self._has_rows = True
        self._due = min(self._due, time.monotonic() + seconds)
        self._changed.notify_all()
        if not self._is_working:
            try:
                self._start_thread(threading.Thread.start)
            except RuntimeError as err:  # no more threads, or the interpreter is ending
                logger.info("rows stay pending until the next ones are added or the cache is closed: %s", err)

    def _start_thread(self, start: Callable[[threading.Thread], None]) -> None:
        self._is_working = True
        self._thread = threading.Thread(target=self._work, name="cas-cache-push", daemon=True)
        try:
            start(self._thread)
        except RuntimeError:
            self._is_working = False
            raise

    def _work(self) -> None:
        while self._wait_until_due():
            try:
                self._upload.run()
            except Exception as err:  # noqa: BLE001 - kept, and raised on the caller's thread
                self._error = err
            except BaseException:
                self._is_working = False  # the thread ends
                raise
            else:
                self._error = None  # this push has taken the rows of an earlier push that failed
            finally:
                self._note_end()

    def _wait_until_due(self) -> bool:
        """Return True when the next push is due, False if there is none."""
        with self._changed:
            while self._has_rows and (seconds := self._due - time.monotonic()) > 0:
                self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
            self._is_working = self._is_pushing = self._has_rows
            self._has_rows = False
            self._bytes = 0
            self._due = math.inf
            return self._is_pushing

    def _note_end(self) -> None:
        with self._changed:
            self._is_pushing = False
            if self._error is not None and not self.settled:
                self._has_rows = True
                self._due = min(self._due, time.monotonic() + max(self._seconds, RETRY_SECONDS))
            self._changed.notify_all()


class _Watch:
    """Waits for pushes in a way that Ctrl-C can interrupt, and shows progress meanwhile."""

    def __init__(self, pending: PendingRows | None, progress: bool | None) -> None:
        self._pending = pending
        self._sent = 0 if pending is None else pending.sent()
        self._bar = bar_of("push", 0 if pending is None else pending.bytes, False if pending is None else progress)
        patience = PATIENCE if is_shown(progress) else math.inf if progress is False else LONG_PATIENCE
        self._line_at = time.monotonic() + patience
        if pending is not None:
            logger.info("pushing: %s", pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def wait(self, pusher: BackgroundPush) -> None:
        """Wait until no push is running."""
        tick = FIRST_TICK
        while not pusher.wait(tick):
            self._update()
            tick = TICK

    def _update(self) -> None:
        if self._pending is None:
            return
        if time.monotonic() > self._line_at:
            self._line_at = math.inf
            self._bar.clear()
            _write(f"pushing: {self._pending}. Ctrl-C leaves them there.")
        self._bar.update(min(self._pending.sent() - self._sent, self._pending.bytes) - self._bar.n)


_open: weakref.WeakSet[BackgroundPush] = weakref.WeakSet()
"""Objects to close when the process ends. One with pending rows is kept alive by its thread."""

_registered = False


def _after_fork() -> None:
    # A forked worker runs threading's exit hook when it ends, but the pending rows are its parent's to push.
    for pusher in list(_open):
        pusher.forked()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)


def _close_at_exit(pusher: BackgroundPush) -> None:
    global _registered  # noqa: PLW0603 - once for each process
    if not _registered:
        _registered = True
        # Plain atexit handlers run after thread pools are shut down, and asyncio resolves host names in one, so a push
        # from there fails. threading's own hook runs earlier, in reverse order of registration. It is private, so the
        # plain one is the fallback.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_close_open)
    _open.add(pusher)


def _close_open() -> None:
    """Close every object that was not closed. Ctrl-C leaves the rest pending, and the process ends as it would have.

    Nothing waits for the requests that are running then: they are sent by daemon threads. A pack that is not published
    yet is pushed again, under the same name.
    """
    todo = [pusher for pusher in list(_open) if not pusher.settled]
    try:
        while todo:
            todo.pop(0).finish()
    except KeyboardInterrupt:
        for pusher in todo:
            pusher.report_pending("interrupted")


def _write(line: str) -> None:
    """Write a line to stderr, because warnings and logs may not be shown any more at the end of a process."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"cas_cache: {line}\n")
            sys.stderr.flush()
