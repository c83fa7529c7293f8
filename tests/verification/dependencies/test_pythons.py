"""The other supported Pythons that are installed run a part of the tests, without mteb and torch."""

import sys
from collections.abc import Callable

import pytest

from environments import ENVIRONMENTS, ROOT, check_python, interpreter

pytestmark = pytest.mark.verify

MINORS = sorted({environment.minor for environment in ENVIRONMENTS.values()})


@pytest.mark.parametrize("minor", MINORS)
def test_another_python(minor: int, figure: Callable[[str, int], None]) -> None:
    """Threads, exit handlers, the garbage collector and the libraries behave as under the Python of `make test`."""
    if minor == sys.version_info.minor:
        pytest.skip(f"Python 3.{minor} runs all tests")
    python = interpreter(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} on this machine, so its tests were not run")
    outcome = check_python(minor, ROOT / ".envs" / f"python3.{minor}", python)
    figure(f"Python 3.{minor}: passed", outcome.passed)
    assert not outcome.failed, f"{outcome}: {outcome.failed}"
    assert outcome.passed > 50
