"""A storage with latency."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from cas_cache.testing.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.storage.interface import Storage
    from cas_cache.testing.wrapper import Call


class LatencyStorage(Wrapper):
    """Delays every call of another storage. Calls of several threads wait in parallel.

    Args:
        inner: The storage that does the work.
        seconds: The delay of each call.
        seconds_of_a_byte: The additional delay per byte read or written: 1e-7 is 10 MB/s.
        sleep: The function that waits. With a function that moves a clock, no time passes, and `waited` holds the sum.

    Attributes:
        waited: The total delay of all calls so far, in seconds.
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
