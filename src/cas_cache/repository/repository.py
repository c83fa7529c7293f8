"""The repository: packs made visible by manifests, under one root that many write.

Order is what keeps it whole. Writing: objects, then the manifest. Reading: the manifest, then objects. A writer that
dies leaves objects that nothing names. Nothing is ever changed in place, and no writer waits for another.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cas_cache import html
from cas_cache.errors import (
    AccessDenied,
    ConfigurationError,
    DamagedPack,
    IdentityError,
    NotARepository,
    ObjectNotFound,
    RepositoryError,
    UnsupportedFormat,
    UntrustedPack,
)
from cas_cache.identity import EncoderSpec, check_no_credentials
from cas_cache.repository import layout
from cas_cache.repository.interface import ordered_map, put_all
from cas_cache.repository.manifest import MAX_MANIFEST_BYTES, Manifest, pack_id
from cas_cache.repository.marker import MAX_DOCUMENT_BYTES, checked_marker, new_marker
from cas_cache.repository.pack import (
    PackChunk,
    PackRows,
    contents,
    describe,
    read,
    read_digests,
    read_keys,
    read_rows,
)
from cas_cache.repository.readable import open_dask, open_zarr
from cas_cache.repository.reading import get_of_pack, may_read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import zarr
    from numpy.typing import NDArray

    from cas_cache.repository.interface import Storage
    from cas_cache.repository.signing import Signer, Trust

logger = logging.getLogger(__name__)

MAX_SECONDS = 12 * 3600
"""How long a pack's name may be in use before its manifest is there: from its planning to the first object, and again
from there to the manifest. Together a day, and `prune` deletes nothing younger unless it is forced to."""

SPEC_SECONDS = 600
"""A push writes the spec again after this, should somebody have dropped the namespace: one request more."""

SMALL_IN_FLIGHT = 12
"""Requests for what is small that are on their way at once: aiobotocore has 10 connections, the others wait there."""

MAX_SUGGESTIONS = 3
"""Repositories named in an error."""

MIRROR_MARKER = "cas-cache-mirror.json"
"""What a mirror has at its root: the two directories are easily taken for each other."""

MARKER_PAUSES = (0.0, 0.1, 0.4, 1.0)
"""Seconds before each look for a marker that was written: while several write one name, some servers show none."""

SETTLING = 5
"""A marker is read again after this many times as long as finding or writing it took: other clients that found the
prefix empty have written theirs by then. A storage without create-only keeps the last marker."""

MAX_SECONDS_TO_FIND, MAX_SECONDS_TO_CREATE = 0.25, 2.0
"""Upper limits of that wait for a client that found a marker, once for each new mirror, and for one that wrote it."""


@dataclass(frozen=True, slots=True)
class StagedPack:
    """A pack that is there and not visible yet.

    Attributes:
        namespace: Whose rows.
        pack: Its id.
        manifest: What makes it visible.
        paths: Of its objects.
        began: When writing began, or the plan was looked at, in seconds since 1970 by this machine's clock.
    """

    namespace: str
    pack: str
    manifest: bytes
    paths: tuple[str, ...]
    began: float


class Repository:
    """Packs, manifests and specs in a storage.

    Attributes:
        storage: Where they are.
        trust: Whose packs are read; None for everybody's.
        signer: Who signs what is written; None for nobody.
    """

    def __init__(self, storage: Storage, *, trust: Trust | None = None, signer: Signer | None = None) -> None:
        self.storage = storage
        self.trust = trust
        self.signer = signer
        self._marker: dict[str, Any] | None = None
        self._settled = False
        self._seconds = 0.0
        self._specs: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Repository({self.url!r})"

    def _repr_html_(self) -> str:
        # What it holds only requests would tell, and a notebook's cell makes none.
        return html.facts("Repository", [("url", self.url)])

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
        began = time.monotonic()
        data = self._read_marker()
        if data is None:
            # A doctor may be at work where nothing is yet, or have been killed there.
            entries = [entry for entry in self.storage.list("") if not entry.path.startswith(f"{layout.SCRATCH}/")]
            if not entries:
                return False
            # Another writer may have made the repository between the two requests, or be about to.
            listed = any(entry.path == layout.MARKER for entry in entries)
            data = self._read_written_marker() if listed else self._read_marker()
            if data is None and any(entry.path == MIRROR_MARKER for entry in entries):
                raise NotARepository(
                    f"{self.url} is a mirror, not a repository. Name it as CACHE, or as the cache's directory, and its "
                    "repository as the remote."
                )
            below = layout.repositories_below(entry.path for entry in entries)
            if data is None and below:
                candidates = " or ".join(f"{self.url}/{prefix}" for prefix in below[:MAX_SUGGESTIONS])
                raise NotARepository(f"{self.url} is not a repository. Did you mean {candidates}?")
            if data is None:
                raise NotARepository(
                    f"{self.url} is not empty and holds no cas_cache repository ({layout.MARKER} is missing; "
                    f"{entries[0].path!r} is there). Name an empty prefix, such as {self.url}/cas-cache."
                )
        self._marker = checked_marker(data, self.url)
        self._seconds = time.monotonic() - began
        return True

    def confirm(self) -> None:
        """Make sure of the marker, the only object that no hash covers: two reads in a row have to agree. 1 request.

        While several clients create a repository on a storage without create-only, the marker may be replaced: the
        last one counts.

        Raises:
            RepositoryError: If no two reads in a row agree.
        """
        if self._settled:
            return
        expected, self._marker = self._marker, None
        time.sleep(min(SETTLING * self._seconds, MAX_SECONDS_TO_FIND))
        data = self._read_marker()
        if data is None or checked_marker(data, self.url) != expected:
            data = self._settle(data, 0.0)
        self._marker = checked_marker(data, self.url)
        self._settled = True

    def must_exist(self) -> None:
        """Find the repository.

        Raises:
            NotARepository: If there is none.
        """
        if not self.open():
            raise NotARepository(
                f"There is no repository at {self.url}: nothing is there at all. Check the URL; the first push "
                "makes one."
            )

    def create(self) -> None:
        """Make the repository if there is none; of several that try at once, one wins and all use it.

        Raises:
            NotARepository: If the URL holds something else.
            RemoteError: If the storage is away or refuses.
        """
        began = time.monotonic()
        if self.open():
            return
        # The listing may have taken long: another client's marker is replaced only if it was written since this read.
        if self._read_marker() is None:
            self.storage.put(layout.MARKER, new_marker(secrets.token_hex(16)), create_only=True)
        data = self._read_written_marker()
        if data is None:
            raise RepositoryError(f"{layout.MARKER} was written to {self.url} and cannot be read back. Try again.")
        patience = min(SETTLING * (time.monotonic() - began), MAX_SECONDS_TO_CREATE)
        self._marker = checked_marker(self._settle(data, patience), self.url)
        self._settled = True

    def packs(self, namespace: str | None = None) -> list[layout.PackRef]:
        """Return (namespace, pack) of every visible pack, of one namespace or of all, the oldest first: one listing.

        Raises:
            RemoteError: If the listing is not complete; it is never taken for an empty one.
        """
        listed = self.storage.list(layout.manifests_prefix(namespace))
        # What has no time, NaN, comes last.
        listed.sort(key=lambda entry: (not entry.modified < math.inf, entry.modified, entry.path))
        parsed = [layout.parse_manifest_path(entry.path) for entry in listed]
        return [ref for ref in parsed if ref is not None]

    def manifests(
        self, packs: Sequence[layout.PackRef]
    ) -> Iterator[Manifest | DamagedPack | UntrustedPack | UnsupportedFormat]:
        """Yield the manifest of each (namespace, pack), or what is wrong with it; a few are fetched at a time.

        Raises:
            RemoteError: If the storage is away or refuses.
        """
        return ordered_map(self._manifest_or_problem, packs, in_flight=SMALL_IN_FLIGHT)

    def _manifest_or_problem(self, ref: layout.PackRef) -> Manifest | DamagedPack | UntrustedPack | UnsupportedFormat:
        try:
            return self.manifest(*ref)
        except (DamagedPack, UntrustedPack, UnsupportedFormat) as problem:
            return problem

    def manifest(self, namespace: str, pack: str) -> Manifest:
        """Return the manifest of a pack, verified against the pack's id.

        Raises:
            DamagedPack: If it is missing, does not verify, or is another namespace's.
            UntrustedPack: If it is not signed by a trusted key.
        """
        path = layout.manifest_path(namespace, pack)
        data = get_of_pack(self.storage, path, 0, MAX_MANIFEST_BYTES, pack=pack)
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
        reason = None if self.trust is None else self.trust.why_not(data, manifest.signature)
        if reason is not None:
            raise UntrustedPack(
                f"The pack {pack} of {self.url} is not trusted: {reason}. It counts as not there.",
                pack=pack,
                reason=reason,
            )
        return manifest

    def has_gone(self, ref: layout.PackRef, problem: Exception) -> bool:
        """Whether what is wrong with a (namespace, pack) is that it was deleted since it was listed: no damage."""
        return isinstance(problem.__cause__, ObjectNotFound) and ref not in self.packs(ref.namespace)

    def keys(self, pack: str, manifest: Manifest) -> NDArray[np.uint8]:
        """Return the keys of a pack, verified; see `pack.read_keys`."""
        return read_keys(self.storage, pack, manifest)

    def read(self, pack: str, manifest: Manifest, keys: NDArray[np.uint8], first: int = 0) -> Iterator[PackChunk]:
        """Yield the rows of a pack, verified; see `pack.read`."""
        return read(self.storage, pack, manifest, keys, first)

    def digests(self, pack: str, manifest: Manifest) -> NDArray[np.uint64]:
        """Return the digests of a pack, verified; see `pack.read_digests`."""
        return read_digests(self.storage, pack, manifest)

    def read_rows(
        self,
        pack: str,
        manifest: Manifest,
        rows: NDArray[np.int64],
        keys: NDArray[np.uint8],
        digests: NDArray[np.uint64],
    ) -> Iterator[PackChunk]:
        """Yield some rows of a pack, proved by their digests; see `pack.read_rows`.

        Where not everybody is trusted, whole chunks are read, and proved by their SHA-256: a digest stops no forger.
        """
        return read_rows(self.storage, pack, manifest, rows, keys, digests, whole_chunks=self.trust is not None)

    def open_zarr(self, namespace: str) -> list[zarr.Group]:
        """Return the packs of a namespace as read-only Zarr groups, the oldest first.

        Each group has the arrays ``keys``, ``vectors`` and ``digests``; ``group.basename`` is the pack's id. Every
        object that is read is verified by its SHA-256, and a missing one is an error, where zarr fills in zeros.
        Packs that a merge supersedes are left out. Packs that cannot be used are skipped with a `DataWarning`. The same
        key may be in several packs.

        Args:
            namespace: The namespace's id, as `EncoderSpec.namespace` gives it.

        Raises:
            ConfigurationError: If `namespace` is not a namespace id.
            NotARepository: If there is no repository.
            DamagedPack: If an object does not verify; also later, when an array is read.
            RemoteError: If the remote is away or refuses.
        """
        return open_zarr(self, namespace)

    def open_dask(self, namespace: str) -> Any:
        """Return the vectors of a namespace as one dask array, (rows, *shape): those of `open_zarr` in the same order.

        Nothing but metadata is read before the array is computed, and then each chunk when its turn comes.

        Args:
            namespace: The namespace's id.

        Raises:
            MissingDependency: If dask is not installed: the extra ``dask``.
            RepositoryError: If the namespace has no packs.
            As `open_zarr`.
        """
        return open_dask(self, namespace)

    def spec(self, namespace: str) -> EncoderSpec:
        """Return the spec of a namespace, verified against its id.

        Raises:
            RepositoryError: If it is missing or does not verify.
        """
        path = layout.spec_path(namespace)
        try:
            spec = EncoderSpec.from_canonical(self.storage.get(path, 0, MAX_DOCUMENT_BYTES))
            if spec.namespace != namespace:
                msg = "its SHA-256 is not its name"
                raise IdentityError(msg)
        except (ObjectNotFound, IdentityError, AccessDenied) as err:
            is_refused = isinstance(err, AccessDenied)
            if is_refused and not may_read(self.storage):
                raise
            state = "may not be read" if is_refused else "is missing or damaged"
            raise RepositoryError(
                f"{path} in {self.url} {state} ({err}). The namespace is passed over by a pull of all. A run with its "
                "encoder spec still takes its packs, because it brings the spec."
            ) from err
        return spec

    def publish_spec(self, spec: EncoderSpec) -> None:
        """Write a spec, whether it is there or not, unless this object did so a moment ago.

        One that was lost or dropped is so written again, also by a process that runs for days.

        Raises:
            CredentialInSpec: If the spec holds a credential.
        """
        check_no_credentials(spec)
        self.writable()
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
        """Write a pack and make it visible: a PUT an object, the manifest last; see `write` and `commit`.

        Returns:
            The pack's id.
        """
        written = self.write(namespace, source, nonce, began=began, appearance=appearance)
        self.commit(written)
        return written.pack

    def write(  # noqa: PLR0913 - the optional facts of a manifest, by name
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
        """Write all of a pack but what makes it visible.

        The same rows and nonce always make the same names and bytes, so what was cut short, or whose answer was lost,
        is simply done again.

        Args:
            namespace: Whose rows.
            source: The rows.
            nonce: Hex; drawn for this pack, not more than `MAX_SECONDS` ago.
            supersedes: The packs of which these are the rows, each key once.
            began: When the nonce was found to be young enough, by `time.time`; None is now, for one that is new. A
                process may be suspended between the two, and an earlier attempt's objects be old by then.
            source_rows: How many rows came from each pack of `supersedes`.
            appearance: Digest of what the encoder looked like that made all rows; None if that is not known.

        Raises:
            RemoteError: If the storage is away or refuses.
            UnsupportedFormat: If the repository asks writers for what this version does not know.
            ConfigurationError: If it would not be signed, and only what is signed is trusted.
        """
        self.must_sign()
        self.writable()
        began = time.time() if began is None else began
        manifest = describe(namespace, source, nonce, supersedes, source_rows=source_rows, appearance=appearance)
        # A merge of what nobody verified is vouched for by nobody.
        if self.signer is not None and (self.trust is not None or not supersedes):
            manifest = self.signer.signed(manifest)
        data = manifest.to_bytes()
        pack = pack_id(data)
        put_all(self.storage, ((layout.object_path(pack, name), make) for name, make in contents(manifest, source)))
        paths = tuple(layout.object_path(pack, name) for name in manifest.objects)
        return StagedPack(namespace, pack, data, paths, began)

    def commit(self, written: StagedPack) -> None:
        """Make a pack visible.

        Raises:
            RemoteError: If the storage is away or refuses; the pack is not visible then, or whole.
            RepositoryError: If writing it took so long that a prune may have removed its first objects.
        """
        path = layout.manifest_path(written.namespace, written.pack)
        if _in_time(written):
            self.storage.put(path, written.manifest)
            if _in_time(written):
                return
            # Asleep while the PUT was on its way. Another process of this mirror may have published the same pack: only
            # one that a prune has broken is taken back. Who read its manifest meanwhile had misses at worst.
            remote_paths = {entry.path for entry in self.storage.list(layout.pack_prefix(written.pack))}
            if not remote_paths.issuperset(written.paths):
                try:
                    self.storage.delete(path)
                except AccessDenied as err:
                    logger.warning("left the manifest of pack %s, whose objects have gone: %s", written.pack, err)
        raise RepositoryError(
            f"Writing pack {written.pack} to {self.url} took more than {MAX_SECONDS // 3600} hours, or the clock was "
            "set: a prune may have removed its first objects. Nothing is lost. Do the same again."
        )

    def exists(self, path: str) -> bool:
        """Whether an object is there, asked for by name: 1 request, and no listing is believed.

        Raises:
            RemoteError: If the storage is away or refuses.
        """
        try:
            self.storage.get(path, 0, 1)
        except ObjectNotFound:
            return False
        return True

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, a few at a time; those that are not there are fine.

        Raises:
            RemoteError: If the storage is away or refuses; others may have been deleted.
        """
        for _ in ordered_map(self.storage.delete, list(paths)):
            pass

    def now(self) -> float:
        """Return the time by the clock of the storage, the only one that its objects' times may be compared with.

        A probe is written, listed and deleted: 3 requests.

        Raises:
            RemoteError: If the storage is away or refuses.
            RepositoryError: If its listings do not tell times.
        """
        self.writable()
        probe = layout.probe_path(secrets.token_hex(16))
        self.storage.put(probe, b"")
        try:
            now = next((e.modified for e in self.storage.list(layout.PROBES) if e.path == probe), math.nan)
        finally:
            self.storage.delete(probe)
        if not math.isfinite(now):
            raise RepositoryError(
                f"{self.url} does not tell when its objects were written, so none can be known to be old. Nothing was "
                "deleted. Delete by the means of the storage, or not at all."
            )
        return now

    def _read_marker(self) -> bytes | None:
        try:
            return self.storage.get(layout.MARKER, 0, MAX_DOCUMENT_BYTES)
        except ObjectNotFound:
            return None

    def _read_written_marker(self) -> bytes | None:
        """Read a marker that was written, perhaps by several clients at this moment."""
        for pause in MARKER_PAUSES:
            time.sleep(pause)
            data = self._read_marker()
            if data is not None:
                return data
        return None

    def _settle(self, data: bytes | None, patience: float) -> bytes:
        """Read the marker until two reads in a row agree.

        Args:
            data: The last read.
            patience: Seconds to wait before each read, at least.

        Raises:
            RepositoryError: If they never do.
        """
        for pause in MARKER_PAUSES:
            time.sleep(max(pause, patience))
            previous, data = data, self._read_marker()
            if data is not None and data == previous:
                return data
        raise RepositoryError(
            f"{layout.MARKER} at {self.url} was read {len(MARKER_PAUSES) + 1} times, and no two reads in a row agree. "
            "Nothing was changed. Try again in a minute; if the error stays, something between this machine and the "
            "storage damages what is read."
        )

    def must_sign(self) -> None:
        """Make sure that what is written will be visible to who trusts as this repository's user does.

        Raises:
            ConfigurationError: If it would not be.
        """
        if self.trust is not None and (self.signer is None or self.signer.public not in self.trust.keys):
            what = "there is no signing_key" if self.signer is None else f"{self.signer.public} is none of them"
            raise ConfigurationError(
                f"Only packs signed by {', '.join(sorted(self.trust.names.values()))} are trusted, and {what}: nobody "
                "who trusts the same keys would see what you write. Name a signing_key (CAS_CACHE_SIGNING_KEY) whose "
                "public key is trusted, or open the cache with read_only=True."
            )

    def writable(self) -> None:
        """Make sure that there is a repository that this version may write.

        Raises:
            UnsupportedFormat: If it asks writers for what this version does not know.
        """
        if self._marker is None:
            self.create()
        features = (self._marker or {}).get("writer_features")
        if features:
            raise UnsupportedFormat(
                f"{self.url} asks writers for {features}, which this cas_cache does not know. It can be read, not "
                "written: update cas_cache, or use read_only=True."
            )


def _in_time(written: StagedPack) -> bool:
    """Whether no prune can have taken the first objects of a pack for old ones."""
    return 0 <= time.time() - written.began <= MAX_SECONDS
