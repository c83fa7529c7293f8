"""A custom cache backend whose answers are verified before they are served.

::

    <mirror>/<task name>/<namespace>/spec.json      the encoder spec
                                    /backend.json   the backend's class, and dtype and shape of a vector
                                    /proofs/        a namespace whose keys are SHA-256 over key and vector
                                    /...            the backend's own files

Each chunk is read back as soon as the backend has stored it, and what came back unchanged gets a proof. A vector is
served only if its hash is among the proofs: if it is, bit for bit, a vector that the encoder returned for that item and
that the backend gave back. So a backend that shifts rows, rounds them, loses some or is written by two processes costs
encodings, never a score.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import (
    ConfigurationError,
    DamagedMirror,
    DataWarning,
    MirrorReadError,
    MirrorWriteError,
    ShapeMismatch,
)
from cas_cache.files.disk import check_folder, read_error, read_plain, write_atomically
from cas_cache.format.rows import DTYPES, as_array, finite_rows, row_bytes
from cas_cache.identity import KEY_BYTES, parsed_json, quoted
from cas_cache.mirror import Namespace
from cas_cache.mirror.index import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.identity import EncoderSpec

METHODS = ("add", "get_vector", "save", "load", "close", "__contains__")
"""The methods of mteb's `CacheBackendProtocol`; its constructor takes a folder."""

SPEC_FILE = "spec.json"
BACKEND_FILE = "backend.json"
PROOFS = "proofs"


class VerifiedBackend:
    """One custom backend, and the proofs of its vectors.

    Attributes:
        backend: The custom backend.
        folder: The folder of its files.
    """

    def __init__(self, make: Callable[[Path], Any], folder: Path, spec: EncoderSpec) -> None:
        self.folder = folder
        self._spec = spec
        self._row: tuple[np.dtype[Any], tuple[int, ...]] | None = None
        """Dtype and shape of a vector; None before the first."""
        is_new = not (folder / BACKEND_FILE).exists()
        check_folder(folder / PROOFS)
        try:
            (folder / PROOFS).mkdir(parents=True, exist_ok=True)
            write_atomically(folder / SPEC_FILE, spec.canonical(), create_only=True)
        except OSError as err:
            raise MirrorWriteError(f"Making {folder} failed ({err}). Make room, or use another directory.") from err
        self._proofs = Namespace(folder / PROOFS, spec)
        self.backend = make(folder)
        self._name = f"{type(self.backend).__module__}.{type(self.backend).__qualname__}"
        missing = [method for method in METHODS if not hasattr(self.backend, method)]
        if missing:
            raise ConfigurationError(
                f"{self._name} is not a cache backend: it has no {', '.join(missing)}. mteb's CacheBackendProtocol "
                "lists what it needs."
            )
        if not is_new:
            self._read_description()
        with warnings.catch_warnings():
            if is_new:
                warnings.simplefilter("ignore")  # mteb's backends warn that nothing is stored yet
            self._load()

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector, 0 before the first."""
        return 0 if self._row is None else row_bytes(*self._row)

    def empty(self, encode: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        """Return the answer to a call without items."""
        if self._row is None:
            return as_array(encode(np.zeros(0, np.int64)))
        return np.empty((0, *self._row[1]), self._row[0])

    def find(self, keys: NDArray[np.uint8], items: list[dict[str, Any]]) -> list[NDArray[Any] | None]:
        """Return the vector of each item, None where the backend has none that is proved to be the item's.

        Args:
            keys: (n, 32) uint8, distinct.
            items: The n items.
        """
        answers: list[NDArray[Any] | None] = [None] * len(items)
        if self._row is None:
            return answers
        stored = {n: v for n, v in enumerate(self._read(items)) if v is not None and v.shape == self._row[1]}
        if stored:
            positions, vectors = list(stored), np.stack(list(stored.values()))
            proved = self._proofs.find(_proofs(keys[positions], vectors)) != ABSENT
            for n, vector, is_proved in zip(positions, vectors, proved, strict=True):
                answers[n] = vector if is_proved else None
        return answers

    def add(self, keys: NDArray[np.uint8], items: list[dict[str, Any]], vectors: NDArray[Any]) -> None:
        """Store vectors in the backend, and read them back. Vectors with NaN or infinity are not stored.

        Args:
            keys: (n, 32) uint8, distinct.
            items: The n items. If the backend has a vector for one of them, it is not proved to be the item's.
            vectors: (n, *shape), as `rows.storable` returns them.

        Raises:
            ShapeMismatch: If dtype or row shape are not those of earlier vectors.
            ConfigurationError: If the backend returns anything else than it was given.
        """
        self._check_row(vectors)
        stored = self._read(items)
        finite = finite_rows(vectors)
        # An item that a backend has is never added again: some overwrite, some shift every row after it.
        new = np.array([vector is None for vector in stored], np.bool_) & finite
        skipped = int((~finite).sum())
        if skipped:
            warnings.warn(
                f"{skipped} vectors of {self._spec.model} hold NaN or infinity. They were returned, not stored.",
                DataWarning,
                stacklevel=5,
            )
        if new.any():
            self.backend.add([item for item, is_new in zip(items, new, strict=True) if is_new], vectors[new])
            self.backend.save()
            stored = self._read(items)
        same = np.array([_is_same(back, vector) for back, vector in zip(stored, vectors, strict=True)], np.bool_)
        wrong = finite & ~same
        if wrong.any():
            self._reject(
                items[int(np.flatnonzero(wrong)[0])], int(wrong.sum()), vectors, is_new=bool((new & ~same).any())
            )
        if same.any():
            proofs = _proofs(keys[same], vectors[same])
            self._proofs.append(proofs, np.zeros((len(proofs), 1), np.uint8))

    def _read(self, items: list[dict[str, Any]]) -> list[NDArray[Any] | None]:
        """Return what the backend has for items, in the encoder's dtype, which backends may widen."""
        answers = map(self.backend.get_vector, items)
        return [None if answer is None else self._narrowed(as_array(answer)) for answer in answers]

    def _narrowed(self, vector: NDArray[Any]) -> NDArray[Any]:
        if self._row is None or vector.size != np.prod(self._row[1]):
            return vector
        with np.errstate(all="ignore"):  # a value that does not fit differs from what was given, which shows
            return vector.reshape(self._row[1]).astype(self._row[0])

    def _reject(self, item: dict[str, Any], count: int, vectors: NDArray[Any], *, is_new: bool) -> None:
        """Report vectors that are not what the backend was given.

        Args:
            item: The first item with another vector.
            count: Number of items with another vector.
            vectors: (n, *shape), the encoder's vectors.
            is_new: The backend received one of these items just now.

        Raises:
            ConfigurationError: If the backend cannot store what it is given.
        """
        answer = self.backend.get_vector(item)
        answered = None if answer is None else as_array(answer).dtype
        rounds = answered is not None and not np.can_cast(vectors.dtype, answered, "safe")
        if rounds or is_new:
            what = (
                f"answers in {answered} what is {vectors.dtype}" if rounds else "does not give back what it was given"
            )
            raise ConfigurationError(
                f"{self._name} {what}, for {count} of {len(vectors)} items of {self._spec.model}. None of these "
                "vectors was served. Use the mirror (no cache_backend=)."
            )
        warnings.warn(
            f"{self._name} has {count} vectors in {self.folder} that are not what it was given. They are encoded in "
            "every run. Use the mirror (no cache_backend=), or move that folder elsewhere: it may hold the only copy "
            "of its other vectors.",
            DataWarning,
            stacklevel=6,
        )

    def _check_row(self, vectors: NDArray[Any]) -> None:
        row = (vectors.dtype, vectors.shape[1:])
        if self._row is None:
            self._row = row
            document = {"backend": self._name, "dtype": vectors.dtype.name, "shape": list(vectors.shape[1:])}
            try:
                write_atomically(self.folder / BACKEND_FILE, json.dumps(document).encode())
            except OSError as err:
                raise MirrorWriteError(f"Writing to {self.folder} failed ({err}). Make room and run again.") from err
        if self._row != row:
            raise ShapeMismatch(
                f"{self.folder} holds {self._row[0]} vectors of shape {self._row[1]}; the encoder answered with "
                f"{row[0]} of shape {row[1]}, which were not stored."
            )

    def _read_description(self) -> None:
        path = self.folder / BACKEND_FILE
        try:
            document = parsed_json(read_plain(path))
            name, dtype, shape = document["backend"], document["dtype"], tuple(document["shape"])
            if dtype not in DTYPES or not all(type(n) is int and n > 0 for n in shape):
                msg = f"vectors of {quoted(dtype)} and shape {quoted(shape)}"
                raise ValueError(msg)
            self._row = np.dtype(dtype), shape
        except MirrorReadError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise self._damaged(f"{path} is damaged ({err!r}).") from err
        if name != self._name:
            raise ConfigurationError(
                f"{self.folder} belongs to {name}, and cache_backend is {self._name} now. Pass the same backend as "
                "before, or another cache_path."
            )

    def _load(self) -> None:
        try:
            self.backend.load()
        except Exception as err:
            if isinstance(err, OSError) and not isinstance(
                err, FileNotFoundError | NotADirectoryError | IsADirectoryError
            ):
                raise read_error(self.folder, err) from err
            raise self._damaged(f"{self._name} cannot load the files in {self.folder} ({err!r}).") from err

    def _damaged(self, problem: str) -> DamagedMirror:
        return DamagedMirror(
            f"{problem} Move {self.folder} elsewhere: it may hold the only copy of its vectors. They are encoded again."
        )


def _is_same(stored: NDArray[Any] | None, vector: NDArray[Any]) -> bool:
    if stored is None or (stored.dtype, stored.shape) != (vector.dtype, vector.shape):
        return False
    return stored.tobytes() == vector.tobytes()


def _proofs(keys: NDArray[np.uint8], vectors: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (n, 32) uint8: the SHA-256 over each key and the bytes of its vector."""
    rows = zip(keys, np.ascontiguousarray(vectors), strict=True)
    digests = b"".join(hashlib.sha256(key.tobytes() + row.tobytes()).digest() for key, row in rows)
    return np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)
