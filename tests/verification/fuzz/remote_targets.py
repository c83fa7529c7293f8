"""Targets: what comes from a repository, as anybody who may write there could have put it."""

import hashlib
import json
import math
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from cas_cache import sync
from cas_cache.cli.output import name_of
from cas_cache.display import visible
from cas_cache.errors import CasCacheError, DamagedPack, NotARepository, RepositoryError, UnsupportedFormat
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest, pack_id
from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.inventory import inventory
from cas_cache.repository.listing import RepositoryListing
from cas_cache.storage.fsspec_storage import FsspecStorage
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import MemoryStorage
from fuzz.choices import Choices, mutated, mutated_bytes
from fuzz.fixtures import ROWS, STRANGERS, Target, assert_printable, fast, only, remote, typed
from storages import SPEC, Machine, manifest_of, packs, reseal

RAW, ANEW = b"\0", b"\3"
"""First byte of a script: take the rest as the document; change the real one."""


def manifest(folder: Path) -> Target:
    """A manifest whose name is its hash."""
    storage = remote(folder)
    of = min(packs(storage))
    real = storage.objects[layout.manifest_path(*of)]

    def run(script: bytes) -> None:
        data = mutated(real, Choices(script))
        pack = pack_id(data)
        storage.objects[path := layout.manifest_path(of[0], pack)] = data
        try:
            with only(DamagedPack, UnsupportedFormat):
                read = Repository(storage).manifest(of[0], pack)
                assert Manifest.from_bytes(read.to_bytes()) == read
                assert all(layout.parse_object_path(layout.object_path(pack, name)) for name in read.objects)
                for array in read.chunk_rows:
                    chunks = read.chunks(array)
                    assert chunks[-1][2] == read.rows
                    assert len(chunks) <= len(read.objects)
            with typed():
                Manifest.from_bytes(data) if pack_id(data) == of[1] else None
        finally:
            del storage.objects[path]

    return Target(run, [RAW + real, ANEW + b"12345"])


def pack(folder: Path) -> Target:
    """A pack of which one object, or the manifest, was changed by somebody who knows how to name it then."""
    storage = remote(folder)
    of = min(it for it in packs(storage) if it[0] == SPEC.namespace)
    place = folder / "puller"
    fast()

    def run(script: bytes) -> None:
        memory, forged = _forged(storage.objects, of, Choices(script))
        for found in check(Repository(memory), read_data=True).findings:
            assert len(found.what) < 5000
        inventory(Repository(memory))
        for pull in (sync.pull, _pull_lazily):
            machine = Machine(place, memory)
            try:
                with typed():
                    report = pull(machine.mirror, machine.repository)
                    assert all(len(str(problem)) < 5000 for problem in report.problems)
                if not forged:
                    with typed():
                        machine.found(ROWS)
            finally:
                shutil.rmtree(place, ignore_errors=True)

    return Target(run, [bytes([kind, at]) + b"\3abc" for kind in (0, 1) for at in range(8)])


def _pull_lazily(mirror: Mirror, repository: Repository) -> sync.SyncReport:
    sync.pull_keys(mirror, repository)
    return sync.pull_rows(mirror, repository, SPEC.namespace, keys_of_texts([*ROWS, *STRANGERS]))


def _forged(real: dict[str, bytes], of: tuple[str, str], choices: Choices) -> tuple[MemoryStorage, bool]:
    """Return a repository with a changed pack, and whether its manifest says that vectors are made of something else.

    The same bytes under another dtype are not the truth, and nothing but trust in who wrote it can tell.
    """
    memory = MemoryStorage()
    memory.objects = dict(real)
    names = [path for path in real if path.startswith(f"packs/{of[1]}/")]
    if choices.below(3):
        path = choices.of(names)
        change = mutated if path.endswith(".json") else mutated_bytes
        memory.objects[path] = change(real[path], choices)
        reseal(memory, *of)
        return memory, False
    own = manifest_of(memory, *of)
    data = mutated(memory.objects.pop(layout.manifest_path(*of)), choices)
    memory.objects[layout.manifest_path(of[0], pack_id(data))] = data
    for path in names:
        memory.objects[path.replace(of[1], pack_id(data))] = memory.objects.pop(path)
    try:
        read = Manifest.from_bytes(data)
    except (CasCacheError, ValueError):
        return memory, False
    return memory, (read.dtype, read.shape) != (own.dtype, own.shape)


def marker(folder: Path) -> Target:
    """The file that makes a prefix a repository."""
    storage = remote(folder)
    real = storage.objects[layout.MARKER]

    def run(script: bytes) -> None:
        storage.objects[layout.MARKER] = mutated(real, Choices(script))
        with only(NotARepository, UnsupportedFormat):
            repository = Repository(storage)
            assert repository.open()
            assert_printable(repository.id)
            repository.require_writable()
        with typed():
            check(Repository(storage))

    return Target(run, [RAW + real, RAW + b"<html>", ANEW + b"12345"])


def spec(folder: Path) -> Target:
    """An encoder spec whose name is its hash."""
    storage = remote(folder)
    real = EncoderSpec(
        model="org/m", revision="1", params={"a": [1, {"b": None}], "c": 0.5}, scope={"task": "T"}
    ).canonical()

    def run(script: bytes) -> None:
        data = mutated(real, Choices(script))
        namespace = hashlib.sha256(data).hexdigest()[:32]
        storage.objects[path := layout.spec_path(namespace)] = data
        try:
            with only(RepositoryError):
                read = Repository(storage).spec(namespace)
                assert (read.canonical(), read.namespace) == (data, namespace)
                assert EncoderSpec.from_canonical(data) == read
                assert_printable(visible(name_of(read)))
                assert json.loads(data) == read.document()
        finally:
            del storage.objects[path]

    return Target(run, [RAW + real, RAW + SPEC.canonical(), ANEW + b"12345"])


def listing(folder: Path) -> Target:
    """Names, sizes and times that a listing shows."""
    storage = remote(folder)
    real = sorted(storage.objects)

    def run(script: bytes) -> None:
        choices = Choices(script)
        names = [_path(choices, real) for _ in range(1 + choices.below(4))]
        for name in names:
            _check_layout(name)
        memory = MemoryStorage()
        memory.objects = dict(storage.objects)
        memory.objects.update((name, storage.objects[choices.of(real)]) for name in names)
        for found in check(Repository(memory), read_data=False).findings:
            assert len(found.what) < 5000
        with typed():
            inventory(Repository(memory))
        listing = RepositoryListing.of(ObjectInfo(name, choices.below(1 << 20), math.nan) for name in names)
        assert all(layout.pack_prefix(ref.pack) for ref in listing.manifests)

    return Target(run, [path.encode() for path in real[:6]])


def times(folder: Path) -> Target:
    """What a file system says of its objects."""

    class Odd:
        """A file system that says anything."""

        info: dict[str, Any]

        def find(self, folder: str, **_: Any) -> dict[str, Any]:
            return {f"{folder}/cas-cache.json": self.info}

    odd = Odd()
    storage = FsspecStorage("memory://fuzz", later=True)
    storage._opened[os.getpid()] = odd, "fuzz"
    fields = ("LastModified", "last_modified", "updated", "mtime", "modified", "created", "size", "type")
    written = ("2026-11-23T10:00:00.000Z", "2026-11-23 10:00:00+00:00", "20261123T100000", datetime(1, 1, 1))  # noqa: DTZ001

    def run(script: bytes) -> None:
        choices = Choices(script)
        odd.info = {"size": 1, "type": "file"}
        for _ in range(1 + choices.below(3)):
            value = choices.value() if choices.below(2) else choices.of(written)
            if isinstance(value, str):
                value = mutated_bytes(value.encode("utf-8", "surrogatepass"), choices).decode("utf-8", "replace")
            odd.info[choices.of(fields)] = value
        with typed():
            for entry in storage.list(""):
                assert isinstance(entry.modified, float)
                assert isinstance(entry.size, int)

    return Target(run, [b"abc", b"\1\1\1"])


TARGETS = {
    "manifest": manifest,
    "pack": pack,
    "marker": marker,
    "spec": spec,
    "listing": listing,
    "times": times,
}


def _path(choices: Choices, real: list[str]) -> str:
    """A path near a real one."""
    parts = choices.of(real).split("/")
    for _ in range(1 + choices.below(2)):
        at = choices.below(len(parts))
        kind = choices.below(4)
        if kind == 0:
            parts[at] = choices.text()
        elif kind == 1:
            parts[at] += choices.text()
        elif kind == 2:
            parts = parts[:at] + parts[at + 1 :] or ["a"]
        else:
            parts.insert(at, choices.text())
    return "/".join(parts)


def _check_layout(path: str) -> None:
    """What parses is built again as it was, and stays below the root."""
    found = False
    if of := layout.parse_manifest_path(path):
        found, built = True, layout.manifest_path(*of)
    elif of := layout.parse_object_path(path):
        found, built = True, layout.object_path(*of)
    elif namespace := layout.parse_spec_path(path):
        found, built = True, layout.spec_path(namespace)
    if found:
        assert built == path
        assert not {"", ".", ".."} & set(path.split("/"))
        assert path.isascii()
        assert path.isprintable()
    assert layout.is_probe_path(path) <= path.startswith("probes/")
