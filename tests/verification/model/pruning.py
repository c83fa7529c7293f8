"""Who deletes: a prune. One step is one operation on the storage."""

from collections.abc import Iterator

from model.world import GRACE, NEVER, THINKS, WHOLE_PACKS, Broken, Move, Rules, World, bits

MANIFEST = 4
"""The manifest of a pack among what is deleted of it; its objects are 1 and 2."""

SKEW = 5
"""Ticks by which the clock of the machine is ahead of the storage's."""


# local = (now, manifests listed, read, superseded to delete, orphans to delete, asked for, paths left of the pack at
# hand, which is the first of what is to delete) followed by, for each pack, (manifest's time, objects listed as bits,
# time of the youngest object).
HEAD = 7


def pruner(world: World, me: int, rules: Rules) -> Iterator[Move]:  # noqa: C901, PLR0912, PLR0915 - step by step
    """`prune`, of a caller who knows of no pack (`known`)."""
    actor = world.actors[me]
    step = actor.at
    now, named, read, doomed, orphans, asked, left = actor.local[:HEAD] or (0,) * HEAD
    seen = actor.local[HEAD:]

    def then(at: str, after: World = world, listed: tuple[int, ...] = seen, **changes: int) -> World:
        head = {"now": now, "named": named, "read": read, "doomed": doomed, "orphans": orphans, "asked": asked}
        values = tuple({**head, "left": left, **changes}.values())
        return after.with_actor(me, actor._replace(at=at, local=(*values, *listed)))

    def ended(after: World = world) -> World:
        return after.with_actor(me, actor.ended())

    if step == "begin":
        # pruning.storage_time: a probe, whose time is read from a listing. While nothing has been there for the grace
        # period a prune deletes nothing, and nobody notices it: such prunes are left out.
        if rules.prune_waits and rules.storage_clock and not _some_are_old(world):
            return
        clock = world.time if rules.storage_clock else world.time + SKEW
        yield "puts a probe", ("put", "probe", 0), then("list 0", now=clock)
    elif step in ("list 0", "list 1", "again 0", "again 1"):
        page = int(step[-1])
        following = {"list 0": "list 1", "list 1": "objects 0", "again 0": "again 1", "again 1": "manifests"}[step]
        for hidden in (False, True) if world.hidden and world.listed(page) else (False,):
            shown = 0 if hidden else world.listed(page)
            after = world._replace(hidden=world.hidden - hidden)
            told = f"lists page {page}{' (which comes back empty)' if hidden else ''}"
            op = ("list", "manifests", page)
            if step.startswith("list"):
                times = _noted(seen, world, shown)
                yield told, op, then(following, after, listed=times, named=named | shown)
            # _check_listing: what the second listing shows and the first does not is new, or the first was not whole.
            elif rules.prune_asks_for_manifests_by_name and any(
                world.packs[at].manifest < now for at in bits(shown & ~named)
            ):
                yield f"{told} and finds that two listings differ", op, ended(after)
            else:
                yield told, op, then(following, after)
    elif step in ("objects 0", "objects 1"):
        page = int(step[-1])
        times = _with_objects(seen, world, page)
        following = "objects 1" if page == 0 else "again 0"
        if page == 1 and not rules.prune_asks_for_manifests_by_name:
            following = "manifests"
        yield f"lists page {page} of objects", ("list", "objects", page), then(following, listed=times)
    elif step == "manifests":
        if not named and any(seen[at + 1] for at in range(0, len(seen), 3)) and rules.prune_refuses_bare_listings:
            yield "refuses a listing without a manifest", THINKS, ended()
            return
        for at in bits(named & ~read & ~asked):
            there = world.packs[at].manifest >= 0
            changes = {"read": read | 1 << at} if there else {"asked": asked | 1 << at}
            yield f"reads the manifest of {at}", ("get", "manifest", at), then("manifests", **changes)
            return
        young = 0 if not rules.prune_waits else GRACE
        doomed, orphans = _plan(world, now - young, named, read, seen, rules)
        yield "plans", THINKS, then("asks", listed=(), doomed=doomed, orphans=orphans, asked=0, named=0, read=0)
    elif step == "asks":
        # _is_named: before a pack is taken for an orphan.
        for at in bits(orphans & ~asked) if rules.prune_asks_for_manifests_by_name else ():
            told = f"asks for the manifest of {at} by name"
            op = ("get", "manifest", at)
            if world.packs[at].manifest >= 0:
                yield f"{told} and finds it: the listing lacks something", op, ended()
            else:
                yield told, op, then("asks", asked=asked | 1 << at)
            return
        yield "begins to delete", THINKS, then("delete", now=NEVER, asked=0)
    elif step == "delete":
        # Repository.delete of the first path, then of the rest; which pack goes first depends on its name.
        if now == NEVER:
            if not doomed | orphans:
                yield "is done", THINKS, ended()
            for at in bits(doomed | orphans):
                paths = MANIFEST | 3 if doomed >> at & 1 else 3
                yield f"turns to {at}", THINKS, then("delete", now=at, left=paths)
            return
        for which in _next_paths(left, rules):
            if which < MANIFEST and world.packs[now].manifest >= 0 and not world.packs[now].excused:
                raise Broken(WHOLE_PACKS)
            after = world.delete(now, {MANIFEST: 2, 1: 0, 2: 1}[which])
            rest = left & ~which
            what = "manifest" if which == MANIFEST else "object"
            told, op = f"deletes a {what} of {now}", ("delete", what, now)
            if not rest and orphans >> now & 1:
                yield told, op, then("asks late", after, left=0)
                continue
            done = {} if rest else {"now": NEVER, "doomed": doomed & ~(1 << now)}
            yield told, op, then("delete", after, **{"left": rest, **done})
    elif step == "asks late":
        # A PUT that was on its way for days may have named the orphan meanwhile.
        following = "deletes late" if world.packs[now].manifest >= 0 else "delete"
        done = {} if following == "deletes late" else {"now": NEVER, "orphans": orphans & ~(1 << now)}
        yield f"asks for the manifest of {now} again", ("get", "manifest", now), then(following, **done)
    elif step == "deletes late":
        after = then("delete", world.delete(now, 2), now=NEVER, orphans=orphans & ~(1 << now))
        yield f"deletes the late manifest of {now}", ("delete", "manifest", now), after


def _some_are_old(world: World) -> bool:
    return any(0 <= it <= world.time - GRACE for pack in world.packs for it in (*pack.objects, pack.manifest))


def _next_paths(left: int, rules: Rules) -> Iterator[int]:
    if left & MANIFEST and rules.prune_deletes_manifests_first:
        yield MANIFEST
        return
    for which in (1, 2):
        if left & which:
            yield which
    if left == MANIFEST:
        yield MANIFEST


def _noted(seen: tuple[int, ...], world: World, shown: int) -> tuple[int, ...]:
    """Note the manifests that a listing shows, with their times."""
    times = list(seen) + [NEVER, 0, NEVER] * (len(world.packs) - len(seen) // 3)
    for at in bits(shown):
        times[3 * at] = world.packs[at].manifest
    return tuple(times)


def _with_objects(seen: tuple[int, ...], world: World, page: int) -> tuple[int, ...]:
    """Note the objects that a listing shows, with the time of the youngest of each pack."""
    times = list(_noted(seen, world, 0))
    for at, pack in enumerate(world.packs):
        if pack.page == page:
            times[3 * at + 1] = (pack.objects[0] >= 0) + 2 * (pack.objects[1] >= 0)
            times[3 * at + 2] = max(pack.objects)
    return tuple(times)


def _plan(world: World, latest: int, named: int, read: int, seen: tuple[int, ...], rules: Rules) -> tuple[int, int]:
    """`plan_prune`: superseded packs and orphans that are not younger than `latest`, as bits."""
    doomed = orphans = 0
    for at in range(len(seen) // 3):
        _, there, youngest = seen[3 * at : 3 * at + 3]
        if there and not named >> at & 1 and youngest <= latest:
            orphans |= 1 << at
    for merge in bits(read):
        whole = seen[3 * merge + 1] == 3 or not rules.prune_wants_merges_whole
        if whole and seen[3 * merge] <= latest:
            doomed |= world.packs[merge].merged & read
    return doomed, orphans
