"""One column of a namespace: a real ``.npy`` file that grows in place.

Rows are written past the end that the header names and made durable before the header names them. The header keeps its
length, so rows never move and a map of the old rows stays valid. A column does not decide how many of its rows count:
`table.Table` does, with ``state.json``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import DamagedMirror, set_aside
from cas_cache.files.disk import open_plain, plain, reading
from cas_cache.format.rows import row_bytes
from cas_cache.mirror.descriptors import EXHAUSTED, map_answer, map_file, may_map_answer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEADER_ALIGNMENT = 64
"""Alignment of the data, as the .npy format recommends."""

MAX_ROWS = 10**18
"""Maximum number of rows; the header has room for this number from the beginning."""

HEADER_READS = 5
"""Maximum number of attempts to read a header. A reader may meet a half-written one: about 1 in 10,000 in a busy
loop."""


class Column:
    """An append-only ``.npy`` file of rows of one dtype and shape."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.path = path
        self.dtype = dtype
        self.shape = shape
        self.inode: int | None = None
        self.row_bytes = row_bytes(dtype, shape)
        length = 10 + len(self._header_text(MAX_ROWS)) + 1
        self.header_bytes = -(-length // HEADER_ALIGNMENT) * HEADER_ALIGNMENT

    def __repr__(self) -> str:
        return f"Column({self.path.name!r}, {self.dtype.name}, {self.shape})"

    def write(self, start: int, rows: NDArray[Any]) -> None:
        """Write rows from position `start` on and make them durable. The header is not changed."""
        with os.fdopen(open_plain(self.path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) < self.header_bytes:
                file.seek(0)
                _write_all(file, self._header(0))
            file.seek(self.header_bytes + start * self.row_bytes)
            _write_all(file, np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8).data)
            os.fsync(file.fileno())

    def set_rows(self, rows: int) -> None:
        """Write a header that says that the file holds `rows` rows."""
        with os.fdopen(open_plain(self.path, os.O_RDWR), "r+b") as file:
            file.write(self._header(rows))

    def cut(self, rows: int) -> None:
        """Truncate the file after the first `rows` rows; the bytes after them are never committed.

        Maps of the first rows stay valid. A file without rows is deleted.
        """
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError), os.fdopen(open_plain(self.path, os.O_RDWR), "r+b") as file:
            size = self.header_bytes + rows * self.row_bytes
            if file.seek(0, os.SEEK_END) > size:
                file.truncate(size)
            file.seek(0)
            file.write(self._header(rows))

    def map(self, rows: int, known: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the first `rows` rows as a read-only map, or as a read-only array on a file system without maps.

        Args:
            rows: Number of rows.
            known: The result of an earlier call for fewer rows of the same file; an array is then not read again.

        Raises:
            DamagedMirror: If the file is missing, too short, or does not begin with this column's header.
            MirrorReadError: If the system refuses the read.
        """
        if rows == 0:
            return np.empty((0, *self.shape), self.dtype)
        needed = self.header_bytes + rows * self.row_bytes
        if rows > MAX_ROWS:
            raise DamagedMirror(f"{self.path} is said to have {rows} rows, which no file has. {self._way_out}")
        try:
            with reading(self.path):
                size = self.path.lstat().st_size
                own = any(self._is_own(self._read_header()) for _ in range(HEADER_READS))
        except FileNotFoundError as err:
            raise DamagedMirror(f"{self.path} is gone, with {rows} committed rows. {self._way_out}") from err
        except (IsADirectoryError, NotADirectoryError) as err:
            raise DamagedMirror(
                f"{self.path}, with {rows} committed rows, is not a file ({err}). {self._way_out}"
            ) from err
        if size < needed:
            raise DamagedMirror(
                f"{self.path} has {size} bytes; its {rows} committed rows need {needed}. It was cut short. "
                f"{self._way_out}"
            )
        if not own:
            raise DamagedMirror(f"{self.path} does not begin with the header of {self!r}. {self._way_out}")
        # `open` rather than `os.fdopen`, because a map takes the name of its file.
        with reading(self.path), open(self.path, "rb", opener=plain) as file:
            self.inode = os.fstat(file.fileno()).st_ino
            return map_file(file, self.dtype, self.header_bytes, (rows, *self.shape), known)

    def map_privately(self, start: int, stop: int, inode: int | None) -> NDArray[Any] | None:
        """Return rows [start, stop), which `map` found to exist, as a copy-on-write map that the caller owns.

        None if too many answers are maps already, or if the system has no descriptor left.

        Args:
            start: The first row.
            stop: The row after the last.
            inode: Inode of the file that `map` mapped.

        Raises:
            DamagedMirror: If another file has this name now: its rows were neither looked up nor verified.
            MirrorReadError: If the system refuses the read.
        """
        if not may_map_answer():
            return None
        with reading(self.path):
            try:
                with open(self.path, "rb", opener=plain) as file:
                    if os.fstat(file.fileno()).st_ino == inode:
                        offset, shape = self.header_bytes + start * self.row_bytes, (stop - start, *self.shape)
                        return map_answer(file, self.dtype, offset, shape)
            except FileNotFoundError:
                pass
            except OSError as err:
                if err.errno in EXHAUSTED:
                    return None
                raise
        raise DamagedMirror(f"{self.path} was replaced while it was in use. Nothing of it was served. Open it again.")

    @property
    def _way_out(self) -> str:
        return f"Nothing of it was served. {set_aside(self.path.parent)}"

    def _read_header(self) -> bytes:
        with os.fdopen(open_plain(self.path), "rb") as file:
            return file.read(self.header_bytes)

    def _is_own(self, header: bytes) -> bool:
        """Return True if a header is this column's, whatever number of rows it names."""
        digits = header.partition(b"'shape': (")[2].partition(b",")[0]
        return digits.isdigit() and header == self._header(int(digits))

    def _header(self, rows: int) -> bytes:
        text = self._header_text(rows).ljust(self.header_bytes - 11).encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text

    def _header_text(self, rows: int) -> str:
        descr = np.lib.format.dtype_to_descr(self.dtype)
        shape = "(" + ", ".join(str(n) for n in (rows, *self.shape)) + ("," if not self.shape else "") + ")"
        return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"


def _write_all(file: Any, data: bytes | memoryview) -> None:
    """Write all of `data`: a raw write may accept only a part of it."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
