"""A push that falls asleep where it talks to nobody: between its plan and its first request."""

from pathlib import Path

import pytest

from cas_cache.errors import RepositoryError
from cas_cache.mirror import Mirror
from cas_cache.mirror.ledger import PackLedger
from cas_cache.repository import Repository
from cas_cache.repository.pruning import DAY, prune
from cas_cache.storage import threads
from cas_cache.testing import MemoryStorage
from fault_injection import HOUR, Deadly, Died, Hooked, InOrder, World
from storages import SPEC, Machine, texts


class LateDeletes(Hooked):
    """A storage that does not delete objects of packs before it is told to."""

    def _call(self, number, verb, path, call):  # type: ignore[no-untyped-def]
        if verb == "delete" and path.startswith("packs/"):
            self.late = [*getattr(self, "late", []), call]
            return None
        return call()


def test_a_push_that_sleeps_between_its_plan_and_its_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune is about to delete what an earlier attempt wrote under the same name: the push is told it took too long.

    Else it would write these objects again, and the manifest, and the prune would then delete what is visible.
    """
    monkeypatch.setattr(threads, "pool", InOrder)
    world, memory = World(monkeypatch), MemoryStorage()
    others = Machine(tmp_path / "others", memory)
    others.encode(texts(2, 10))
    others.push()
    author = Machine(tmp_path / "author", Deadly(memory, 8, after=False))
    author.encode(texts(3))
    with pytest.raises(Died):
        author.push()
    assert len({path.split("/")[1] for path in memory.objects if path.startswith("packs/")}) == 2

    world.wait(11 * HOUR)
    pruned = LateDeletes(memory)
    plan, plans = PackLedger.plan, []

    def plan_and_sleep(self: PackLedger, *args: int, **options: float) -> object:
        plans.append(plan(self, *args, **options))
        if len(plans) == 2:  # the one that is written next
            world.wait(8 * DAY)
            assert [it.reason for it in prune(Repository(pruned)).deletions] == ["orphan"]
        return plans[-1]

    monkeypatch.setattr(PackLedger, "plan", plan_and_sleep)
    again = Machine(tmp_path / "author", memory)
    with pytest.raises(RepositoryError, match="took more than 12 hours"):
        again.push()
    for delete in pruned.late:
        delete()
    ns = Mirror(tmp_path / "author").get(SPEC.namespace)
    assert ns is not None
    assert ns.pending_rows == 3

    monkeypatch.setattr(PackLedger, "plan", plan)
    Machine(tmp_path / "author", memory).push()
    reader = Machine(tmp_path / "reader", memory)
    assert reader.pull().problems == []
    assert reader.found(texts(3)) == texts(3)
