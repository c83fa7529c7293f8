"""What the model of the protocol is made of: a storage, time, mirrors, and the rules that the programs keep.

A pack is two objects and a manifest: two are enough for "some are there and some are not". Rows are bits. A listing is
of two pages, each of which shows the state of its own moment; a pack's id, a hash, decides on which page it is.

Time goes by in ticks of `MAX_SECONDS`, 12 hours. The grace period is 3 ticks: longer than the day for which a name may
be in use, and shorter than the 7 days by default. What holds for a shorter grace period holds for a longer one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

MOST = 1
"""Ticks: `repository.MAX_SECONDS`, for which a plan is kept, and within which a pack is written and revealed."""

GRACE = 3
"""Ticks: `prune.GRACE`."""

NEVER = -1
"""The time of what is not there."""

BOTH = 3
"""The two objects of a pack, as bits."""


class Broken(Exception):
    """A property does not hold.

    Attributes:
        name: Of the property.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


REACHABLE = "an acknowledged row is found by a fresh reader"
WHOLE_PACKS = "a visible manifest names objects that are there"
WHOLE_ROWS = "no row is taken from a pack that is not whole"
COMPLETE_PULLS = "a pull that meets no problem has every row that was acknowledged before its listing"
NOT_FOR_GOOD = "what a reader lacks, its next pull brings"
TIDY = "once all is quiet, a prune leaves no orphan and nothing superseded"
ENDS = "a compaction leaves the next one nothing to do"
NOT_TWICE = "nothing is merged that was merged or gone before the merge's objects were there, and is so still"

PROPERTIES = (REACHABLE, WHOLE_PACKS, WHOLE_ROWS, COMPLETE_PULLS, NOT_FOR_GOOD, TIDY, ENDS, NOT_TWICE)


@dataclass(frozen=True)
class Rules:
    """What the code does, one switch for each protection; a mutant has one of them off."""

    objects_before_manifest: bool = True
    acknowledged_after_manifest: bool = True
    old_names_are_dropped: bool = True
    time_counts_from_the_plan: bool = True
    gives_up_before_the_manifest: bool = True
    looks_again_after_the_manifest: bool = True
    compactor_looks_again: bool = True
    merges_what_it_names: bool = True
    merges_are_final: bool = True
    prune_waits: bool = True
    storage_clock: bool = True
    prune_deletes_manifests_first: bool = True
    prune_asks_for_manifests_by_name: bool = True
    prune_refuses_bare_listings: bool = True
    prune_wants_merges_whole: bool = True
    reads_by_manifest: bool = True
    reads_sources_of_a_broken_merge: bool = True
    lists_again: bool = True
    refuses_empty_listings: bool = True


class Pack(NamedTuple):
    """A pack that was planned: what it is, and what of it is in the storage.

    Attributes:
        page: On which page of a listing it is.
        rows: Bits.
        merged: The packs that its manifest supersedes, as bits.
        objects: When each of its two objects was written, or `NEVER`.
        manifest: When that was written, or `NEVER`.
        excused: Whether the manifest came too late, or an object was damaged: it may lack objects.
    """

    page: int
    rows: int
    merged: int
    objects: tuple[int, int] = (NEVER, NEVER)
    manifest: int = NEVER
    excused: bool = False

    @property
    def whole(self) -> bool:
        """Whether both objects are there."""
        return self.objects[0] >= 0 and self.objects[1] >= 0


class World(NamedTuple):
    """Everything at one moment.

    Attributes:
        time: In ticks.
        packs: All that were ever planned; a place in here stands for the id.
        actors: The processes, each with its place in its program, and its mirror.
        acknowledged: Rows, as bits.
        crashes: How many processes may still die.
        bad_reads: How many GETs may still bring other bytes than are stored.
        damages: How many objects of merges may still vanish.
        hidden: How many pages of listings may still come back empty.
        flying: PUTs of processes that are dead: (pack, 0 or 1 for an object, 2 for the manifest, when writing began).
    """

    time: int
    packs: tuple[Pack, ...]
    actors: tuple["Actor", ...]
    acknowledged: int = 0
    crashes: int = 0
    bad_reads: int = 0
    damages: int = 0
    hidden: int = 0
    flying: tuple[tuple[int, int, int], ...] = ()

    def with_pack(self, at: int, pack: Pack) -> "World":
        """Return the world with one pack replaced."""
        return World(self[0], (*self[1][:at], pack, *self[1][at + 1 :]), *self[2:])

    def with_actor(self, at: int, actor: "Actor") -> "World":
        """Return the world with one actor replaced."""
        return World(self[0], self[1], (*self[2][:at], actor, *self[2][at + 1 :]), *self[3:])

    def listed(self, page: int) -> int:
        """Return the packs whose manifests a page of a listing shows now, as bits."""
        found = 0
        for at, pack in enumerate(self.packs):
            if pack.page == page and pack.manifest >= 0:
                found |= 1 << at
        return found

    def put(self, at: int, which: int, began: int) -> "World":
        """Return the world after a PUT of an object (0, 1) or the manifest (2)."""
        pack = self.packs[at]
        if which == 2:
            late = self.time - began > MOST
            return self.with_pack(at, pack._replace(manifest=self.time, excused=pack.excused or late))
        times = (self.time, pack.objects[1]) if which == 0 else (pack.objects[0], self.time)
        return self.with_pack(at, pack._replace(objects=times))

    def delete(self, at: int, which: int) -> "World":
        """Return the world after a DELETE; see `put`."""
        pack = self.packs[at]
        if which == 2:
            return self.with_pack(at, pack._replace(manifest=NEVER))
        times = (NEVER, pack.objects[1]) if which == 0 else (pack.objects[0], NEVER)
        return self.with_pack(at, pack._replace(objects=times))


Op = tuple[str, str, int] | None
"""What a step does to the storage: verb, kind of object, pack or page. None where it looks at the clock, or commits to
the disk of the process."""

THINKS: Op = ("", "", 0)
"""A step that concerns nobody else: it follows at once upon the one before, whatever the others do."""

Move = tuple[str, Op, World]
"""What happens, in words; as an operation; and the world after it."""


class Actor(NamedTuple):
    """A process and what it keeps on disk.

    Attributes:
        program: ``"writer"``, ``"compactor"``, ``"pruner"`` or ``"reader"``.
        at: The next step; ``"done"`` if there is none.
        local: What is in its memory; lost when it dies.
        disk: What is on its disk; kept.
        runs: How often it may still begin.
    """

    program: str
    at: str
    local: tuple[int, ...] = ()
    disk: tuple[int, ...] = ()
    runs: int = 1

    def ended(self) -> "Actor":
        """Return it at the end of a run: it begins again, or is done."""
        return Actor(self.program, "begin" if self.runs > 1 else "done", (), self.disk, self.runs - 1)


Program = Callable[[World, int, Rules], Iterator[Move]]


def bits(mask: int) -> Iterator[int]:
    """Yield the places of the bits that are set, the lowest first."""
    at = 0
    while mask:
        if mask & 1:
            yield at
        mask >>= 1
        at += 1


def superseded(packs: tuple[Pack, ...], among: int) -> int:
    """Return the packs that some of these supersede, as bits: `manifest.superseders`."""
    found = 0
    for at in bits(among):
        found |= packs[at].merged
    return found


def reachable(world: World) -> int:
    """Return the rows that a fresh reader finds if nothing else happens, as bits."""
    rows = 0
    for pack in world.packs:
        if pack.manifest >= 0 and pack.whole:
            rows |= pack.rows
    return rows
