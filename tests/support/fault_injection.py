"""Storages that get in the way at the n-th operation, and a world whose time can be moved.

Adds to `cas_cache.testing`: `Deadly` (the process is no more), `Killing` (it really is no more), `Failing` (it lives on
with an error) and `Intruded` (somebody else does something just then).
"""

import itertools
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

from cas_cache.errors import ObjectNotFound, RemoteUnavailable
from cas_cache.storage import Storage
from cas_cache.storage.interface import ObjectInfo

HOUR, DAY = 3600.0, 86_400.0


class Died(BaseException):
    """The process is no more. Nothing may handle it."""


class Hooked:
    """A storage whose every call passes through `_call`; `calls` counts them, `met` is the n-th."""

    def __init__(self, inner: Storage, at: int = 0) -> None:
        self.inner = inner
        self.url, self.traffic, self.capabilities = inner.url, inner.traffic, inner.capabilities
        self.at, self.calls = at, 0
        self.met = ("", "")
        self._lock = threading.Lock()

    @property
    def reached(self) -> bool:
        """Whether there was an n-th operation."""
        return self.calls >= self.at

    def close(self) -> None:
        self.inner.close()

    def get(self, path: str, start: int, stop: int) -> bytes:
        return self._counted("get", path, lambda: self.inner.get(path, start, stop))

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        self._counted("put", path, lambda: self.inner.put(path, data, create_only=create_only))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._counted("list", prefix, lambda: self.inner.list(prefix))

    def delete(self, path: str) -> None:
        self._counted("delete", path, lambda: self.inner.delete(path))

    def _counted(self, verb: str, path: str, call: Callable[[], Any]) -> Any:
        with self._lock:
            self.calls += 1
            number = self.calls
            if number == self.at:
                self.met = (verb, path)
        return self._call(number, verb, path, call)

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        raise NotImplementedError


class Deadly(Hooked):
    """The process dies at the n-th operation, before or after its effect: that and all later ones raise `Died`."""

    def __init__(self, inner: Storage, at: int, *, after: bool) -> None:
        super().__init__(inner, at)
        self.after = after

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        if number < self.at:
            return call()
        if number == self.at:
            self._effect(call)
        raise Died(f"{verb} {path}")

    def _effect(self, call: Callable[[], Any]) -> None:
        if self.after:
            with suppress(ObjectNotFound):
                call()


class Killing(Deadly):
    """As `Deadly`, with SIGKILL."""

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        if number == self.at:
            self._effect(call)
            os.kill(os.getpid(), signal.SIGKILL)
        return call()


class Failing(Deadly):
    """The n-th operation alone fails, before or after its effect, and the process lives on."""

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        if number == self.at:
            self._effect(call)
            raise RemoteUnavailable(f"no answer to {verb} {path}")
        return call()


class Intruded(Hooked):
    """Somebody else does something before the n-th operation; `seen` are the calls until then."""

    def __init__(self, inner: Storage, at: int, intrusion: Callable[[], Any]) -> None:
        super().__init__(inner, at)
        self.intrusion = intrusion
        self.seen: list[tuple[str, str]] = []

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        if number < self.at:
            self.seen.append((verb, path))
        elif number == self.at:
            self.intrusion()
        return call()


class Coarse(Hooked):
    """A storage whose times are whole seconds, cut off, as those of S3."""

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        result = call()
        return [ObjectInfo(it.path, it.size, it.modified // 1) for it in result] if verb == "list" else result


class World:
    """Time and chance, for everybody, the storage in memory included; it can be lived through again.

    Two lives that do the same leave the same bytes.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = self._began = 0.0
        self._drawn = itertools.count()
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self._ahead)
        monkeypatch.setattr(secrets, "token_hex", lambda size: f"{next(self._drawn):0{2 * size}x}")

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead += seconds

    def begin(self) -> None:
        """Remember this moment; what was drawn until now, fewer than a thousand nonces, is never drawn again."""
        self._began = self._ahead

    def again(self) -> None:
        """Return to the moment of `begin`."""
        self._ahead, self._drawn = self._began, itertools.count(1000)


class InOrder:
    """Instead of a `ThreadPoolExecutor`: does at once what is submitted, so the n-th operation is always the same."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except BaseException as err:  # noqa: BLE001 - whatever it is, it is for who asks for the result
            future.set_exception(err)
        return future

    def shutdown(self, **_: Any) -> None:
        pass


def points(afters: tuple[bool, ...] = (False, True)) -> Iterator[tuple[int, bool]]:
    """Yield (n, whether the n-th operation takes effect) for n from 1 on, for ever."""
    for at in itertools.count(1):
        for after in afters:
            yield at, after
