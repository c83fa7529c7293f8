"""What the chaos tests begin with."""

from pathlib import Path

import pytest

from cas_cache.testing import MemoryStorage
from fault_injection import World
from repository_fixtures import Mirrors, Scene, in_use


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def before(tmp_path: Path, world: World) -> Scene:
    """Return five small packs of two namespaces, an author who has more to push, and a reader who has them all."""
    return in_use(Mirrors(tmp_path), MemoryStorage())
