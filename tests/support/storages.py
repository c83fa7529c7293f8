"""Storages, encoders and damage for tests. Each policy is a wrapper, so faults and counts can be combined.

Adds to `cas_cache.testing`: `Flaky`, a storage that fails from the n-th call on; `Machine`, a mirror connected to a
repository; and `truth`, the one right vector of every text, with which every answer can be compared.
"""

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cas_cache import EncoderSpec, sync
from cas_cache.errors import RemoteUnavailable
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest, ObjectRecord, pack_id
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.index import ABSENT
from cas_cache.repository import Repository
from cas_cache.storage import Storage
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import CountingStorage, MemoryStorage

Memory, Counting = MemoryStorage, CountingStorage

SPEC = EncoderSpec(model="org/model", revision="a1b2c3d", role="query")
OTHER_SPEC = EncoderSpec(model="org/other", revision="a1b2c3d")


class Flaky:
    """Fails from the n-th call of a verb until `mend`; with `lost`, the call takes effect and its answer is lost."""

    def __init__(self, inner: Storage, verb: str = "", at: int = 1, *, lost: bool = False) -> None:
        self.inner = inner
        self.url = inner.url
        self.traffic = inner.traffic
        self.verb, self.left, self.lost = verb, at, lost
        self.failed = False

    def mend(self) -> None:
        self.verb, self.failed = "", False

    def _count(self, verb: str) -> bool:
        """Return True if this call fails."""
        if verb == self.verb:
            self.left -= 1
            self.failed = self.failed or self.left <= 0
        return verb == self.verb and self.failed

    def close(self) -> None:
        self.inner.close()

    def get(self, path: str, start: int, stop: int) -> bytes:
        if self._count("get"):
            raise RemoteUnavailable(f"no answer to get {path}")
        return self.inner.get(path, start, stop)

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        fails = self._count("put")
        if self.lost or not fails:
            self.inner.put(path, data, create_only=create_only)
        if fails:
            raise RemoteUnavailable(f"no answer to put {path}")

    def list(self, prefix: str) -> list[ObjectInfo]:
        if self._count("list"):
            raise RemoteUnavailable(f"no answer to list {prefix}")
        return self.inner.list(prefix)


class Machine:
    """A mirror of a repository that other machines share."""

    def __init__(self, directory: Path, storage: Storage, **signing: Any) -> None:
        self.mirror = Mirror(directory)
        self.repository = Repository(storage, **signing)

    def encode(self, texts: list[str], spec: EncoderSpec = SPEC, dtype: str = "float32") -> int:
        """Store the right vectors of texts; return the number of new ones."""
        return self.mirror.namespace(spec).append(keys_of_texts(texts), truth(texts, dtype))

    def push(self) -> sync.SyncReport:
        return sync.push(self.mirror, self.repository)

    def pull(self, namespaces: list[str] | None = None) -> sync.SyncReport:
        return sync.pull(self.mirror, self.repository, namespaces)

    def found(self, texts: list[str], spec: EncoderSpec = SPEC) -> list[str]:
        """Return the texts that the mirror has, after checking their vectors."""
        ns = self.mirror.get(spec.namespace)
        if ns is None:
            return []
        rows = ns.find(keys_of_texts(texts))
        here = [text for text, row in zip(texts, rows, strict=True) if row != ABSENT]
        if here:
            np.testing.assert_array_equal(ns.take(rows[rows != ABSENT]), truth(here, ns.dtype.name))
        return here


class Slow:
    """A storage in which the PUT of an object of a pack takes some seconds longer, until `mend`."""

    def __init__(self, inner: Storage, seconds: float) -> None:
        self.inner = inner
        self.url = inner.url
        self.traffic = inner.traffic
        self.seconds = seconds
        self.begun = threading.Event()
        self._mended = threading.Event()
        self.get, self.list, self.delete, self.close = inner.get, inner.list, inner.delete, inner.close
        if hasattr(inner, "capabilities"):
            self.capabilities = inner.capabilities

    def mend(self) -> None:
        self._mended.set()

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        if path.startswith("packs/"):
            self.begun.set()
            end = time.monotonic() + self.seconds
            # In steps: a signal that comes just before a wait does not interrupt it.
            while (left := end - time.monotonic()) > 0 and not self._mended.wait(min(left, 0.2)):
                pass
        self.inner.put(path, data, create_only=create_only)


def truth(texts: list[str], dtype: str = "float32", width: int = 4) -> NDArray[Any]:
    """Return the one right vector of each text: small whole numbers that every dtype holds, no row of zeros."""
    if not texts:
        return np.empty((0, width), dtype)
    digests = np.stack([np.frombuffer(hashlib.sha256(text.encode()).digest()[:width], np.uint8) for text in texts])
    return (digests.astype(np.int64) % 127 + 1).astype(dtype)


class Encoder:
    """Returns the right vectors and records the requested texts."""

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> NDArray[Any]:
        self.calls.append(list(texts))
        return truth(texts, self.dtype)

    @property
    def asked(self) -> list[str]:
        """All requested texts, in order."""
        return [text for call in self.calls for text in call]


def texts(count: int, start: int = 0) -> list[str]:
    return [f"text {i}" for i in range(start, start + count)]


def packs(memory: Memory) -> list[tuple[str, str]]:
    """Return (namespace, pack) of the visible packs."""
    parsed = [layout.parse_manifest_path(path) for path in memory.objects]
    return [found for found in parsed if found is not None]


def manifest_of(memory: Memory, namespace: str, pack: str) -> Manifest:
    return Manifest.from_bytes(memory.objects[layout.manifest_path(namespace, pack)])


def reseal(memory: Memory, namespace: str, pack: str) -> str:
    """Rewrite a pack's manifest so that every object verifies in its current state; return the pack's new id."""
    path = layout.manifest_path(namespace, pack)
    document = json.loads(memory.objects.pop(path))
    contents = {}
    for name, record in document["objects"].items():
        contents[name] = memory.objects.pop(layout.object_path(pack, name))
        record.update(
            size=len(contents[name]), sha256=ObjectRecord(0, hashlib.sha256(contents[name]).hexdigest()).sha256
        )
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    new = pack_id(data)
    for name, content in contents.items():
        memory.objects[layout.object_path(new, name)] = content
    memory.objects[layout.manifest_path(namespace, new)] = data
    return new


def repository_of(directory: Path, *batches: list[str]) -> Memory:
    """Return a repository to which one machine has pushed each batch of texts as a pack of its own."""
    memory = Memory()
    author = Machine(directory, memory)
    for batch in batches:
        author.encode(batch)
        assert author.push().packs == 1
    return memory
