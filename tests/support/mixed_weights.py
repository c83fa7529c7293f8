"""A repository that many writers filled, one of them with other weights; and how often a reader is told.

    python tests/support/mixed_weights.py

prints for 16, 64 and 256 packs how many bad packs were caught of those tried, and how many rows each reader compared.
"""

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cas_cache import EmbeddingCache
from cas_cache.errors import SelfCheckFailed
from cas_cache.format.rows import digest_rows
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository
from cas_cache.repository.compacting import compact
from storages import SPEC, Memory, truth

ROWS = 20
"""Rows of each pack."""

WAYS = ("whole", "in parts", "lazily", "after a merge", "lazily after a merge")


class Outcome(NamedTuple):
    """What a reader met.

    Attributes:
        caught: The self-check failed before a wrong vector was served.
        served: Wrong vectors that were served.
        compared: Rows that were encoded again.
    """

    caught: bool
    served: int
    compared: int


def rows_of(writer: int) -> list[str]:
    """Return the texts of one writer."""
    return [f"writer {writer} row {row}" for row in range(ROWS)]


def wrong(batch: list[str]) -> Any:
    """Return vectors of other weights."""
    return np.ascontiguousarray(-truth(batch))


class PackOf:
    """The rows of one writer, as the rows of a pack."""

    def __init__(self, batch: list[str], vectors: Any) -> None:
        keys = keys_of_texts(batch)
        self.rows, self.dtype, self.shape = len(batch), vectors.dtype, vectors.shape[1:]
        self._columns = {"keys": keys, "vectors": vectors, "digests": digest_rows(keys, vectors)}

    def column(self, array: str, start: int, stop: int) -> Any:
        """Return some rows of one array."""
        return self._columns[array][start:stop]


def publish(memory: Memory, batch: list[str], vectors: Any) -> str:
    """Push one pack, as a writer on another machine would; return its id."""
    repository = Repository(memory)
    repository.create()
    repository.publish_spec(SPEC)
    return repository.publish(SPEC.namespace, PackOf(batch, vectors), secrets.token_hex(16))


def fill(writers: int, bad: int | None) -> Memory:
    """Return a storage with one pack of each writer; that of `bad` is wrong."""
    memory = Memory()
    for writer in range(writers):
        publish(memory, rows_of(writer), (wrong if writer == bad else truth)(rows_of(writer)))
    return memory


def opened(folder: Path, memory: Memory, **options: Any) -> EmbeddingCache:
    """Return a cache whose remote is a storage in memory."""
    cache = EmbeddingCache(folder, remote=folder / "unused", push="manual", progress=False, **options)
    cache.repository = Repository(memory)
    return cache


def read(folder: Path, memory: Memory, way: str, writers: int) -> Outcome:
    """Ask for every row in one of `WAYS`, with the right encoder."""
    cache = opened(folder / "reader", memory, lazy="lazily" in way, self_check=8)
    served, caught = 0, False
    for asked in _requests(way, writers):
        try:
            vectors = cache.encode(asked, SPEC, truth)
        except SelfCheckFailed:
            caught = True
        else:
            served += int((np.abs(vectors - truth(asked)).max(axis=1) > 1e-3).sum())
    return Outcome(caught, served, cache.stats.checked)


def _requests(way: str, writers: int) -> Iterator[list[str]]:
    everything = [text for writer in range(writers) for text in rows_of(writer)]
    step = len(everything) // 8 if way == "in parts" else len(everything)
    for start in range(0, len(everything), step):
        yield everything[start : start + step]


def trial(writers: int, way: str, bad: int | None) -> Outcome:
    """Fill a repository, merge its packs if that is the way, and read it."""
    with tempfile.TemporaryDirectory() as folder:
        memory = fill(writers, bad)
        if "merge" in way:
            compact(Repository(memory), at_least=2)
        return read(Path(folder), memory, way, writers)


def main() -> None:
    """Print the figures."""
    rng = np.random.default_rng()
    print(f"{'packs':>5}  {'requested':<22} {'caught':>9}  {'wrong rows served':>17}  rows compared of all")
    for writers, tries in ((16, 10), (64, 3), (256, 1)):
        for way in WAYS:
            outcomes = [trial(writers, way, int(rng.integers(writers))) for _ in range(tries)]
            caught, served = sum(it.caught for it in outcomes), sum(it.served for it in outcomes)
            compared = max(it.compared for it in outcomes)
            print(f"{writers:>5}  {way:<22} {caught:>4} of {tries:<2}  {served:>17}  {compared} of {writers * ROWS}")


if __name__ == "__main__":
    main()
