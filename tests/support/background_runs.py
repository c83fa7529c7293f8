"""Parts of tests of background pushes: a push to hold up, a cache at a given storage, the environment of a process."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cas_cache import EmbeddingCache
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.upload import PendingRows
from paths import SUPPORT

LIMIT = 60.0
"""Seconds after which a condition counts as never met."""


class Recorder:
    """An upload whose push can be held up and made to fail."""

    progress = False

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def run(self) -> None:
        self.threads.append(threading.current_thread().name)
        assert self.go_on.wait(30)
        if self.error is not None:
            raise self.error

    def pending(self) -> PendingRows:
        return PendingRows(1, 100, "mirror", "cas-cache push mirror", lambda: 0)


def joined(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), **options)
    cache.repository = Repository(storage)
    return cache


def environment() -> dict[str, str]:
    """That of this process, with the folder of the tests on the path."""
    path = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def pending_rows(directory: Path) -> int:
    return sum(ns.pending_rows for ns in Mirror(directory, create=False).namespaces())


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is met."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "the condition was never met"
        time.sleep(0.01)
