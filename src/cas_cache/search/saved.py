"""Index files, saved beside the rows that they index.

::

    <folder>/<metric>-<kind>-<hash>.json             describes the index: the commit point, written last
            /<metric>-<kind>-<hash>.<random>.index   as `faiss.write_index` writes it

An index file never changes and its name is never used again. So the file that the JSON names is complete, or it is gone
because a newer one replaced it. The JSON has the SHA-256 of each 64 MiB of the file. They are compared before faiss
reads the file, because faiss follows the links of a graph wherever they lead, also in memory. The JSON also
has a fingerprint of the covered rows, which shows that rows were moved by `evict` or that they are another mirror's. An
index that does not match is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cas_cache.files.disk import TEMP_PREFIX, check_folder, flush, lock_of, open_plain, read_plain, write_atomically
from cas_cache.identity import parsed_json
from cas_cache.search.approximate import is_sound
from cas_cache.search.exact import require_faiss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cas_cache.search.design import Design

logger = logging.getLogger(__name__)

VERSION = 1
HASHED_AT_ONCE = 64 << 20
"""Bytes per SHA-256, so that threads share the work."""

HASH_THREADS = 4

SAFE_NAME = re.compile(r"[0-9A-Za-z_.-]{1,200}")
"""Permitted names of index files."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Description of an index file.

    Attributes:
        file: The name of the file.
        rows: The number of first rows that the index covers.
        trained: The number of rows that existed when the index was trained.
        fingerprint: The fingerprint of the covered rows.
        sha256: The SHA-256 of each 64 MiB of the file, hex.
        faiss: The faiss version that wrote the file; informative only.
        parameters: The parameters that shaped the index; informative only, because the file name has their hash.
        version: The version of this format.
    """

    file: str
    rows: int
    trained: int
    fingerprint: str
    sha256: tuple[str, ...]
    faiss: str
    parameters: dict[str, int | str]
    version: int = VERSION


class IndexFiles:
    """The saved index of one design in one folder."""

    def __init__(self, folder: Path, design: Design, dimensions: int) -> None:
        self._folder = folder
        self._design = design
        self._dimensions = dimensions
        self._path = folder / f"{design.name}.json"

    def __repr__(self) -> str:
        return f"IndexFiles({str(self._path)!r})"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for building; other processes wait, and then find the new index.

        Raises:
            OSError: If the folder cannot be written.
        """
        check_folder(self._folder.parent, self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        with lock_of(self._folder / f".{self._design.name}.lock"):
            yield

    def read(self, fingerprint: Callable[[int], str | None], *, mapped: bool = True) -> tuple[Any, Saved] | None:
        """Return the index and its description; None if there is no index or it cannot be trusted.

        Args:
            fingerprint: Returns the fingerprint of the first rows, given their number; None if there are fewer.
            mapped: Map the file as far as faiss can. Rows cannot be added to a mapped index.
        """
        saved = self._read_saved()
        if saved is None or fingerprint(saved.rows) != saved.fingerprint:
            return None
        path = self._folder / saved.file
        faiss = require_faiss()
        # faiss before 1.10 maps inverted lists only.
        flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP) if mapped else 0
        try:
            if _hashes(path) != saved.sha256:
                logger.warning("%s is damaged, and is rebuilt", path)
                return None
            index = faiss.read_index(str(path), flags)
        except (OSError, RuntimeError) as err:
            logger.info("%s is not used (%s)", path, err)
            return None
        return (index, saved) if is_sound(index, self._design, self._dimensions, saved.rows) else None

    def write(self, index: Any, *, trained: int, fingerprint: str) -> None:
        """Save an index in place of the earlier one. The caller must hold the lock.

        Raises:
            OSError: If the disk is full or refuses to write; the earlier index stays.
        """
        faiss = require_faiss()
        name = f"{self._design.name}.{secrets.token_hex(8)}.index"
        temp = self._folder / f"{TEMP_PREFIX}{name}"
        try:
            try:
                faiss.write_index(index, str(temp))
            except RuntimeError as err:
                raise OSError(str(err)) from err
            flush(temp)
            hashes = _hashes(temp)
            temp.replace(self._folder / name)
        finally:
            temp.unlink(missing_ok=True)
        flush(self._folder)
        saved = Saved(
            name, index.ntotal, trained, fingerprint, hashes, str(faiss.__version__), dict(self._design.shape)
        )
        write_atomically(self._path, json.dumps(asdict(saved), indent=2).encode())
        for other in self._folder.glob(f"*{self._design.name}.*.index"):
            if other.name != name:
                with contextlib.suppress(OSError):
                    other.unlink()

    def _read_saved(self) -> Saved | None:
        try:
            check_folder(self._folder.parent, self._folder)
            document = parsed_json(read_plain(self._path))
            saved = Saved(**{**document, "sha256": tuple(document["sha256"])})
            plain = all(type(value) is int and value > 0 for value in (saved.rows, saved.trained))
            own = saved.file.startswith(f"{self._design.name}.") and SAFE_NAME.fullmatch(saved.file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            if not isinstance(err, FileNotFoundError):
                logger.info("%s is not used (%s)", self._path, err)
            return None
        return saved if plain and own and saved.version == VERSION else None


def _hashes(path: Path) -> tuple[str, ...]:
    """Return the SHA-256 of each `HASHED_AT_ONCE` bytes of a file."""

    def hash_part(start: int) -> str:
        digest, remaining = hashlib.sha256(), HASHED_AT_ONCE
        with os.fdopen(open_plain(path), "rb", buffering=0) as file:
            file.seek(start)
            while remaining and (data := file.read(min(remaining, 1 << 20))):
                digest.update(data)
                remaining -= len(data)
        return digest.hexdigest()

    with os.fdopen(open_plain(path), "rb", buffering=0) as file:
        starts = range(0, os.fstat(file.fileno()).st_size, HASHED_AT_ONCE)
    with ThreadPoolExecutor(min(HASH_THREADS, os.cpu_count() or 1), "cas_cache-index") as threads:
        return tuple(threads.map(hash_part, starts))
