"""Check one pack against its manifest: the listed objects and, if requested, their content.

Objects are read in the order of their first rows, each once. Keys, vectors and digests of a row therefore meet while at
most one chunk of each array is in memory, in addition to the few that are being fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import DamagedPack, ObjectNotFound, UnreadablePack
from cas_cache.format import layout
from cas_cache.format.manifest import ARRAYS, Manifest, ObjectRecord
from cas_cache.format.rows import digest_rows, row_bytes
from cas_cache.format.zarr_metadata import zarr_documents
from cas_cache.identity import parsed_json, quoted
from cas_cache.repository.check_report import CheckFinding, Severity, finding
from cas_cache.repository.reading import get_of_pack
from cas_cache.storage.threads import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from cas_cache.storage.interface import Storage

MAX_KEYS = 1 << 22
"""Maximum number of keys remembered to count duplicates: 8 B each, 32 MiB. With more keys, a sample is counted and the
result is an estimate."""

METADATA = ("zarr.json", *(f"{array}/zarr.json" for array in ARRAYS))


class KeyCount:
    """Counts repeated keys in bounded memory.

    Keys are hashes, so the keys whose first 64 bits are below a limit are a fair sample. The limit is halved when too
    many keys are held.
    """

    def __init__(self) -> None:
        self._held: list[NDArray[np.uint64]] = []
        self._count = 0
        self._halvings = 0

    def add(self, keys: NDArray[np.uint8]) -> None:
        """Add keys, (n, 32) uint8."""
        self._hold(self._below_limit(np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0].astype(np.uint64)))
        # After 63 halvings only keys that begin with 63 zero bits are left. Such keys exist only if they are forged.
        while self._count > MAX_KEYS and self._halvings < 63:
            self._halvings += 1
            held, self._held, self._count = np.concatenate(self._held), [], 0
            self._hold(self._below_limit(held))

    @property
    def repeats(self) -> int:
        """Number of repeated keys; an estimate beyond `MAX_KEYS` keys."""
        distinct = len(np.unique(np.concatenate(self._held))) if self._held else 0
        return (self._count - distinct) << self._halvings

    def _hold(self, words: NDArray[np.uint64]) -> None:
        self._held.append(words)
        self._count += len(words)

    def _below_limit(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return words[words <= np.uint64((1 << 64 - self._halvings) - 1)]


@dataclass(frozen=True, slots=True)
class PackCheck:
    """The check of one pack.

    Attributes:
        storage: The storage of the repository.
        ref: Ids of the namespace and of the pack.
        manifest: The pack's manifest.
    """

    storage: Storage
    ref: layout.PackRef
    manifest: Manifest

    def findings(self, sizes: Mapping[str, int], keys: KeyCount | None) -> list[CheckFinding]:
        """Return the problems of the pack.

        Args:
            sizes: Sizes of its objects by name, from a listing.
            keys: Collects the pack's keys if its data is to be read; None if it is not.
        """
        if self._wrong_sizes(sizes):
            prefix = f"packs/{self.ref.pack}"
            sizes = {entry.path[len(prefix) + 1 :]: entry.size for entry in self.storage.list(prefix)}
        wrong = self._wrong_sizes(sizes)
        findings = [self._object_finding(kind, name, what) for name, (kind, what) in wrong.items()]
        findings += [self._metadata_finding(name, "The manifest does not name it.") for name in self._unnamed()]
        for name in sorted(sizes.keys() - self.manifest.objects.keys()):
            path = f"{layout.pack_prefix(self.ref.pack)}/{name}"  # not `object_path`, because the name may be anything
            findings.append(finding("foreign", path, "The manifest does not name it.", ref=self.ref))
        if keys is not None:
            findings += self._row_findings(wrong.keys(), keys)
        if any(item.severity != Severity.NOTE for item in findings) and self._has_gone():
            return []
        return findings

    def _wrong_sizes(self, sizes: Mapping[str, int]) -> dict[str, tuple[str, str]]:
        wrong = {}
        for name, record in sorted(self.manifest.objects.items()):
            if name not in sizes:
                wrong[name] = ("object-missing", "It is not listed.")
            elif sizes[name] != record.size:
                wrong[name] = ("object-size", f"It has {sizes[name]} bytes, and should have {record.size}.")
        return wrong

    def _unnamed(self) -> list[str]:
        return [name for name in METADATA if name not in self.manifest.objects]

    def _has_gone(self) -> bool:
        """Return True if the manifest was deleted meanwhile: a prune deletes it before the data."""
        try:
            self.storage.get(layout.manifest_path(*self.ref), 0, 1)
        except ObjectNotFound:
            return True
        return False

    def _row_findings(self, skipped: Any, keys: KeyCount) -> Iterator[CheckFinding]:
        """Fetch and check every object once; then check the rows whose chunks are all verified."""
        chunks = [(array, *chunk) for array in ARRAYS for chunk in self.manifest.chunks(array)]
        chunks.sort(key=lambda chunk: (chunk[2], ARRAYS.index(chunk[0])))
        of_rows = {name for _, name, _, _ in chunks}
        rest = [("", name, 0, 0) for name in sorted(self.manifest.objects.keys() - of_rows)]
        todo = rest + chunks
        fetched = ordered_map(lambda chunk: None if chunk[1] in skipped else self._fetch(chunk[1]), todo)
        rows = _Rows()
        for (array, name, start, stop), data in zip(todo, fetched, strict=True):
            if isinstance(data, UnreadablePack):
                yield self._object_finding("unreadable", name, str(data))
            if isinstance(data, str):
                yield self._object_finding(
                    data, name, "It does not have the content that the manifest names, or has gone."
                )
            part = self._part(array, data, stop - start) if array and isinstance(data, bytes) else None
            if isinstance(data, bytes):
                yield from self._content_findings(array, name, data, stop - start)
            if array == "keys" and part is not None:
                keys.add(part)
            if array:
                rows.add(array, start, stop, part)
        if rows.wrong:
            first = rows.first // self.manifest.chunk_rows["vectors"] * self.manifest.chunk_rows["vectors"]
            what = f"{rows.wrong} rows do not agree with their digests, the first is row {rows.first}."
            yield finding("row-digest", f"packs/{self.ref.pack}", what, ref=self.ref, rows=self.manifest.rows - first)

    def _fetch(self, name: str) -> bytes | str | UnreadablePack:
        """Return an object's content; after two failed attempts the kind of its problem; or the refusal."""
        record, kind = self.manifest.objects[name], ""
        for _ in range(2):
            try:
                data = get_of_pack(self.storage, self._path(name), 0, record.size, pack=self.ref.pack)
            except UnreadablePack as err:
                return err
            except DamagedPack:
                kind = "object-missing"
                continue
            if ObjectRecord.of(data) == record:
                return data
            kind = "object-content"
        return kind

    def _content_findings(self, array: str, name: str, data: bytes, count: int) -> Iterator[CheckFinding]:
        """Yield the problems of an object whose hash matches the manifest."""
        if name in METADATA and (wrong := self._wrong_metadata(name, data)):
            yield self._metadata_finding(name, wrong)
        if array and np.frombuffer(data, np.uint8)[count * row_bytes(*self.manifest.element_shape(array)) :].any():
            yield finding("padding", self._path(name), "There are other bytes than zeros after the rows.", ref=self.ref)

    def _wrong_metadata(self, name: str, data: bytes) -> str:
        try:
            document = parsed_json(data)
            facts = _zarr_facts(document, name)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as err:
            return f"It is not Zarr v3 metadata of cas_cache ({err!r})."
        expected = _zarr_facts(parsed_json(zarr_documents(self.manifest)[name]), name)
        differing = [
            f"{fact} is {quoted(facts[fact])}, not {expected[fact]!r}"
            for fact in expected
            if facts[fact] != expected[fact]
        ]
        return f"It does not agree with the manifest: {'; '.join(differing)}." if differing else ""

    def _part(self, array: str, data: bytes, count: int) -> NDArray[Any]:
        dtype, shape = self.manifest.element_shape(array)
        return np.frombuffer(data, dtype).reshape(-1, *shape)[:count]

    def _object_finding(self, kind: str, name: str, what: str) -> CheckFinding:
        """Return a finding about a complete object; an object that is not a chunk costs no rows."""
        for array in ARRAYS:
            for chunk, start, _ in self.manifest.chunks(array):
                if chunk == name:
                    lost = self.manifest.rows - (start if array == "vectors" else 0)
                    return finding(kind, self._path(name), what, ref=self.ref, rows=lost)
        return self._metadata_finding(name, what)

    def _metadata_finding(self, name: str, what: str) -> CheckFinding:
        return finding("metadata", self._path(name), what, ref=self.ref)

    def _path(self, name: str) -> str:
        return layout.object_path(self.ref.pack, name)


def _zarr_facts(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the values of a ``zarr.json`` that a Zarr reader uses."""
    facts = {"zarr_format": document["zarr_format"], "node_type": document["node_type"]}
    if name != "zarr.json":
        encoding = document["chunk_key_encoding"]
        facts["shape"] = document["shape"]
        facts["data_type"] = document["data_type"]
        facts["chunk_shape"] = document["chunk_grid"]["configuration"]["chunk_shape"]
        facts["separator"] = encoding.get("configuration", {}).get("separator", "/")
        facts["fill_value"] = document["fill_value"]
        facts["codecs"] = [(c["name"], c.get("configuration", {}).get("endian", "little")) for c in document["codecs"]]
    return facts


class _Rows:
    """Chunks of the three arrays, in order of their first rows; rows are checked once all three arrays have them."""

    def __init__(self) -> None:
        self.wrong = 0
        self.first = 0
        self._at = 0
        self._held: dict[str, tuple[int, int, NDArray[Any] | None]] = {}

    def add(self, array: str, start: int, stop: int, rows: NDArray[Any] | None) -> None:
        """Add rows [start, stop) of an array; None if their chunk failed verification, so nothing can be checked."""
        self._held[array] = (start, stop, rows)
        if len(self._held) < len(ARRAYS):
            return
        upto = min(stop for _, stop, _ in self._held.values())
        parts = [self._between(array, upto) for array in ARRAYS]
        if upto > self._at and all(part is not None for part in parts):
            keys, vectors, digests = (np.asarray(part) for part in parts)
            wrong = np.flatnonzero(digest_rows(keys, vectors) != digests)
            if len(wrong) and not self.wrong:
                self.first = self._at + int(wrong[0])
            self.wrong += len(wrong)
        self._at = upto

    def _between(self, array: str, upto: int) -> NDArray[Any] | None:
        start, _, rows = self._held[array]
        return None if rows is None else rows[self._at - start : upto - start]
