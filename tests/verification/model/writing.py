"""Who writes packs: the push of a mirror, and a compaction.

One step is one operation on the storage, or one look at the clock; what a process works out between two of them takes
no step of its own.

Side-by-side requests are made one after the other, in order of names: which of two objects, or of two packs, goes first
makes no difference but for the names, and everybody who meets them takes them in any order.
"""

from collections.abc import Callable, Iterator

from model.world import MOST, NEVER, NOT_TWICE, THINKS, Broken, Move, Pack, Rules, World, bits, superseded

WAITS, ACKNOWLEDGED = 0, 1


# A push: local = (pack, began), disk = (rows, pack or NEVER, planned at, WAITS or ACKNOWLEDGED) ----------------------


def writer(world: World, me: int, rules: Rules) -> Iterator[Move]:
    """`sync.push` of a mirror in which rows wait."""
    actor = world.actors[me]
    rows, planned, planned_at, state = actor.disk
    step = actor.at
    if step == "begin":
        if state == ACKNOWLEDGED:
            yield "finds nothing to push", THINKS, world.with_actor(me, actor._replace(at="done", runs=0))
        elif planned >= 0 and (world.time - planned_at <= MOST or not rules.old_names_are_dropped):
            # PackLedger.plan, State.planned: what was planned a moment ago keeps its nonce, and so its name.
            yield f"keeps the name {planned}", None, _planned(world, me, planned, rules)
        else:
            for page in (0, 1):
                new, drawn = _drawn(world, page, rows, 0)
                then = drawn.with_actor(me, actor._replace(disk=(rows, new, world.time, WAITS)))
                yield f"draws the name {new}, on page {page}", None, _planned(then, me, new, rules)
    elif step == "clock":
        # Repository.stage, where it does not count from the plan.
        then = world.with_actor(me, actor._replace(at="put 0", local=(actor.local[0], world.time)))
        yield "begins to count", None, then
    else:
        yield from _publishes(world, me, rules)


def _planned(world: World, me: int, pack: int, rules: Rules) -> World:
    """The time is taken before the plan is made (`sync.push`), or when writing begins."""
    began = world.time if rules.time_counts_from_the_plan else NEVER
    step = "clock" if began == NEVER else "put 0"
    if not rules.objects_before_manifest and began != NEVER:
        step = "manifest"
    return world.with_actor(me, world.actors[me]._replace(at=step, local=(pack, began)))


def _drawn(world: World, page: int, rows: int, merged: int) -> tuple[int, World]:
    """`secrets.token_hex`: a name that was never there."""
    return len(world.packs), world._replace(packs=(*world.packs, Pack(page, rows, merged)))


def _publishes(world: World, me: int, rules: Rules) -> Iterator[Move]:  # noqa: C901, PLR0912, PLR0915
    """`Repository.stage` and `Repository.commit`, and what their callers do next: of a push and of a compaction."""
    actor = world.actors[me]
    pack, began = actor.local[:2]
    step = actor.at
    if step in ("put 0", "put 1"):
        # threads.put_all, by Repository.stage.
        which = int(step[-1])
        after = "put 1" if which == 0 else "check"
        if after == "check" and actor.program == "compactor":
            after = "again 0" if rules.compactor_looks_again else "check"
        if after == "check" and not rules.objects_before_manifest and actor.program == "writer":
            after = "note"
        then = world.put(pack, which, began)
        if which == 1 and actor.program == "compactor":
            then = then.with_actor(me, actor._replace(local=(*actor.local[:-1], _is_stale(world, pack))))
        yield f"puts object {which} of {pack}", ("put", "object", pack), _at(then, me, after)
    elif step == "check":
        # publishing.commit: StagedPack.in_time before the PUT.
        in_time = world.time - began <= MOST or not rules.gives_up_before_the_manifest
        if in_time and actor.program == "writer" and not rules.acknowledged_after_manifest:
            yield "notes that it is published, too early", None, _at(_noted(world, me), me, "manifest")
        elif in_time:
            yield "finds itself in time", None, _at(world, me, "manifest")
        else:
            yield "finds that it took too long", None, world.with_actor(me, actor.ended())
    elif step == "manifest":
        # Still so: a merge that came too late may have been taken back since.
        if actor.program == "compactor" and actor.local[-1] and _is_stale(world, pack):
            raise Broken(NOT_TWICE)
        yield f"puts the manifest of {pack}", ("put", "manifest", pack), _at(world.put(pack, 2, began), me, "look")
        if not rules.objects_before_manifest and actor.program == "writer":
            return
    elif step == "look":
        # publishing.commit: StagedPack.in_time after the PUT.
        if not rules.objects_before_manifest and actor.program == "writer":
            yield "goes on", THINKS, _at(world, me, "put 0")
        elif world.time - began <= MOST or not rules.looks_again_after_the_manifest:
            yield "finds itself in time still", None, _at(world, me, "note")
        else:
            yield "finds that it took too long in the end", None, _at(world, me, "list")
    elif step == "list":
        # Repository.commit: a listing of the pack alone.
        whole = world.packs[pack].whole
        then = world.with_actor(me, actor.ended()) if whole else _at(world, me, "undo")
        yield f"lists the objects of {pack}", ("list", "pack", pack), then
    elif step == "undo":
        then = world.delete(pack, 2).with_actor(me, actor.ended())
        yield f"takes the manifest of {pack} back", ("delete", "manifest", pack), then
    elif step == "note":
        # PackLedger.published, in the mirror. A compaction only counts.
        then = _noted(world, me) if actor.program == "writer" else world
        yield f"notes that {pack} is published", None, then.with_actor(me, then.actors[me].ended())


def _at(world: World, me: int, step: str) -> World:
    return world.with_actor(me, world.actors[me]._replace(at=step))


def _noted(world: World, me: int) -> World:
    """The rows are acknowledged: from now on nobody may miss them."""
    actor = world.actors[me]
    rows, pack, planned_at, _ = actor.disk
    then = world._replace(acknowledged=world.acknowledged | rows)
    return then.with_actor(me, actor._replace(disk=(rows, pack, planned_at, ACKNOWLEDGED)))


def _is_stale(world: World, merge: int) -> int:
    """Whether one of a merge's sources is not visible any more, or superseded by another that is."""
    visible = world.listed(0) | world.listed(1)
    sources = world.packs[merge].merged
    return int(bool(sources & ~visible) or bool(sources & superseded(world.packs, visible)))


# A compaction: local = (pack, began, listed, read, sources, got, stale) -------------------------------------------


def compactor(world: World, me: int, rules: Rules) -> Iterator[Move]:  # noqa: C901, PLR0912, PLR0915
    """`compact` of one namespace, `at_least=2`."""
    actor = world.actors[me]
    step = actor.at
    pack, began, listed, read, sources, got, stale = actor.local or (NEVER, NEVER, 0, 0, 0, 0, 0)

    def then(at: str, after: World = world, **changes: int) -> World:
        local = {"pack": pack, "began": began, "listed": listed, "read": read, "sources": sources, "got": got}
        values = tuple({**local, "stale": stale, **changes}.values())
        return after.with_actor(me, actor._replace(at=at, local=values))

    if step == "begin":
        yield "lists page 0", ("list", "manifests", 0), then("list 1", listed=world.listed(0))
    elif step == "list 1":
        found = listed | world.listed(1)
        yield "lists page 1", ("list", "manifests", 1), then("manifests", listed=found)
    elif step == "manifests":
        # Repository.manifests; what has gone is skipped (has_gone).
        for at in bits(listed & ~read):
            there = world.packs[at].manifest >= 0
            changes = {"read": read | 1 << at} if there else {"listed": listed & ~(1 << at)}
            yield f"reads the manifest of {at}", ("get", "manifest", at), then("manifests", **changes)
            return
        yield "plans", THINKS, _planned_merge(world, me, read, then, rules)
    elif step == "read":
        # _Spool.add: whole packs, verified, or nothing of them.
        for at in bits(sources):
            for bad in (False, True) if world.bad_reads else (False,):
                after = world._replace(bad_reads=world.bad_reads - bad)
                is_read = world.packs[at].whole and not bad
                changes = {"sources": sources & ~(1 << at), "got": got | 1 << at if is_read else got}
                told = f"reads {at}{'' if is_read else ', which is not whole'}"
                yield told, ("get", "object", at), then("read", after, **changes)
            return
        if got.bit_count() < 2:
            yield "has nothing to merge", THINKS, world.with_actor(me, actor.ended())
            return
        rows = 0
        for at in bits(got):
            rows |= world.packs[at].rows
        for page in (0, 1):
            new, drawn = _drawn(world, page, rows, got if rules.merges_what_it_names else stale)
            told = f"draws the name {new}, on page {page}, for a merge of {list(bits(got))}"
            yield told, None, then("put 0", drawn, pack=new, began=world.time, stale=0)
    elif step in ("again 0", "again 1"):
        # _merged_or_gone: a fresh look.
        page = int(step[-1])
        visible = (0 if page == 0 else sources) | world.listed(page)
        after = "again 1" if page == 0 else "others"
        yield f"lists page {page} again", ("list", "manifests", page), then(after, sources=visible)
    elif step == "others":
        # `sources` is what was listed just now; `listed` what was known before.
        if got & ~sources:
            yield "finds that a source has gone", THINKS, then("back 0")
            return
        for at in bits(sources & ~read):
            there = world.packs[at].manifest >= 0
            if there and world.packs[at].merged & got:
                yield f"finds that {at} merged them", ("get", "manifest", at), then("back 0")
            else:
                yield f"reads the manifest of {at}", ("get", "manifest", at), then("others", read=read | 1 << at)
            return
        yield "finds nothing new", THINKS, then("check")
    elif step in ("back 0", "back 1"):
        which = int(step[-1])
        after = world.delete(pack, which)
        ended = after.with_actor(me, actor.ended())
        told = f"deletes its object {which} of {pack}"
        yield told, ("delete", "object", pack), then("back 1", after) if which == 0 else ended
    else:
        yield from _publishes(world, me, rules)


def _planned_merge(world: World, me: int, read: int, then: Callable[..., World], rules: Rules) -> World:
    """`plan_compact`: what is no merge, and in none."""
    small = read
    if rules.merges_are_final:
        small &= ~superseded(world.packs, read)
        for at in bits(read):
            if world.packs[at].merged:
                small &= ~(1 << at)
    if small.bit_count() < 2:
        return world.with_actor(me, world.actors[me].ended())
    planned: World = then("read", sources=small, stale=small)
    return planned
