"""Memo of whole batches: digest of a batch -> rows that answered it, in memory and in small files for later processes.

A memo is derived: without it the keys of the batch are looked up. It is sealed with a hash over the keys of the batch,
and a process trusts it only if the keys of its rows have that hash now. The seal is needed because rows of another
batch would be right vectors of wrong items, which no row digest can detect.

::

    <namespace folder>/memo/<digest>    32 bytes of seal, then "rows" and one int64 a row, or "run " and first and count
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.files.disk import check_folder, read_plain, write_atomically
from cas_cache.mirror.rows import count_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror.rows import Rows

logger = logging.getLogger(__name__)

MAX_BYTES = 64 << 20
"""Maximum size of the rows remembered in memory; the least recently used are dropped first."""

MAX_FILES = 512
"""Maximum number of files per namespace: a corpus of 25 million documents, which mteb encodes 50,000 at a time, is
500."""

RUN, LIST = b"run ", b"rows"
SEAL_BYTES = 32
MAX_SPARE = 64
"""Maximum number of bytes that a file may have in addition to the rows of its batch: the two numbers of a run."""


class Memo:
    """The batches that a namespace has answered."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder / "memo"
        self._namespace = namespace
        self._known: OrderedDict[bytes, Rows] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"Memo({len(self._known)} batches)"

    def find(self, digest: bytes, size: int, keys: NDArray[np.uint8]) -> Rows | None:
        """Return the rows that answered a batch; None if they are unknown.

        Args:
            digest: Digest of the batch.
            size: Number of items of the batch.
            keys: The namespace's key column.
        """
        rows = self._known.get(digest)
        if rows is not None:
            self._known.move_to_end(digest)
        else:
            rows = self._read_rows(digest, size, keys)
            if rows is not None:
                self._keep(digest, rows)
        return rows if rows is not None and _in_range(rows, size, len(keys)) else None

    def note(self, digest: bytes, rows: Rows, keys: NDArray[np.uint8]) -> None:
        """Remember the rows that answered a batch; only in this process if the folder cannot be written.

        Args:
            digest: Digest of the batch.
            rows: The rows.
            keys: The namespace's key column.
        """
        self._keep(digest, rows)
        check_folder(self._folder)
        try:
            self._folder.mkdir(exist_ok=True)
            self._make_room()
            write_atomically(self._folder / digest.hex(), self._seal(digest, keys[rows]) + _payload(rows))
        except OSError as err:
            logger.info("the memo of a batch is kept in memory only: %s", err)

    def clear(self) -> None:
        """Delete all memos. The caller is the only writer of the namespace, and its only user."""
        self._known.clear()
        self._bytes = 0
        check_folder(self._folder)
        if self._folder.is_dir():
            for file in self._folder.iterdir():
                file.unlink(missing_ok=True)

    def _read_rows(self, digest: bytes, size: int, keys: NDArray[np.uint8]) -> Rows | None:
        path = self._folder / digest.hex()
        check_folder(self._folder)
        try:
            if path.lstat().st_size > SEAL_BYTES + len(LIST) + 8 * size + MAX_SPARE:
                return None
            data = read_plain(path)
        except OSError:
            return None
        rows = _parse_rows(data[SEAL_BYTES:])
        if not _in_range(rows, size, len(keys)) or data[:SEAL_BYTES] != self._seal(digest, keys[rows]):
            logger.info("the memo %s is not of these rows: skipped", path)
            return None
        return rows

    def _seal(self, digest: bytes, keys: NDArray[np.uint8]) -> bytes:
        seal = hashlib.sha256(f"cas-cache memo 1 {self._namespace}".encode() + digest)
        seal.update(np.ascontiguousarray(keys).data)
        return seal.digest()

    def _make_room(self) -> None:
        """Delete the oldest files if there are too many: a run of random batches would fill the disk."""
        files = list(self._folder.iterdir())
        if len(files) >= MAX_FILES:
            for file in sorted(files, key=lambda file: file.stat().st_mtime)[: len(files) // 2]:
                file.unlink(missing_ok=True)

    def _keep(self, digest: bytes, rows: Rows) -> None:
        if digest in self._known:
            self._bytes -= _size_of(self._known.pop(digest))
        self._bytes += _size_of(rows)
        self._known[digest] = rows
        while self._bytes > MAX_BYTES and len(self._known) > 1:
            self._bytes -= _size_of(self._known.popitem(last=False)[1])


def _in_range(rows: Rows, size: int, most: int) -> bool:
    """Return True if these are `size` rows of a namespace that has `most` rows."""
    if isinstance(rows, slice):
        return rows.start >= 0 and count_of(rows) == size and rows.stop <= most
    return len(rows) == size and int(rows.min(initial=0)) >= 0 and int(rows.max(initial=-1)) < most


def _size_of(rows: Rows) -> int:
    return 100 if isinstance(rows, slice) else rows.nbytes


def _payload(rows: Rows) -> bytes:
    if isinstance(rows, slice):
        return RUN + np.array([rows.start, rows.stop - rows.start], "<i8").tobytes()
    return LIST + rows.astype("<i8").tobytes()


def _parse_rows(payload: bytes) -> Rows:
    """Return the rows of a payload; no rows if it is malformed."""
    tag, values = payload[: len(RUN)], payload[len(RUN) :]
    numbers = np.frombuffer(values[: len(values) // 8 * 8], "<i8").astype(np.int64)
    if tag == RUN and len(numbers) == 2:
        return slice(int(numbers[0]), int(numbers[0]) + int(numbers[1]))
    return numbers if tag == LIST else numbers[:0]
