"""A cache backend of others, and what proves its answers.

::

    <mirror>/<task name>/<namespace>/spec.json      whose vectors
                                    /backend.json   which backend keeps them, dtype and shape of a vector
                                    /proofs/        what it was given: SHA-256 over key and vector
                                    /...            the backend's own files

An answer is served if it is, bit for bit, a vector that the encoder once made for that item and the backend gave back.
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
from cas_cache.mteb.backends import bits_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.identity import EncoderSpec

METHODS = ("add", "get_vector", "save", "load", "close", "__contains__")
"""What mteb's `CacheBackendProtocol` asks for, besides a constructor that takes a folder."""

SPEC_FILE = "spec.json"
KIND_FILE = "backend.json"
PROOFS = "proofs"


class Kept:
    """One backend, and what proves its answers.

    Attributes:
        backend: It.
        folder: Where it keeps its files.
    """

    def __init__(self, make: Callable[[Path], Any], folder: Path, spec: EncoderSpec) -> None:
        self.folder = folder
        self._spec = spec
        self._kind: tuple[np.dtype[Any], tuple[int, ...]] | None = None
        is_new = not (folder / KIND_FILE).exists()
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
                "says what it needs."
            )
        if not is_new:
            self._read_kind()
        with warnings.catch_warnings():
            if is_new:
                warnings.simplefilter("ignore")  # mteb's warn that there is nothing yet
            try:
                self.backend.load()
            except OSError as err:
                if isinstance(err, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                    raise self._cannot_load(err) from err
                raise read_error(folder, err) from err
            except Exception as err:
                raise self._cannot_load(err) from err

    def _cannot_load(self, err: Exception) -> DamagedMirror:
        return DamagedMirror(f"{self._name} cannot load what is in {self.folder} ({err!r}). {self._way_out}")

    @property
    def _way_out(self) -> str:
        return f"Move {self.folder} elsewhere: its vectors may be nowhere else. They are encoded again."

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector, 0 while there is none."""
        return 0 if self._kind is None else row_bytes(*self._kind)

    def nothing(self, encode: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        """Return the answer to a call of no items."""
        if self._kind is None:
            return as_array(encode(np.zeros(0, np.int64)))
        return np.empty((0, *self._kind[1]), self._kind[0])

    def find(self, keys: NDArray[np.uint8], items: list[dict[str, Any]]) -> list[NDArray[Any] | None]:
        """Return the vector of each item, None where there is none that is proved to be its.

        Args:
            keys: (n, 32) uint8, distinct.
            items: The n items.
        """
        found: list[NDArray[Any] | None] = [None] * len(items)
        if self._kind is None:
            return found
        held = {n: one for n, one in enumerate(self._held(items)) if one is not None and one.shape == self._kind[1]}
        if held:
            at, vectors = list(held), np.stack(list(held.values()))
            proved = self._proofs.find(_proofs(keys[at], vectors)) != ABSENT
            for n, vector, good in zip(at, vectors, proved, strict=True):
                found[n] = vector if good else None
        return found

    def add(self, keys: NDArray[np.uint8], items: list[dict[str, Any]], vectors: NDArray[Any]) -> None:
        """Have the backend keep vectors, and prove that it does. NaN and infinite ones are left out.

        Args:
            keys: (n, 32) uint8, distinct.
            items: The n items; what the backend has of them is not proved to be theirs.
            vectors: (n, *shape), as `rows.storable` gives them.

        Raises:
            ShapeMismatch: If dtype or row shape are not those of the vectors before.
            ConfigurationError: If the backend gives back anything else.
        """
        self._check_kind(vectors)
        held = self._held(items)
        finite = finite_rows(vectors)
        # What a backend has is never added again: some overwrite, some shift every row after it.
        new = np.array([vector is None for vector in held], np.bool_) & finite
        left_out = int((~finite).sum())
        if left_out:
            warnings.warn(
                f"{left_out} vectors of {self._spec.model} hold NaN or infinity. They were given back, not stored.",
                DataWarning,
                stacklevel=5,
            )
        if new.any():
            chosen = [item for item, is_new in zip(items, new, strict=True) if is_new]
            self.backend.add(chosen, vectors[new])
            self.backend.save()
            held = self._held(items)
        same = np.array([_same(one, vector) for one, vector in zip(held, vectors, strict=True)], np.bool_)
        if (finite & ~same).any():
            self._refuse(items, new & ~same, finite & ~same, vectors.dtype)
        if same.any():
            proofs = _proofs(keys[same], vectors[same])
            self._proofs.append(proofs, np.zeros((len(proofs), 1), np.uint8))

    def _held(self, items: list[dict[str, Any]]) -> list[NDArray[Any] | None]:
        """What the backend has, as it would be served."""
        return [None if got is None else self._as_kept(got) for got in map(self.backend.get_vector, items)]

    def _as_kept(self, got: Any) -> NDArray[Any]:
        """An answer in the encoder's dtype, which backends may widen."""
        vector = as_array(got)
        if self._kind is None or vector.size != np.prod(self._kind[1]):
            return vector
        with np.errstate(all="ignore"):  # what does not fit is not what was given, which shows
            return vector.reshape(self._kind[1]).astype(self._kind[0])

    def _refuse(
        self, items: list[dict[str, Any]], new: NDArray[np.bool_], wrong: NDArray[np.bool_], dtype: np.dtype[Any]
    ) -> None:
        """Say that answers are not what was given.

        Args:
            items: The n items.
            new: (n,) which of them were given just now and did not come back.
            wrong: (n,) which of them have another vector.
            dtype: The encoder's.

        Raises:
            ConfigurationError: If the backend cannot keep what it is given.
        """
        got = self.backend.get_vector(items[int(np.flatnonzero(wrong)[0])])
        answered = None if got is None else as_array(got).dtype
        rounds = answered is not None and not np.can_cast(dtype, answered, "safe")
        if rounds or new.any():
            what = f"answers in {answered} what is {dtype}" if rounds else "does not give back what it was given"
            raise ConfigurationError(
                f"{self._name} {what}, for {int(wrong.sum())} of {len(items)} items of {self._spec.model}. Nothing of "
                f"it was served. Use the mirror (no cache_backend=)."
            )
        warnings.warn(
            f"{self._name} has {int(wrong.sum())} vectors in {self.folder} that are not what it was given. They are "
            "encoded at every run. Use the mirror (no cache_backend=), or move that folder elsewhere: its other "
            "vectors may be nowhere else.",
            DataWarning,
            stacklevel=6,
        )

    def _check_kind(self, vectors: NDArray[Any]) -> None:
        kind = (vectors.dtype, vectors.shape[1:])
        if self._kind is None:
            self._kind = kind
            document = {"backend": self._name, "dtype": vectors.dtype.name, "shape": list(vectors.shape[1:])}
            try:
                write_atomically(self.folder / KIND_FILE, json.dumps(document).encode())
            except OSError as err:
                raise MirrorWriteError(f"Writing to {self.folder} failed ({err}). Make room and run again.") from err
        if self._kind != kind:
            raise ShapeMismatch(
                f"{self.folder} holds {self._kind[0]} vectors of shape {self._kind[1]}; the encoder answered with "
                f"{kind[0]} of shape {kind[1]}, which were not stored."
            )

    def _read_kind(self) -> None:
        path = self.folder / KIND_FILE
        try:
            document = parsed_json(read_plain(path))
            name, dtype, shape = document["backend"], document["dtype"], tuple(document["shape"])
            if dtype not in DTYPES or not all(type(n) is int and n > 0 for n in shape):
                msg = f"vectors of {quoted(dtype)} and shape {quoted(shape)}"
                raise ValueError(msg)
            self._kind = np.dtype(dtype), shape
        except MirrorReadError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise DamagedMirror(f"{path} is damaged ({err!r}). {self._way_out}") from err
        if name != self._name:
            raise ConfigurationError(
                f"{self.folder} is kept by {name}, and cache_backend is {self._name} now. Pass the same as before, "
                "or name another cache_path."
            )


def _same(one: NDArray[Any] | None, vector: NDArray[Any]) -> bool:
    if one is None or (one.dtype, one.shape) != (vector.dtype, vector.shape):
        return False
    return one.tobytes() == vector.tobytes()


def _proofs(keys: NDArray[np.uint8], vectors: NDArray[Any]) -> NDArray[np.uint8]:
    """(n, 32) uint8, the SHA-256 over each key and the bytes of its vector."""
    rows = zip(keys, bits_of(vectors), strict=True)
    digests = b"".join(hashlib.sha256(key.tobytes() + row.tobytes()).digest() for key, row in rows)
    return np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)
