"""The two tiers of the tests: `make test` runs with every change, `make verify` runs the exhaustive rest.

A test that is exhaustive or slow carries the marker `verify`: on its function, its class, its file (`pytestmark`) or a
single case. `make test` leaves it out, `make verify` runs it, and pytest without `-m` runs all. Tests that install
other releases carry `environments` instead, and `make environments` runs them.

Adds: `sampled`, which keeps a few cases of a parametrized test in `make test`.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], keep: int | Collection[Any]) -> list[Any]:
    """Mark the cases of a parametrized test with `verify`, except for a sample.

    Args:
        cases: The values for `pytest.mark.parametrize`. A tuple holds the values of several arguments.
        keep: The cases that stay in `make test`; or a step, where 5 keeps the first case, the sixth and so on.

    Returns:
        All cases, in their order.

    Raises:
        ValueError: `keep` names a case that does not exist.
    """
    cases = list(cases)
    kept = [n % keep == 0 if isinstance(keep, int) else case in keep for n, case in enumerate(cases)]
    if not isinstance(keep, int) and sum(kept) != len(keep):
        raise ValueError(f"not all of {sorted(keep, key=str)} are among the cases {cases}")
    return [case if stays else _only_verify(case) for case, stays in zip(cases, kept, strict=True)]


def _only_verify(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.verify)
