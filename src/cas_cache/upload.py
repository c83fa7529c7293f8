"""Pushing the pending rows of a mirror, and counting them, without the cache that they came from.

Every push opens the mirror by itself, so any thread may push, nothing stays open, and no cache is kept alive.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas_cache.errors import NotAMirror
from cas_cache.formatting import pluralize, size
from cas_cache.mirror import Mirror
from cas_cache.mirror.overview import pending_in
from cas_cache.sync import push

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cas_cache.repository import Repository

BESIDES = 40
"""Bytes of a row besides its vector: key and digest."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Pending rows of a mirror.

    Attributes:
        rows: How many rows.
        bytes: What they take on the wire.
        where: The mirror.
        command: What pushes them.
        sent: Returns the bytes that were sent so far, by whatever push.
    """

    rows: int
    bytes: int
    where: str
    command: str
    sent: Callable[[], int]

    def __str__(self) -> str:
        verb = "waits" if self.rows == 1 else "wait"
        return f"{pluralize(self.rows, 'row')} ({size(self.bytes)}) {verb} in the mirror {self.where}"


@dataclass(slots=True)
class Upload:
    """Pushes a mirror's pending rows with handles of its own, so that any thread may call it and close leaves none.

    It has no reference to the cache: a cache that is dropped is freed at once, and its rows are still pushed.

    Attributes:
        directory: The mirror.
        repository: Where to; None for nowhere.
        count: Is given the bytes that each push sent.
        progress: Show a bar while a process waits for it; None where there is a terminal.
    """

    directory: Path
    repository: Repository | None
    count: Callable[[int], object]
    progress: bool | None

    def run(self) -> None:
        """Push all pending rows. A mirror that was deleted has none."""
        mirror = self._mirror()
        if mirror is not None and self.repository is not None:
            with mirror:
                self.count(push(mirror, self.repository, progress=False).bytes)

    def pending(self) -> Waiting | None:
        """Return the pending rows; None without any, without a repository, or if the mirror was deleted."""
        mirror, repository = self._mirror(), self.repository
        if mirror is None or repository is None:
            return None
        with mirror:
            rows, vector_bytes = pending_in(mirror)
        if not rows:
            return None
        where = str(self.directory)
        return Waiting(
            rows=rows,
            bytes=vector_bytes + rows * BESIDES,
            where=where,
            command=shlex.join(["cas-cache", "push", where, "--remote", repository.url]),
            sent=lambda: repository.storage.traffic.up,
        )

    def _mirror(self) -> Mirror | None:
        try:
            return Mirror(self.directory, create=False)
        except NotAMirror:
            return None
