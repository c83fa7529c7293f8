"""Ctrl-C and SIGTERM, which batch systems send: a command stops at once, and its completed work is kept.

The first signal unwinds the command as Ctrl-C does in any Python program, so that temporary files are removed. Then the
process ends without waiting for threads, whose results are no longer needed. A second signal ends the process at once.
Neither can break anything: every local or remote write is complete or absent, because a process can always be killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

STOPPED = "stopped. Nothing is lost; the same command run again goes on."

SIGNALS = (signal.SIGINT, signal.SIGTERM)

BASE_CODE = 128
"""Plus the number of the signal, the exit code of a stopped command: 130 for Ctrl-C, 143 for SIGTERM."""


class Stopping:
    """Signal handler that remembers the signal that stopped the command."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, _: object) -> None:
        """Interrupt the command; at the second signal, end the process."""
        if self.number is not None:
            os._exit(BASE_CODE + number)
        self.number = number
        raise KeyboardInterrupt

    def end(self) -> NoReturn:
        """End the process with a failure; if a signal has stopped it, without waiting for threads."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        if self.number is not None:
            os._exit(BASE_CODE + self.number)
        sys.exit(1)


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Handle signals while the block runs. A signal that is ignored stays ignored, as under nohup."""
    stop = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set signal handlers
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
