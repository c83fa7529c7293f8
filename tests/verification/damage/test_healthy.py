"""Check raises no false alarm: repositories and mirrors after correct use, of many shapes and histories.

Each is made from a seed: some namespaces, of some dtype and shape; packs of some size; two writers; merges, prunes and
drops; writers that died on the way or are still writing; a storage whose clock is off. Every tenth is written and read
by two mirrors, which are checked as well; the others by writers that need no disk. Objects of a dead writer are
reported (as `orphan`, because their owner is unknown), but are not a loss. CAS_CACHE_TEST_SCALE=n makes n times as
many.
"""

import os
import random
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cas_cache import EncoderSpec
from cas_cache.format import layout
from cas_cache.format.rows import digest_rows
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.repository import Repository, pack
from cas_cache.repository import check_pack as reading
from cas_cache.repository.check_report import Severity
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.dropping import drop
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage, threads
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import MemoryStorage
from fault_injection import DAY, Deadly, Died, InOrder, World
from scale import SCALE
from storages import Machine, texts

REPOSITORIES = 1000 * SCALE
EACH_WITH_MIRRORS = 10
EACH_BY_COMMAND = 200
"""Every so many has mirrors; of every so many the command line is asked as well."""

KINDS = [("float32", (1,)), ("float32", (4,)), ("float16", (3,)), ("float64", (2, 3)), ("int8", (33,)), ("uint8", (1,))]
RIGHT = {"superseded", "duplicate-keys", "orphan"}
"""Kinds of findings that correct use leads to."""


class OffClock(MemoryStorage):
    """A storage whose clock is off, and that may report whole seconds only."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.off = chance.choice([0.0, 0.0, -10 * DAY, 10 * DAY])
        self.whole = chance.random() < 0.5

    def list(self, prefix: str) -> list[ObjectInfo]:
        found = [ObjectInfo(it.path, it.size, it.modified + self.off) for it in super().list(prefix)]
        return [ObjectInfo(it.path, it.size, it.modified // 1) for it in found] if self.whole else found


class Rows:
    """Rows for a pack, from arrays."""

    def __init__(self, keys: NDArray[np.uint8], vectors: NDArray[Any]) -> None:
        self.columns = {"keys": keys, "vectors": vectors, "digests": digest_rows(keys, vectors)}
        self.rows, self.dtype, self.shape = len(vectors), vectors.dtype, vectors.shape[1:]

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        return self.columns[array][start:stop]


class Writer:
    """Publishes pending rows from memory, without a mirror."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.waiting: list[tuple[EncoderSpec, Rows]] = []

    def take(self, spec: EncoderSpec, keys: NDArray[np.uint8], vectors: NDArray[Any]) -> None:
        self.waiting.append((spec, Rows(keys, vectors)))

    def push(self, storage: Storage) -> None:
        repository = Repository(storage)
        if self.waiting:
            repository.create()
        while self.waiting:
            spec, rows = self.waiting[0]
            repository.publish_spec(spec)
            repository.publish(spec.namespace, rows, secrets.token_hex(16))
            self.waiting.pop(0)

    def pull(self) -> None:
        """Do nothing: only check reads this repository."""

    def forget(self, namespace: str) -> None:
        """Do nothing: this writer keeps no rows."""


class Owner(Machine):
    """Publishes from a mirror, and pulls into it."""

    def take(self, spec: EncoderSpec, keys: NDArray[np.uint8], vectors: NDArray[Any]) -> None:
        self.mirror.namespace(spec).append(keys, vectors)

    def push(self, storage: Storage) -> None:
        assert Machine(self.mirror.directory, storage).push().problems == []

    def pull(self) -> None:
        assert super().pull().problems == []

    def forget(self, namespace: str) -> None:
        """Delete a dropped namespace from the mirror, and reopen the mirror."""
        shutil.rmtree(self.mirror.directory / "namespaces" / namespace, ignore_errors=True)
        self.mirror = Mirror(self.mirror.directory)


@dataclass
class Healthy:
    """A repository that is being made.

    Attributes:
        chance: Source of random decisions.
        world: The simulated time.
        storage: The storage of the repository.
        users: The writers.
        kinds: The dtype and shape of each namespace.
        done: The number of times that each action was done.
    """

    chance: random.Random
    world: World
    storage: MemoryStorage
    users: list[Writer] | list[Owner]
    kinds: dict[EncoderSpec, tuple[str, tuple[int, ...]]]
    done: Counter[str] = field(default_factory=Counter)

    def live(self) -> None:
        """Do some random actions of its users."""
        while not Repository(self.storage).open():
            self.push()
        acts = [self.encode, self.push, self.push, self.die, self.pull, self.merge, self.sweep, self.leave, self.wait]
        for _ in range(self.chance.randrange(10)):
            act = self.chance.choice(acts)
            self.done[act.__name__] += 1
            act()

    def who(self) -> Any:
        return self.chance.choice(self.users)

    def encode(self) -> None:
        """Encode some items with some encoders; others may have the same."""
        for spec, (dtype, shape) in self.kinds.items():
            if self.chance.random() < 0.7:
                some = texts(self.chance.choice([1, 2, 5, 13]), start=self.chance.randrange(20))
                numbers = np.random.default_rng(self.chance.randrange(1 << 30)).integers(0, 100, (len(some), *shape))
                self.who().take(spec, keys_of_texts(some), numbers.astype(dtype))

    def push(self) -> None:
        self.encode()
        self.who().push(self.storage)

    def die(self) -> None:
        """Simulate a kill during a push or a merge."""
        storage = Deadly(self.storage, self.chance.randrange(1, 14), after=self.chance.random() < 0.5)
        with suppress(Died):
            if self.chance.random() < 0.7:
                self.encode()
                self.who().push(storage)
            else:
                compact(Repository(storage), at_least=2)

    def pull(self) -> None:
        self.who().pull()

    def merge(self) -> None:
        assert compact(Repository(self.storage), at_least=self.chance.randrange(2, 5)).problems == []

    def sweep(self) -> None:
        self.wait()
        if Repository(self.storage).packs():
            prune(Repository(self.storage))

    def leave(self) -> None:
        """Drop a namespace, if there are other namespaces."""
        there = sorted({namespace for namespace, _ in Repository(self.storage).packs()})
        if len(there) > 1:
            gone = self.chance.choice(there)
            drop(Repository(self.storage), gone, force=True)
            for user in self.users:
                user.forget(gone)

    def wait(self) -> None:
        self.world.wait(self.chance.choice([0.0, 0.4 * DAY, 8 * DAY]))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Only planned crashes occur and no threads run, so a seed always gives the same result."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(threads, "pool", InOrder)
    return World(monkeypatch)


def made(seed: int, folder: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Healthy:
    """Return the repository of a seed."""
    chance = random.Random(seed)
    monkeypatch.setattr(pack, "CHUNK_BYTES", chance.choice([96, 512, 48 << 20]))
    storage = OffClock(chance)
    users: Any = [Writer(storage) for _ in range(2)]
    if seed % EACH_WITH_MIRRORS == 0:
        users = [Owner(folder / f"{seed} {which}", storage) for which in range(2)]
    specs = [EncoderSpec(model=f"org/{seed}-{n}", revision="a1b2c3d") for n in range(chance.randrange(1, 4))]
    healthy = Healthy(chance, world, storage, users, {spec: chance.choice(KINDS) for spec in specs})
    healthy.live()
    return healthy


def alarms(storage: Storage, users: Iterable[Any]) -> tuple[list[str], bool]:
    """Check quickly, with all data, and the mirrors; return the false alarms, and True if objects were left behind."""
    reports = [check(Repository(storage), read_data=read_data) for read_data in (False, True)]
    findings = [it for report in reports for it in report.findings]
    wrong = [f"{it.kind}: {it.what}" for it in findings if it.kind not in RIGHT or it.severity is Severity.LOSS]
    mirrors = [user.mirror for user in users if isinstance(user, Owner)]
    wrong += [f"mirror: {it.what}" for mirror in mirrors for it in check_mirror(mirror).findings]
    return wrong, any(it.kind == "orphan" for it in findings)


def on_disk(storage: MemoryStorage, folder: Path) -> Path:
    for path, data in storage.objects.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.mark.verify
def test_check_has_no_false_alarm(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], run: Any
) -> None:
    """There are only findings that correct use leads to; the exit code is 1 only if orphaned objects exist."""
    false: list[str] = []
    done, rows = Counter[str](), 0
    for seed in range(REPOSITORIES):
        healthy = made(seed, tmp_path, world, monkeypatch)
        found, orphans = alarms(healthy.storage, healthy.users)
        false += [f"seed {seed}: {it}" for it in found]
        done += healthy.done
        rows += check(Repository(healthy.storage)).rows
        done["orphans"] += orphans
        if seed % EACH_BY_COMMAND == 0:
            remote = on_disk(healthy.storage, tmp_path / f"remote {seed}")
            for more in ([], ["--read-data"], ["--read-data", "--json"]):
                assert run("check", "--remote", remote, *more).code == orphans
            assert run("check", healthy.users[0].mirror.directory, "--mirror").code == 0
        for user in healthy.users:
            if isinstance(user, Owner):
                shutil.rmtree(user.mirror.directory)
    figure("healthy repositories checked", REPOSITORIES)
    figure("rows of healthy repositories", rows)
    figure("false alarms of check", len(false))
    assert false == []
    # The repositories must differ in shape, or this would prove little.
    assert all(done[what] > REPOSITORIES // 10 for what in ("die", "merge", "sweep", "leave", "pull", "orphans")), done


def test_a_check_that_cries_wolf_is_noticed(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same judgement detects a check that compares wrongly."""
    healthy = made(1, tmp_path, world, monkeypatch)
    assert alarms(healthy.storage, healthy.users)[0] == []
    right = reading.digest_rows
    monkeypatch.setattr(reading, "digest_rows", lambda keys, vectors: right(keys, vectors) + np.uint64(1))
    found = alarms(healthy.storage, healthy.users)[0]
    assert found
    assert all(it.startswith("row-digest") for it in found)


def test_what_right_use_never_leads_to_is_found(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same judgement detects one missing object in each repository, so silence is not what is tested."""
    for seed in range(20):
        healthy = made(seed, tmp_path, world, monkeypatch)
        objects = [path for path in healthy.storage.objects if layout.parse_object_path(path)]
        named = {pack for _, pack in Repository(healthy.storage).packs()}
        if victims := [path for path in objects if path.split("/")[1] in named]:
            healthy.storage.delete(healthy.chance.choice(sorted(victims)))
            assert alarms(healthy.storage, healthy.users)[0], f"seed {seed}"
