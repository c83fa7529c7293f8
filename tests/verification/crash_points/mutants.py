"""The package with one of its protections taken away: each in one place, as a mistake would.

Adds `MUTANTS`: by name, the play in whose schedules it must show, and the patch; and some that the state machine must
notice. What neither can show, because another protection stands behind it, is not here.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cas_cache.files import disk
from cas_cache.format import layout
from cas_cache.format.marker import checked_marker, new_marker
from cas_cache.repository import Repository, compacting, pruning, publishing, reading
from cas_cache.repository.marker import RepositoryMarker
from cas_cache.storage.interface import ObjectInfo
from cas_cache.sync import lazy, pulling

Patch = Callable[[pytest.MonkeyPatch], None]


def manifest_first(patches: pytest.MonkeyPatch) -> None:
    """A pack is made visible before its objects are written."""
    stage = Repository.stage

    def wrong(self: Repository, *args: Any, **options: Any) -> Any:
        storage, put_all = self.storage, publishing.put_all
        held: list[Any] = []
        publishing.put_all = lambda _, objects: held.extend((path, make()) for path, make in objects)
        try:
            written = stage(self, *args, **options)
        finally:
            publishing.put_all = put_all
        storage.put(layout.manifest_path(written.namespace, written.pack), written.manifest)
        put_all(storage, ((path, lambda data=data: data) for path, data in held))
        return written

    patches.setattr(Repository, "stage", wrong)


def no_grace(patches: pytest.MonkeyPatch) -> None:
    """Prune deletes what nothing refers to, however young."""
    plan = pruning.plan_prune
    patches.setattr(pruning, "plan_prune", lambda *args, **options: plan(*args, **(options | {"grace": 0.0})))


def stale_listing(patches: pytest.MonkeyPatch) -> None:
    """Prune believes a listing that was taken once, as fsspec's file systems keep them: nobody is asked by name."""
    listings: dict[int, list[ObjectInfo]] = {}
    opened: list[Repository] = []

    def wrong(repository: Repository, **options: Any) -> Any:
        opened.append(repository)  # so that no other gets its id
        inner = repository.storage

        class Stale:
            url, traffic, capabilities = inner.url, inner.traffic, inner.capabilities
            get, put, delete = inner.get, inner.put, inner.delete

            def list(self, prefix: str) -> Sequence[ObjectInfo]:
                if prefix == layout.PROBES:
                    return inner.list(prefix)
                kept = listings.setdefault(id(repository), []) or inner.list("")
                listings[id(repository)] = kept
                return [it for it in kept if it.path.startswith(prefix)]

        return real(Repository(Stale()), **options)

    real = pruning.prune
    patches.setattr(pruning, "_is_named", lambda *_: False)
    patches.setattr("crash_points.scenarios.prune", wrong)


def no_haste(patches: pytest.MonkeyPatch) -> None:
    """A writer makes a pack visible however long it has slept."""
    patches.setattr(publishing.StagedPack, "in_time", lambda _: True)


def own_marker(patches: pytest.MonkeyPatch) -> None:
    """Who makes a repository writes over what is there, and does not read back whose it is."""

    def wrong(self: RepositoryMarker, **_: Any) -> None:
        if not self.find():
            data = new_marker(secrets.token_hex(16))
            self._storage.put(layout.MARKER, data)
            self.document = checked_marker(data, self._storage.url)

    patches.setattr(RepositoryMarker, "create", wrong)


def no_lock(patches: pytest.MonkeyPatch) -> None:
    """Mirrors have no lock."""

    class Open:
        def __init__(self, path: Any) -> None:
            self.path = path

        def acquire(self) -> None: ...
        def release(self) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    patches.setattr(disk, "FileLock", Open)


def one_listing(patches: pytest.MonkeyPatch) -> None:
    """A pull does not list again when packs have gone since it listed."""
    patches.setattr(pulling, "MAX_LISTINGS", 1)


def no_second_reading(patches: pytest.MonkeyPatch) -> None:
    """A lazy reader does not read its catalogue again when packs have gone."""
    patches.setattr(lazy, "MAX_LISTINGS", 1)


def bold_compaction(patches: pytest.MonkeyPatch) -> None:
    """A compaction deletes what it has merged."""
    run = compacting._run_merge

    def wrong(repository: Repository, merge: Any, *rest: Any) -> None:
        run(repository, merge, *rest)
        for source in merge.packs:
            repository.delete([it.path for it in repository.storage.list(layout.pack_prefix(source))])
            repository.delete([layout.manifest_path(merge.namespace, source)])

    patches.setattr(compacting, "_run_merge", wrong)


def objects_first(patches: pytest.MonkeyPatch) -> None:
    """Prune and drop delete objects before the manifests that name them."""
    delete = Repository.delete
    held: list[str] = []

    def wrong(self: Repository, paths: Iterable[str]) -> None:
        paths = list(paths)
        named = [path for path in paths if path.startswith(layout.MANIFESTS)]
        delete(self, [path for path in paths if path not in named])
        held.extend(named)
        if paths and not named:
            delete(self, held)
            held.clear()

    patches.setattr(Repository, "delete", wrong)


def no_hashes(patches: pytest.MonkeyPatch) -> None:
    """Of a pack nothing is hashed when it is read, neither objects nor rows."""

    class Anything:
        def __eq__(self, _: object) -> bool:
            return True

        def __ne__(self, other: object) -> Any:
            return np.zeros(len(other), bool) if isinstance(other, np.ndarray) else False

        __hash__ = None  # type: ignore[assignment]
        __array_priority__ = 1000
        __array_ufunc__ = None

    patches.setattr(reading, "ObjectRecord", SimpleNamespace(of=lambda _: Anything()))
    patches.setattr(reading, "digest_rows", lambda *_: Anything())


def greedy_merge(patches: pytest.MonkeyPatch) -> None:
    """A merge names all packs that there are, whether it holds their rows or not."""
    run, stage = compacting._run_merge, Repository.stage

    def wrong(repository: Repository, merge: Any, *rest: Any) -> None:
        every = tuple(name for _, name in repository.packs(merge.namespace))

        def greedy(self: Repository, namespace: str, source: Any, nonce: str, _: Any, **options: Any) -> Any:
            return stage(self, namespace, source, nonce, every, **options)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Repository, "stage", greedy)
            run(repository, merge, *rest)

    patches.setattr(compacting, "_run_merge", wrong)


MUTANTS: dict[str, tuple[str, Patch]] = {
    "manifest first": ("everybody", manifest_first),
    "no grace": ("everybody", no_grace),
    "stale listing": ("sleepers", stale_listing),
    "no haste": ("sleepers", no_haste),
    "own marker": ("first pushes", own_marker),
    "no lock": ("one mirror", no_lock),
    "one listing": ("lazy reader", one_listing),
    "no second reading": ("lazy reader", no_second_reading),
    "bold compaction": ("two compactions", bold_compaction),
    "objects first": ("push and drop", objects_first),
}
