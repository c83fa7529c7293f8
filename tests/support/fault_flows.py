"""What people do with a repository, to be done while something goes wrong; and what must be true then and after.

Adds to `repository_fixtures`, where the repositories before it come from: the flows that read, and what each reports of
damage.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cas_cache import EmbeddingCache, sync
from cas_cache.errors import CasCacheError
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.index import ABSENT
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage
from repository_fixtures import ALL, DEATHS, Mirrors, Scene, assert_has, compacted, empty, found_by, in_use
from storages import OTHER_SPEC, SPEC, Encoder, Machine, truth

SPECS = (SPEC, OTHER_SPEC)
CODE = {SPEC: ALL[2:11], OTHER_SPEC: ALL[:9]}
"""What is encoded: of both some that is in the repository, and some that is not."""

Problems = list[Any]


@dataclass(frozen=True)
class Flow:
    """Something that people do.

    Attributes:
        scene: Makes what is there before.
        happens: Does it over a storage. Returns what was wrong, as far as it was told of without an error.
        tells: Whether what it reads is proved, and what does not prove is told.
        ends: What is true after it was done once more without faults, beyond what holds of every flow.
    """

    scene: Callable[[Mirrors, Storage], Scene]
    happens: Callable[[Scene, Storage], Problems]
    tells: bool = False
    ends: Callable[[Scene], None] = lambda _: None


# Scenes --------------------------------------------------------------------------------------------------------------


def unread(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a repository in use, and a reader who has nothing of it."""
    return replace(in_use(mirrors, storage), first_reader=Mirror(mirrors.new()).directory)


# What happens --------------------------------------------------------------------------------------------------------


def push_it(scene: Scene, storage: Storage) -> Problems:
    return Machine(scene.author, storage).push().problems


def pull_it(scene: Scene, storage: Storage) -> Problems:
    machine = Machine(scene.reader, storage)
    try:
        return machine.pull().problems
    finally:
        found_by(machine)  # judges every vector


def pull_lazily(scene: Scene, storage: Storage) -> Problems:
    """Take the keys, then the vectors of every second text."""
    machine = Machine(scene.reader, storage)
    try:
        problems = sync.pull_keys(machine.mirror, machine.repository).problems
        for spec, known in zip(SPECS, scene.known, strict=True):
            problems += _fetch(machine, spec, known[::2])
        return problems
    finally:
        found_by(machine)


def _fetch(machine: Machine, spec: Any, texts: list[str]) -> Problems:
    ns = machine.mirror.get(spec.namespace)
    if ns is None:
        return []
    keys = keys_of_texts(texts)
    return sync.pull_rows(machine.mirror, machine.repository, spec.namespace, keys[ns.find(keys) == ABSENT]).problems


def sync_it(scene: Scene, storage: Storage) -> Problems:
    """As `cas-cache sync`: pull, then push."""
    machine = Machine(scene.author, storage)
    try:
        return [*machine.pull().problems, *machine.push().problems]
    finally:
        found_by(machine)


def encode_it(scene: Scene, storage: Storage, *, lazy: bool = False) -> Problems:
    """Encode over a remote, the way that a run does: whatever happens there, every vector is right."""
    encoder = Encoder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that the remote is away
        cache = EmbeddingCache(scene.reader, remote=f"{scene.reader}-remote", lazy=lazy, push="manual", progress=False)
        cache.repository = Repository(storage)
        for spec, texts in CODE.items():
            np.testing.assert_array_equal(cache.encode(texts, spec, encoder), truth(texts))
        problems = cache.push().problems
        cache.close()
    found_by(Machine(scene.reader, storage))
    return problems


def encode_lazily(scene: Scene, storage: Storage) -> Problems:
    return encode_it(scene, storage, lazy=True)


def compact_it(_: Scene, storage: Storage) -> Problems:
    return compact(Repository(storage), at_least=2).problems


def prune_it(_: Scene, storage: Storage) -> Problems:
    prune(Repository(storage), grace=0, force=True)
    return []


def check_it(_: Scene, storage: Storage) -> Problems:
    return [it for it in check(Repository(storage), read_data=True).findings if it.kind not in DEATHS]


# Judgement -----------------------------------------------------------------------------------------------------------


def nothing_lost(scene: Scene) -> None:
    """All that was acknowledged is found by a new mirror, and nothing is damaged."""
    kinds, found = scene.judged()
    assert kinds <= DEATHS
    assert_has(found, scene.known)


def all_pushed(scene: Scene) -> None:
    """Every row of the author's is in the repository."""
    author = Machine(scene.author, scene.storage)
    assert all(ns.pending_rows == 0 for ns in author.mirror.namespaces())
    assert_has(scene.judged()[1], found_by(author))


def all_pulled(scene: Scene) -> None:
    """The reader has all of it."""
    assert_has(found_by(Machine(scene.reader, scene.storage)), scene.known)


def half_pulled(scene: Scene) -> None:
    """The reader has what was asked for, and gets the rest."""
    reader = Machine(scene.reader, scene.storage)
    assert_has(found_by(reader), [known[::2] for known in scene.known])
    assert reader.pull().problems == []
    all_pulled(scene)


def all_encoded(scene: Scene) -> None:
    """Every text that was encoded is in the repository."""
    assert_has(scene.judged()[1], list(CODE.values()))


def all_merged(scene: Scene) -> None:
    """There is nothing to merge any more."""
    assert compact(Repository(scene.storage), at_least=2, dry_run=True).merges == []


def all_pruned(scene: Scene) -> None:
    """There is nothing to delete any more, and nothing to be found."""
    assert prune(Repository(scene.storage), grace=0, force=True, dry_run=True).deletions == []
    assert scene.judged()[0] == set()


def happened(flow: Flow, scene: Scene, storage: Storage) -> Problems:
    """Let it happen, and return what was told: typed errors and problems, and nothing else may come out."""
    try:
        return flow.happens(scene, storage)
    except CasCacheError as error:
        return [error]


def judge(flow: Flow, scene: Scene) -> None:
    """After the faults: nothing is lost; the same command finishes, and then too."""
    nothing_lost(scene)
    assert flow.happens(scene, scene.storage) == []
    flow.ends(scene)
    nothing_lost(scene)


FLOWS = {
    "first push": Flow(empty, push_it, ends=all_pushed),
    "push": Flow(in_use, push_it, ends=all_pushed),
    "pull": Flow(unread, pull_it, tells=True, ends=all_pulled),
    "pull again": Flow(in_use, pull_it, ends=all_pulled),
    "lazy pull": Flow(unread, pull_lazily, tells=True, ends=half_pulled),
    "sync": Flow(in_use, sync_it, ends=all_pushed),
    "encode": Flow(unread, encode_it, ends=all_encoded),
    "encode lazily": Flow(unread, encode_lazily, ends=all_encoded),
    "compact": Flow(in_use, compact_it, tells=True, ends=all_merged),
    "prune": Flow(compacted, prune_it, ends=all_pruned),
    "check": Flow(in_use, check_it, tells=True),
}
