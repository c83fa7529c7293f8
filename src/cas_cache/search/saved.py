"""Index files, saved beside the rows that they index.

::

    <folder>/<design>.json             describes the index: the commit point, written last
            /<design>.<random>.index   as `faiss.write_index` writes it

An index file never changes and its name is never used again. So the file that the JSON names is complete, or it is gone
because a newer one replaced it. The JSON has the SHA-256 of the file. It is compared before faiss reads the file,
because faiss follows the links of a graph wherever they lead, also in memory. The JSON also has a fingerprint of the
covered rows, which shows that rows were moved by `evict` or that they are another mirror's. An index that does not
match is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cas_cache.files.disk import TEMP_PREFIX, check_folder, flush, lock_of, open_plain, read_plain, write_atomically
from cas_cache.identity import parsed_json
from cas_cache.search.exact import require_faiss
from cas_cache.search.faiss_index import is_sound, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cas_cache.search.faiss_index import Design

logger = logging.getLogger(__name__)

VERSION = 2
"""Version of the JSON. Version 1 described indexes by kinds and parameters of cas_cache's own."""

SAFE_NAME = re.compile(r"[0-9A-Za-z_.-]{1,200}")
"""Permitted names of index files."""


@dataclass(frozen=True, slots=True)
class SavedIndex:
    """Content of the JSON.

    Attributes:
        file: The name of the file.
        index: The index as faiss's `index_factory` names it.
        metric: The metric that it was built for.
        rows: The number of first rows that the index covers.
        trained: The number of rows that existed when the index was trained.
        fingerprint: The fingerprint of the covered rows.
        sha256: The SHA-256 of the file, hex.
        faiss: The faiss version that wrote the file; informative only.
        version: The version of this format.
    """

    file: str
    index: str
    metric: str
    rows: int
    trained: int
    fingerprint: str
    sha256: str
    faiss: str
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

    def read(self, fingerprint: Callable[[int], str | None], *, mapped: bool = True) -> tuple[Any, SavedIndex] | None:
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
            if _sha256(path) != saved.sha256:
                logger.warning("%s is damaged, and is rebuilt", path)
                return None
            index = faiss.read_index(str(path), flags)
        except (OSError, RuntimeError) as err:
            logger.info("%s is not used (%s)", path, err)
            return None
        if not is_sound(index, self._design, self._dimensions, saved.rows):
            return None
        prepare(index, self._design)
        return index, saved

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
            sha256 = _sha256(temp)
            temp.replace(self._folder / name)
        finally:
            temp.unlink(missing_ok=True)
        flush(self._folder)
        design, version = self._design, str(faiss.__version__)
        saved = SavedIndex(name, str(design.index), design.metric, index.ntotal, trained, fingerprint, sha256, version)
        write_atomically(self._path, json.dumps(asdict(saved), indent=2).encode())
        for other in self._folder.glob(f"*{self._design.name}.*.index"):
            if other.name != name:
                with contextlib.suppress(OSError):
                    other.unlink()

    def _read_saved(self) -> SavedIndex | None:
        try:
            check_folder(self._folder.parent, self._folder)
            saved = SavedIndex(**parsed_json(read_plain(self._path)))
            plain = all(type(value) is int and value > 0 for value in (saved.rows, saved.trained))
            named = saved.file.startswith(f"{self._design.name}.") and SAFE_NAME.fullmatch(saved.file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            if not isinstance(err, FileNotFoundError):
                logger.info("%s is not used (%s)", self._path, err)
            return None
        designed = (saved.index, saved.metric, saved.version) == (self._design.index, self._design.metric, VERSION)
        return saved if plain and named and designed else None


def _sha256(path: Path) -> str:
    with os.fdopen(open_plain(path), "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
