"""Ctrl-C, and SIGTERM as batch systems send it: a command stops at once, and what it did so far stays done.

The first signal unwinds the command as Ctrl-C does any Python program, so temporary files go; then the process ends
without waiting for the threads whose answers nobody wants any more. A second one ends it there and then. Neither can
break anything: whatever is written, here and there, is whole or absent, because a process may always be killed.
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
"""And the number of the signal that stopped it: a command's exit code, 130 for Ctrl-C, 143 for SIGTERM."""


class Stopping:
    """Which signal has stopped the command, if any."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, _: object) -> None:
        """Stop; the second time, end the process."""
        if self.number is not None:
            os._exit(BASE_CODE + number)
        self.number = number
        raise KeyboardInterrupt

    def end(self) -> NoReturn:
        """End the process: at once if a signal has stopped it, whatever its threads do."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        if self.number is not None:
            os._exit(BASE_CODE + self.number)
        sys.exit(1)


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Be stopped by signals while the block runs. One that is ignored stays so, as under nohup."""
    stop = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may say what signals do
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
