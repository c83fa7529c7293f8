"""Repositories and mirrors before something happens to them, how they are copied, and how they are judged after it."""

import shutil
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cas_cache.errors import ConfigurationError, IncompleteListing
from cas_cache.format import layout
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.repository.check_report import Severity
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.dropping import drop
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage, open_storage
from cas_cache.testing import MemoryStorage
from fault_injection import Deadly, Died
from storages import OTHER_SPEC, SPEC, Machine, texts

SPECS = (SPEC, OTHER_SPEC)
ALL = texts(20)

NOTES = frozenset({"superseded", "duplicate-keys"})
"""Kinds of findings where nobody died: no orphan."""

DEATHS = NOTES | {"orphan", "nothing-there"}
"""Kinds of findings where somebody died; a push may do so before there is a repository."""

Found = list[list[str]]
"""The texts that are there, for each of `SPECS`, in the order of `ALL`."""


class Mirrors:
    """Directories, each used once; and what `Scene.judged` found with them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0
        self.judged: dict[Any, tuple[set[str], Found]] = {}

    def new(self) -> Path:
        """Return one that is not there; the folder around it is."""
        self.folder.mkdir(exist_ok=True)
        self.made += 1
        return self.folder / f"directory-{self.made}"


@dataclass
class Scene:
    """What is there before something happens.

    Attributes:
        mirrors: Where new mirrors go.
        storage: The repository.
        first_author: The mirror of who pushes, or what it is a copy of.
        first_reader: A mirror that has pulled all there is, or what it is a copy of.
        known: What was acknowledged to be in the repository.
        mine: What was acknowledged to be in the author's mirror.
        here: What was acknowledged to be in the reader's.
        views: How many rows of each view of the author's were acknowledged.
        copy: Whether the mirrors are copies: made when they are first asked for.
        told: Called whenever something was acknowledged.
        kept: Objects that live on when what they do fails: see `author_at`.
    """

    mirrors: Mirrors
    storage: Storage
    first_author: Path
    first_reader: Path
    known: Found = field(default_factory=lambda: [[], []])
    mine: Found = field(default_factory=lambda: [[], []])
    here: Found = field(default_factory=lambda: [[], []])
    views: list[int] = field(default_factory=lambda: [0, 0])
    copy: bool = False
    told: Callable[[], None] = lambda: None
    kept: dict[Any, Machine] = field(default_factory=dict)

    def again(self) -> "Scene":
        """Return a copy, times included."""
        storage = copied(self.storage, self.mirrors)
        found = (deepcopy(it) for it in (self.known, self.mine, self.here))
        return Scene(self.mirrors, storage, self.first_author, self.first_reader, *found, copy=True)

    def author_at(self, storage: Storage) -> Machine:
        """Return the author at a storage: the same object each time, that lives on when what it does fails."""
        return self._kept(self.author, storage)

    def reader_at(self, storage: Storage) -> Machine:
        """Return the reader at a storage, as `author_at`."""
        return self._kept(self.reader, storage)

    def _kept(self, directory: Path, storage: Storage) -> Machine:
        if (directory, id(storage)) not in self.kept:
            self.kept[directory, id(storage)] = Machine(directory, storage)
        return self.kept[directory, id(storage)]

    def acknowledge(self, found: Found, new: Found) -> None:
        """Note in `known`, `mine` or `here` what is there from now on."""
        for some, more in zip(found, new, strict=True):
            some[:] = [text for text in ALL if text in {*some, *more}]
        self.told()

    @cached_property
    def author(self) -> Path:
        return self._mirror(self.first_author)

    @cached_property
    def reader(self) -> Path:
        return self._mirror(self.first_reader)

    def _mirror(self, directory: Path) -> Path:
        if not self.copy:
            return directory
        mine = self.mirrors.new()
        shutil.copytree(directory, mine)
        return mine

    def judged(self) -> tuple[set[str], Found]:
        """Check all data and pull into a new mirror; return what `kinds_of` and `pulled` do. Once for each state."""
        state = contents_of(self.storage)
        if state not in self.mirrors.judged:
            self.mirrors.judged[state] = kinds_of(self.storage), pulled(self.mirrors.new(), self.storage)
        return self.mirrors.judged[state]

    def state(self) -> Any:
        """Return what tells repository, author and reader, but for times, from what they were."""
        mirrors = [Mirror(vars(self)[who]) for who in ("author", "reader") if who in vars(self)]
        states = [ns.table.state for mirror in mirrors for ns in mirror.namespaces()]
        catalogues = [ns.remote_keys.packs for mirror in mirrors for ns in mirror.namespaces()]
        mine = tuple((it.rows, it.extents, it.complete, it.rewriting) for it in states)
        return contents_of(self.storage), mine, tuple(catalogues)


def contents_of(storage: Storage) -> frozenset[tuple[str, bytes]]:
    """Return all that a storage holds."""
    if isinstance(storage, MemoryStorage):
        return frozenset(storage.objects.items())
    return frozenset((it.path, storage.get(it.path, 0, it.size)) for it in storage.list(""))


def copied(storage: Storage, mirrors: Mirrors) -> Storage:
    """Return a storage that holds the same objects with the same times."""
    if isinstance(storage, MemoryStorage):
        other = MemoryStorage()
        other.objects, other._modified = dict(storage.objects), dict(storage._modified)
        return other
    folder = mirrors.new()
    if Path(storage.url).exists():
        shutil.copytree(storage.url, folder)
    return open_storage(str(folder))


# Scenes --------------------------------------------------------------------------------------------------------------


def empty(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a scene without a repository, and a mirror that has something to push to both namespaces."""
    made = Scene(mirrors, storage, mirrors.new(), mirrors.new())
    author = Machine(made.author, storage)
    author.encode(ALL[:4], SPEC)
    author.encode(ALL[2:5], OTHER_SPEC)
    made.acknowledge(made.mine, [ALL[:4], ALL[2:5]])
    Machine(made.reader, storage)
    return made


def in_use(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a scene with five small packs of two authors, with rows in common; one has more to push."""
    made = Scene(mirrors, storage, mirrors.new(), mirrors.new())
    authors = [Machine(made.author, storage), Machine(mirrors.new(), storage)]
    for turn, (which, start, stop) in enumerate([(0, 0, 4), (1, 0, 3), (0, 2, 6), (1, 3, 6), (0, 4, 9)]):
        author = authors[turn % 2]
        author.encode(ALL[start:stop], SPECS[which])
        assert author.push().packs == 1
    reader = Machine(made.reader, storage)
    reader.pull()
    made.known = found_by(reader)
    assert [len(some) for some in made.known] == [9, 6]
    authors[0].encode(ALL[12:15], SPEC)
    authors[0].encode(ALL[12:16], OTHER_SPEC)
    made.acknowledge(made.mine, found_by(authors[0]))
    made.acknowledge(made.here, found_by(Machine(made.reader, storage)))
    return made


def compacted(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return the scene `in_use` after a compaction, with objects that nothing names, and a probe of the clock."""
    made = in_use(mirrors, storage)
    assert len(compact(Repository(storage), at_least=2).written) == 2
    unfinished = mirrors.new()
    for dying in (False, True):
        machine = Machine(unfinished, Deadly(storage, 8 if dying else 10**6, after=True))
        machine.encode(ALL[18 + dying : 19 + dying])
        try:
            machine.push()
        except Died:
            assert dying
    made.known[0].append(ALL[18])
    Machine(made.reader, storage).pull()
    storage.put(layout.probe_path("0" * 32), b"")
    assert kinds_of(storage) == {"superseded", "orphan"}
    return made


# What happens --------------------------------------------------------------------------------------------------------


def push_it(scene: Scene, storage: Storage) -> None:
    scene.author_at(storage).push()
    scene.acknowledge(scene.known, scene.mine)


def compact_it(_: Scene, storage: Storage) -> None:
    compact(Repository(storage), at_least=2)


def prune_it(_: Scene, storage: Storage) -> None:
    prune(Repository(storage), grace=0, force=True)


def drop_it(_: Scene, storage: Storage) -> None:
    drop(Repository(storage), SPEC.namespace, force=True)


# Judgement -----------------------------------------------------------------------------------------------------------


def kinds_of(storage: Storage) -> set[str]:
    """Check all data and return the kinds of findings; none may be a loss."""
    report = check(Repository(storage), read_data=True)
    assert report.count(Severity.LOSS) == 0, report.findings
    return {it.kind for it in report.findings}


def found_by(machine: Machine, looked_for: Iterable[str] = ALL) -> Found:
    """Return what a mirror has: every vector judged, and not one row beside these."""
    found = [machine.found(list(looked_for), spec) for spec in SPECS]
    for spec, some in zip(SPECS, found, strict=True):
        ns = machine.mirror.get(spec.namespace)
        assert (0 if ns is None else ns.rows) == len(some)
    return found


def pulled(directory: Path, storage: Storage, looked_for: Iterable[str] = ALL) -> Found:
    """Return what a mirror has after a pull that met no problem."""
    machine = Machine(directory, storage)
    assert machine.pull().problems == []
    return found_by(machine, looked_for)


def assert_has(found: Found, known: Found) -> None:
    for some, expected in zip(found, known, strict=True):
        assert set(some) >= set(expected)


def nothing_lost(scene: Scene) -> None:
    """After a death: all that was acknowledged is found by an old mirror and by a new one, and nothing is damaged."""
    kinds, there = scene.judged()
    assert kinds <= DEATHS
    assert_has(there, scene.known)
    assert_has(pulled(scene.reader, scene.storage), scene.known)


def push_finishes(scene: Scene) -> None:
    """The next push publishes the same packs: every row is there, and nothing is left over."""
    author = Machine(scene.author, scene.storage)
    author.push()
    mine = found_by(author)
    assert all(ns.pending_rows == 0 for ns in author.mirror.namespaces())
    kinds, found = scene.judged()
    assert found == pulled(scene.reader, scene.storage)
    assert_has(found, mine)
    assert_has(found, scene.known)
    assert kinds <= NOTES


def compact_finishes(scene: Scene) -> None:
    """The next compaction merges what is left, the one after it nothing; a prune leaves nothing but the merges."""
    compact_it(scene, scene.storage)
    assert compact(Repository(scene.storage), at_least=2, dry_run=True).merges == []
    kinds, there = scene.judged()
    assert there == scene.known
    assert kinds <= NOTES | {"orphan"}
    prune_finishes(scene)
    assert len(Repository(scene.storage).packs()) == 2


def prune_finishes(scene: Scene) -> None:
    """The next prune deletes the rest, the one after it nothing; every row is there, and nothing is to be found."""
    prune_it(scene, scene.storage)
    assert prune(Repository(scene.storage), grace=0, force=True, dry_run=True).deletions == []
    assert scene.judged() == (set(), scene.known)
    assert scene.storage.list(layout.PROBES) == []
    assert pulled(scene.reader, scene.storage) == scene.known


def partly_dropped(scene: Scene) -> None:
    """After a drop that was cut short: rows are there and right, or misses; the other namespace is whole."""
    kinds, there = scene.judged()
    assert kinds <= DEATHS
    assert there[1] == scene.known[1]
    # An old mirror is told, and keeps what it has.
    reader = Machine(scene.reader, scene.storage)
    try:
        problems = reader.pull().problems
        assert all(isinstance(it, IncompleteListing) for it in problems)
        assert problems or there == scene.known
    except IncompleteListing:
        assert there[0] == []
    assert found_by(reader) == scene.known


def drop_finishes(scene: Scene) -> None:
    """The next drop deletes the rest, or finds no such namespace; a prune removes what the first one left."""
    try:
        drop_it(scene, scene.storage)
    except ConfigurationError:
        assert all(SPEC.namespace not in entry.path for entry in scene.storage.list(""))
    assert scene.judged()[1] == [[], scene.known[1]]
    prune_it(scene, scene.storage)
    assert scene.judged() == (set(), [[], scene.known[1]])


@dataclass(frozen=True)
class Flow:
    """What happens to a scene, and what must be true after.

    Attributes:
        scene: Makes the scene.
        happens: What is cut short, over the storage given.
        judge: What is true of what is left.
        finishes: Does the same again, and what is true then.
    """

    scene: Callable[[Mirrors, Storage], Scene]
    happens: Callable[[Scene, Storage], None]
    judge: Callable[[Scene], None]
    finishes: Callable[[Scene], None]


FLOWS = {
    "first push": Flow(empty, push_it, nothing_lost, push_finishes),
    "push": Flow(in_use, push_it, nothing_lost, push_finishes),
    "compact": Flow(in_use, compact_it, nothing_lost, compact_finishes),
    "prune": Flow(compacted, prune_it, nothing_lost, prune_finishes),
    "drop": Flow(compacted, drop_it, partly_dropped, drop_finishes),
}
