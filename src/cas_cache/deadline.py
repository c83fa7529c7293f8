"""Call an action at a given time, from a thread that exists only while a time is set.

The thread is a daemon and ends at once when the deadline is stopped. It never logs or prints, so that stopping it from
a finalizer cannot wait for a lock that the interrupted code holds.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

THREAD = "cas-cache-deadline"

JOIN_SECONDS = 1.0
"""Maximum wait of `stop` for the end of the thread, in seconds; it takes less than a millisecond.

It is limited because a finalizer may stop a deadline inside code of `threading` that the thread needs to end.
"""


class Deadline:
    """One time at which an action is called.

    Args:
        action: A method without arguments, called in a thread of this object. It may set the next time. Its owner is
            referenced weakly, because it usually owns the deadline as well.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = weakref.WeakMethod(action)
        self._abandoned = False
        self.forked()

    def forked(self) -> None:
        """Forget the time and the thread, which does not exist in a forked process."""
        self._lock = threading.Lock()
        self._due = math.inf
        self._timer: threading.Timer | None = None

    def set(self, seconds: float) -> None:
        """Call the action in some seconds. A time that is set already is kept; infinity sets none."""
        with self._lock:
            if self._due == math.inf:
                self._due = time.monotonic() + seconds
            self._watch()

    def clear(self) -> None:
        """Forget the time. The thread ends when the time would have come."""
        with self._lock:
            self._due = math.inf

    def stop(self) -> None:
        """Forget the time and end the thread. `set` starts a new one."""
        with self._lock:
            self._due = math.inf
            timer, self._timer = self._timer, None
        _end(timer)

    def abandon(self) -> None:
        """End the thread permanently. Takes no lock, because a finalizer may interrupt the holder of the lock."""
        self._abandoned = True
        timer, self._timer = self._timer, None
        _end(timer)

    def _watch(self) -> None:
        """Start a waiting thread if a time is set. The caller holds the lock."""
        if self._timer is not None or self._due == math.inf or self._abandoned:
            return
        seconds = min(max(0.0, self._due - time.monotonic()), threading.TIMEOUT_MAX)
        timer = threading.Timer(seconds, self._run)
        timer.daemon, timer.name = True, THREAD
        try:
            timer.start()
        except RuntimeError:
            # No more threads, or the interpreter is ending. The next `set` tries again.
            return
        self._timer = timer

    def _run(self) -> None:
        timer = threading.current_thread()
        with self._lock:
            is_due = self._timer is timer and self._due <= time.monotonic()
            if is_due:
                self._due = math.inf
        action = self._action() if is_due else None
        if action is not None:
            action()
            # A bound method: without this, its owner would be kept alive while the next time is set.
            del action
        with self._lock:
            if self._timer is timer:
                self._timer = None
                self._watch()


def _end(timer: threading.Timer | None) -> None:
    if timer is not None:
        timer.cancel()
        if timer is not threading.current_thread():
            timer.join(JOIN_SECONDS)
