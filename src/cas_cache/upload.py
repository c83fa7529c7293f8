"""Pushing and counting the pending rows of a mirror, independently of the cache that they came from.

Every push opens the mirror itself, so any thread may push, nothing stays open, and no cache is kept alive.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas_cache.display import pluralize, size
from cas_cache.errors import NotAMirror
from cas_cache.format.rows import KEY_AND_DIGEST_BYTES
from cas_cache.mirror import Mirror
from cas_cache.mirror.overview import pending_in
from cas_cache.sync import push

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cas_cache.repository import Repository


@dataclass(frozen=True, slots=True)
class PendingRows:
    """Pending rows of a mirror.

    Attributes:
        rows: Number of rows.
        bytes: Bytes that a push of them transfers.
        where: Path of the mirror.
        command: Command that pushes the rows.
        sent: Returns the bytes sent so far, by any push.
    """

    rows: int
    bytes: int
    where: str
    command: str
    sent: Callable[[], int]

    def __str__(self) -> str:
        verb = "is pending" if self.rows == 1 else "are pending"
        return f"{pluralize(self.rows, 'row')} ({size(self.bytes)}) {verb} in the mirror {self.where}"


@dataclass(slots=True)
class Upload:
    """Pushes a mirror's pending rows with its own handles, so that any thread may call it and `close` leaves none open.

    It has no reference to the cache: a cache that is dropped is freed at once, and its rows are still pushed.

    Attributes:
        directory: The mirror.
        repository: The repository to push to; None without a remote.
        count: Called with the bytes that each push sent.
        progress: Show a bar while a process waits for a push; None shows it on a terminal only.
    """

    directory: Path
    repository: Repository | None
    count: Callable[[int], object]
    progress: bool | None

    def run(self) -> None:
        """Push all pending rows; do nothing if the mirror was deleted."""
        mirror = self._mirror()
        if mirror is not None and self.repository is not None:
            with mirror:
                self.count(push(mirror, self.repository, progress=False).bytes)

    def pending(self) -> PendingRows | None:
        """Return the pending rows; None if there are none, without a repository, or if the mirror was deleted."""
        mirror, repository = self._mirror(), self.repository
        if mirror is None or repository is None:
            return None
        with mirror:
            rows, vector_bytes = pending_in(mirror)
        if not rows:
            return None
        where = str(self.directory)
        return PendingRows(
            rows=rows,
            bytes=vector_bytes + rows * KEY_AND_DIGEST_BYTES,
            where=where,
            command=shlex.join(["cas-cache", "push", where, "--remote", repository.url]),
            sent=lambda: repository.storage.traffic.up,
        )

    def _mirror(self) -> Mirror | None:
        try:
            return Mirror(self.directory, create=False)
        except NotAMirror:
            return None
