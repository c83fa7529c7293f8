"""Background pushes: while a run goes on, at its end, and at the end of a process that forgot to close."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache, background
from cas_cache.background import BackgroundPush
from cas_cache.errors import RemoteUnavailable, RemoteWarning
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository, open_storage
from repository.storages import SPEC, Encoder, Flaky, Memory, packs, texts, truth


class Recorder:
    """A push that can be held up and made to fail."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self) -> None:
        self.threads.append(threading.current_thread().name)
        assert self.go_on.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(background, "ENOUGH_BYTES", 100)
    return Recorder()


def joined(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), **options)
    cache.repository = Repository(storage)
    return cache


def wait_for_push(pusher: BackgroundPush) -> None:
    assert pusher._thread is not None
    pusher._thread.join(30)


def test_enough_is_pushed_at_once_and_less_waits(recorder: Recorder) -> None:
    """A push starts when enough waits, off the caller's thread; the rest goes with flush, on it."""
    pusher = BackgroundPush(recorder)
    pusher.notify(99)
    assert recorder.threads == []
    pusher.notify(1)
    wait_for_push(pusher)
    assert recorder.threads == ["cas-cache-push"]
    pusher.notify(50)
    pusher.close()
    assert recorder.threads == ["cas-cache-push", "MainThread"]
    pusher.notify(1)
    pusher.close()
    assert recorder.threads[2:] == ["MainThread"], "closed is not ended: what comes later goes with the next close"


def test_one_push_at_a_time(recorder: Recorder) -> None:
    """While one push runs no other starts, and the caller does not wait."""
    recorder.go_on.clear()
    pusher = BackgroundPush(recorder)
    for _ in range(5):
        pusher.notify(100)
    recorder.go_on.set()
    wait_for_push(pusher)
    assert len(recorder.threads) == 1
    pusher.notify(0)
    wait_for_push(pusher)
    assert len(recorder.threads) == 2
    pusher.close()


def test_what_a_push_raised_comes_up_on_the_callers_thread_once(recorder: Recorder) -> None:
    """`check` raises the background's exception, and only once."""
    recorder.error = RemoteUnavailable("away")
    pusher = BackgroundPush(recorder)
    pusher.notify(100)
    wait_for_push(pusher)
    with pytest.raises(RemoteUnavailable, match="away"):
        pusher.check()
    pusher.check()
    with pytest.raises(RemoteUnavailable):
        pusher.flush()
    recorder.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        pusher.close()


def test_a_failure_that_the_last_push_made_good_is_no_failure(recorder: Recorder) -> None:
    """If everything went up in the end, closing says nothing."""
    recorder.error = RemoteUnavailable("away for a moment")
    pusher = BackgroundPush(recorder)
    pusher.notify(100)
    wait_for_push(pusher)
    recorder.error = None
    pusher.close()


def test_rows_go_up_while_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With enough waiting, packs are visible before the encoder is done; the rest goes up at close."""
    monkeypatch.setattr(background, "ENOUGH_BYTES", 5 * 16)
    memory = Memory()
    cache = joined(tmp_path / "m", memory, chunk_items=5)
    seen = []

    def encode(batch: list[str]) -> Any:
        if cache._pusher._thread is not None:
            cache._pusher._thread.join(30)
        seen.append(len(packs(memory)))
        return truth(batch)

    cache.encode(texts(12), SPEC, encode)
    assert seen == [0, 1, 2]
    cache.close()
    assert cache.mirror.namespace(SPEC).waiting_rows in (0, 2)
    assert len(packs(memory)) == 3
    cache.mirror.namespace(SPEC).refresh()
    assert cache.mirror.namespace(SPEC).waiting_rows == 0
    far = joined(tmp_path / "far", memory)
    assert far.pull().rows == 12


def test_a_bug_in_the_background_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no RemoteError is never swallowed: the next call raises it."""
    monkeypatch.setattr(background, "ENOUGH_BYTES", 1)

    class Broken(Memory):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            raise ZeroDivisionError("a bug")

    cache = joined(tmp_path / "m", Broken())
    cache.encode(["a"], SPEC, Encoder())
    wait_for_push(cache._pusher)
    with pytest.raises(ZeroDivisionError):
        cache.encode(["b"], SPEC, Encoder())
    with pytest.raises(ZeroDivisionError):
        cache.close()


def test_a_remote_that_fails_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes that fail in the background warn once for the whole run, and the rows go up when it is back."""
    monkeypatch.setattr(background, "ENOUGH_BYTES", 1)
    memory = Memory()
    flaky = Flaky(memory, "put", 1)
    cache = joined(tmp_path / "m", flaky)
    with pytest.warns(RemoteWarning, match="goes up at the next push") as caught:  # noqa: PT031 - one warning for all
        for text in texts(5):
            cache.encode([text], SPEC, Encoder())
            wait_for_push(cache._pusher)
        cache.close()
    assert len(caught) == 1
    assert packs(memory) == []
    flaky.mend()
    assert joined(tmp_path / "m", flaky).push().rows == 5


# The end of a process ----------------------------------------------------------------------------------------------

FORGETFUL = """
import json, sys
from cas_cache import EmbeddingCache
from repository.storages import SPEC, texts, truth
directory, remote, options = json.loads(sys.argv[1])
cache = EmbeddingCache(directory, remote=remote, storage_options=options)
cache.encode(texts(6), SPEC, truth)
if len(sys.argv) > 2:
    exec(sys.argv[2])
"""


def run(directory: Path, remote: str, options: dict[str, Any] | None = None, last: str = "") -> Any:
    """Run a process that encodes six texts and ends without closing its cache."""
    command = [sys.executable, "-c", FORGETFUL, json.dumps([str(directory), remote, options])]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [*command, *([last] if last else [])], env=environment, capture_output=True, text=True, check=False, timeout=90
    )


@pytest.mark.parametrize(
    ("last", "code"),
    [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1), ("del cache; import gc; gc.collect()", 0)],
    ids=["end", "exit", "error", "dropped"],
)
def test_a_process_that_does_not_close_pushes_all_the_same(tmp_path: Path, last: str, code: int) -> None:
    """However a process ends by itself, what waits goes up, and its exit code stays its own."""
    process = run(tmp_path / "m", str(tmp_path / "repo"), last=last)
    assert process.returncode == code, process.stderr
    assert Mirror(tmp_path / "m").namespace(SPEC).waiting_rows == 0
    far = EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo"))
    assert far.pull().rows == 6


def test_the_push_at_the_end_resolves_host_names(tmp_path: Path, s3_remote: Any) -> None:
    """Asyncio resolves names in a thread pool, which is shut when plain exit handlers run; the push comes before."""
    endpoint = s3_remote.storage_options["endpoint_url"].replace("127.0.0.1", "localhost")
    options = {**s3_remote.storage_options, "endpoint_url": endpoint}
    process = run(tmp_path / "m", s3_remote.url, options)
    assert (process.returncode, process.stderr) == (0, "")
    repository = Repository(open_storage(s3_remote.url, s3_remote.storage_options))
    assert len(repository.packs()) == 1
    assert Mirror(tmp_path / "m").namespace(SPEC).waiting_rows == 0


def test_a_push_that_fails_at_the_end_leaves_the_exit_code_alone(tmp_path: Path) -> None:
    """The remote is gone when the process ends: exit code 0, one line, and the rows wait."""
    process = run(tmp_path / "m", str(tmp_path / "repo"), last=f"open({str(tmp_path / 'repo')!r}, 'w').close()")
    assert process.returncode == 0
    assert "wait in the mirror" in process.stderr
    assert "Traceback" not in process.stderr
    (tmp_path / "repo").unlink()
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo")) as cache:
        assert cache.push().rows == 6


def test_an_endpoint_that_is_gone_at_the_end_leaves_the_exit_code_alone(tmp_path: Path) -> None:
    """The same over the network: the connection is refused from the first request on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        options = {"key": "a", "secret": "b", "endpoint_url": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        process = run(tmp_path / "m", "s3://bucket/emb", options)
    assert process.returncode == 0
    assert process.stderr.count("RemoteWarning") == 1
    assert "Traceback" not in process.stderr
    assert Mirror(tmp_path / "m").namespace(SPEC).waiting_rows == 6


FORKING = """
import os
child = os.fork()
if child == 0:
    import threading
    threading._shutdown()  # what multiprocessing does at the end of a forked worker
    os._exit(0)
os.waitpid(child, 0)
import glob
print(len(glob.glob(remote + "/manifests/*/*")))
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_worker_does_not_push_for_its_parent(tmp_path: Path) -> None:
    """A data loader's worker ends while the run goes on; pushing is left to the parent."""
    process = run(tmp_path / "m", str(tmp_path / "repo"), last=FORKING)
    assert (process.returncode, process.stdout.strip()) == (0, "0"), process.stderr
    assert Mirror(tmp_path / "m").namespace(SPEC).waiting_rows == 0
