"""One object that may not be read is a problem of its pack; the same answer for every object ends the pull."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import AccessDenied, DataWarning, RepositoryError, UnreadablePack
from cas_cache.format.layout import manifest_path, object_path, spec_path
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.storage import open_storage
from cas_cache.testing import StorageCall, WrappedStorage
from fault_server import answering
from storages import SPEC, Encoder, Memory, packs, repository_of, texts, truth
from tiers import sampled


class Refusing(WrappedStorage):
    """Refuses reads of some paths, as a bucket policy or an archive storage class does."""

    def __init__(self, inner: Memory, refused: Callable[[str], bool]) -> None:
        super().__init__(inner)
        self.refused = refused

    def _call(self, call: StorageCall) -> Any:
        if call.verb == "get" and self.refused(call.path):
            raise AccessDenied("refuses a read (InvalidObjectState: archived: GLACIER).")
        return call.run()


@pytest.fixture
def three(tmp_path: Path) -> Memory:
    """Return a repository with three packs of 20 rows each."""
    return repository_of(tmp_path / "author", texts(20), texts(20, 20), texts(20, 40))


def opened(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), read_only=True, **options)
    cache.repository = Repository(storage)
    return cache


def one_object(memory: Memory, which: str) -> str:
    namespace, pack = packs(memory)[1]
    return {
        "manifest": manifest_path(namespace, pack),
        "keys": object_path(pack, "keys/c/0/0"),
        "digests": object_path(pack, "digests/c/0"),
        "vectors": object_path(pack, "vectors/c/0/0"),
    }[which]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("which", sampled(["manifest", "keys", "digests", "vectors"], keep=4))
def test_the_other_packs_are_pulled(three: Memory, tmp_path: Path, which: str, *, lazy: bool) -> None:
    """The pack is a problem with its reason, its rows are misses, and the next pull takes it if it may be read."""
    path = one_object(three, which)
    refusing = Refusing(three, lambda asked: asked == path)
    with opened(tmp_path / "m", refusing, lazy=lazy) as cache:
        if not lazy:
            (problem,) = cache.pull().problems
            assert isinstance(problem, UnreadablePack)
            assert path in str(problem)
            assert "GLACIER" in str(problem)
            assert problem.pack == packs(three)[1][1]
        else:
            with pytest.warns(match="GLACIER"):
                cache.get(texts(60), SPEC)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # a lazy cache asks for these rows again
            vectors, found = cache.get(texts(60), SPEC)
        assert found.sum() == 40
        np.testing.assert_array_equal(vectors[found], truth(texts(60))[found])
    with opened(tmp_path / "m", three, lazy=lazy) as cache:
        assert cache.get(texts(60), SPEC)[1].all()


@pytest.mark.parametrize("refused", ["all", "one by one"])
def test_a_pull_that_is_refused_everywhere_ends(three: Memory, tmp_path: Path, refused: str) -> None:
    """Credentials that end in the middle of a pull are no problem of one pack."""
    seen: list[str] = []

    def refuse(path: str) -> bool:
        seen.append(path)
        return refused == "all" or len(seen) > 6

    with opened(tmp_path / "m", Refusing(three, refuse), on_remote_error="raise") as cache:
        with pytest.raises(AccessDenied, match="refuses a read") as caught:
            cache.pull()
        assert not isinstance(caught.value, RepositoryError)


def test_check_lists_it(three: Memory) -> None:
    """With the object and the reason; the rest is checked."""
    for which in ("manifest", "keys", "vectors"):
        path = one_object(three, which)
        report = check(Repository(Refusing(three, lambda asked, path=path: asked == path)), read_data=True)
        (found,) = [finding for finding in report.findings if finding.severity != "note"]
        assert (found.kind, found.path) == ("unreadable", path)
        assert "GLACIER" in found.what
        assert report.packs == (2 if which == "manifest" else 3)


def test_a_spec_that_may_not_be_read(three: Memory, tmp_path: Path) -> None:
    """It is a problem of its namespace for a pull of all, and a run brings its own."""
    path = spec_path(SPEC.namespace)
    refusing = Refusing(three, lambda asked: asked == path)
    with opened(tmp_path / "m", refusing) as cache:
        (problem,) = cache.pull().problems
        assert "GLACIER" in str(problem)
        assert cache.get(texts(60), SPEC)[1].all()
    (found,) = [finding for finding in check(Repository(refusing)).findings if finding.severity != "note"]
    assert (found.kind, found.path) == ("unreadable", path)


@pytest.mark.parametrize(
    ("status", "document", "told"),
    [
        (
            403,
            "<Code>InvalidObjectState</Code><Message>not valid</Message><StorageClass>DEEP_ARCHIVE</StorageClass>",
            "archive storage class.*DEEP_ARCHIVE.*Restore it",
        ),
        (
            400,
            "<Code>KMS.DisabledException</Code><Message>arn:key is disabled.</Message>",
            "cannot use the key.*disabled",
        ),
        (403, "<Code>AccessDenied</Code><Message>Access Denied</Message>", "refuses a read"),
    ],
)
def test_what_s3_says_of_one_object(status: int, document: str, told: str) -> None:
    """Each is a refusal, and keeps the storage class or the reason; a disabled key comes with 400."""
    options = {"key": "AKIAEXAMPLEEXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
    with answering(status, f"<Error>{document}</Error>") as endpoint, pytest.raises(AccessDenied, match=told):
        open_storage("s3://team/emb", {**options, "endpoint_url": endpoint}).get("packs/a", 0, 9)


def test_a_run_encodes_what_may_not_be_read(three: Memory, tmp_path: Path) -> None:
    """With one warning."""
    path = one_object(three, "vectors")
    encoder = Encoder()
    with opened(tmp_path / "m", Refusing(three, lambda asked: asked == path)) as cache, pytest.warns(match="GLACIER"):
        np.testing.assert_array_equal(cache.encode(texts(60), SPEC, encoder), truth(texts(60)))
    assert len(encoder.asked) == 20
