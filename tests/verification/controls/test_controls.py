"""`make test` sees the absence of each protection: one of its tests passes with it and fails without it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from controls.run import Outcome
from controls.switches import CONTROLS

pytestmark = pytest.mark.verify

RUN = Path(__file__).parent / "run.py"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Run all of them in one process that imports once, and forks for each."""
    done = subprocess.run([sys.executable, str(RUN), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: Outcome(*found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}


def test_with_all_protections_the_tests_pass(outcomes: dict[str, Outcome]) -> None:
    """Those that must fail without one."""
    on = outcomes[""]
    assert (on.code, on.failed, on.errors) == (0, [], []), on.told
    assert on.passed >= len({test for control in CONTROLS.values() for test in control.tests})


@pytest.mark.parametrize("name", CONTROLS)
def test_without_it_a_test_fails(name: str, outcomes: dict[str, Outcome], figure: Callable[[str, int], None]) -> None:
    """A test, and not its collection, set-up or clean-up."""
    off = outcomes[name]
    assert (off.code, len(off.failed), off.errors) == (1, 1, []), off.told
    figure("protections whose absence the suite sees", 1)
    figure("protections switched off and missed by the suite", 0)
