"""The marker of a repository: found, created once, and verified by reading it again.

No hash covers the marker, and every client that starts a repository writes the same name. On a storage without
create-only, the last marker wins, so it counts only when two consecutive reads agree.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from cas_cache.errors import NotARepository, ObjectNotFound, RepositoryError
from cas_cache.format import layout
from cas_cache.format.marker import MAX_DOCUMENT_BYTES, checked_marker, new_marker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cas_cache.storage.interface import ObjectInfo, Storage

MAX_SUGGESTIONS = 3
"""Maximum number of repositories named in an error."""

MIRROR_MARKER = "cas-cache-mirror.json"
"""Name of a mirror's marker. Its presence explains a common mistake: a mirror's directory named as a repository."""

MARKER_PAUSES = (0.0, 0.1, 0.4, 1.0)
"""Seconds to wait before each read of a marker that was written. While several clients write one name, some servers
temporarily show no object at all."""

SETTLING = 5
"""Factor of the wait before a marker is read again, relative to the time that finding or writing it took. Other clients
that found the prefix empty have written their markers by then. On a storage without create-only the last marker
wins."""

MAX_SECONDS_TO_FIND, MAX_SECONDS_TO_CREATE = 0.25, 2.0
"""Upper limits in seconds of that wait: for a client that found a marker, once per new mirror, and for one that wrote
it."""


class RepositoryMarker:
    """The marker of the repository in a storage.

    Attributes:
        document: The marker as it was read; None before `find` or `create`.
    """

    def __init__(self, storage: Storage) -> None:
        self.document: dict[str, Any] | None = None
        self._storage = storage
        self._settled = False
        self._seconds = 0.0

    def find(self) -> bool:
        """Find the marker: one request.

        Returns:
            False if nothing exists below the URL.

        Raises:
            NotARepository: If something other than a repository exists there.
            UnsupportedFormat: If the repository requires a feature of readers that this version does not know.
            RemoteError: If the storage is unreachable or refuses a request.
        """
        if self.document is not None:
            return True
        began = time.monotonic()
        data = self._read()
        if data is None:
            # A doctor may be testing an empty prefix, or may have been killed there; its objects do not count.
            entries = [entry for entry in self._storage.list("") if not entry.path.startswith(f"{layout.SCRATCH}/")]
            if not entries:
                return False
            # Another writer may have created the repository between the two requests, or may be creating it now.
            listed = any(entry.path == layout.MARKER for entry in entries)
            data = self._read_written() if listed else self._read()
            if data is None:
                raise _not_a_repository(self._storage.url, entries)
        self.document = checked_marker(data, self._storage.url)
        self._seconds = time.monotonic() - began
        return True

    def create(self, *, found_empty: bool) -> None:
        """Create the marker if it does not exist. If several clients try at once, one wins and all use its marker.

        Args:
            found_empty: True if `find` has just found nothing, so that it need not look again.

        Raises:
            The same errors as `find`.
        """
        began = time.monotonic()
        if not found_empty and self.find():
            return
        # The listing may have taken long. After this read, a put can replace only a marker that was written since.
        if self._read() is None:
            self._storage.put(layout.MARKER, new_marker(secrets.token_hex(16)), create_only=True)
        data = self._read_written()
        if data is None:
            raise RepositoryError(
                f"{layout.MARKER} was written to {self._storage.url} and cannot be read back. Try again."
            )
        patience = min(SETTLING * (time.monotonic() - began), MAX_SECONDS_TO_CREATE)
        self.document = checked_marker(self._settle(data, patience), self._storage.url)
        self._settled = True

    def confirm(self) -> None:
        """Read the marker again until two consecutive reads agree: 1 request, and none after `create`.

        Raises:
            RepositoryError: If no two consecutive reads agree.
        """
        if self._settled:
            return
        # If this raises an error, the marker must not stay in use.
        expected, self.document = self.document, None
        time.sleep(min(SETTLING * self._seconds, MAX_SECONDS_TO_FIND))
        data = self._read()
        if data is None or checked_marker(data, self._storage.url) != expected:
            data = self._settle(data, 0.0)
        self.document = checked_marker(data, self._storage.url)
        self._settled = True

    def _read(self) -> bytes | None:
        try:
            return self._storage.get(layout.MARKER, 0, MAX_DOCUMENT_BYTES)
        except ObjectNotFound:
            return None

    def _read_written(self) -> bytes | None:
        """Read a marker that was written, perhaps by several clients at this moment."""
        for pause in MARKER_PAUSES:
            time.sleep(pause)
            data = self._read()
            if data is not None:
                return data
        return None

    def _settle(self, data: bytes | None, patience: float) -> bytes:
        """Read the marker until two consecutive reads agree.

        Args:
            data: The previous read.
            patience: Minimum number of seconds to wait before each read.

        Raises:
            RepositoryError: If no two consecutive reads agree.
        """
        for pause in MARKER_PAUSES:
            time.sleep(max(pause, patience))
            previous, data = data, self._read()
            if data is not None and data == previous:
                return data
        raise RepositoryError(
            f"{layout.MARKER} at {self._storage.url} was read {len(MARKER_PAUSES) + 1} times, and no two reads in a "
            "row agree. Nothing was changed. Try again in a minute; if the error stays, something between this machine "
            "and the storage damages what is read."
        )


def _not_a_repository(url: str, entries: Sequence[ObjectInfo]) -> NotARepository:
    """Return the error for a prefix that holds other objects than a repository's."""
    if any(entry.path == MIRROR_MARKER for entry in entries):
        return NotARepository(
            f"{url} is a mirror, not a repository. Name it as CACHE, or as the cache's directory, and its "
            "repository as the remote."
        )
    if below := layout.repositories_below(entry.path for entry in entries):
        candidates = " or ".join(f"{url}/{prefix}" for prefix in below[:MAX_SUGGESTIONS])
        return NotARepository(f"{url} is not a repository. Did you mean {candidates}?")
    return NotARepository(
        f"{url} is not empty and holds no cas_cache repository ({layout.MARKER} is missing; "
        f"{entries[0].path!r} is there). Name an empty prefix, such as {url}/cas-cache."
    )
