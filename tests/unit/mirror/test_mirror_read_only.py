"""A mirror without write permission opens and answers, and raises an error where it would have to store."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from cas_cache import EmbeddingCache
from cas_cache.errors import MirrorReadError, MirrorWriteError
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.testing.processes import in_process
from storages import SPEC, Encoder, texts, truth

NOBODY = 65534


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a mirror of 3,000 rows that this process, even as root, can read but not write."""
    directory = tmp_path_factory.mktemp("shared") / "mirror"
    EmbeddingCache(directory).encode(texts(3000), SPEC, Encoder())
    above = [path for path in directory.parents if path.stat().st_uid == os.geteuid() and path != Path("/")]
    modes = {path: path.stat().st_mode for path in above}
    for path in [*above, directory, *directory.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o055 if path in modes else 0o555 if path.is_dir() else 0o444)
    yield directory
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755)
    for path, mode in modes.items():
        path.chmod(mode)


def as_nobody(function: Any, *arguments: Any) -> Any:
    """Return what a function returns in a process that is not root."""

    def call() -> Any:
        if os.geteuid() == 0:
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        return function(*arguments)

    return in_process("fork", call)


def test_it_answers(directory: Path) -> None:
    """It answers in order, in another order, again, and one by one."""

    def ask() -> None:
        cache = EmbeddingCache(directory)
        for some in (texts(3000), texts(3000)[::-1], texts(3000)[::-1], texts(1), texts(1500, 700)):
            assert_array_equal(cache.encode(some, SPEC, None), truth(some))  # type: ignore[arg-type]
        vectors, found = cache.get(["text 5", "absent"], SPEC)
        assert found.tolist() == [True, False]
        assert_array_equal(vectors[:1], truth(["text 5"]))
        assert check_mirror(Mirror(directory)).clean

    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    as_nobody(ask)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_it_says_that_it_cannot_store(directory: Path) -> None:
    """A miss is encoded but cannot be stored: the error names the directory, and existing rows are unchanged."""

    def ask() -> None:
        with pytest.raises(MirrorWriteError, match="cannot be written"):
            EmbeddingCache(directory).encode(["new"], SPEC, truth)
        assert_array_equal(EmbeddingCache(directory).encode(texts(9), SPEC, None), truth(texts(9)))  # type: ignore[arg-type]

    as_nobody(ask)


def test_a_directory_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    """An unreadable directory is an error, not an empty cache."""
    EmbeddingCache(tmp_path / "mirror").encode(texts(3), SPEC, Encoder())
    (tmp_path / "mirror").chmod(0)

    def ask() -> None:
        with pytest.raises(MirrorReadError, match="cannot be read now"):
            EmbeddingCache(tmp_path / "mirror")

    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o055)
    try:
        as_nobody(ask)
    finally:
        (tmp_path / "mirror").chmod(0o700)
