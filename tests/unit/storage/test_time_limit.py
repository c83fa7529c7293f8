"""A pack that took too long is not revealed: its first objects may have been taken for orphans."""

import numpy as np
import pytest

from cas_cache.errors import RepositoryError
from cas_cache.format.rows import digest_rows
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository
from fault_injection import HOUR, World
from storages import SPEC, Memory, packs, texts, truth


class Rows:
    """Three rows on their way into a pack."""

    rows, dtype, shape = 3, np.dtype(np.float32), (4,)

    def column(self, array: str, start: int, stop: int) -> np.ndarray:  # type: ignore[type-arg]
        keys, vectors = keys_of_texts(texts(3)), truth(texts(3))
        return {"keys": keys, "vectors": vectors, "digests": digest_rows(keys, vectors)}[array][start:stop]


@pytest.mark.parametrize(("hours", "visible"), [(11.9, True), (12.1, False), (-1.0, False)])
def test_what_took_too_long_stays_hidden(monkeypatch: pytest.MonkeyPatch, hours: float, visible: bool) -> None:
    """More than 12 hours, or a clock that was set back: the writer is told, and there is no manifest."""
    world, memory = World(monkeypatch), Memory()
    repository = Repository(memory)
    written = repository.stage(SPEC.namespace, Rows(), "0" * 32)
    world.wait(hours * HOUR)
    if visible:
        repository.commit(written)
    else:
        with pytest.raises(RepositoryError, match="took more than 12 hours"):
            repository.commit(written)
    assert packs(memory) == ([(SPEC.namespace, written.pack)] if visible else [])


def test_the_time_counts_from_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that slept between its plan and its first request has used the time up."""
    world, memory = World(monkeypatch), Memory()
    import time

    began = time.time()
    world.wait(12.1 * HOUR)
    with pytest.raises(RepositoryError, match="took more than 12 hours"):
        Repository(memory).publish(SPEC.namespace, Rows(), "0" * 32, began=began)
    assert packs(memory) == []
