"""A storage that takes its time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from cas_cache.testing.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.repository.interface import Storage
    from cas_cache.testing.wrapper import Call


class LatencyStorage(Wrapper):
    """Makes every call of another storage take longer. Calls of several threads wait side by side.

    Args:
        inner: The storage that does the work.
        seconds: Of each call.
        seconds_of_a_byte: Of each byte that is read or written on top of it: 1e-7 is 10 MB/s.
        sleep: What waits. With one that moves a clock no time passes, and `waited` tells what would have.

    Attributes:
        waited: Seconds of all calls so far.
    """

    def __init__(
        self,
        inner: Storage,
        seconds: float = 0.0,
        seconds_of_a_byte: float = 0.0,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(inner)
        self.waited = 0.0
        self._seconds, self._of_a_byte, self._sleep = seconds, seconds_of_a_byte, sleep
        self._lock = threading.Lock()

    def _call(self, call: Call) -> Any:
        self._wait(self._seconds + (call.stop * self._of_a_byte if call.verb == "put" else 0.0))
        answer = call.run()
        if call.verb == "get":
            self._wait(len(answer) * self._of_a_byte)
        return answer

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
            with self._lock:
                self.waited += seconds
