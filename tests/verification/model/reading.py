"""Who reads: a pull of a mirror that others write beside. One step is one operation on the storage."""

from collections.abc import Callable, Iterator

from model.world import COMPLETE_PULLS, GRACE, THINKS, WHOLE_ROWS, Broken, Move, Rules, World, bits, superseded

MAX_LISTINGS = 3
"""`pulling.MAX_LISTINGS`."""

# disk = (packs known here, rows here). local = (listing of this pull, packs listed, manifests read, packs to read,
# rows that were acknowledged when the listing began, when that was, whether a pack has gone, rows of packs that met a
# problem, pack at hand or 0 and its first object read: one more than its place).
HEAD = 9


def reader(world: World, me: int, rules: Rules) -> Iterator[Move]:  # noqa: C901, PLR0912, PLR0915 - step by step
    """`sync.pull` of a mirror."""
    actor = world.actors[me]
    step = actor.at
    known, have = actor.disk
    turn, listed, read, todo, wanted, began, gone, excused, hand = actor.local or (0,) * HEAD

    def then(at: str, after: World = world, disk: tuple[int, int] = (known, have), **changes: int) -> World:
        local = {"turn": turn, "listed": listed, "read": read, "todo": todo, "wanted": wanted, "began": began}
        values = tuple({**local, "gone": gone, "excused": excused, "hand": hand, **changes}.values())
        return after.with_actor(me, actor._replace(at=at, local=values, disk=disk))

    def ended(after: World = world) -> World:
        return after.with_actor(me, actor.ended())

    if step == "begin":
        shown = world.listed(0) if rules.reads_by_manifest else _objects(world, 0)
        fresh = {"turn": turn + 1, "listed": shown, "read": 0, "gone": 0, "hand": 0, "began": world.time}
        yield "lists page 0", ("list", "manifests", 0), then("list 1", **fresh, wanted=world.acknowledged)
        if world.hidden and known:
            after = world._replace(hidden=world.hidden - 1)
            if rules.refuses_empty_listings:
                # pulling._check_listing: IncompleteListing.
                yield "lists nothing and refuses to believe it", None, ended(after)
            else:
                fresh["listed"] = 0
                yield "lists nothing", None, then("manifests", after, **fresh, wanted=world.acknowledged)
    elif step == "list 1":
        found = listed | (world.listed(1) if rules.reads_by_manifest else _objects(world, 1))
        # A listing that takes as long as a grace period can miss what was merged and deleted meanwhile.
        slow = world.time - began >= GRACE
        changes = {"listed": found, "began": 0, "wanted": 0 if slow else wanted}
        if known and not found and rules.refuses_empty_listings:
            yield "lists nothing on page 1 and refuses", ("list", "manifests", 1), ended()
        else:
            yield "lists page 1", ("list", "manifests", 1), then("manifests", **changes)
    elif step == "manifests":
        # pulling.manifests_of: of those that are not known here.
        for at in bits(listed & ~known & ~read & ~todo):
            there = world.packs[at].manifest >= 0 or not rules.reads_by_manifest
            op = ("get", "manifest", at)
            if there:
                yield f"reads the manifest of {at}", op, then("manifests", todo=todo | 1 << at)
            else:
                then_asks = then("gone", hand=at + 1, read=read | 1 << at)
                yield f"misses the manifest of {at}", op, then_asks
            return
        yield "has the manifests", THINKS, then("read", read=todo, hand=0)
    elif step == "gone":
        # Repository.has_gone: a listing, of which only one page can have the pack.
        at, is_read = hand - 1, bool(todo >> (hand - 1) & 1)
        still = world.packs[at].manifest >= 0
        changes = {"todo": todo & ~(1 << at), "hand": 0}
        changes |= {"excused": _excused(world, at, listed, excused)} if still else {"gone": 1}
        told = f"lists again and finds {at} {'there' if still else 'gone'}"
        yield told, ("list", "manifests", world.packs[at].page), then("read" if is_read else "manifests", **changes)
    elif step == "read":
        yield from _reads(world, me, rules, then, ended)


def _objects(world: World, page: int) -> int:
    return sum(1 << at for at, pack in enumerate(world.packs) if pack.page == page and max(pack.objects) >= 0)


def _excused(world: World, at: int, listed: int, excused: int) -> int:
    """Rows that a pull need not bring: those of a pack that is damaged. Those of a merge are in its sources, too."""
    pack = world.packs[at]
    return excused if pack.merged and not pack.merged & ~listed else excused | pack.rows


def _reads(  # noqa: C901
    world: World, me: int, rules: Rules, then: Callable[..., World], ended: Callable[..., World]
) -> Iterator[Move]:
    """`pulling._pull_namespace` once the manifests are there: merges first, sources where these could not be read."""
    actor = world.actors[me]
    known, have = actor.disk
    turn, listed, read, todo, wanted, _, gone, excused, hand = actor.local
    todo &= ~known
    if not todo:
        if gone and turn < MAX_LISTINGS and rules.lists_again:
            yield "lists again", THINKS, then("begin")
            return
        if not (gone and rules.lists_again) and wanted & ~have & ~excused:
            raise Broken(COMPLETE_PULLS)
        yield "has pulled", THINKS, ended()
        return
    later = superseded(world.packs, read) if rules.reads_by_manifest else 0
    first = todo & ~later or todo
    for at in bits(first) if not hand else [hand - 1]:
        pack = world.packs[at]
        done = (known | 1 << at | pack.merged, have | pack.rows)
        if not hand and pack.merged and not pack.merged & ~known:
            # PackLedger.skip: the rows of all that it supersedes are here.
            yield f"needs nothing of {at}", THINKS, then("read", disk=(done[0], have), todo=todo & ~(1 << at))
            continue
        for bad in (False, True) if world.bad_reads else (False,):
            after = world._replace(bad_reads=world.bad_reads - bad)
            which = 1 if hand else 0
            op = ("get", "object", at)
            rest = {"todo": todo & ~(1 << at), "hand": 0}
            if bad:
                # pack._read_chunk: another SHA-256; the pack is skipped.
                fails = {**rest, "excused": _excused(world, at, listed, excused)}
                kept = (known, have) if rules.reads_sources_of_a_broken_merge else (done[0], have)
                yield f"reads other bytes for object {which} of {at}", op, then("read", after, disk=kept, **fails)
            elif pack.objects[which] < 0 and rules.reads_by_manifest:
                yield f"misses object {which} of {at}", op, then("gone", hand=at + 1)
            elif pack.objects[which] < 0:
                raise Broken(WHOLE_ROWS)
            elif which == 0 and not pack.rows & ~have:
                # Namespace.holds: every key is here already.
                yield f"reads the keys of {at}, which are here", op, then("read", disk=done, **rest)
            elif which == 0:
                yield f"reads object 0 of {at}", op, then("read", hand=at + 1)
            else:
                yield f"reads object 1 of {at} and has its rows", op, then("read", disk=done, **rest)
