"""A sample keeps its cases in `make test`, marks all others, and loses none."""

from typing import Any

import pytest

from tiers import sampled


def split(cases: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the cases without a marker, and the values of those that are marked `verify`."""
    marked = [case for case in cases if hasattr(case, "marks")]
    assert all([mark.name for mark in case.marks] == ["verify"] for case in marked)
    return [case for case in cases if case not in marked], [case.values for case in marked]


def test_cases_are_kept_by_name() -> None:
    assert split(sampled(["push", "pull", "prune"], keep={"pull"})) == (["pull"], [("push",), ("prune",)])


def test_cases_of_several_arguments() -> None:
    cases = [("push", 1), ("push", 2)]
    assert split(sampled(cases, keep=[("push", 2)])) == ([("push", 2)], [("push", 1)])


def test_a_step_keeps_the_first_case_and_others_at_equal_distances() -> None:
    assert split(sampled(range(6), keep=3)) == ([0, 3], [(1,), (2,), (4,), (5,)])


def test_a_case_that_does_not_exist_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="sleep"):
        sampled(["push", "pull"], keep={"pull", "sleep"})
