"""Two clients and a maintainer at one storage, and a dict that knows what must be found: of it `test_machine` is made.

Adds to `trouble`: `Team`, whose methods do one thing each, judge what is seen, and note what is acknowledged.
"""

import json
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest

from cas_cache import EmbeddingCache, sync
from cas_cache.errors import CasCacheError, RemoteUnavailable, RepositoryError
from cas_cache.format import layout
from cas_cache.format.manifest import pack_id
from cas_cache.identity import keys_of_texts
from cas_cache.mirror.evict import EvictReport, evict
from cas_cache.repository import Repository
from cas_cache.repository.check_report import Severity
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.dropping import drop
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage
from crash_points.actions import Fault, Jumping, damaged
from fault_injection import DAY, HOUR, Deadly, Died, Failing, Intruded, World
from repository_fixtures import ALL, DEATHS, SPECS, Mirrors, assert_has, found_by, kinds_of, pulled
from storages import Encoder, Machine, truth

LAZY = 1
"""The client that pulls keys, and of vectors what it is asked for, where it can choose."""


class Team:
    """Everybody, and what was acknowledged.

    Attributes:
        world: Whose time it is.
        memory: The repository.
        known: Texts that must be in the repository, for each of `SPECS`.
        mine: Texts that must be in a client's mirror, likewise, for each client.
        tolerant: Whether something is wrong with the repository now: what clients say of it is not judged then.
    """

    def __init__(self, world: World, mirrors: Mirrors) -> None:
        self.world, self.mirrors, self.memory = world, mirrors, Jumping()
        self.directories = [mirrors.new(), mirrors.new()]
        self.clients: list[Machine | None] = [None, None]
        self.known: list[set[str]] = [set(), set()]
        self.mine: list[list[set[str]]] = [[set(), set()], [set(), set()]]
        self.tolerant = False
        self.told = 0

    # What clients do

    def client(self, who: int, storage: Storage | None = None) -> Machine:
        """Return a client that goes on with what it has open, unless a storage of its own is given."""
        if storage is not None:
            return Machine(self.directories[who], storage)
        client = self.clients[who] or Machine(self.directories[who], self.memory)
        self.clients[who] = client
        return client

    def reopen(self, who: int) -> None:
        self.clients[who] = None

    def encode(self, who: int, which: int, texts: list[str]) -> None:
        """Put right vectors into a mirror."""
        self.client(who).encode(texts, SPECS[which])
        self.mine[who][which].update(texts)

    def ask(self, who: int, which: int, texts: list[str], fault: Fault | None) -> None:
        """Ask a cache of its own: what is known here or there is not encoded, unless the storage is away."""
        encoder, death = Encoder(), False
        with pytest.MonkeyPatch.context() as patches, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patches.setattr("cas_cache.shared_mirror.open_storage", lambda *_, **__: self._with(fault, who))
            cache = EmbeddingCache(
                self.directories[who],
                remote=str(self.mirrors.folder / "remote"),
                push="manual",
                self_check=0,
                lazy=who == LAZY,
                progress=False,
            )
            try:
                vectors = cache.encode(texts, SPECS[which], encoder=encoder)
            except Died:
                death = True
            else:
                assert (vectors == truth(texts)).all()
        expected = set(self.mine[who][which])
        if fault is None and not self.tolerant:
            expected |= self.known[which]
        assert expected.isdisjoint(encoder.asked)
        if not death:
            self.mine[who][which].update(texts)
        self._look(who)

    def push(self, who: int, fault: Fault | None = None) -> None:
        """Push; what the mirror has then is acknowledged, unless it failed or was told that it took too long."""

        def acts(client: Machine) -> None:
            assert client.push().problems == []
            for some, mine in zip(self.known, found_by(client), strict=True):
                some.update(mine)

        self._does(who, acts, fault)

    def pull(self, who: int, fault: Fault | None = None) -> None:
        """Pull: what was known before is found."""
        due = [sorted(some) for some in self.known]

        def acts(client: Machine) -> None:
            problems = client.pull().problems
            assert self.tolerant or problems == []
            if not self.tolerant:
                assert_has(found_by(client), due)

        self._does(who, acts, fault)

    def pull_lazily(self, which: int, texts: list[str], fault: Fault | None = None) -> None:
        """Pull keys, then the vectors of some texts: those that were known before are found."""
        due = self.known[which].intersection(texts)

        def acts(client: Machine) -> None:
            namespace = SPECS[which].namespace
            problems = sync.pull_keys(client.mirror, client.repository).problems
            keys = keys_of_texts(texts)
            problems += sync.pull_rows(client.mirror, client.repository, namespace, keys).problems
            assert self.tolerant or problems == []
            assert self.tolerant or due <= set(client.found(texts, SPECS[which]))

        self._does(LAZY, acts, fault)

    def evict(self, who: int, part: float) -> EvictReport:
        """Evict; pending rows stay."""
        self.reopen(who)
        client = Machine(self.directories[who], self.memory)
        waiting = sum(ns.pending_rows for ns in client.mirror.namespaces())
        whole = evict(client.mirror, 1 << 40, dry_run=True).before
        del client
        report = evict(Machine(self.directories[who], self.memory).mirror, int(whole * part))
        assert not report.in_use
        client = self.client(who)
        assert waiting == sum(ns.pending_rows for ns in client.mirror.namespaces())
        self.mine[who] = [set(some) for some in found_by(client)]
        return report

    # What the maintainer does

    def compact(self, fault: Fault | None = None, at_least: int = 2) -> None:
        def acts(storage: Storage) -> None:
            problems = compact(Repository(storage), at_least=at_least).problems
            assert self.tolerant or problems == []

        self._guarded(lambda: acts(self._with(fault, None)), fault)

    def prune(self, fault: Fault | None = None) -> None:
        self._guarded(lambda: prune(Repository(self._with(fault, None))), fault)

    def drop(self, which: int) -> None:
        """Drop a namespace; whoever has rows of it is asked to send all of them again."""
        if SPECS[which].namespace not in {namespace for namespace, _ in Repository(self.memory).packs()}:
            return
        drop(Repository(self.memory), SPECS[which].namespace, force=True)
        self.known[which].clear()
        for who in (0, 1):
            self.reopen(who)
            client = self.client(who)
            client.mirror.rebind()
            self.push(who)

    def sound(self) -> None:
        """Check all data and pull into a new mirror."""
        assert kinds_of(self.memory) <= DEATHS
        assert_has(pulled(self.mirrors.new(), self.memory), [list(some) for some in self.known])

    def finish(self) -> None:
        """Everything is pushed, merged and pruned: a new mirror has all that was acknowledged, and nothing else."""
        for who in (0, 1):
            self.reopen(who)
            self.push(who)
        self.compact()
        self.sound()
        self.memory.ahead += 1000 * DAY  # however often it was set back
        prune(Repository(self.memory))
        assert kinds_of(self.memory) <= {"duplicate-keys"}
        everything = [[text for text in ALL if text in some] for some in self.known]
        assert pulled(self.mirrors.new(), self.memory) == everything

    # What goes wrong

    def act(self, name: str, who: int | None) -> None:
        """Let others do something: everybody but `who`."""
        others = [it for it in (0, 1) if it != who]
        ACTS[name](self, others)

    def damage(self, path: str, how: str, at: int, acts: Iterable[str]) -> None:
        """Damage an object: `check` finds it, and nobody ever gets a wrong vector. Then restore it."""
        sound = self.memory.objects[path]
        broken = damaged(sound, how, at)
        if broken is None:
            del self.memory.objects[path]
        else:
            self.memory.objects[path] = broken
        findings = check(Repository(self.memory), read_data=True).findings
        concern = [it for it in findings if it.severity != Severity.NOTE and (it.path == path or _of(it.pack, path))]
        assert concern, f"nobody notices: {how} {path}"
        self.amid(acts)
        new = Machine(self.mirrors.new(), self.memory)
        with suppress(CasCacheError):
            new.pull()
        found_by(new)
        self.memory.objects[path] = sound

    def amid(self, acts: Iterable[str]) -> None:
        """Let others do things in a repository that is not as it should be: whatever they say, no vector is wrong."""
        self.tolerant = True
        for name in acts:
            self.reopen(0)
            self.reopen(1)
            with suppress(CasCacheError):
                self.act(name, None)
        self.tolerant = False
        for who in (0, 1):
            self.reopen(who)
            self._look(who)

    def mark(self, name: str, acts: Iterable[str]) -> list[type[Exception] | None]:
        """Ask all readers or writers for what nobody knows, for a while; return what pull, push and compact say."""
        sound = self.memory.objects[layout.MARKER]
        self.memory.objects[layout.MARKER] = json.dumps(json.loads(sound) | {name: ["of-tomorrow"]}).encode()
        self.encode(0, 0, ALL[-1:])
        said = [
            _said(lambda: Machine(self.mirrors.new(), self.memory).pull()),
            _said(lambda: Machine(self.directories[0], self.memory).push())
            if Machine(self.directories[0], self.memory).mirror.get(SPECS[0].namespace).pending_rows
            else None,
            _said(lambda: compact(Repository(self.memory))),
            _said(lambda: prune(Repository(self.memory))),
        ]
        objects = dict(self.memory.objects)
        self.amid(acts)
        assert self.memory.objects == objects, "written to in spite of it"
        self.memory.objects[layout.MARKER] = sound
        return said

    def add_newer(self, of: tuple[str, str], acts: Iterable[str]) -> Machine:
        """Add a copy of a pack with a feature that nobody knows, for a while; return a mirror that pulled meanwhile."""
        before = self.memory.objects[layout.manifest_path(*of)]
        data = json.dumps(json.loads(before) | {"features": ["of-tomorrow"]}).encode()
        name, objects = pack_id(data), [it.path for it in self.memory.list(layout.pack_prefix(of[1]))]
        added = [layout.manifest_path(of[0], name)]
        for path in objects:
            added.append(path.replace(of[1], name))
            self.memory.put(added[-1], self.memory.objects[path])
        self.memory.put(added[0], data)
        assert "pack-newer" in kinds_of(self.memory)
        self.amid(acts)
        assert set(added) <= self.memory.objects.keys(), "deleted by who does not know what it is"
        new = Machine(self.mirrors.new(), self.memory)
        problems = new.pull().problems
        assert {it.__class__.__name__ for it in problems} == {"UnsupportedFormat"}
        for path in added:
            self.memory.delete(path)
        return new

    def _with(self, fault: Fault | None, who: int | None) -> Storage:
        if fault is None:
            return self.memory
        if fault.kind in {"dies", "fails"}:
            return (Deadly if fault.kind == "dies" else Failing)(self.memory, fault.at, after=fault.after)

        def happens() -> None:
            for name in fault.acts:
                self.act(name, who)
            # A client's clock, and nobody else's.
            self.world.wait(fault.days * DAY)
            self.memory.ahead -= fault.days * DAY

        return Intruded(self.memory, fault.at, happens)

    def _does(self, who: int, acts: Callable[[Machine], None], fault: Fault | None) -> None:
        self._guarded(lambda: acts(self.client(who, None if fault is None else self._with(fault, who))), fault)
        if fault is not None and fault.kind == "dies":
            self.reopen(who)
        self._look(who)

    def _guarded(self, acts: Callable[[], object], fault: Fault | None) -> None:
        """Do something, and take what the fault may lead to: a death, an error, or being told."""
        real = self.memory.ahead
        try:
            acts()
        except Died:
            assert fault is not None
            assert fault.kind == "dies"
        except RemoteUnavailable:
            assert fault is not None
            assert fault.kind == "fails"
        except RepositoryError as err:
            if self.tolerant:
                raise
            if "took more than 12 hours" not in str(err) or fault is None or fault.kind not in {"stalls", "skews"}:
                raise
            self.told += 1
        finally:
            if fault is not None and self.memory.ahead != real:
                self.world.wait(self.memory.ahead - real)
                self.memory.ahead = real

    def _look(self, who: int) -> None:
        """Judge every vector of a mirror; what must be there is."""
        found = found_by(self.client(who))
        assert_has(found, [list(some) for some in self.mine[who]])
        self.mine[who] = [set(some) for some in found]


def _of(pack: str | None, path: str) -> bool:
    return bool(pack) and str(pack) in path


def _said(acts: Callable[[], object]) -> type[Exception] | None:
    try:
        acts()
    except CasCacheError as err:
        return type(err)
    return None


def _each(others: list[int], does: Callable[[int], None]) -> None:
    for who in others:
        does(who)


ACTS: dict[str, Callable[[Team, list[int]], None]] = {
    "compact": lambda team, _: team.compact(),
    "prune": lambda team, _: team.prune(),
    "push": lambda team, others: _each(others, team.push),
    "pull": lambda team, others: _each(others, team.pull),
    "encode": lambda team, others: team.encode(others[-1], 0, ALL[4:6]),
    "an hour": lambda team, _: team.world.wait(HOUR),
    "half a day": lambda team, _: team.world.wait(12.5 * HOUR),
    "ten days": lambda team, _: team.world.wait(10 * DAY),
}
"""What others do meanwhile."""
