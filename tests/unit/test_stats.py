"""What a cache says it did, and saved: pluralize, measured, or not claimed."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache import stats as counting
from cas_cache.display import duration, pluralize, size
from cas_cache.repository import Repository
from cas_cache.stats import MIN_ITEMS, Stats
from storages import OTHER_SPEC, SPEC, Encoder, Memory, texts, truth

MANY = MIN_ITEMS


def joined(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), **options)
    cache.repository = Repository(storage)
    return cache


class Timed:
    """An encoder that takes so many seconds for an item."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, batch: list[str]) -> Any:
        time.sleep(self.seconds * len(batch))
        return truth(batch)


def test_what_was_served_and_how_long_the_encoder_took(tmp_path: Path) -> None:
    """Hits are worth the bytes of their stored vectors; the clock runs while the encoder does, and only then."""
    with EmbeddingCache(tmp_path) as cache:
        assert (cache.stats.hit_rate, cache.stats.seconds_saved) == (None, None)
        cache.encode(texts(50), SPEC, Timed(0.002))
        once = cache.stats.encoder_seconds
        assert 0.1 <= once < 2
        cache.encode(texts(100), SPEC, Timed(0.002))
        cache.encode(texts(100), SPEC, Timed(0.002))  # remembered as a batch
        vectors, found = cache.get(texts(10), SPEC)
    assert found.all()
    assert len(vectors) == 10
    assert (cache.stats.hits, cache.stats.misses, cache.stats.encoded) == (50 + 100 + 10, 100, 100)
    assert cache.stats.bytes_served == 160 * 16
    assert cache.stats.hit_rate == 160 / 260
    assert cache.stats.seconds_saved == pytest.approx(160 * cache.stats.encoder_seconds / 100)
    assert cache.stats.as_json()["seconds_saved"] == cache.stats.seconds_saved
    assert json.loads(json.dumps(cache.stats.as_json())) == cache.stats.as_json()


def test_nothing_is_claimed_without_a_measurement(tmp_path: Path) -> None:
    """Hits of a namespace whose encoder was never timed here, or on too few items, are worth nothing."""
    memory = Memory()
    with joined(tmp_path / "1", memory) as one:
        one.encode(texts(MANY - 1), SPEC, Encoder())
        one.encode(texts(MANY - 1), SPEC, Encoder())
        assert one.stats.seconds_saved is None
        assert "saved" not in one.stats.summary()
        one.encode(texts(1, MANY), SPEC, Encoder())
        assert one.stats.seconds_saved is not None
    with joined(tmp_path / "2", memory) as two:
        two.encode(texts(MANY), SPEC, Encoder())
        assert two.stats.hits == MANY - 1
        assert two.stats.seconds_saved is None, "another machine's hours are not this one's"
        two.encode(texts(MANY), OTHER_SPEC, Encoder())
        assert two.stats.seconds_saved is None, "nor is one encoder's pace another's"


def test_a_saving_is_claimed_for_this_run_only(tmp_path: Path) -> None:
    """A later process that encodes nothing claims nothing; a record of an earlier version is not read."""
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(texts(MANY), SPEC, Timed(0.001))
        folder = cache.mirror.namespace(SPEC).folder
    assert not (folder / "pace.json").exists()
    (folder / "pace.json").write_text('{"items": 1000, "seconds": 100.0}')
    with EmbeddingCache(tmp_path) as cache:
        np.testing.assert_array_equal(cache.encode(texts(MANY), SPEC, Encoder()), truth(texts(MANY)))
        assert (cache.stats.encoded, cache.stats.encoder_seconds) == (0, 0.0)
        assert cache.stats.seconds_saved is None


def test_counts_of_threads(tmp_path: Path) -> None:
    """Threads that share a cache lose no count, though another is let in between reading a number and writing it."""

    class Yielding(int):
        def __add__(self, other: int) -> "Yielding":
            time.sleep(1e-5)
            return Yielding(int(self) + int(other))

    stats = Stats(hits=Yielding(0), misses=Yielding(0))

    def work() -> None:
        for _ in range(100):
            stats.add(misses=1, bytes_pulled=2)
            stats.add_look_up("n", 1, 1, 8)
            stats.add_encoded("n", 1, 0.5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (stats.hits, stats.misses, stats.encoded) == (800, 1600, 800)
    assert (stats.bytes_pulled, stats.bytes_served, stats.encoder_seconds) == (1600, 6400, 400.0)
    assert stats.seconds_saved == pytest.approx(400)


def test_a_forked_process_counts_though_another_thread_was_counting() -> None:
    """A lock that a thread of the parent holds is not the child's to wait for."""
    stats = Stats()
    with counting._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            stats.add(hits=1)
            os._exit(stats.hits)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_bytes_of_a_push_beside_a_pull(tmp_path: Path) -> None:
    """A push in the background is not counted as pulled, nor what a pull reads meanwhile as pushed."""
    memory = Memory()
    with joined(tmp_path / "other", memory) as other:
        other.encode(texts(30), OTHER_SPEC, Encoder())
    cache = joined(tmp_path / "m", memory, push="manual")
    cache.encode(texts(20), SPEC, Encoder())
    put, pulled = memory.put, []

    def put_and_pull(path: str, data: Any, *, create_only: bool = False) -> None:
        put(path, data, create_only=create_only)
        if not pulled:
            pulled.append(cache.pull([OTHER_SPEC.namespace]))

    before = sum(map(len, memory.objects.values()))
    memory.put = put_and_pull  # type: ignore[method-assign]
    cache.push()
    assert pulled[0].rows == 30
    assert cache.stats.bytes_pushed == sum(map(len, memory.objects.values())) - before


def test_what_is_compared_is_in_the_encoders_time(tmp_path: Path) -> None:
    """Vectors of others are compared by the encoder; that takes its time, and is no measure of its pace."""
    memory = Memory()
    with joined(tmp_path / "1", memory) as one:
        one.encode(texts(100), SPEC, Encoder())
    with joined(tmp_path / "2", memory, self_check=40) as two:
        two.encode(texts(100), SPEC, Timed(0.001))
    assert (two.stats.checked, two.stats.encoded) == (40, 0)
    assert two.stats.encoder_seconds >= 0.04
    assert two.stats.seconds_saved is None


def test_what_people_read(tmp_path: Path) -> None:
    """Two lines; what was not measured or did not happen is not in them."""
    stats = Stats(misses=100, bytes_pushed=1_000_000, bytes_pulled=5)
    assert Stats().summary() == (
        "0 of 0 items from the cache, 0 encoded\n0 B of vectors served, 0 B pushed, 0 B pulled"
    )
    assert repr(stats) == "Stats(hits=0, misses=100, encoded=0, checked=0, bytes_pushed=1000000, bytes_pulled=5)"
    stats.add_look_up("n", 900, 0, 900 * 1536)
    stats.add_look_up("unknown", 1000, 0, 1000 * 1536)
    stats.add_encoded("n", 100, 12.0)
    stats.add(checked=8, encoder_seconds=1.0)
    assert stats.summary().splitlines() == [
        "1,900 of 2,000 items from the cache (95.0%), 100 encoded in 13 s (with 8 more to compare)",
        "about 1 min 48 s of encoding saved, 2.9 MB of vectors served, 1.0 MB pushed, 5 B pulled",
    ]
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push="manual")
    cache.encode(texts(2), SPEC, Encoder())
    assert cache.summary().splitlines()[2] == (
        f"2 rows (112 B) are pending in the mirror {tmp_path / 'm'}. To push the pending rows: cas-cache push "
        f"{tmp_path / 'm'} --remote {tmp_path / 'repo'}"
    )
    cache.push()
    assert cache.summary() == cache.stats.summary()


def test_amounts() -> None:
    """As people read them."""
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 9.9e9, 5e15)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "9.9 GB", "5000.0 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (0, 0.349, 9.99, 10.4, 59.6, 125, 3599.6, 7500)] == [
        "0.00 s", "0.35 s", "9.99 s", "10 s", "1 min 0 s", "2 min 5 s", "1 h 0 min", "2 h 5 min",
    ]  # fmt: skip
    assert [pluralize(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
