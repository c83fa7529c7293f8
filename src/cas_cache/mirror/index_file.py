"""Sorted runs of a key index, in memory or in a file.

A run holds rows [start, stop) of a key column as two arrays in order of the keys' first 8 bytes: these prefixes, and
the rows. A file of a run, ``index.<start>-<stop>``, in the byte order of the machine that wrote it::

    64 bytes         magic, version, start, stop, SHA-256 of the keys of up to 64 of its rows
    4 bytes a block  CRC-32 of each 64 KiB of the body
    32 bytes         SHA-256 of all of the above
    padding          to a multiple of 64 bytes
    body             the prefixes, then the rows, 8 bytes each

The file is derived and trusted only after verification. Opening it verifies the head, against its own hash and against
the key column. A block of the body is verified when a look-up of this process first depends on it. A search depends on
two entries, which it has both compared: the one that it ends at and the one before. If these two are unchanged, the
search ends at the right place, whatever damage it met on the way. Three things go unnoticed: damage that has the CRC-32
of the block it replaces (1 in 2**32, and none of up to 2 flipped bits), memory that changes after it was verified, and
a run of another column that has the same keys at all of the rows that are compared.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.files.disk import TEMP_PREFIX, open_plain
from cas_cache.identity import prefixes_of
from cas_cache.mirror.descriptors import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

NAME = re.compile(r"index\.(\d{1,18})-(\d{1,18})", re.ASCII)

TEMP_NAME = f"{TEMP_PREFIX}index"
"""Name of the temporary file. There is one writer at a time, so the next run overwrites what a crash left behind."""

MAGIC = b"casindex"

VERSION = 1
"""Version of the file, in the machine's byte order: a file from a machine with the other byte order has another
version."""

HEAD = struct.Struct("=8sQQQ32s")
PROOF_BYTES = 32

ALIGNMENT = 64

BLOCK_BYTES = 1 << 16
"""Size of the unit of verification: one look-up among 10 million rows reads three blocks, not 160 MB."""

ENTRIES = BLOCK_BYTES // 8
"""Number of 8-byte entries in a block."""

SAMPLES = 64
"""Number of rows whose keys are compared when a file is opened; each costs a page fault."""

SLICE_ROWS = 1 << 18
"""Approximate number of rows merged at a time: 16 bytes each, and as much again for their order, so 12 MB."""


class UnverifiedError(Exception):
    """Raised if a run is damaged or does not match the key column. Never leaves the index."""


class Run:
    """Rows [start, stop) in the order of their prefixes, in memory.

    Attributes:
        start: The first row.
        stop: The row after the last.
        prefixes: The prefixes of the keys, ascending.
        rows: The row of each prefix.
    """

    saved = False

    def __init__(self, start: int, stop: int, prefixes: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        self.start = start
        self.stop = stop
        self.prefixes = prefixes
        self.rows = rows

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.start}, {self.stop})"

    def __len__(self) -> int:
        return self.stop - self.start

    @classmethod
    def from_keys(cls, keys: NDArray[np.uint8], start: int, stop: int) -> Run:
        """Return the sorted run of rows [start, stop) of a key column."""
        prefixes = prefixes_of(keys[start:stop])
        order = np.argsort(prefixes)
        return Run(start, stop, prefixes[order], order + start)

    def locate(self, prefixes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the first position of each prefix, or the position at which it would be inserted.

        Args:
            prefixes: At least one prefix, ascending.

        Raises:
            UnverifiedError: If the file is damaged before one of these positions.
        """
        # A batch of a million keys is a few entries apart: between its first and last key, the search stays in CPU
        # caches.
        first, last = np.searchsorted(self.prefixes, prefixes[[0, -1]]).tolist()
        at: NDArray[np.int64] = np.searchsorted(self.prefixes[first:last], prefixes) + first
        return at

    def has(self, at: NDArray[np.int64], prefixes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return True for each prefix that is at its position; a position may be one past the end.

        Raises:
            UnverifiedError: If the file is damaged there.
        """
        inside: NDArray[np.bool_] = at < len(self)
        inside[inside] = self.prefixes[at[inside]] == prefixes[inside]
        return inside

    def rows_at(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows at positions.

        Raises:
            UnverifiedError: If the file is damaged there.
        """
        return self.rows[at]

    def verify(self) -> None:
        """Verify the whole run.

        Raises:
            UnverifiedError: If the file is damaged.
        """


class RunFile(Run):
    """A run mapped from its file.

    Raises:
        FileNotFoundError: If the file does not exist.
        UnverifiedError: If it is not a complete run of this key column, in this version of the format.
    """

    saved = True

    def __init__(self, path: Path, start: int, stop: int, keys: NDArray[np.uint8]) -> None:
        count = stop - start
        blocks = -(-2 * count // ENTRIES)
        head_bytes = HEAD.size + 4 * blocks
        offset = _body_offset(count)
        with os.fdopen(open_plain(path), "rb") as file:
            head = file.read(head_bytes)
            proof = file.read(PROOF_BYTES)
            if hashlib.sha256(head).digest() != proof or file.seek(0, 2) != offset + 16 * count:
                raise UnverifiedError
            if head[: HEAD.size] != _head(start, stop, keys):
                raise UnverifiedError
            body = map_file(file, np.uint64, offset, (2 * count,)).view(np.ndarray)
        super().__init__(start, stop, body[:count], body[count:].view(np.int64))
        self._body = body
        self._checks = np.frombuffer(head, np.uint32, offset=HEAD.size)
        self._verified = np.zeros(blocks, np.bool_)
        self._unproved = blocks

    def locate(self, prefixes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Like `Run.locate`."""
        at = super().locate(prefixes)
        self._verify(at[at > 0] - 1)
        return at

    def has(self, at: NDArray[np.int64], prefixes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Like `Run.has`."""
        self._verify(at[at < len(self)])
        return super().has(at, prefixes)

    def rows_at(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Like `Run.rows_at`."""
        self._verify(at + len(self))
        rows = super().rows_at(at)
        if ((rows < self.start) | (rows >= self.stop)).any():
            raise UnverifiedError
        return rows

    def verify(self) -> None:
        """Like `Run.verify`."""
        self._verify(np.arange(0, len(self._body), ENTRIES))

    def _verify(self, places: NDArray[np.int64]) -> None:
        """Verify the blocks that hold these entries of the body, each once per process."""
        if not self._unproved:
            return
        rested_on = np.zeros(len(self._verified), np.bool_)
        rested_on[places // ENTRIES] = True
        for block in np.flatnonzero(rested_on & ~self._verified).tolist():
            if zlib.crc32(self._body[block * ENTRIES : (block + 1) * ENTRIES].data) != self._checks[block]:
                raise UnverifiedError
            self._verified[block] = True
            self._unproved -= 1


def files_in(folder: Path) -> dict[tuple[int, int], Path]:
    """Return the files that have the name of a run, by (start, stop)."""
    files = {}
    for path in folder.iterdir():
        match = NAME.fullmatch(path.name)
        if match is not None and (start := int(match[1])) < (stop := int(match[2])):
            files[start, stop] = path
    return files


def write_run(folder: Path, runs: Sequence[Run], keys: NDArray[np.uint8]) -> Path:
    """Write adjacent runs as one file, which gets its name only when it is complete.

    Args:
        folder: The folder of the namespace; the caller is its only writer.
        runs: Adjacent runs, all verified.
        keys: The key column.

    Returns:
        The path of the file.

    Raises:
        OSError: If the file system raises it; nothing is left behind.
    """
    start, stop = runs[0].start, runs[-1].stop
    count = stop - start
    offset = _body_offset(count)
    temp = folder / TEMP_NAME
    try:
        with os.fdopen(open_plain(temp, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "w+b") as file:
            done = 0
            for prefixes, rows in _slices(runs):
                _write_at(file, offset + 8 * done, prefixes)
                _write_at(file, offset + 8 * (count + done), rows)
                done += len(rows)
            file.seek(offset)
            # Read back, because the slices that were written do not end where blocks do.
            checks = [zlib.crc32(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")]
            head = _head(start, stop, keys) + np.array(checks, np.uint32).tobytes()
            file.seek(0)
            file.write(head + hashlib.sha256(head).digest())
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"index.{start}-{stop}"
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
    return path


def merged(runs: Sequence[Run]) -> Run:
    """Return adjacent runs merged into one, in memory."""
    prefixes, rows = zip(*_slices(runs), strict=True)
    return Run(runs[0].start, runs[-1].stop, np.concatenate(prefixes), np.concatenate(rows))


def _slices(runs: Sequence[Run]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield the prefixes and rows of several runs in order, a slice at a time."""
    bounds = max(runs, key=len).prefixes[SLICE_ROWS::SLICE_ROWS]
    cuts = [[0, *np.searchsorted(run.prefixes, bounds).tolist(), len(run)] for run in runs]
    for i in range(len(bounds) + 1):
        parts = [slice(cut[i], cut[i + 1]) for cut in cuts]
        prefixes = np.concatenate([run.prefixes[part] for run, part in zip(runs, parts, strict=True)])
        rows = np.concatenate([run.rows[part] for run, part in zip(runs, parts, strict=True)])
        # The stable sort detects sorted parts and merges them, which is faster than sorting again.
        order = np.argsort(prefixes, kind="stable")
        yield prefixes[order], rows[order]


def _head(start: int, stop: int, keys: NDArray[np.uint8]) -> bytes:
    """Return the head of a file of these rows whose keys match the column."""
    sample = np.unique(np.linspace(start, stop - 1, SAMPLES).astype(np.int64))
    return HEAD.pack(MAGIC, VERSION, start, stop, hashlib.sha256(keys[sample].tobytes()).digest())


def _body_offset(count: int) -> int:
    head_bytes = HEAD.size + 4 * -(-2 * count // ENTRIES) + PROOF_BYTES
    return -(-head_bytes // ALIGNMENT) * ALIGNMENT


def _write_at(file: BinaryIO, offset: int, values: NDArray[Any]) -> None:
    file.seek(offset)
    file.write(np.ascontiguousarray(values).view(np.uint8).data)
