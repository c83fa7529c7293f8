"""The repository: packs made visible by manifests, under one root that many clients write.

Its consistency rests on the order of operations. A writer writes objects, then the manifest. A reader reads the
manifest, then objects. A writer that dies leaves objects that no manifest names. Objects never change in place, and no
writer waits for another.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, facts
from cas_cache.errors import NotARepository, ObjectNotFound, UnsupportedFormat
from cas_cache.format import layout
from cas_cache.identity import EncoderSpec, check_no_credentials
from cas_cache.repository.manifests import is_missing, manifest_or_problem, read_manifest, read_manifests, read_spec
from cas_cache.repository.marker import RepositoryMarker
from cas_cache.repository.pack import PackRows, describe
from cas_cache.repository.publishing import StagedPack, check_signer, commit, stage
from cas_cache.repository.reading import PackChunk, read, read_column, read_rows
from cas_cache.storage.threads import ordered_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    import zarr
    from numpy.typing import NDArray
    from rich.console import Group

    from cas_cache.format.manifest import Manifest
    from cas_cache.format.signing import Signer, Trust
    from cas_cache.repository.manifests import ManifestProblem, PackManifests
    from cas_cache.storage.interface import Storage

SPEC_SECONDS = 600
"""Seconds after which a push writes the spec again, in case the namespace was dropped. It costs one request."""

SMALL_IN_FLIGHT = 12
"""Number of concurrent requests for small objects. aiobotocore has 10 connections; the other requests wait for one."""


class Repository(Displayable):
    """Packs, manifests and specs in a storage.

    Attributes:
        storage: The storage that holds the repository.
        trust: The keys whose packs are read; None to read all packs.
        signer: The key that signs new packs; None to write unsigned packs.
    """

    def __init__(self, storage: Storage, *, trust: Trust | None = None, signer: Signer | None = None) -> None:
        self.storage = storage
        self.trust = trust
        self.signer = signer
        self._marker = RepositoryMarker(storage)
        self._specs: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Repository({self.url!r})"

    def __rich__(self) -> Group:
        # The content is known only from requests, and showing a notebook cell must not send any.
        return facts("Repository", {"url": self.url})

    @property
    def url(self) -> str:
        """The URL of the repository, without credentials."""
        return self.storage.url

    @property
    def id(self) -> str:
        """The id of the repository, drawn when it was created, which distinguishes it from other repositories."""
        if self._marker.document is None:
            msg = "open() or create() comes first"
            raise RuntimeError(msg)
        return str(self._marker.document["id"])

    def open(self) -> bool:
        """Find the repository: one request.

        Returns:
            False if nothing exists below the URL.

        Raises:
            NotARepository: If something other than a repository exists there.
            UnsupportedFormat: If the repository requires a feature of readers that this version does not know.
            RemoteError: If the storage is unreachable or refuses a request.
        """
        return self._marker.find()

    def confirm(self) -> None:
        """Verify the marker by two consecutive reads that agree: 1 request; see `RepositoryMarker.confirm`."""
        self._marker.confirm()

    def must_exist(self) -> None:
        """Find the repository, or raise an error.

        Raises:
            NotARepository: If there is no repository.
        """
        if not self.open():
            raise NotARepository(
                f"There is no repository at {self.url}: nothing exists there at all. Check the URL; the first push "
                "makes one."
            )

    def create(self, *, found_empty: bool = False) -> None:
        """Create the repository if it does not exist; see `RepositoryMarker.create`.

        Args:
            found_empty: True if `open` has just returned False, so that nothing is asked twice.
        """
        self._marker.create(found_empty=found_empty)

    def packs(self, namespace: str | None = None) -> list[layout.PackRef]:
        """Return (namespace, pack) of every visible pack, of one namespace or of all, the oldest first: one listing.

        Raises:
            RemoteError: If the listing is not complete; it is never taken for an empty one.
        """
        listed = self.storage.list(layout.manifests_prefix(namespace))
        # An object without a time (NaN) comes last.
        listed.sort(key=lambda entry: (not entry.modified < math.inf, entry.modified, entry.path))
        parsed = [layout.parse_manifest_path(entry.path) for entry in listed]
        return [ref for ref in parsed if ref is not None]

    def manifests(self, packs: Sequence[layout.PackRef]) -> Iterator[Manifest | ManifestProblem]:
        """Yield the manifest of each (namespace, pack), or the error; a few are fetched concurrently."""
        return ordered_map(partial(manifest_or_problem, self), packs, in_flight=SMALL_IN_FLIGHT)

    def read_manifests(
        self, packs: Sequence[layout.PackRef], advance: Callable[[int], object] = lambda _: None
    ) -> PackManifests:
        """Read the manifests of listed packs, and sort out the packs that cannot be used or were deleted meanwhile.

        Args:
            packs: The packs, as `packs` lists them.
            advance: Called with 1 for each manifest.

        Raises:
            RemoteError: If the storage is unreachable or refuses a request.
        """
        return read_manifests(self, packs, advance)

    def manifest(self, namespace: str, pack: str) -> Manifest:
        """Return the manifest of a pack, verified; see `read_manifest`."""
        return read_manifest(self.storage, layout.PackRef(namespace, pack), self.trust)

    def has_gone(self, ref: layout.PackRef, problem: Exception) -> bool:
        """Return True if an error means that a (namespace, pack) was deleted since it was listed: not damage."""
        return is_missing(problem) and ref not in self.packs(ref.namespace)

    def keys(self, pack: str, manifest: Manifest) -> NDArray[np.uint8]:
        """Return the keys of a pack, verified; see `reading.read_column`."""
        return read_column(self.storage, pack, manifest, "keys")

    def read(self, pack: str, manifest: Manifest, keys: NDArray[np.uint8], first: int = 0) -> Iterator[PackChunk]:
        """Yield the rows of a pack, verified; see `reading.read`."""
        return read(self.storage, pack, manifest, keys, first)

    def digests(self, pack: str, manifest: Manifest) -> NDArray[np.uint64]:
        """Return the digests of a pack, verified; see `reading.read_column`."""
        return read_column(self.storage, pack, manifest, "digests")

    def read_rows(
        self,
        pack: str,
        manifest: Manifest,
        rows: NDArray[np.int64],
        keys: NDArray[np.uint8],
        digests: NDArray[np.uint64],
    ) -> Iterator[PackChunk]:
        """Yield some rows of a pack, verified by their digests; see `reading.read_rows`.

        If only some keys are trusted, complete chunks are read and verified by their SHA-256, because a forger can
        compute row digests.
        """
        return read_rows(self.storage, pack, manifest, rows, keys, digests, whole_chunks=self.trust is not None)

    def open_zarr(self, namespace: str) -> list[zarr.Group]:
        """Return the packs of a namespace as read-only Zarr groups, the oldest first.

        Each group has the arrays ``keys``, ``vectors`` and ``digests``; ``group.basename`` is the pack's id. Every
        object that is read is verified by its SHA-256. A missing object is an error, whereas zarr would fill in zeros.
        Packs that a merge supersedes are not included. Packs that cannot be used are skipped with a `DataWarning`. The
        same key may be in several packs.

        Args:
            namespace: The namespace's id, as `EncoderSpec.namespace` gives it.

        Raises:
            ConfigurationError: If `namespace` is not a namespace id.
            NotARepository: If there is no repository.
            DamagedPack: If an object fails verification; also later, when an array is read.
            RemoteError: If the remote is unreachable or refuses a request.
        """
        from cas_cache.repository.zarr_store import open_zarr  # imports zarr: 0.3 s

        return open_zarr(self, namespace)

    def open_dask(self, namespace: str) -> Any:
        """Return the vectors of a namespace as one dask array, (rows, *shape), in the same order as `open_zarr`.

        Only metadata is read before the array is computed; then each chunk is read when it is needed.

        Args:
            namespace: The namespace's id.

        Raises:
            MissingDependency: If dask is not installed: the extra ``dask``.
            RepositoryError: If the namespace has no packs.
            The same errors as `open_zarr`.
        """
        from cas_cache.repository.zarr_store import open_dask

        return open_dask(self, namespace)

    def spec(self, namespace: str) -> EncoderSpec:
        """Return the spec of a namespace, verified; see `read_spec`."""
        return read_spec(self.storage, namespace)

    def publish_spec(self, spec: EncoderSpec) -> None:
        """Write a spec, even if it exists, unless this object wrote it a moment ago.

        This restores a spec that was lost or dropped, also in a process that runs for days.

        Raises:
            CredentialInSpec: If the spec holds a credential.
        """
        check_no_credentials(spec)
        self.require_writable()
        written = self._specs.get(spec.namespace)
        if written is None or time.monotonic() - written > SPEC_SECONDS:
            self.storage.put(layout.spec_path(spec.namespace), spec.canonical())
            self._specs[spec.namespace] = time.monotonic()

    def publish(
        self,
        namespace: str,
        source: PackRows,
        nonce: str,
        *,
        began: float | None = None,
        appearance: str | None = None,
    ) -> str:
        """Write a pack and make it visible; return its id. One PUT per object; see `stage` and `commit`."""
        staged = self.stage(namespace, source, nonce, began=began, appearance=appearance)
        self.commit(staged)
        return staged.pack

    def stage(  # noqa: PLR0913 - the optional facts of a manifest, by name
        self,
        namespace: str,
        source: PackRows,
        nonce: str,
        supersedes: tuple[str, ...] = (),
        *,
        began: float | None = None,
        source_rows: tuple[int, ...] = (),
        appearance: str | None = None,
    ) -> StagedPack:
        """Write a pack without its manifest, so that it is not visible yet.

        The same rows and nonce always produce the same names and bytes, so a write that was interrupted, or whose
        answer was lost, is simply repeated.

        Args:
            namespace: The id of the namespace.
            source: The rows.
            nonce: Hex digits drawn for this pack at most `MAX_SECONDS` ago.
            supersedes: The packs that this one merges; it holds exactly their rows, each key once.
            began: Time (`time.time`) at which the nonce was found to be young enough; None means now, for a new nonce.
                A process may be suspended after that check, and the objects of an earlier attempt may become old.
            source_rows: Number of rows from each pack of `supersedes`.
            appearance: Digest of the appearance of the encoder that made all rows; None if it is unknown.

        Raises:
            RemoteError: If the storage is unreachable or refuses a request.
            UnsupportedFormat: If the repository requires a feature of writers that this version does not know.
            ConfigurationError: If only signed packs are trusted, and this one would not be signed.
        """
        self.require_signer()
        self.require_writable()
        began = time.time() if began is None else began
        manifest = describe(namespace, source, nonce, supersedes, source_rows=source_rows, appearance=appearance)
        # A merge is signed only if its packs were verified: a signature over unverified packs would vouch for them.
        if self.signer is not None and (self.trust is not None or not supersedes):
            manifest = self.signer.signed(manifest)
        return stage(self.storage, manifest, source, began)

    def commit(self, staged: StagedPack) -> None:
        """Write the manifest of a pack, which makes it visible; see `publishing.commit`."""
        commit(self.storage, staged)

    def exists(self, path: str) -> bool:
        """Return True if an object exists, by a read of its name: 1 request. A listing could be incomplete.

        Raises:
            RemoteError: If the storage is unreachable or refuses a request.
        """
        try:
            self.storage.get(path, 0, 1)
        except ObjectNotFound:
            return False
        return True

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, a few concurrently; missing objects are fine.

        Raises:
            RemoteError: If the storage is unreachable or refuses a request; some objects may have been deleted.
        """
        for _ in ordered_map(self.storage.delete, list(paths)):
            pass

    def require_signer(self) -> None:
        """Raise an error if new packs would be invisible to clients that trust the same keys as this repository object.

        Raises:
            ConfigurationError: If they would be.
        """
        check_signer(self.trust, self.signer)

    def require_writable(self) -> None:
        """Raise an error unless this version may write the repository; create the repository if it does not exist.

        Raises:
            UnsupportedFormat: If the repository requires a feature of writers that this version does not know.
        """
        if self._marker.document is None:
            self.create()
        features = (self._marker.document or {}).get("writer_features")
        if features:
            raise UnsupportedFormat(
                f"{self.url} asks writers for {features}, which this cas_cache does not know. It can be read, not "
                "written: update cas_cache, or use read_only=True."
            )
