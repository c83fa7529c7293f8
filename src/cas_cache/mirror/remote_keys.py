"""Index of the rows of one namespace that the repository has, without their vectors.

Keys and digests of complete packs are appended to two columns, and the manifests of these packs are kept beside them.
All of it is derived from the repository: if anything is wrong, it is discarded and read again. A damaged key is a miss,
and a damaged digest rejects a vector. Neither can let a wrong vector through, because the digest of a row covers the
requested key.

``catalogue/catalogue.json`` is the one commit point. It names the folder of the columns. The name of a discarded folder
is never used again.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cas_cache.errors import AlreadyClosed, DamagedMirror, LinkInMirror, MirrorReadError, MirrorWriteError, as_cause
from cas_cache.files.disk import check_folder, lock_of, read_plain, reading, write_atomically
from cas_cache.identity import KEY_BYTES, parsed_json, quoted
from cas_cache.mirror.column import Column
from cas_cache.mirror.descriptors import POOL, Pooled
from cas_cache.mirror.index import ABSENT, KeyIndex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

VERSION = 1

STATE_FILE = "catalogue.json"

READS = 3
"""Maximum number of attempts to read. Another process may discard the catalogue after its state and before its columns
are read."""


class RemotePack(NamedTuple):
    """A pack to add to the catalogue.

    Attributes:
        pack: The id of the pack.
        manifest: The bytes of its manifest, as stored.
        keys: (n, 32) uint8 keys.
        digests: (n,) uint64 digests.
    """

    pack: str
    manifest: bytes
    keys: NDArray[np.uint8]
    digests: NDArray[np.uint64]


class Located(NamedTuple):
    """Requested rows of one pack.

    Attributes:
        pack: The id of the pack.
        manifest: The bytes of its manifest, as stored.
        at: (m,) int64, positions among the requested keys.
        rows: (m,) int64, rows of the pack, ascending.
        digests: (m,) uint64, digests of these rows.
    """

    pack: str
    manifest: bytes
    at: NDArray[np.int64]
    rows: NDArray[np.int64]
    digests: NDArray[np.uint64]


class _State(NamedTuple):
    folder: str
    packs: dict[str, tuple[int, int, bytes]]
    """(first row, number of rows, manifest) by pack."""

    @property
    def rows(self) -> int:
        return sum(rows for _, rows, _ in self.packs.values())


class RemoteKeyIndex(Pooled):
    """The rows of one namespace that the repository is known to have.

    Args:
        folder: Folder of the catalogue; created when it is first written.
        namespace: The id of the namespace.
    """

    def __init__(self, folder: Path, namespace: str) -> None:
        super().__init__()
        self.folder = folder
        self._namespace = namespace
        self._handle = threading.RLock()
        self._stamp: tuple[int, int, int] | None = None
        self._closed = False
        self._reset()

    def __repr__(self) -> str:
        return f"RemoteKeyIndex({self._namespace}, packs={len(self._state.packs)})"

    @property
    def packs(self) -> frozenset[str]:
        """The packs whose keys the catalogue has."""
        with self.held(), self._handle:
            self._refresh()
            return frozenset(self._state.packs)

    @property
    def rows(self) -> int:
        """Number of rows of these packs, repeats included."""
        with self.held(), self._handle:
            self._refresh()
            return self._state.rows

    def close(self) -> None:
        """Drop the maps; any later use raises `AlreadyClosed`."""
        with self._handle:
            self._closed = True
            self._reset()
        POOL.discard(self)

    def _open_files(self) -> None:
        """Do nothing: `_refresh` reads everything again."""

    def _close_files(self) -> None:
        self._stamp = None
        self._reset()

    def locate(self, keys: NDArray[np.uint8], without: AbstractSet[str] = frozenset()) -> list[Located]:
        """Return the packs and rows that hold keys, by pack; keys that the catalogue does not have are skipped.

        Args:
            keys: (n, 32) uint8.
            without: Packs that could not be read. Their keys are looked up in the other packs.
        """
        with self.held(), self._handle:
            self._refresh()
            if not self._state.packs or not len(keys):
                return []
            rows = self._find(keys, without)
            positions = np.flatnonzero(rows != ABSENT)
            positions = positions[np.argsort(rows[positions], kind="stable")]
            rows = rows[positions]
            located = []
            for pack, (first, count, manifest) in self._state.packs.items():
                start, stop = np.searchsorted(rows, [first, first + count])
                if start < stop:
                    part = slice(start, stop)
                    digests = np.array(self._digests[rows[part]])
                    located.append(Located(pack, manifest, positions[part], rows[part] - first, digests))
            return located

    def _find(self, keys: NDArray[np.uint8], without: AbstractSet[str]) -> NDArray[np.int64]:
        """Return the row of each key in the key column, or ABSENT."""
        if not without:
            self._index.extend(self._keys)
            return self._index.find(keys, self._keys)
        # The index returns one row for a key, whichever packs hold it. Sorting the keys of the other packs again is
        # slow, and only needed after a pack could not be read.
        rows = np.full(len(keys), ABSENT, np.int64)
        for pack, (first, count, _) in self._state.packs.items():
            missing = np.flatnonzero(rows == ABSENT)
            if pack in without or not len(missing):
                continue
            part = self._keys[first : first + count]
            index = KeyIndex()
            index.extend(part)
            part_rows = index.find(keys[missing], part)
            rows[missing] = np.where(part_rows == ABSENT, ABSENT, part_rows + first)
        return rows

    def add(self, packs: Sequence[RemotePack]) -> None:
        """Add packs, in one commit. Packs that were added before are skipped.

        Raises:
            MirrorWriteError: If the disk is full or a write fails; the packs added before stay.
        """
        with self._locked():
            state = self._state
            fresh = {pack.pack: pack for pack in packs if pack.pack not in state.packs}
            if not fresh:
                return
            first = state.rows
            noted = dict(state.packs)
            at = first
            for pack in fresh.values():
                noted[pack.pack] = (at, len(pack.keys), pack.manifest)
                at += len(pack.keys)
            inner = self.folder / state.folder
            self._remove_discarded()
            inner.mkdir(exist_ok=True)
            values = [np.concatenate([getattr(pack, name) for pack in fresh.values()]) for name in ("keys", "digests")]
            try:
                for column, rows in zip(_columns(inner), values, strict=True):
                    column.write(first, rows)
                    column.set_rows(at)
                self._commit(_State(state.folder, noted))
            except OSError:
                self._truncate_uncommitted(inner)
                raise
            self._index.extend(self._keys)
            self._index.save(self._keys)

    def _truncate_uncommitted(self, inner: Path) -> None:
        """Truncate the bytes that a failed write left after the committed rows: the disk may be full."""
        self._refresh(force=True)  # the state may have been committed although the write reported an error
        for column in _columns(inner):
            column.cut(self._state.rows if self._state.folder == inner.name else 0)

    def forget(self) -> None:
        """Discard the catalogue; the next lazy pull reads it from the repository.

        Raises:
            MirrorWriteError: If a write fails.
        """
        if not self.folder.exists():
            return
        with self._locked():
            if self._state.packs:
                # A new name: processes that have mapped the old columns must not take later ones for them.
                self._commit(_State(secrets.token_hex(8), {}))
            self._remove_discarded()

    def _reset(self) -> None:
        self._state = _State(secrets.token_hex(8), {})
        self._keys: NDArray[np.uint8] = np.empty((0, KEY_BYTES), np.uint8)
        self._digests: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._index, self._indexed = KeyIndex(), ""

    def _refresh(self, *, force: bool = False) -> None:
        """Read the committed state. A damaged catalogue counts as empty."""
        if self._closed:
            raise AlreadyClosed(f"{self.folder} was closed with its mirror. Open the cache or the mirror again.")
        for _ in range(READS):
            try:
                with reading(self.folder):
                    status = (self.folder / STATE_FILE).lstat()
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
                if stamp == self._stamp and not force:
                    return
                check_folder(self.folder)
                self._adopt(_parse_state(read_plain(self.folder / STATE_FILE), self._namespace))
                self._stamp = stamp
            except FileNotFoundError:
                break
            except (LinkInMirror, MirrorReadError):
                raise
            except (ValueError, KeyError, TypeError, AttributeError, DamagedMirror, OSError) as err:
                problem = str(err)  # not the error: with its traceback and this frame it makes a cycle
            else:
                return
        else:
            logger.warning("the remote keys in %s are damaged and dropped: %s", self.folder, problem)
        self._stamp = None
        self._reset()

    def _adopt(self, state: _State) -> None:
        inner = self.folder / state.folder
        check_folder(inner)
        keys, digests = (column.map(state.rows) for column in _columns(inner))
        if state.folder != self._indexed:
            self._index, self._indexed = KeyIndex(inner), state.folder
        self._state, self._keys, self._digests = state, keys, digests

    def _commit(self, state: _State) -> None:
        document = {
            "version": VERSION,
            "namespace": self._namespace,
            "folder": state.folder,
            "packs": [[pack, rows, manifest.decode()] for pack, (_, rows, manifest) in state.packs.items()],
        }
        write_atomically(self.folder / STATE_FILE, json.dumps(document, separators=(",", ":")).encode())
        self._refresh(force=True)

    def _remove_discarded(self) -> None:
        """Remove the columns of discarded catalogues; a process that has mapped them keeps its maps."""
        for other in self.folder.iterdir():
            if other.is_dir() and other.name != self._state.folder:
                shutil.rmtree(other, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the only writer, after reading all commits of others."""
        check_folder(self.folder)
        try:
            self.folder.mkdir(exist_ok=True)
            with lock_of(self.folder / ".lock"), self.held(), self._handle:
                self._refresh(force=True)
                yield
        except MirrorReadError:
            raise
        except OSError as err:
            raise MirrorWriteError(
                f"{self.folder} cannot be written ({err}). Nothing is lost. Make room, or make it writable, and do "
                "the same again."
            ) from as_cause(err)


def _columns(folder: Path) -> tuple[Column, Column]:
    return (
        Column(folder / "keys.npy", np.dtype(np.uint8), (KEY_BYTES,)),
        Column(folder / "digests.npy", np.dtype("<u8"), ()),
    )


def _parse_state(data: bytes, namespace: str) -> _State:
    document: dict[str, Any] = parsed_json(data)
    if document["version"] != VERSION or document["namespace"] != namespace:
        msg = f"version {quoted(document['version'])} of namespace {quoted(document['namespace'])}"
        raise ValueError(msg)
    folder = document["folder"]
    if not isinstance(folder, str) or not folder.isalnum():
        msg = f"folder {quoted(folder)}"
        raise ValueError(msg)
    packs: dict[str, tuple[int, int, bytes]] = {}
    at = 0
    for pack, rows, manifest in document["packs"]:
        if type(rows) is not int or rows < 1:
            msg = f"{quoted(rows)} rows"
            raise ValueError(msg)
        packs[str(pack)] = (at, rows, manifest.encode())
        at += rows
    return _State(folder, packs)
