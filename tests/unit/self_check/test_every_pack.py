"""The self-check covers every pack that it verifies: whole, in parts, lazily, after a merge and after an eviction."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import ConfigurationError, SelfCheckFailed, SelfCheckTooLarge
from cas_cache.format.manifest import Manifest
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import evict
from cas_cache.repository import Repository
from cas_cache.repository.compacting import compact
from mixed_weights import ROWS, WAYS, fill, opened, publish, read, rows_of, wrong
from paths import SUPPORT
from storages import SPEC, Encoder, Memory, texts, truth


class Rounded(Encoder):
    """An encoder that answers with lists of Python numbers, as services do."""

    def __call__(self, batch: list[str]) -> Any:
        return super().__call__(batch).astype(float).tolist()


@pytest.mark.parametrize("way", WAYS)
def test_one_bad_pack_among_sixteen_is_never_served(way: str, tmp_path: Path) -> None:
    """Whichever pack it is; of every pack at least one row is compared, in one call of the encoder."""
    memory = fill(16, 11)
    if "merge" in way:
        assert len(compact(Repository(memory), at_least=2).written) == 1
    outcome = read(tmp_path, memory, way, 16)
    assert outcome.caught
    assert outcome.served == 0


def test_one_row_of_each_pack_is_compared_in_one_call(tmp_path: Path) -> None:
    """A call that touches 20 packs costs 20 rows, and later processes nothing."""
    memory = fill(20, None)
    everything = [text for writer in range(20) for text in rows_of(writer)]
    calls: list[list[str]] = []

    def encode(batch: list[str]) -> Any:
        calls.append(batch)
        return truth(batch)

    opened(tmp_path / "reader", memory).encode(everything, SPEC, encode)
    assert [len(call) for call in calls] == [20]
    assert len({text.split(" row")[0] for text in calls[0]}) == 20
    again = opened(tmp_path / "reader", memory)
    again.encode(everything, SPEC, encode)
    assert (len(calls), again.stats.checked) == (1, 0)


def test_packs_that_a_call_does_not_touch_stay_unverified(tmp_path: Path) -> None:
    """Asked for in parts, each part verifies its own packs; the mirror says which are left."""
    memory = fill(4, None)
    cache = opened(tmp_path / "reader", memory, self_check=2)
    cache.encode(rows_of(0) + rows_of(1), SPEC, truth)
    assert cache.stats.checked == 2
    left = Mirror(tmp_path / "reader").namespace(SPEC).unverified_packs()
    assert list(left.values()) == [ROWS, ROWS]
    cache.encode(rows_of(0) + rows_of(2), SPEC, truth)
    assert cache.stats.checked == 4


def test_a_failure_verifies_the_packs_that_agree(tmp_path: Path) -> None:
    """When the wrong pack was dropped, the others are not compared again."""
    memory = fill(3, 1)
    cache = opened(tmp_path / "reader", memory)
    with pytest.raises(SelfCheckFailed, match=r"drop .* --pack") as failed:
        cache.encode(rows_of(0) + rows_of(1) + rows_of(2), SPEC, truth)
    (bad,) = failed.value.packs
    assert list(cache.mirror.namespace(SPEC).unverified_packs()) == [bad]


def test_a_merge_is_compared_source_by_source(tmp_path: Path) -> None:
    """It inherits nothing: verified packs that come back as a merge are compared again, one row for each of them."""
    memory = fill(10, None)
    everything = [text for writer in range(10) for text in rows_of(writer)]
    with opened(tmp_path / "reader", memory) as cache:
        cache.encode(everything, SPEC, truth)
        compact(Repository(memory), at_least=2)
        cache.pull()
    with Mirror(tmp_path / "reader") as mirror:
        assert mirror.namespace(SPEC).unverified_packs() == {}
    assert evict(Mirror(tmp_path / "reader"), 0).after == 0
    encoder = Encoder()
    cache = opened(tmp_path / "reader", memory)
    cache.encode(everything, SPEC, encoder)
    assert cache.stats.checked == len({text.split(" row")[0] for text in encoder.asked}) == 10
    assert cache.stats.encoded == 0


def test_a_merge_says_how_many_rows_each_pack_gave() -> None:
    """Without that, rows are shared out evenly; counts that do not add up are damage."""
    memory = Memory()
    publish(memory, texts(1), truth(texts(1)))
    publish(memory, texts(39, start=1), truth(texts(39, start=1)))
    repository = Repository(memory)
    (pack,) = compact(repository, at_least=2).written
    manifest = repository.manifest(SPEC.namespace, pack)
    assert manifest.source_rows == (1, 39)
    sources = manifest.sources(np.arange(40))
    assert sources is not None
    assert np.bincount(sources).tolist() == [1, 39]
    plain = manifest.to_bytes().replace(b'"source_rows":[1,39],', b"")
    evenly = Manifest.from_bytes(plain).sources(np.arange(40))
    assert evenly is not None
    assert np.bincount(evenly).tolist() == [20, 20]
    with pytest.raises(ValueError, match="source_rows"):
        Manifest.from_bytes(manifest.to_bytes().replace(b'"source_rows":[1,39]', b'"source_rows":[1,40]'))


def test_a_tiny_bad_source_of_a_merge_is_met(tmp_path: Path) -> None:
    """One wrong row among 400 is the whole of its pack, so it is compared."""
    memory = Memory()
    for writer in range(3):
        mine = texts(1 if writer == 1 else 200, start=1000 * writer)
        publish(memory, mine, (wrong if writer == 1 else truth)(mine))
    compact(Repository(memory), at_least=2)
    everything = texts(200) + texts(1, start=1000) + texts(200, start=2000)
    with pytest.raises(SelfCheckFailed, match="1 of 8 vectors"):
        opened(tmp_path / "reader", memory).encode(everything, SPEC, truth)


def test_a_large_comparison_is_announced_and_can_be_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is encoded; with what to do."""
    memory = fill(70, None)
    everything = [text for writer in range(70) for text in rows_of(writer)]
    encoder = Encoder()
    with pytest.raises(SelfCheckTooLarge, match=r"70 of the 1400 .*max_self_check is 60") as refused:
        opened(tmp_path / "reader", memory, max_self_check=60).encode(everything, SPEC, encoder)
    assert (refused.value.rows, refused.value.limit, encoder.asked) == (70, 60, [])
    monkeypatch.setenv("CAS_CACHE_MAX_SELF_CHECK", "60")
    with pytest.raises(SelfCheckTooLarge):
        opened(tmp_path / "reader", memory).encode(everything, SPEC, encoder)
    with caplog.at_level(logging.WARNING):
        opened(tmp_path / "reader", memory, max_self_check=70).encode(everything, SPEC, encoder)
    assert "encoding 70 of 1400 requested rows (5 %)" in caplog.text
    with pytest.raises(ConfigurationError, match="max_self_check is -1"):
        EmbeddingCache(tmp_path / "other", max_self_check=-1)


@pytest.mark.parametrize("factor", [0.5, 1.02, 3.0])
def test_another_length_is_another_vector(factor: float, tmp_path: Path) -> None:
    """A colleague who normalised, or did not, has the same directions and other dot products."""
    remote = tmp_path / "remote"
    with EmbeddingCache(tmp_path / "theirs", remote=remote) as cache:
        cache.put(texts(20), truth(texts(20)) * np.float32(factor), SPEC)
    with pytest.raises(SelfCheckFailed) as failed:
        EmbeddingCache(tmp_path / "mine", remote=remote).encode(texts(20), SPEC, truth)
    assert failed.value.distance == pytest.approx(abs(1 - factor) / max(1, factor), rel=1e-3)


def test_lists_of_numbers_are_float32_everywhere(tmp_path: Path) -> None:
    """Arrays of a colleague and lists of a service share a namespace; whole numbers never make one of integers."""
    remote = tmp_path / "remote"
    with EmbeddingCache(tmp_path / "theirs", remote=remote) as cache:
        cache.put(texts(20), truth(texts(20)), SPEC)
    with EmbeddingCache(tmp_path / "mine", remote=remote) as cache:
        assert cache.encode(texts(25), SPEC, Rounded()).dtype == np.float32
    with EmbeddingCache(tmp_path / "whole") as cache:
        assert cache.encode(["a"], SPEC, lambda batch: [[1, 0]] * len(batch)).dtype == np.float32
        assert cache.put(["b"], [[0, 1]], SPEC) == 1


def test_dtype_says_otherwise(tmp_path: Path) -> None:
    """For lists of Python numbers alone; a dtype that would change them is refused."""
    with EmbeddingCache(tmp_path / "a") as cache:
        assert cache.encode(["a"], SPEC, lambda batch: [[0.1, 1]] * len(batch), dtype="float64")[0, 0] == 0.1
        assert cache.put(["b"], [[0.2, 1]], SPEC, dtype=np.float64) == 1
    with EmbeddingCache(tmp_path / "b") as cache:
        assert cache.encode(["a"], SPEC, lambda batch: [[-5, 100]] * len(batch), dtype="int8").dtype == np.int8
        with pytest.raises(ValueError, match="not int8 numbers"):
            cache.encode(["b"], SPEC, lambda batch: [[0.5, 300]] * len(batch), dtype="int8")
        assert cache.encode(["c"], SPEC, lambda batch: np.ones((1, 2), np.int8), dtype="float64").dtype == np.int8
    with EmbeddingCache(tmp_path / "c") as cache:
        for dtype in ("no such", "complex64", object):
            with pytest.raises(ConfigurationError, match="dtype"):
                cache.encode(["a"], SPEC, truth, dtype=dtype)


def test_another_number_type_is_not_blamed_on_the_weights(tmp_path: Path) -> None:
    """A colleague pushed float64, the numbers are the same: the message says so, and how to go on."""
    remote = tmp_path / "remote"
    with EmbeddingCache(tmp_path / "theirs", remote=remote) as cache:
        cache.put(texts(20), truth(texts(20)).astype(np.float64), SPEC)
    with pytest.raises(SelfCheckFailed, match="only their type differs, not the weights") as failed:
        EmbeddingCache(tmp_path / "a", remote=remote).encode(texts(20), SPEC, Rounded())
    assert "dtype='float64'" in str(failed.value)
    assert "drop" not in str(failed.value)
    with EmbeddingCache(tmp_path / "b", remote=remote) as cache:
        assert cache.encode(texts(20), SPEC, Rounded(), dtype="float64").dtype == np.float64
    with pytest.raises(SelfCheckFailed, match="The numbers differ, too"):
        EmbeddingCache(tmp_path / "c", remote=remote).encode(texts(20), SPEC, lambda batch: -truth(batch).astype("f2"))


def test_packs_of_an_older_version_are_compared(tmp_path: Path) -> None:
    """It noted packs of which no row was compared, as a list; that is not believed."""
    memory = fill(2, None)
    cache = opened(tmp_path / "reader", memory, self_check=0)
    cache.encode(rows_of(0), SPEC, truth)
    ns = cache.mirror.namespace(SPEC)
    (ns.folder / "vouched.json").write_text(str(list(ns.packs)).replace("'", '"'))
    again = opened(tmp_path / "reader", memory)
    again.encode(rows_of(0), SPEC, truth)
    assert again.stats.checked == 8


def test_several_processes_share_what_was_verified(tmp_path: Path) -> None:
    """A reader that is open sees what another process has compared meanwhile."""
    remote = tmp_path / "remote"
    with EmbeddingCache(tmp_path / "theirs", remote=remote) as cache:
        cache.put(texts(20), truth(texts(20)), SPEC)
    first = EmbeddingCache(tmp_path / "mine", remote=remote)
    first.pull()
    code = """
import sys
from cas_cache import EmbeddingCache
from storages import SPEC, texts, truth
with EmbeddingCache(sys.argv[1], remote=sys.argv[2]) as cache:
    cache.encode(texts(20), SPEC, truth)
    print(cache.stats.checked)
"""
    environment = {"PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-c", code, str(tmp_path / "mine"), str(remote)]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == "8\n"
    first.encode(texts(20), SPEC, truth)
    assert first.stats.checked == 0
