"""Pushing while an evaluation goes on, and before the process ends.

A push runs in a thread of its own as soon as a chunk's worth of rows waits; `flush` waits for it and pushes the rest.
At the end of the process every `BackgroundPush` that is left is flushed. What never happens here: a row is not
lost if a push fails or the process is killed, because it waits in the mirror.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

ENOUGH_BYTES = 48 << 20
"""Waiting vectors that make a push worth while: one full chunk, so that packs are not small."""


class BackgroundPush:
    """Runs one push at a time, off the caller's thread.

    Args:
        push: Pushes all that waits. Its exceptions are kept and raised by the next `check` or `flush`.
    """

    def __init__(self, push: Callable[[], None]) -> None:
        self._push = push
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        _flush_at_exit(self)

    def notify(self, waiting: int) -> None:
        """Say that `waiting` more bytes wait."""
        self._waiting += waiting
        if waiting:
            _WITH_ROWS.add(self)
        running = self._thread is not None and self._thread.is_alive()
        if self._waiting >= ENOUGH_BYTES and not running:
            self._waiting = 0
            self._thread = threading.Thread(target=self._run, name="cas-cache-push", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Raise what the last push raised, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def flush(self) -> None:
        """Wait for a push that is running, push what still waits, and raise what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._waiting = 0
        # What an earlier push left undone is done now, or fails again.
        self._error = None
        self._run()
        self.check()

    def close(self) -> None:
        """Flush, and let go until there are more rows."""
        _WITH_ROWS.discard(self)
        self.flush()

    def _run(self) -> None:
        try:
            self._push()
        except Exception as err:  # noqa: BLE001 - kept, and raised on the caller's thread
            self._error = err


_registered = False
_OPEN: weakref.WeakSet[BackgroundPush] = weakref.WeakSet()
_WITH_ROWS: set[BackgroundPush] = set()
"""Those that were told of rows, kept alive until they are closed: the cache's last user may return long before that."""


def _forget() -> None:
    # A forked worker runs threading's hook when it ends; what waits is its parent's to push.
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
    for pusher in list(_OPEN):
        try:
            pusher.close()
        except Exception as err:  # noqa: BLE001 - nobody is left to catch it; the rows are in the mirror
            logger.warning("the last push failed, its rows wait in the mirror: %s", err)
