"""`Manifest` <-> bytes: it makes a pack visible, and it alone says what the pack contains. Pure.

Strict on write. On read, every value is checked for type and range before it is used, and version and features before
everything else. Fields of later versions that no feature guards are ignored.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import UnsupportedFormat
from cas_cache.format.layout import chunk_name, is_object_name
from cas_cache.format.rows import DTYPES, row_bytes
from cas_cache.identity import KEY_BYTES, canonical_json, parsed_json, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

FORMAT = "cas-cache-pack"
VERSION = 1
KNOWN_FEATURES: frozenset[str] = frozenset()
MAX_MANIFEST_BYTES = 4 << 20
"""Maximum size of a manifest. An object takes about 130 bytes of it, and a pack has some twenty objects."""

ARRAYS = ("keys", "vectors", "digests")

MAX_DIMENSIONS = 32
"""Maximum number of dimensions of an array. NumPy long had this limit, and names of chunks have it."""


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """An object of a pack: its size in bytes and the hex SHA-256 of its content."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes | memoryview) -> ObjectRecord:
        """Return the record of an object with this content."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class Signature:
    """Signature of a manifest; see `signing`. Its presence proves nothing: it must be verified.

    Attributes:
        key: The public key.
        value: The signature in base64.
    """

    key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Description of one pack.

    Attributes:
        namespace: Id of the namespace that the rows belong to.
        rows: Number of rows, at least 1.
        dtype: Dtype of the vectors, a name in `rows.DTYPES`; stored little-endian.
        shape: Shape of one vector.
        chunk_rows: For each array, the number of rows of one chunk.
        objects: Every object of the pack by its name below the pack.
        supersedes: Ids of packs whose rows are all in this one.
        nonce: Hex digits that make the id of this pack different from any other's ever.
        signature: Signature over the rest of the manifest, or None.
        source_rows: Number of rows from each pack of `supersedes`, in that order; empty if the writer did not say.
        appearance: Digest of the appearance of the encoder that made all rows; None if there were several, or the
            writer did not say. A hint: nothing is trusted because of it.
    """

    namespace: str
    rows: int
    dtype: str
    shape: tuple[int, ...]
    chunk_rows: Mapping[str, int]
    objects: Mapping[str, ObjectRecord]
    nonce: str
    supersedes: tuple[str, ...] = ()
    signature: Signature | None = None
    source_rows: tuple[int, ...] = ()
    appearance: str | None = None

    @property
    def vector_bytes(self) -> int:
        """Size of one vector in bytes."""
        return row_bytes(np.dtype(self.dtype), self.shape)

    @property
    def total_vector_bytes(self) -> int:
        """Size of all vectors in bytes."""
        return self.rows * self.vector_bytes

    def element_shape(self, array: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Return dtype and row shape of one of the arrays."""
        if array == "keys":
            return np.dtype(np.uint8), (KEY_BYTES,)
        if array == "digests":
            return np.dtype("<u8"), ()
        return np.dtype(self.dtype).newbyteorder("<"), self.shape

    def chunks(self, array: str) -> list[tuple[str, int, int]]:
        """Return (object name, first row, row after the last) for each chunk of an array, in order."""
        step = self.chunk_rows[array]
        dimensions = 1 + len(self.element_shape(array)[1])
        return [
            (chunk_name(array, i, dimensions), start, min(start + step, self.rows))
            for i, start in enumerate(range(0, self.rows, step))
        ]

    def sources(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return, for each of these rows, the position in `supersedes` of its pack; None if this pack is not a merge.

        If the writer did not say how many rows each pack contributed, they count as equal shares.
        """
        if not self.supersedes:
            return None
        counts = self.source_rows
        ends = np.cumsum(counts) if counts else np.linspace(0, self.rows, len(self.supersedes) + 1)[1:]
        return np.searchsorted(ends, rows, "right")

    def is_merge_of(self, packs: AbstractSet[str]) -> bool:
        """Return True if every row of this pack is also in one of `packs`: it merges nothing but some of them."""
        return bool(self.supersedes) and packs >= set(self.supersedes)

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON: the stored bytes, whose hash is the pack's id."""
        optional: dict[str, Any] = {}
        if self.signature is not None:
            optional["signature"] = asdict(self.signature)
        if self.source_rows:
            optional["source_rows"] = list(self.source_rows)
        if self.appearance is not None:
            optional["appearance"] = self.appearance
        return canonical_json(
            {
                "format": FORMAT,
                "version": VERSION,
                "features": [],
                "namespace": self.namespace,
                "rows": self.rows,
                "dtype": self.dtype,
                "shape": list(self.shape),
                "chunk_rows": dict(self.chunk_rows),
                "objects": {n: {"size": r.size, "sha256": r.sha256} for n, r in self.objects.items()},
                "supersedes": list(self.supersedes),
                "nonce": self.nonce,
                **optional,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse a manifest.

        Raises:
            UnsupportedFormat: If its version or one of its features is unknown.
            ValueError: If it is not a valid manifest; the caller knows the pack and reports it.
        """
        document = _object(parsed_json(data), "manifest")
        if document.get("format") != FORMAT:
            msg = f"format is {quoted(document.get('format'))}"
            raise ValueError(msg)
        unknown = sorted(set(_strings(document.get("features", []))) - KNOWN_FEATURES)
        if document.get("version") != VERSION or unknown:
            asks = f" with features {quoted(unknown)}" if unknown else ""
            raise UnsupportedFormat(
                f"A pack was written by a newer cas_cache, in format version {quoted(document.get('version'))}{asks}. "
                "Update cas_cache to read it."
            )
        manifest = cls(
            namespace=_matching(document.get("namespace"), r"[0-9a-f]{32}"),
            rows=_count(document.get("rows"), least=1),
            dtype=_matching(document.get("dtype"), "|".join(sorted(DTYPES))),
            shape=tuple(_count(n, least=1) for n in _list(document.get("shape"))),
            chunk_rows={a: _count(n, least=1) for a, n in _object(document.get("chunk_rows"), "chunk_rows").items()},
            objects={
                _object_name(n): _record(_object(r, n)) for n, r in _object(document.get("objects"), "objects").items()
            },
            supersedes=tuple(_matching(p, r"[0-9a-f]{64}") for p in _list(document.get("supersedes"))),
            nonce=_matching(document.get("nonce"), r"[0-9a-f]{32,64}"),
            signature=_signature(document.get("signature")),
            source_rows=tuple(_count(n) for n in _list(document.get("source_rows", []))),
            appearance=_optional(document.get("appearance"), r"[0-9a-f]{32}"),
        )
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Raise an error unless the objects include every chunk with the size that it must have."""
        if set(self.chunk_rows) != set(ARRAYS) or not 1 <= len(self.shape) < MAX_DIMENSIONS:
            msg = f"arrays {quoted(sorted(self.chunk_rows))}, {len(self.shape)} dimensions of a vector"
            raise ValueError(msg)
        if self.source_rows and (len(self.source_rows), sum(self.source_rows)) != (len(self.supersedes), self.rows):
            msg = f"{len(self.source_rows)} counts of {sum(self.source_rows)} rows in source_rows"
            raise ValueError(msg)
        for array in ARRAYS:
            dtype, shape = self.element_shape(array)
            size = row_bytes(dtype, shape) * self.chunk_rows[array]
            # Bounded by the objects that exist, not by what `rows` claims.
            chunks = -(-self.rows // self.chunk_rows[array])
            if chunks > len(self.objects):
                msg = f"{chunks} chunks of {array}, {len(self.objects)} objects"
                raise ValueError(msg)
            for name, _, _ in self.chunks(array):
                if name not in self.objects or self.objects[name].size != size:
                    msg = f"{name} is not among the objects with {size} bytes"
                    raise ValueError(msg)


def superseders(manifests: Mapping[str, Manifest]) -> dict[str, list[str]]:
    """Return, for each superseded pack, the packs of `manifests` that supersede it.

    Args:
        manifests: Manifests by pack.
    """
    later: dict[str, list[str]] = {}
    for pack, manifest in manifests.items():
        for source in manifest.supersedes:
            later.setdefault(source, []).append(pack)
    return later


def pack_id(manifest: bytes) -> str:
    """Return the id of the pack that a manifest describes: the hex SHA-256 of its bytes."""
    return hashlib.sha256(manifest).hexdigest()


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = f"{what} is not an object"
        raise ValueError(msg)  # noqa: TRY004 - malformed data, not a caller's mistake
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        msg = f"{quoted(value)} is not a list"
        raise ValueError(msg)  # noqa: TRY004
    return value


def _record(value: dict[str, Any]) -> ObjectRecord:
    return ObjectRecord(_count(value.get("size")), _matching(value.get("sha256"), r"[0-9a-f]{64}"))


def _signature(value: Any) -> Signature | None:
    if value is None:
        return None
    document = _object(value, "signature")
    return Signature(_matching(document.get("key"), ".*"), _matching(document.get("value"), ".*"))


def _strings(value: Any) -> list[str]:
    return [_matching(v, ".*") for v in _list(value)]


def _count(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 2**63:
        msg = f"{quoted(value)} is not a count of at least {least}"
        raise ValueError(msg)
    return value


def _matching(value: Any, pattern: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        msg = f"{quoted(value)} does not match {pattern}"
        raise ValueError(msg)
    return value


def _optional(value: Any, pattern: str) -> str | None:
    return None if value is None else _matching(value, pattern)


def _object_name(name: str) -> str:
    if not is_object_name(name):
        msg = f"{quoted(name)} is not an object of a pack"
        raise ValueError(msg)
    return name
