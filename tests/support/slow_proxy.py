"""A TCP proxy that is as slow as it is told to be, and counts what passes."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

PIECE = 4 << 10


class SlowProxy:
    """Passes everything on to one endpoint.

    Attributes:
        rate: Bytes a second, in each direction and of all connections together; None for as fast as it goes.
        down: Bytes that came back.
        up: Bytes that went there.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self.rate: int | None = None
        self.down = self.up = 0
        self._to = (parts.hostname or "", parts.port or 80)
        self._pace = {"up": threading.Lock(), "down": threading.Lock()}
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open = [self._listening]
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Break off all connections, and take no more."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                self._open.append(near)
                far = socket.create_connection(self._to)
                self._open.append(far)
                for way, pair in (("up", (near, far)), ("down", (far, near))):
                    threading.Thread(target=self._pass_on, args=(way, *pair), daemon=True).start()

    def _pass_on(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE):
                with self._pace[way]:
                    if self.rate:
                        time.sleep(len(data) / self.rate)
                    setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def slow_proxy(endpoint: str) -> Iterator[SlowProxy]:
    """Yield a proxy for an endpoint; it begins as fast as it goes."""
    proxy = SlowProxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()
