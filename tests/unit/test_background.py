"""Background pushes: while a run goes on, at its end, and at the end of a process that forgot to close."""

import json
import multiprocessing
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from background_runs import Recorder, environment, joined, pending_rows, wait_until
from cas_cache import EmbeddingCache, background
from cas_cache.background import BackgroundPush
from cas_cache.cli import cli
from cas_cache.errors import RemoteUnavailable, RemoteWarning
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from storages import SPEC, Counting, Encoder, Flaky, Memory, Slow, packs, texts, truth
from tiers import sampled


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(background, "ENOUGH_BYTES", 100)
    return Recorder()


def wait_for_push(pusher: BackgroundPush) -> None:
    assert pusher.wait(30)


def test_enough_is_pushed_at_once_and_less_waits(recorder: Recorder) -> None:
    """A push starts when enough waits; the rest goes with flush, both off the caller's thread."""
    pusher = BackgroundPush(recorder)
    pusher.notify(99)
    assert recorder.threads == []
    pusher.notify(1)
    wait_for_push(pusher)
    assert recorder.threads == ["cas-cache-push"]
    pusher.notify(50)
    pusher.close()
    assert recorder.threads == ["cas-cache-push"] * 2
    pusher.notify(1)
    pusher.close()
    assert recorder.threads == ["cas-cache-push"] * 3, "closed is not ended: what comes later goes with the next close"


def test_one_push_at_a_time(recorder: Recorder) -> None:
    """While one push runs no other starts, and the caller does not wait. Rows that came meanwhile go up after it."""
    recorder.go_on.clear()
    pusher = BackgroundPush(recorder)
    pusher.notify(100)
    wait_until(lambda: recorder.threads)
    for _ in range(5):
        pusher.notify(100)
    assert len(recorder.threads) == 1
    recorder.go_on.set()
    wait_for_push(pusher)
    assert len(recorder.threads) == 2
    pusher.close()
    assert len(recorder.threads) == 3


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
        pusher.close()
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
        wait_for_push(cache._pusher)
        seen.append(len(packs(memory)))
        return truth(batch)

    cache.encode(texts(12), SPEC, encode)
    assert seen == [0, 1, 2]
    cache.close()
    assert len(packs(memory)) == 3
    with Mirror(tmp_path / "m") as mirror:
        assert mirror.namespace(SPEC).pending_rows == 0
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
from storages import SPEC, texts, truth
directory, remote, options = json.loads(sys.argv[1])
cache = EmbeddingCache(directory, remote=remote, storage_options=options)
cache.encode(texts(6), SPEC, truth)
if len(sys.argv) > 2:
    exec(sys.argv[2])
"""


def run(directory: Path, remote: str, options: dict[str, Any] | None = None, last: str = "") -> Any:
    """Run a process that encodes six texts and ends without closing its cache."""
    command = [sys.executable, "-c", FORGETFUL, json.dumps([str(directory), remote, options])]
    return subprocess.run(
        [*command, *([last] if last else [])],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


@pytest.mark.parametrize(
    ("last", "code"),
    sampled(
        [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1), ("del cache; import gc; gc.collect()", 0)],
        keep={("1 / 0", 1)},
    ),
    ids=["end", "exit", "error", "dropped"],
)
def test_a_process_that_does_not_close_pushes_all_the_same(tmp_path: Path, last: str, code: int) -> None:
    """However a process ends by itself, what waits goes up, and its exit code stays its own."""
    process = run(tmp_path / "m", str(tmp_path / "repo"), last=last)
    assert process.returncode == code, process.stderr
    assert Mirror(tmp_path / "m").namespace(SPEC).pending_rows == 0
    far = EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo"))
    assert far.pull().rows == 6


REFUSES_THREADS = """
def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

import threading
threading.Thread.start = refuse
"""


def test_an_interpreter_that_starts_no_thread_at_its_end_pushes_all_the_same(tmp_path: Path) -> None:
    """CPython 3.12.0 and 3.12.1 refuse new threads as soon as the main thread has ended; the rows are still pushed."""
    process = run(tmp_path / "m", str(tmp_path / "repo"), last=REFUSES_THREADS)
    assert (process.returncode, process.stderr) == (0, "")
    assert EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo")).pull().rows == 6


@pytest.mark.verify
def test_the_push_at_the_end_resolves_host_names(tmp_path: Path, s3_remote: Any) -> None:
    """Asyncio resolves names in a thread pool, which is shut when plain exit handlers run; the push comes before."""
    options = dict(s3_remote.storage_options)
    if "endpoint_url" in options:
        options["endpoint_url"] = options["endpoint_url"].replace("127.0.0.1", "localhost")
    process = run(tmp_path / "m", s3_remote.url, options)
    assert (process.returncode, process.stderr) == (0, "")
    repository = Repository(open_storage(s3_remote.url, s3_remote.storage_options))
    assert len(repository.packs()) == 1
    assert Mirror(tmp_path / "m").namespace(SPEC).pending_rows == 0


def test_a_push_that_fails_at_the_end_leaves_the_exit_code_alone(tmp_path: Path) -> None:
    """The remote is gone when the process ends: exit code 0, one line, and the rows wait."""
    process = run(tmp_path / "m", str(tmp_path / "repo"), last=f"open({str(tmp_path / 'repo')!r}, 'w').close()")
    assert process.returncode == 0
    assert "are pending in the mirror" in process.stderr
    assert "Traceback" not in process.stderr
    (tmp_path / "repo").unlink()
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo")) as cache:
        assert cache.push().rows == 6


@pytest.mark.verify
def test_an_endpoint_that_is_gone_at_the_end_leaves_the_exit_code_alone(tmp_path: Path) -> None:
    """The same over the network: the connection is refused from the first request on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        options = {"key": "a", "secret": "b", "endpoint_url": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        process = run(tmp_path / "m", "s3://bucket/emb", options)
    assert process.returncode == 0
    assert process.stderr.count("RemoteWarning") == 1
    assert "Traceback" not in process.stderr
    assert Mirror(tmp_path / "m").namespace(SPEC).pending_rows == 6


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
    assert Mirror(tmp_path / "m").namespace(SPEC).pending_rows == 0


# Slow remotes, signals, and what is said ---------------------------------------------------------------------------

SLOW = """
import json, os, signal, sys, threading, time
from cas_cache import EmbeddingCache
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from cas_cache.upload import PendingRows
from storages import SPEC, Slow, texts, truth


def opened(name, remote, seconds, **options):
    cache = EmbeddingCache(name, remote=remote, **options)
    cache.repository = Repository(Slow(open_storage(remote), seconds))
    return cache


def say_when_sending(cache):
    def say():
        cache.repository.storage.begun.wait()
        print("ready", flush=True)

    threading.Thread(target=say, daemon=True).start()


directory, remote, seconds = json.loads(sys.argv[1])
"""


def start(tmp_path: Path, seconds: float, body: str) -> subprocess.Popen[str]:
    """Start a process in which every PUT takes `seconds`; it says "ready" when it is where the test wants it."""
    command = [sys.executable, "-c", SLOW + body, json.dumps([str(tmp_path / "m"), str(tmp_path / "repo"), seconds])]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], within: float) -> str:
    """Wait for the end, which must come soon, and return what was written to stderr."""
    began = time.monotonic()
    _, err = process.communicate(timeout=90)
    assert time.monotonic() - began < within, err
    return err


def said_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        pytest.fail(f"not ready: {line} {process.communicate(timeout=30)[1]}")


def the_command(err: str) -> list[str]:
    """The command that a line on stderr names."""
    return shlex.split(err.rpartition("To push the pending rows: ")[2].splitlines()[0])


LEAVES = """
cache = opened(directory, remote, seconds)
cache.encode(texts(6), SPEC, truth)
say_when_sending(cache)
"""


def test_ctrl_c_at_the_end_ends_at_once_and_says_what_waits(tmp_path: Path) -> None:
    """While the last push is stuck: one line with rows, mirror and command; that command, run, pushes them.

    The exit code is that of the program, which had ended.
    """
    process = start(tmp_path, 60, LEAVES)
    said_ready(process)
    process.send_signal(signal.SIGINT)
    err = ended(process, within=10)
    assert process.returncode == 0
    assert err.count("\n") == 1, err
    assert f"interrupted. 6 rows (336 B) are pending in the mirror {tmp_path / 'm'}. To push" in err
    assert pending_rows(tmp_path / "m") == 6
    cli(the_command(err)[1:], standalone_mode=False)
    assert pending_rows(tmp_path / "m") == 0
    assert EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo")).pull().rows == 6


CLOSES = """
with opened(directory, remote, seconds) as cache:
    cache.encode(texts(6), SPEC, truth)
    say_when_sending(cache)
"""


def test_ctrl_c_while_a_cache_is_closed_ends_at_once(tmp_path: Path) -> None:
    """The program sees a KeyboardInterrupt; what it was told to leave is not begun again at its end."""
    process = start(tmp_path, 60, CLOSES)
    said_ready(process)
    process.send_signal(signal.SIGINT)
    err = ended(process, within=10)
    assert process.returncode == -signal.SIGINT
    assert err.count("6 rows (336 B) are pending in the mirror") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert pending_rows(tmp_path / "m") == 6


MANY = """
import atexit
atexit.register(print, "of the program's own", file=sys.stderr)
caches = [opened(f"{directory}{n}", f"{remote}{n}", seconds) for n in range(3)]
for cache in caches:
    cache.encode(texts(6), SPEC, truth)
for cache in caches:  # which is flushed first is open
    say_when_sending(cache)
"""


def test_ctrl_c_leaves_the_rows_of_every_cache(tmp_path: Path) -> None:
    """One Ctrl-C is enough for all of them; each is told of, and exit handlers of the program still run."""
    process = start(tmp_path, 60, MANY)
    said_ready(process)
    process.send_signal(signal.SIGINT)
    err = ended(process, within=10)
    assert err.count("6 rows (336 B) are pending in the mirror") == 3
    assert "of the program's own" in err
    assert [pending_rows(tmp_path / f"m{n}") for n in range(3)] == [6, 6, 6]


HANGS = """
cache = EmbeddingCache(directory, remote="s3://bucket/emb", storage_options=json.loads(remote))
cache.put(texts(6), truth(texts(6)), SPEC)  # which asks the remote nothing
print("ready", flush=True)
"""


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="its first request comes at the end, where s3fs needs a thread that CPython 3.12.0 and 3.12.1 refuse",
)
@pytest.mark.verify
def test_ctrl_c_while_an_endpoint_does_not_answer(tmp_path: Path) -> None:
    """Over the network: the connection is taken and nothing comes back; the process does not wait for the time-out."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        options = {"key": "a", "secret": "hunter2", "endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}"}
        process = start(tmp_path, 0, "remote = " + repr(json.dumps(options)) + HANGS)
        said_ready(process)
        server.settimeout(60)
        connection, _ = server.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            err = ended(process, within=10)
    assert process.returncode == 0
    assert err.count("\n") == 1, err
    assert the_command(err) == ["cas-cache", "push", str(tmp_path / "m"), "--remote", "s3://bucket/emb"]
    assert "hunter2" not in err
    assert pending_rows(tmp_path / "m") == 6


@pytest.mark.verify
@pytest.mark.parametrize(
    "number", sampled([signal.SIGTERM, signal.SIGKILL], keep={signal.SIGKILL}), ids=["SIGTERM", "SIGKILL"]
)
@pytest.mark.parametrize("later", sampled(["run", "command"], keep={"run"}))
def test_a_process_that_is_killed_while_it_pushes_loses_nothing(tmp_path: Path, number: int, later: str) -> None:
    """Rows wait in the mirror; the next run sends them, or `cas-cache push` does."""
    process = start(tmp_path, 60, LEAVES)
    said_ready(process)
    process.send_signal(number)
    ended(process, within=10)
    assert process.returncode == -number
    assert pending_rows(tmp_path / "m") == 6
    if later == "run":
        result = run(tmp_path / "m", str(tmp_path / "repo"))
        assert result.returncode == 0
        assert result.stderr == (
            f"cas_cache: 6 rows (336 B) are pending in the mirror {tmp_path / 'm'} from an earlier run or another "
            "process. They are pushed in the background.\n"
        )
    else:
        cli(["push", str(tmp_path / "m"), "--remote", str(tmp_path / "repo")], standalone_mode=False)
    assert pending_rows(tmp_path / "m") == 0
    assert EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo")).pull().rows == 6


def test_a_slow_remote_takes_no_time_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a PUT hangs, calls go on as without a remote: none waits for it."""
    monkeypatch.setattr(background, "ENOUGH_BYTES", 1)
    slow = Slow(Memory(), 0)
    cache = joined(tmp_path / "m", slow, chunk_items=5)
    cache.encode(texts(1), SPEC, Encoder())  # asks the repository what there is
    slow.seconds = 30
    began = time.monotonic()
    for first in range(10, 200, 10):
        cache.encode(texts(10, first), SPEC, Encoder())
    took = time.monotonic() - began
    assert cache._pusher.running
    assert took < 10, "one PUT takes 30 s, and none was waited for"
    slow.mend()
    cache.close()
    assert pending_rows(tmp_path / "m") == 0


def test_what_is_said_at_the_end_reaches_stderr_without_logging_or_warnings(tmp_path: Path) -> None:
    """A push that fails at the very end is one line, with `-W ignore` too, and nothing changes the exit code."""
    code = FORGETFUL.replace("import json, sys", "import json, sys, warnings; warnings.simplefilter('ignore')")
    end = f"open({str(tmp_path / 'repo')!r}, 'w').close(); sys.exit(3)"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        json.dumps([str(tmp_path / "m"), str(tmp_path / "repo"), None]),
    ]
    process = subprocess.run(
        [*command, end], env=environment(), capture_output=True, text=True, check=False, timeout=90
    )
    assert process.returncode == 3
    assert process.stderr.count("\n") == 1, process.stderr
    assert "the last push failed" in process.stderr
    assert "6 rows (336 B) are pending in the mirror" in process.stderr
    (tmp_path / "repo").unlink()
    assert the_command(process.stderr) == ["cas-cache", "push", str(tmp_path / "m"), "--remote", str(tmp_path / "repo")]


def test_closing_with_a_remote_that_is_away_says_what_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours after the one warning, the end says it again: rows, mirror, command. So does every flush before it."""
    memory = Memory()
    flaky = Flaky(memory, "put", 1)
    cache = joined(tmp_path / "m", flaky)
    cache.encode(texts(3), SPEC, Encoder())
    with pytest.warns(RemoteWarning):
        cache.flush()
    assert "not everything was pushed. 3 rows (168 B) are pending in the mirror" in capsys.readouterr().err
    cache.flush()
    assert "3 rows (168 B) are pending" in capsys.readouterr().err
    assert cache._pusher.settled
    flaky.mend()
    cache.close()
    assert capsys.readouterr().err == ""
    assert len(packs(memory)) == 1


def test_use_after_flush(tmp_path: Path) -> None:
    """A flushed cache goes on: what it encodes later goes up at the next flush, or when the process ends."""
    memory = Memory()
    cache = joined(tmp_path / "m", memory)
    cache.encode(texts(2), SPEC, Encoder())
    cache.flush()
    cache.flush()
    assert (len(packs(memory)), cache._pusher.settled) == (1, True)
    cache.encode(texts(2, 2), SPEC, Encoder())
    assert not cache._pusher.settled
    background._close_open()
    assert (len(packs(memory)), cache._pusher.settled) == (2, True)


def test_a_cache_with_nothing_to_push_asks_nobody_at_its_end(tmp_path: Path) -> None:
    """No request, no thread, no new directory where the mirror was deleted."""
    counting = Counting(Memory())
    cache = joined(tmp_path / "m", counting)
    cache.get(texts(1), SPEC)
    before = list(counting.calls)
    cache.close()
    assert counting.calls == before
    assert not cache._pusher.running
    other = joined(tmp_path / "other", counting)
    shutil.rmtree(tmp_path / "other")
    background._close_open()
    other.close()
    assert not (tmp_path / "other").exists()


def test_two_threads_start_one_push(recorder: Recorder) -> None:
    """However many threads encode, one push runs at a time."""
    recorder.go_on.clear()
    pusher = BackgroundPush(recorder)
    threads = [threading.Thread(target=pusher.notify, args=(100,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    wait_until(lambda: recorder.threads)
    assert len(recorder.threads) == 1
    recorder.go_on.set()
    pusher.close()


HARD = """
cache = opened(directory, remote, seconds)
def work(n):
    cache.encode(texts(50, 50 * n), SPEC, truth)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("ready", flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    sampled([("os._exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", -9), ("raise ValueError('x')", 1)], keep=3),
)
def test_however_a_threaded_program_ends_rows_wait_or_are_pushed(tmp_path: Path, end: str, code: int) -> None:
    """200 rows of four threads: none is lost, none is there twice, and the process does not hang."""
    process = start(tmp_path, 0.01, HARD.format(end=end))
    said_ready(process)
    ended(process, within=60)
    assert process.returncode == code
    assert pending_rows(tmp_path / "m") in (0, 200)
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo")):
        pass
    assert EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo")).pull().rows == 200


FORKED = """
import warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # Python 3.12 and newer
cache = opened(directory, remote, seconds)
cache.encode(texts(6), SPEC, truth)
child = os.fork()
if child == 0:
    cache.encode(texts(6, 6), SPEC, truth)  # a worker that encodes with the cache that it inherited
    threading._shutdown()
    os._exit(0)
os.waitpid(child, 0)
print("ready", flush=True)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_rows_of_a_forked_worker_go_up_with_its_parents(tmp_path: Path) -> None:
    """What a worker encodes waits in the same mirror, and the parent pushes all of it."""
    process = start(tmp_path, 0, FORKED)
    said_ready(process)
    assert ended(process, within=60) == ""
    assert EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo")).pull().rows == 12


@pytest.mark.verify
def test_a_long_last_push_says_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a bar after a second, in a log after some more; with progress=False never."""
    monkeypatch.setattr(background, "PATIENCE", 0.1)
    monkeypatch.setattr(background, "LONG_PATIENCE", 0.3)
    monkeypatch.setattr(background, "TICK", 0.05)
    for progress, said in ((None, True), (True, True), (False, False)):
        slow = Slow(Memory(), 0.2)
        with joined(tmp_path / str(progress), slow, progress=progress) as cache:
            cache.encode(texts(3), SPEC, Encoder())
            capsys.readouterr()
        err = capsys.readouterr().err
        assert ("pushing: 3 rows (168 B) are pending in the mirror" in err) is said
        assert ("Ctrl-C leaves them there" in err) is said
        assert ("push:" in err) is (progress is True)
