"""The floors in pyproject.toml are true, the newest dependencies work, and so does every Python that is installed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from environments import ENVIRONMENTS, check, interpreter

pytestmark = pytest.mark.environments


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_dependency_versions(name: str, tmp_path: Path, figure: Callable[[str, int], None]) -> None:
    """Everything that is chosen passes in an environment of its own; the table of versions is printed."""
    environment = ENVIRONMENTS[name]
    python = interpreter(environment.minor)
    if python is None:
        pytest.skip(f"no Python 3.{environment.minor} on this machine")
    outcome = check(environment, tmp_path, python)
    print(outcome)
    figure(f"{name}: passed", outcome.passed)
    figure(f"{name}: failed", len(outcome.failed))
    assert not outcome.failed, f"{outcome}: {outcome.failed}"
    assert outcome.passed > 50
