"""Requests that are never answered end in time, and a pull that fails leaves no empty mirror."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import BucketNotFound, RemoteUnavailable, RemoteWarning
from cas_cache.format.marker import new_marker
from cas_cache.mirror import Mirror
from cas_cache.storage import failures, open_storage, threads
from cas_cache.storage import fsspec_storage as storage_module
from fault_server import Server, refusing
from storages import SPEC, Encoder, texts, truth

KEYS = {"key": "AKIAEXAMPLEEXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
REMOTE = "s3://team/emb"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the time limits short."""
    monkeypatch.setattr(storage_module, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(storage_module, "SLOW_BYTES_PER_SECOND", 1 << 40)
    monkeypatch.setattr(storage_module, "MAX_SECONDS", 0.5)


@contextmanager
def without_answers(to: Callable[[str, str], bool]) -> Iterator[str]:
    """Yield the endpoint of a repository without packs whose server never answers some requests, by method and path."""
    ended = threading.Event()
    marker = new_marker("0" * 32)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            if to(self.command, self.path):
                ended.wait(60)  # the body is not read
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
            content = listing if "list-type" in self.path else marker
            self.send_response(200)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = respond  # noqa: N815 - http.server's names

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            ended.set()
            server.shutdown()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("size", [1, 30 << 20])
def test_a_write_that_is_never_answered(size: int) -> None:
    """Whether the server reads the body or not; SDKs have no limit for a body that is not read."""
    with without_answers(lambda method, _: method == "PUT") as endpoint:
        storage = open_storage(REMOTE, {**KEYS, "endpoint_url": endpoint})
        assert storage.get("cas-cache.json", 0, 1) == b"{"
        with pytest.raises(RemoteUnavailable, match=r"does not answer \(no answer within"):
            storage.put("packs/a", bytes(size))


@pytest.mark.usefixtures("impatient")
def test_a_cache_closes_in_spite_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one warning and a line that says what is left; the rows are kept."""
    with without_answers(lambda method, _: method == "PUT") as endpoint:
        options = {**KEYS, "endpoint_url": endpoint}
        cache = EmbeddingCache(tmp_path, remote=REMOTE, storage_options=options)
        np.testing.assert_array_equal(cache.encode(texts(3), SPEC, Encoder()), truth(texts(3)))
        with pytest.warns(RemoteWarning, match="no answer within"):
            cache.close()
    assert "3 rows" in capsys.readouterr().err
    assert Mirror(tmp_path).namespace(SPEC).pending_rows == 3


@pytest.mark.usefixtures("impatient")
def test_reads_and_deletes_too() -> None:
    """Later ones; the first small read has a limit of its own."""
    with without_answers(lambda method, path: method == "DELETE" or "packs" in path) as endpoint:
        storage = open_storage(REMOTE, {**KEYS, "endpoint_url": endpoint})
        storage.get("cas-cache.json", 0, 1)
        for attempt in (lambda: storage.delete("x"), lambda: storage.get("packs/a", 0, 1 << 25)):
            with pytest.raises(RemoteUnavailable, match="no answer within"):
                attempt()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("verb", ["get", "put", "list", "delete"])
def test_a_file_system_that_hangs(verb: str) -> None:
    """One without asyncio, as those of SFTP and SMB are, has no limits of its own."""
    ended = threading.Event()

    class Hanging(fsspec.AbstractFileSystem):
        protocol = "hanging"

        def hang(self, *_: Any, **__: Any) -> Any:
            ended.wait(60)

        cat_file = pipe_file = ls = info = rm_file = makedirs = hang

    fsspec.register_implementation("hanging", Hanging, clobber=True)
    storage = open_storage("hanging://host/root")
    storage._answered = True
    calls = {
        "get": lambda: storage.get("a", 0, 1),
        "put": lambda: storage.put("a", b"1"),
        "list": lambda: storage.list(""),
        "delete": lambda: storage.delete("a"),
    }
    try:
        with pytest.raises(RemoteUnavailable, match="no answer within"):
            calls[verb]()
    finally:
        ended.set()


def test_larger_objects_have_more_time() -> None:
    """A line of 1 Mbit/s, shared by three objects, carries the largest one in its limit; no limit is endless."""
    assert storage_module.seconds_for(1, answered=False) == storage_module.PATIENCE
    assert storage_module.seconds_for(48 << 20, answered=True) > 3 * (48 << 20) * 8 / 1_000_000
    assert storage_module.seconds_for(2**62, answered=True) == storage_module.MAX_SECONDS


def test_a_result_or_an_error_comes_out_of_its_thread() -> None:
    """As if it had been called here."""
    assert threads.in_time(lambda: 7, 10) == 7
    with pytest.raises(KeyError, match="x"):
        threads.in_time(lambda: {}["x"], 10)
    before = time.monotonic()
    with pytest.raises(failures.Unanswered):
        threads.in_time(lambda: time.sleep(5), 0.01)
    assert time.monotonic() - before < 5


# Mirrors -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_bucket() -> Iterator[dict[str, Any]]:
    with refusing("NoSuchBucket") as endpoint:
        yield {"remote": REMOTE, "storage_options": {**KEYS, "endpoint_url": endpoint}}


@pytest.mark.parametrize("verb", ["pull", "pull_keys", "sync"])
def test_a_failed_pull_leaves_no_empty_mirror(tmp_path: Path, no_bucket: dict[str, Any], verb: str) -> None:
    """Closed or not; and the cache can still be used."""
    cache = EmbeddingCache(tmp_path / "m", **no_bucket, push="manual")
    with pytest.raises(BucketNotFound):
        getattr(cache, verb)()
    assert not (tmp_path / "m").exists()
    cache.put(texts(2), truth(texts(2)), SPEC)
    with pytest.raises(BucketNotFound):
        getattr(cache, verb)()
    assert Mirror(tmp_path / "m", create=False).namespace(SPEC).rows == 2


@pytest.mark.parametrize("command", ["pull", "sync"])
def test_a_failed_command_leaves_no_empty_mirror(
    tmp_path: Path, no_bucket: dict[str, Any], command: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for a bucket that does not exist nor for a directory without a repository."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["secret"])
    option = f"--storage-option=endpoint_url={no_bucket['storage_options']['endpoint_url']}"
    assert run(command, tmp_path / "m", "--remote", REMOTE, option).code == 1
    assert run("pull", tmp_path / "m", "--remote", tmp_path / "nowhere").code == 1
    assert not (tmp_path / "m").exists()


def test_what_was_there_before_stays(tmp_path: Path, no_bucket: dict[str, Any]) -> None:
    """A directory of the user, and a mirror that was made before, empty or not."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(BucketNotFound):
        EmbeddingCache(tmp_path / "empty", **no_bucket).pull()
    assert list((tmp_path / "empty").iterdir()) == []
    Mirror(tmp_path / "old")
    with pytest.raises(BucketNotFound):
        EmbeddingCache(tmp_path / "old", **no_bucket).pull()
    assert Mirror(tmp_path / "old", create=False)


@pytest.mark.verify
def test_a_mirror_that_another_process_uses_stays(
    tmp_path: Path, no_bucket: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first namespace may be made while the pull fails."""
    cache = EmbeddingCache(tmp_path / "m", **no_bucket)
    unlink = Path.unlink

    def late(path: Path, **options: Any) -> None:
        unlink(path, **options)
        (tmp_path / "m" / "namespaces").mkdir(exist_ok=True)

    monkeypatch.setattr(Path, "unlink", late)
    with pytest.raises(BucketNotFound):
        cache.pull()
    assert Mirror(tmp_path / "m", create=False)
