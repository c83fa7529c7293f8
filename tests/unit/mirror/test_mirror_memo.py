"""Memos and mapped answers: the same batch is answered without its keys, and always with its own rows."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.identity import Batch, keys_of_texts
from cas_cache.mirror import Mirror, Namespace
from cas_cache.mirror import memo as module
from cas_cache.mirror.memo import Memo
from cas_cache.mirror.rows import as_rows, count_of
from storages import OTHER_SPEC, SPEC, Encoder, texts, truth

MANY = 3000
DIGEST = b"d" * 32


@pytest.fixture
def ns(tmp_path: Path) -> Namespace:
    """Return a namespace of 3,000 rows."""
    ns = Mirror(tmp_path / "mirror").namespace(SPEC)
    ns.append(keys_of_texts(texts(MANY)), truth(texts(MANY)))
    return ns


def opened(ns: Namespace) -> Namespace:
    """Return the same namespace in new objects."""
    return Mirror(ns.folder.parents[1]).namespace(SPEC)


def batch(size: int, digest: bytes | None = DIGEST) -> Batch:
    def no_keys() -> Any:
        raise AssertionError("the keys were asked for")

    return Batch(size, no_keys, digest)


def memo_file(ns: Namespace) -> Path:
    (path,) = (ns.folder / "memo").iterdir()
    return path


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([5], slice(5, 6)),
        ([5, 6, 7], slice(5, 8)),
        ([5, 7, 6], [5, 7, 6]),
        ([5, 5, 7], [5, 5, 7]),
        ([7, 6, 5], [7, 6, 5]),
        ([1, 3, 2, 4], [1, 3, 2, 4]),
    ],
)
def test_runs(rows: list[int], expected: Any) -> None:
    """One ascending run becomes a slice; other rows stay an array."""
    found = as_rows(np.array(rows, np.int64))
    assert found == expected if isinstance(expected, slice) else list(found) == expected
    assert count_of(found) == len(rows)


@pytest.mark.parametrize("rows", [np.arange(2000), np.arange(2000)[::-1], np.zeros(2000, np.int64)])
def test_a_batch_is_remembered_by_new_objects(ns: Namespace, rows: Any) -> None:
    """The memo is found in this process and read from its file."""
    assert ns.remembered(batch(2000)) is None
    ns.remember(batch(2000), rows.astype(np.int64))
    for namespace in (ns, opened(ns)):
        found = namespace.remembered(batch(2000))
        assert found is not None
        assert np.array_equal(namespace.take(found), truth([f"text {i}" for i in rows]))
        assert namespace.remembered(batch(1999)) is None, "another size is another batch"
        assert namespace.remembered(batch(2000, b"e" * 32)) is None
        assert namespace.remembered(batch(2000, None)) is None


@pytest.mark.verify
@pytest.mark.parametrize("rows", [np.arange(2000), np.arange(2000)[::-1].copy()])
def test_every_flipped_bit_is_noticed(ns: Namespace, rows: Any) -> None:
    """A damaged memo is never used, so it never returns other rows."""
    ns.remember(batch(2000), rows)
    path = memo_file(ns)
    good = path.read_bytes()
    places = range(len(good)) if len(good) < 100 else [*range(60), *range(60, len(good), 97)]
    for at in places:
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        assert opened(ns).remembered(batch(2000)) is None, at
    for cut in (0, 1, 31, 32, 35, 36, 44, len(good) - 1):
        path.write_bytes(good[:cut])
        assert opened(ns).remembered(batch(2000)) is None, cut
    path.write_bytes(good)
    assert opened(ns).remembered(batch(2000)) is not None


def test_rows_that_hold_other_keys_now_are_not_believed(tmp_path: Path, ns: Namespace) -> None:
    """A memo of a folder that was filled again, or of another namespace, refers to other rows."""
    ns.remember(batch(2000), np.arange(2000))
    good, name = memo_file(ns).read_bytes(), memo_file(ns).name
    again = Mirror(tmp_path / "again").namespace(SPEC)
    again.append(keys_of_texts(texts(MANY)[::-1]), truth(texts(MANY)[::-1]))
    other = Mirror(tmp_path / "again").namespace(OTHER_SPEC)
    other.append(keys_of_texts(texts(MANY)), truth(texts(MANY)))
    for namespace in (again, other):
        (namespace.folder / "memo").mkdir()
        (namespace.folder / "memo" / name).write_bytes(good)
        assert namespace.remembered(batch(2000)) is None
    assert opened(ns).remembered(batch(2000)) is not None


def test_a_memo_of_rows_that_are_not_there_yet(ns: Namespace) -> None:
    """A memo with rows beyond the committed ones, or with negative rows, is ignored."""
    memo = Memo(ns.folder, SPEC.namespace)
    for rows in (slice(2999, 3001), slice(-1, 1), np.array([0, 3000]), np.array([-1, 0])):
        memo._keep(DIGEST, rows)
        assert memo.find(DIGEST, 2, ns.keys) is None


def test_where_nothing_can_be_written_it_is_kept_in_memory(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mirror answers as fast within one process."""

    def refuses(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(module, "write_atomically", refuses)
    ns.remember(batch(2000), np.arange(2000))
    assert ns.remembered(batch(2000)) is not None
    assert opened(ns).remembered(batch(2000)) is None


def test_memory_is_bounded(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused memo is removed from memory first, and is read again from its file."""
    monkeypatch.setattr(module, "MAX_BYTES", 40_000)
    memo = Memo(ns.folder, SPEC.namespace)
    rows = np.arange(2000)[::-1].copy()
    for i in range(5):
        memo.note(bytes([i]) * 32, rows, ns.keys)
    assert len(memo._known) == 2
    assert memo._bytes == 32_000
    for i in range(5):
        assert memo.find(bytes([i]) * 32, 2000, ns.keys) is not None
    memo.note(b"x" * 32, slice(0, 5), ns.keys)
    memo.note(b"x" * 32, slice(0, 5), ns.keys)
    assert memo._bytes == sum(module._size_of(rows) for rows in memo._known.values())


def test_the_cache_asks_for_no_key_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, and in the next process, a list costs one hash; the statistics are the same."""
    encoder = Encoder()
    cache = EmbeddingCache(tmp_path / "mirror")
    first = cache.encode(texts(MANY), SPEC, encoder)
    monkeypatch.setattr("cas_cache.identity.keys._keys_of", lambda _: pytest.fail("keys were made"))
    for again in (cache, EmbeddingCache(tmp_path / "mirror")):
        before = again.stats.hits
        assert np.array_equal(again.encode(texts(MANY), SPEC, encoder), first)
        assert again.stats.hits - before == MANY
    assert len(encoder.asked) == MANY
    with pytest.raises(pytest.fail.Exception):
        cache.encode(texts(MANY)[::-1], SPEC, encoder)


def test_vectors_that_may_not_be_stored_are_not_remembered(tmp_path: Path) -> None:
    """A batch with NaN is encoded again each time, as without a memo."""
    cache = EmbeddingCache(tmp_path / "mirror", chunk_items=2000)
    calls = []

    def encode(some: list[str]) -> Any:
        calls.append(len(some))
        vectors = truth(some)
        vectors[0] = np.nan
        return vectors

    for _ in range(2):
        with pytest.warns(UserWarning, match="NaN"):
            cache.encode(texts(2000), SPEC, encode)
    assert calls == [2000, 1]


class TestMapped:
    """Long runs are returned as copy-on-write maps."""

    @pytest.fixture
    def big(self, tmp_path: Path) -> Namespace:
        """Return a namespace with 1.5 MB of vectors."""
        ns = Mirror(tmp_path / "big").namespace(SPEC)
        ns.append(keys_of_texts(texts(1000)), truth(texts(1000), width=32).repeat(12, axis=1))
        assert ns.rows * ns.row_bytes > module_limit()
        return ns

    def test_an_answer_is_the_callers_own(self, big: Namespace) -> None:
        """Writing into one answer changes neither the file, nor the mirror, nor another answer."""
        right = np.array(big.take(np.arange(1000)))
        one, two = big.take(slice(0, 1000)), big.take(np.arange(1000))
        assert type(one) is np.ndarray
        assert one.flags.writeable
        assert one.flags.c_contiguous
        one[:] = 7
        two[5] = 8
        assert (one == 7).all()
        assert np.array_equal(two[:5], right[:5])
        assert np.array_equal(big.take(slice(0, 1000)), right)
        assert np.array_equal(opened(big).take(np.arange(1000)), right)

    def test_an_answer_outlives_what_the_mirror_does(self, big: Namespace) -> None:
        """Added rows and deleted files do not change it."""
        right = np.array(big.take(np.arange(1000)))
        answer = big.take(slice(0, 1000))
        big.append(keys_of_texts(texts(1000, 1000)), np.zeros_like(right) + 9)
        for file in big.folder.iterdir():
            if file.is_file():
                file.unlink()
        del big
        assert np.array_equal(answer, right)

    def test_damage_is_met_before_it_is_handed_out(self, big: Namespace) -> None:
        """A mapped row is verified like any other."""
        from cas_cache.errors import DamagedMirror

        path = big.folder / "vectors.npy"
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(DamagedMirror):
            opened(big).take(slice(0, 1000))

    def test_it_costs_no_memory(self, big: Namespace, tmp_path: Path) -> None:
        """A thousand answers of a hundred megabytes use no anonymous memory until they are written to."""
        ns = Mirror(tmp_path / "huge").namespace(OTHER_SPEC)
        ns.append(keys_of_texts(texts(20_000)), np.ones((20_000, 1280), np.float32))
        script = """
import sys
import numpy as np
from cas_cache.mirror import Mirror
ns = Mirror(sys.argv[1]).namespaces()[0]
anonymous = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
ns.take(slice(0, 20_000))
before = anonymous()
answers = [ns.take(slice(0, 20_000)) for _ in range(100)]
assert float(answers[-1][19_999, 1279]) == 1.0
print(anonymous() - before)
"""
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "huge")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ},
        )
        assert int(done.stdout) < 2_000, "kB"


def module_limit() -> int:
    from cas_cache.mirror.namespace import MIN_MAPPED_BYTES

    return MIN_MAPPED_BYTES
