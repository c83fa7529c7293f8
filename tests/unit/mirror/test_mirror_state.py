"""State: the committed rows, and the pending rows of each planned pack."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cas_cache.errors import DamagedMirror, UnsupportedFormat
from cas_cache.mirror.evict import without_packs
from cas_cache.mirror.state import Extent, State

STEPS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([None, None, "p1", "p2"])), max_size=12)


def built(steps: list[tuple[int, str | None]]) -> State:
    """Return a state after appends."""
    state = State(dtype="float32", shape=(4,))
    for rows, pack in steps:
        state = state.appended([(None, rows)], pack)
    return state


def nonces() -> Any:
    """Return an endless iterator of nonces."""
    return (f"n{i}" for i in count())


def covered(state: State) -> dict[str, list[int]]:
    """Return the rows of each plan."""
    plans: dict[str, list[int]] = {}
    for extent in state.waiting:
        plans.setdefault(extent.nonce or "", []).extend(range(extent.start, extent.stop))
    return plans


@given(STEPS, st.integers(1, 20))
def test_plans_cover_exactly_the_waiting_rows(steps: list[tuple[int, str | None]], most: int) -> None:
    """Each pending row is in exactly one plan, no plan is too large, and all but the last are full."""
    state = built(steps)
    planned = state.planned(most, nonces())
    plans = covered(planned)
    waiting = [row for e in state.waiting for row in range(e.start, e.stop)]
    assert [row for rows in plans.values() for row in rows] == waiting
    assert all(len(rows) == most for rows in list(plans.values())[:-1])
    assert all(0 < len(rows) <= most for rows in plans.values())
    assert "" not in plans
    assert planned.rows == state.rows
    planned._check()


@given(STEPS, STEPS, st.integers(1, 20), st.integers(1, 20))
def test_planning_again_keeps_plans(
    steps: list[tuple[int, str | None]], more: list[tuple[int, str | None]], most: int, other: int
) -> None:
    """A retry, even after more rows and with another limit, publishes the same rows with the same nonces."""
    first = built(steps).planned(most, nonces())
    again = first
    for rows, pack in more:
        again = again.appended([(None, rows)], pack)
    again = again.planned(other, (f"m{i}" for i in count()))
    plans = covered(again)
    assert {nonce: plans[nonce] for nonce in covered(first)} == covered(first)
    assert all(len(rows) <= other for nonce, rows in plans.items() if nonce.startswith("m"))
    assert again.planned(1, iter(())) == again


@given(STEPS, st.integers(1, 20))
def test_publishing_empties_the_waiting_list(steps: list[tuple[int, str | None]], most: int) -> None:
    """When all plans are published, nothing is pending, every pack is known with all its rows, and no row moved."""
    state = built(steps).planned(most, nonces())
    for nonce, rows in covered(state).items():
        before = state
        state = state.published(nonce, f"pack-{nonce}")
        assert state.applied[f"pack-{nonce}"] == len(rows)
        assert f"pack-{nonce}" in state.complete
        assert state.rows == before.rows
        assert covered(state) == {other: r for other, r in covered(before).items() if other != nonce}
        assert state.published(nonce, "again") == state
        state._check()
    assert not state.waiting


class Growth(RuleBasedStateMachine):
    """Appends, plans and publications in any order keep every guarantee of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(dtype="int8", shape=(1,))
        self.names = nonces()
        self.source: list[str | None] = []

    @rule(rows=st.integers(0, 9), pack=st.sampled_from([None, "p1", "p2"]))
    def append(self, rows: int, pack: str | None) -> None:
        self.state = self.state.appended([(None, rows)], pack)
        self.source += [pack] * rows

    @rule(most=st.integers(1, 7))
    def plan(self, most: int) -> None:
        self.state = self.state.planned(most, self.names)

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        plans = {nonce: rows for nonce, rows in covered(self.state).items() if nonce}
        if plans:
            nonce = data.draw(st.sampled_from(sorted(plans)))
            self.state = self.state.published(nonce, f"pack of {nonce}")
            for row in plans[nonce]:
                assert self.source[row] is None
                self.source[row] = f"pack of {nonce}"

    @rule()
    def reopen(self) -> None:
        assert State.from_bytes(self.state.to_bytes(), "state.json") == self.state
        self.state = State.from_bytes(self.state.to_bytes(), "state.json")

    @invariant()
    def every_row_has_one_source(self) -> None:
        sources = [extent.pack for extent in self.state.extents for _ in range(extent.rows)]
        assert sources == self.source
        assert self.state.rows == len(sources)
        self.state._check()


TestGrowth = Growth.TestCase


def test_appending_nothing_is_the_same_state() -> None:
    """Without rows there is no change, and the caller can see that by identity."""
    state = built([(3, None)])
    assert state.appended([(None, 0)], None) is state
    assert state.appended([(None, 0)], "p") is state


def test_neighbours_of_one_source_are_one_extent() -> None:
    """A thousand small appends do not make a thousand extents."""
    state = built([(1, None)] * 1000 + [(1, "p")] * 1000)
    assert state.extents == (Extent(0, 1000), Extent(1000, 1000, "p"))


def test_reading_a_pack_never_goes_back() -> None:
    """Of two processes that read one pack, the slower one does not undo the progress of the faster."""
    state = State().read("p", 100, complete=False).read("p", 50, complete=False)
    assert state.applied["p"] == 100
    state = state.read("p", 120, complete=True).read("p", 60, complete=False)
    assert state.applied["p"] == 120
    assert state.complete == {"p"}


GOOD: dict[str, Any] = {
    "version": 1,
    "namespace": "n1",
    "rows": 5,
    "dtype": "float32",
    "shape": [4],
    "extents": [[0, 3, "p", None], [3, 2, None, "n"]],
    "applied": {"p": 3},
    "complete": ["p"],
    "superseded": ["q"],
    "planned_at": {"n": 1.5},
    "generation": 2,
    "rewriting": False,
    "incarnation": "ab12",
    "missing": ["p"],
}


def test_format_is_fixed() -> None:
    """This document exists on users' disks."""
    state = State.from_bytes(json.dumps(GOOD).encode(), "state.json")
    assert state == State(
        5,
        "float32",
        (4,),
        (Extent(0, 3, "p"), Extent(3, 2, None, "n")),
        {"p": 3},
        frozenset({"p"}),
        frozenset({"q"}),
        {"n": 1.5},
        "n1",
        2,
        False,
        "ab12",
        frozenset({"p"}),
    )
    assert json.loads(state.to_bytes()) == GOOD
    assert state.row_bytes == 16


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 6},
        {"rows": 4},
        {"rows": -5},
        {"rows": 5.0},
        {"rows": True},
        {"rows": "5"},
        {"rows": None},
        {"dtype": None},
        {"dtype": "object"},
        {"dtype": "float128"},
        {"dtype": ["float32"]},
        {"shape": []},
        {"shape": [0]},
        {"shape": [4, 0]},
        {"shape": [-4]},
        {"shape": ["4"]},
        {"shape": 4},
        {"extents": []},
        {"extents": [[0, 5]]},
        {"extents": [[1, 4, None, None]]},
        {"extents": [[0, 3, None, None], [2, 3, None, None]]},
        {"extents": [[0, 3, None, None], [4, 1, None, None]]},
        {"extents": [[0, 6, None, None], [6, -1, None, None]]},
        {"extents": [[0, 5, 7, None]]},
        {"extents": [[0, 5, None, 7]]},
        {"extents": None},
        {"applied": []},
        {"applied": {"p": -1}},
        {"applied": {"p": "3"}},
        {"complete": None},
        {"superseded": 7},
        {"planned_at": {"n": "soon"}},
        {"planned_at": []},
    ],
    ids=repr,
)
def test_what_does_not_add_up_is_damage(change: dict[str, Any]) -> None:
    """An inconsistent state is never used."""
    with pytest.raises(DamagedMirror, match=r"state\.json"):
        State.from_bytes(json.dumps({**GOOD, **change}).encode(), "state.json")


def test_what_is_evicted() -> None:
    """Rows of other packs and pending rows stay in order; packs that may lack rows now are forgotten."""
    extents = (Extent(0, 3, "a"), Extent(3, 2), Extent(5, 1, "b"), Extent(6, 4, "a"), Extent(10, 2, "c"))
    extents += (Extent(12, 1, None, "n"),)
    state = State(13, "float32", (4,), extents, namespace="n1", planned_at={"n": 1.0})
    for pack, rows in (("a", 7), ("b", 5), ("c", 2), ("merge", 8)):
        state = state.read(pack, rows, complete=True)
    state = state.superseding(["x"])
    left, runs = without_packs(state, ["a"])
    assert runs == [(3, 5), (5, 6), (10, 12), (12, 13)]
    assert left.extents == (Extent(0, 2), Extent(2, 1, "b"), Extent(3, 2, "c"), Extent(5, 1, None, "n"))
    assert (left.rows, left.generation, dict(left.planned_at)) == (6, 1, {"n": 1.0})
    assert (dict(left.applied), left.complete, left.superseded) == ({"c": 2}, frozenset({"c"}), frozenset())
    assert State.from_bytes(left.to_bytes(), "x") == left


def test_only_superseded_packs_are_forgotten() -> None:
    """A pack whose rows no other pack has stays known, and its rows stay unchanged."""
    state = State(rows=2, dtype="float32", shape=(4,), extents=(Extent(0, 1, "p"), Extent(1, 1, "q")))
    state = state.read("p", 1, complete=True).read("q", 1, complete=True).read("m", 2, complete=True)
    state = state.superseding(["p"])
    assert state.forgotten(["q"]) == state
    left = state.forgotten(["p", "q", "x"])
    assert (left.complete, left.superseded, dict(left.applied)) == (
        frozenset({"q", "m"}),
        frozenset(),
        {"q": 1, "m": 2},
    )
    assert left.extents == state.extents


LATER = {"superseded", "planned_at", "generation", "rewriting", "incarnation", "missing"}


@pytest.mark.parametrize("name", sorted(LATER))
def test_states_from_before_have_less(name: str) -> None:
    """A state from before a part existed is read as if the part were empty; an update loses nothing."""
    document = {key: value for key, value in GOOD.items() if key != name}
    state = State.from_bytes(json.dumps(document).encode(), "state.json")
    assert not getattr(state, name)
    assert state.rows == 5


@pytest.mark.parametrize("name", sorted(GOOD.keys() - LATER))
def test_every_part_is_needed(name: str) -> None:
    """A part that is missing is damage."""
    document = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(DamagedMirror):
        State.from_bytes(json.dumps(document).encode(), "state.json")


@given(st.binary(max_size=40))
def test_garbage_is_damage(data: bytes) -> None:
    """Any bytes raise one of cas_cache's errors."""
    with pytest.raises(DamagedMirror):
        State.from_bytes(data, "state.json")


@pytest.mark.parametrize("data", [b"null", b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b"{}"])
def test_other_json_is_damage(data: bytes) -> None:
    """JSON of another kind is damage too."""
    with pytest.raises(DamagedMirror):
        State.from_bytes(data, "state.json")


@given(st.integers(0, len(json.dumps(GOOD)) - 1))
def test_a_cut_state_is_damage(length: int) -> None:
    """A truncated state is not a valid state."""
    with pytest.raises(DamagedMirror):
        State.from_bytes(json.dumps(GOOD).encode()[:length], "state.json")


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_version_is_refused(version: int) -> None:
    """A newer state is not interpreted, whatever else it contains."""
    with pytest.raises(UnsupportedFormat, match="Update cas_cache"):
        State.from_bytes(json.dumps({"version": version, "news": 1}).encode(), "state.json")
