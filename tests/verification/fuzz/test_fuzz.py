"""Everything that is parsed, given anything: an error of ours, an honest miss, or what is right; and it ends.

Each target takes a script of decisions (see `fuzz.choices`). Here hypothesis writes the scripts, always the same ones;
``python tests/verification/fuzz/run.py`` lets atheris write them, guided by the code that they reach, for a given time.
CAS_CACHE_TEST_SCALE times as many are tried.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cas_cache.identity import keys
from cas_cache.mirror import index as key_index
from cas_cache.search import faiss_index
from fuzz.choices import Choices, mutated
from fuzz.targets import EXAMPLES, TARGETS, USUAL
from scale import SCALE
from tiers import sampled


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what targets set for speed end with the test."""
    monkeypatch.setattr(os, "fsync", os.fsync)
    monkeypatch.setattr(keys, "MIN_ITEMS", keys.MIN_ITEMS)
    monkeypatch.setattr(key_index, "SAVE_ROWS", key_index.SAVE_ROWS)
    monkeypatch.setattr(faiss_index, "MIN_ROWS", faiss_index.MIN_ROWS)


@pytest.mark.verify
@pytest.mark.parametrize("name", sampled(TARGETS, keep=5))
def test_any_input(name: str, tmp_path: Path, figure: Callable[[str, int], None]) -> None:
    """Nothing wrong is served or printed, and nothing but an error of ours is raised."""
    target = TARGETS[name](tmp_path)
    executions = 0

    @settings(
        max_examples=EXAMPLES.get(name, USUAL) * SCALE,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=48))
    def any_script(script: bytes) -> None:
        nonlocal executions
        executions += 1
        target.run(script)

    for seed in target.seeds:
        executions += 1
        target.run(seed)
    any_script()
    figure("fuzz targets", 1)
    figure("fuzz executions (hypothesis)", executions)


def test_scripts_are_replayed() -> None:
    """The same script makes the same input, whatever length it has: a finding is a file."""
    document = b'{"a":[1,2,{"b":"c"}],"d":null}'
    scripts = [random.Random(seed).randbytes(seed % 40) for seed in range(300)]
    once = [mutated(document, Choices(script)) for script in scripts]
    assert once == [mutated(document, Choices(script)) for script in scripts]
    assert len(set(once)) > 200
