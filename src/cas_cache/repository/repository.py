"""The repository: packs made visible by manifests, under one root that many write.

Order is what keeps it whole. Writing: objects, then the manifest. Reading: the manifest, then objects. A writer that
dies leaves objects that nothing names. Nothing is ever changed in place, and no writer waits for another.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from cas_cache.errors import (
    DamagedPack,
    IdentityError,
    NotARepository,
    ObjectNotFound,
    RepositoryError,
    UnsupportedFormat,
)
from cas_cache.identity import EncoderSpec, canonical_json
from cas_cache.repository import layout
from cas_cache.repository.interface import put_all
from cas_cache.repository.manifest import MOST_MANIFEST_BYTES, Manifest, pack_id
from cas_cache.repository.pack import PackRows, contents, describe, read, read_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from cas_cache.repository.interface import Storage

FORMAT = "cas-cache"
VERSION = 1
MOST_DOCUMENT_BYTES = 1 << 20
"""Markers and specs are small; what is larger is not one."""

MARKER_PAUSES = (0.0, 0.1, 0.4, 1.0)
"""Seconds before each look for a marker that was written: while several write one name, some servers show none."""


class Repository:
    """Packs, manifests and specs in a storage.

    Attributes:
        storage: Where they are.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._marker: dict[str, Any] | None = None
        self._specs: set[str] = set()

    def __repr__(self) -> str:
        return f"Repository({self.url!r})"

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return self.storage.url

    @property
    def id(self) -> str:
        """What tells it from other repositories; drawn when it was made."""
        if self._marker is None:
            msg = "open() or create() comes first"
            raise RuntimeError(msg)
        return str(self._marker["id"])

    def open(self) -> bool:
        """Find the repository: one request.

        Returns:
            False if there is nothing at all under the URL.

        Raises:
            NotARepository: If there is something else.
            UnsupportedFormat: If it asks readers for what this version does not know.
            RemoteError: If the storage is away or refuses.
        """
        if self._marker is not None:
            return True
        data = self._read_marker()
        if data is None:
            found = self.storage.list("")
            if not found:
                return False
            # Another writer may have made the repository between the two requests, or be about to.
            listed = any(entry.path == layout.MARKER for entry in found)
            data = self._read_settled_marker() if listed else self._read_marker()
            if data is None:
                raise NotARepository(
                    f"{self.url} is not empty and holds no cas_cache repository ({layout.MARKER} is missing; "
                    f"{found[0].path!r} is there). Name an empty prefix, such as {self.url}/cas-cache."
                )
        self._marker = checked_marker(data, self.url)
        return True

    def create(self) -> None:
        """Make the repository if there is none; of several that try at once, one wins and all use it.

        Raises:
            NotARepository: If the URL holds something else.
            RemoteError: If the storage is away or refuses.
        """
        if self.open():
            return
        marker = {
            "format": FORMAT,
            "version": VERSION,
            "id": secrets.token_hex(16),
            "reader_features": [],
            "writer_features": [],
        }
        self.storage.put(layout.MARKER, canonical_json(marker), create_only=True)
        data = self._read_settled_marker()
        if data is None:
            raise RepositoryError(f"{layout.MARKER} was written to {self.url} and cannot be read back. Try again.")
        self._marker = checked_marker(data, self.url)

    def packs(self, namespace: str | None = None) -> list[tuple[str, str]]:
        """Return (namespace, pack) of every visible pack, of one namespace or of all: one listing.

        Raises:
            RemoteError: If the listing is not complete; it is never taken for an empty one.
        """
        listed = self.storage.list(layout.manifests_prefix(namespace))
        parsed = [layout.parse_manifest_path(entry.path) for entry in listed]
        return [found for found in parsed if found is not None]

    def manifest(self, namespace: str, pack: str) -> Manifest:
        """Return the manifest of a pack, verified against the pack's id.

        Raises:
            DamagedPack: If it is missing, does not verify, or is another namespace's.
        """
        path = layout.manifest_path(namespace, pack)
        try:
            data = self.storage.get(path, 0, MOST_MANIFEST_BYTES)
        except ObjectNotFound as err:
            raise DamagedPack(f"{path} has gone from {self.url}. Pull again.", pack=pack) from err
        try:
            if pack_id(data) != pack:
                msg = "its SHA-256 is not its name"
                raise ValueError(msg)
            manifest = Manifest.from_bytes(data)
            if manifest.namespace != namespace:
                msg = f"it belongs to namespace {manifest.namespace}"
                raise ValueError(msg)
        except (ValueError, KeyError, TypeError) as err:
            raise DamagedPack(
                f"{path} in {self.url} is damaged ({err}). The pack is passed over.",
                pack=pack,
            ) from err
        return manifest

    def keys(self, pack: str, manifest: Manifest) -> NDArray[np.uint8]:
        """Return the keys of a pack, verified; see `pack.read_keys`."""
        return read_keys(self.storage, pack, manifest)

    def read(
        self, pack: str, manifest: Manifest, keys: NDArray[np.uint8], first: int = 0
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[Any], int]]:
        """Yield the rows of a pack, verified; see `pack.read`."""
        return read(self.storage, pack, manifest, keys, first)

    def spec(self, namespace: str) -> EncoderSpec:
        """Return the spec of a namespace, verified against its id.

        Raises:
            RepositoryError: If it is missing or does not verify.
        """
        path = layout.spec_path(namespace)
        try:
            spec = EncoderSpec.from_canonical(self.storage.get(path, 0, MOST_DOCUMENT_BYTES))
            if spec.namespace != namespace:
                msg = "its SHA-256 is not its name"
                raise IdentityError(msg)
        except (ObjectNotFound, IdentityError) as err:
            raise RepositoryError(
                f"{path} in {self.url} is missing or damaged ({err}). The namespace is passed over by a pull of all. "
                "A run with its encoder spec still takes its packs, because it brings the spec."
            ) from err
        return spec

    def publish_spec(self, spec: EncoderSpec) -> None:
        """Write a spec, once in the life of this object; a spec that was lost is so written again."""
        self._writable()
        if spec.namespace not in self._specs:
            self.storage.put(layout.spec_path(spec.namespace), spec.canonical())
            self._specs.add(spec.namespace)

    def publish(self, namespace: str, source: PackRows, nonce: str) -> str:
        """Write a pack and make it visible: a PUT an object, the manifest last.

        The same rows and nonce always make the same names and bytes, so a publish that was cut short, or whose
        answer was lost, is simply done again.

        Returns:
            The pack's id.

        Raises:
            RemoteError: If the storage is away or refuses; the pack is not visible then, or whole.
        """
        self._writable()
        manifest = describe(namespace, source, nonce)
        data = manifest.to_bytes()
        pack = pack_id(data)
        objects = ((layout.object_path(pack, name), make) for name, make in contents(manifest, source))
        put_all(self.storage, objects)
        self.storage.put(layout.manifest_path(namespace, pack), data)
        return pack

    def _read_marker(self) -> bytes | None:
        try:
            return self.storage.get(layout.MARKER, 0, MOST_DOCUMENT_BYTES)
        except ObjectNotFound:
            return None

    def _read_settled_marker(self) -> bytes | None:
        """The marker that somebody has written, perhaps several at this moment."""
        for pause in MARKER_PAUSES:
            time.sleep(pause)
            data = self._read_marker()
            if data is not None:
                return data
        return None

    def _writable(self) -> None:
        if self._marker is None:
            self.create()
        features = (self._marker or {}).get("writer_features")
        if features:
            raise UnsupportedFormat(
                f"{self.url} asks writers for {features}, which this cas_cache does not know. It can be read, not "
                "written: update cas_cache, or use read_only=True."
            )


def checked_marker(data: bytes, url: str) -> dict[str, Any]:
    """Return the marker of a repository that this version may read.

    Raises:
        NotARepository: If it is no marker.
        UnsupportedFormat: If it asks readers for what this version does not know.
    """
    try:
        marker = json.loads(data)
        if marker["format"] != FORMAT:
            msg = f"format {marker['format']!r}"
            raise ValueError(msg)
        # Before all else that a newer version may have changed.
        version, reader = marker["version"], marker.get("reader_features", [])
        if version == VERSION:
            for name, kind in (("id", str), ("reader_features", list), ("writer_features", list)):
                if not isinstance(marker[name], kind):
                    msg = f"{name} is {marker[name]!r}"
                    raise TypeError(msg)
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise NotARepository(
            f"{layout.MARKER} at {url} is not a repository's ({err!r}). Name another prefix, or restore that file."
        ) from err
    if version != VERSION or reader:
        raise UnsupportedFormat(
            f"{url} has version {version!r} and asks readers for {reader}; this cas_cache reads version {VERSION} "
            "without those. Update cas_cache."
        )
    return dict(marker)
