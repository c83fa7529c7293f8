"""Pushes that start by time: while a slow encoder works, while a process is idle, and for what a killed process left.

Intervals are short, and conditions are waited for: no test measures how long anything takes.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from background_runs import LIMIT, Recorder, environment, joined, pending_rows, wait_until
from cas_cache import EmbeddingCache, background
from cas_cache.background import BackgroundPush
from cas_cache.errors import ConfigurationError, RemoteUnavailable
from cas_cache.mirror import Mirror
from cas_cache.mirror.overview import pending_in
from cas_cache.mirror.state import Extent, State, may_have_pending_rows
from storages import SPEC, Encoder, Memory, packs, texts, truth
from tiers import sampled


def timers() -> list[threading.Thread]:
    """Return the threads that wait for the time of a push, or push."""
    return [thread for thread in threading.enumerate() if thread.name == "cas-cache-push"]


# A push in time ----------------------------------------------------------------------------------------------------


def test_rows_are_pushed_after_some_seconds() -> None:
    """A single row is enough; while none is pending no thread keeps the time."""
    recorder = Recorder()
    pusher = BackgroundPush(recorder, seconds=0.05)
    for pushes in (1, 2):
        pusher.notify(1)
        wait_until(lambda pushes=pushes: len(recorder.threads) == pushes and not pusher.running)
        wait_until(lambda: not timers())
    assert recorder.threads == ["cas-cache-push"] * 2
    pusher.close()


def test_rows_that_come_during_a_push_are_pushed_after_it() -> None:
    """They are due while the push still runs; one push at a time, and they are not forgotten."""
    recorder = Recorder()
    recorder.go_on.clear()
    pusher = BackgroundPush(recorder, seconds=0.02)
    pusher.notify(1)
    wait_until(lambda: recorder.threads)
    pusher.notify(1)
    time.sleep(0.1)
    assert len(recorder.threads) == 1
    recorder.go_on.set()
    wait_until(lambda: len(recorder.threads) == 2)
    pusher.close()


def test_a_push_that_failed_is_tried_again_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if no row comes; and once it has succeeded, nothing is raised."""
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.02)
    recorder = Recorder()
    recorder.error = RemoteUnavailable("away")
    pusher = BackgroundPush(recorder, seconds=0.02)
    pusher.notify(1)
    wait_until(lambda: len(recorder.threads) >= 3)
    recorder.error = None
    wait_until(lambda: not pusher.running and not timers())
    pusher.check()
    pusher.close()
    assert timers() == []


def test_a_push_that_failed_is_not_tried_again_after_close() -> None:
    """Closing tried it last; its rows are pending for the next cache."""
    recorder = Recorder()
    recorder.error = RemoteUnavailable("away")
    pusher = BackgroundPush(recorder, seconds=1000)
    pusher.notify(1)
    with pytest.raises(RemoteUnavailable):
        pusher.close()
    assert timers() == []


def test_a_slow_encoder_is_pushed_while_it_works(tmp_path: Path) -> None:
    """Within one call: the first rows are in the repository while later ones are encoded."""
    memory = Memory()
    cache = joined(tmp_path / "m", memory, chunk_items=1, push_seconds=0.05)

    def encode(batch: list[str]) -> Any:
        if batch == ["text 2"]:
            wait_until(lambda: packs(memory))
        return truth(batch)

    assert texts(3)[2] == "text 2"
    cache.encode(texts(3), SPEC, encode)
    cache.close()
    assert pending_rows(tmp_path / "m") == 0


def test_an_idle_process_pushes(tmp_path: Path) -> None:
    """Nothing is called after the rows were encoded, as in a notebook."""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push_seconds=0.05) as cache:
        cache.encode(texts(3), SPEC, Encoder())
        wait_until(lambda: pending_rows(tmp_path / "m") == 0)


def test_the_rows_of_a_dropped_cache_are_pushed_by_time(tmp_path: Path) -> None:
    """Then no thread is left. The thread does not keep the cache: it is freed without the garbage collector."""
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push_seconds=0.2)
    cache.encode(texts(3), SPEC, Encoder())
    dropped = weakref.ref(cache)
    del cache
    assert dropped() is None
    wait_until(lambda: not timers())
    assert pending_rows(tmp_path / "m") == 0


@pytest.mark.parametrize("seconds", [1000, math.inf])
def test_a_thread_waits_while_rows_are_pending_and_close_ends_it(seconds: float) -> None:
    """Without a time limit too: the thread keeps the rows of a dropped cache in mind until the process ends."""
    recorder = Recorder()
    pusher = BackgroundPush(recorder, seconds=seconds)
    assert timers() == []
    pusher.notify(1)
    assert len(timers()) == 1
    pusher.close()
    assert (timers(), len(recorder.threads)) == ([], 1)


def test_a_time_that_is_set_stays() -> None:
    """Later rows do not delay the push of the first ones."""
    recorder = Recorder()
    pusher = BackgroundPush(recorder, seconds=0.3)
    pusher.notify(1)
    for _ in range(200):
        if recorder.threads:
            break
        pusher.notify(1)
        time.sleep(0.01)
    assert recorder.threads, "later rows delayed the push"
    pusher.close()


def test_without_threads_rows_stay_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that encoded goes on, and closing says why the rows are not pushed; once threads start again, it works."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    recorder = Recorder()
    pusher = BackgroundPush(recorder)
    with monkeypatch.context() as patches:
        patches.setattr(threading.Thread, "start", refuse)
        pusher.notify(1)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pusher.close()
    assert recorder.threads == []
    pusher.close()
    assert len(recorder.threads) == 1


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_a_time_that_cannot_be_is_refused(tmp_path: Path, seconds: float) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigurationError, match="push_seconds"):
        EmbeddingCache(tmp_path, push_seconds=seconds)


# What an earlier process left --------------------------------------------------------------------------------------

WORKER = """
import json, os, sys, time
from cas_cache import EmbeddingCache
from cas_cache.mirror import Mirror
from storages import SPEC, texts, truth

def wait_until_pushed():
    while any(ns.pending_rows for ns in Mirror(directory).namespaces()):
        time.sleep(0.02)

directory, remote, body = json.loads(sys.argv[1])
exec(body)
"""

LEAVES = """
cache = EmbeddingCache(directory, remote=remote, push_seconds=0.05)
cache.encode(texts(6), SPEC, truth)
wait_until_pushed()
slow = EmbeddingCache(directory, remote=remote, push_seconds=1000)
slow.encode(texts(2, 6), SPEC, truth)
print("ready", flush=True)
sys.stdin.read(1)
os._exit(7)
"""

FINDS = """
cache = EmbeddingCache(directory, remote=remote, push_seconds=0.05)
wait_until_pushed()
os._exit(0)
"""


def start(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    """Start a process on the mirror and the repository of a test."""
    arguments = json.dumps([str(tmp_path / "m"), str(tmp_path / "repo"), body])
    command = [sys.executable, "-c", WORKER, arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("end", sampled(["os._exit", "SIGKILL"], keep={"SIGKILL"}))
@pytest.mark.verify
def test_a_process_without_exit_hooks_leaves_little_and_the_next_pushes_it(tmp_path: Path, end: str) -> None:
    """What was due is in the repository; the next cache says what is left and pushes it without encoding anything."""
    process = start(tmp_path, LEAVES)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", process.communicate(timeout=LIMIT)[1]
    if end == "SIGKILL":
        process.send_signal(signal.SIGKILL)
    process.communicate("x" if end == "os._exit" else None, timeout=LIMIT)
    assert process.returncode == (7 if end == "os._exit" else -signal.SIGKILL)
    assert pending_rows(tmp_path / "m") == 2
    far = EmbeddingCache(tmp_path / "far", remote=str(tmp_path / "repo"))
    assert far.pull().rows == 6

    process = start(tmp_path, FINDS)
    err = process.communicate(timeout=2 * LIMIT)[1]
    assert process.returncode == 0, err
    assert err == (
        f"cas_cache: 2 rows (112 B) are pending in the mirror {tmp_path / 'm'} from an earlier run or another "
        "process. They are pushed in the background.\n"
    )
    assert pending_rows(tmp_path / "m") == 0
    assert far.pull().rows == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, True), ({"push": "manual"}, False), ({"offline": True}, False), ({"read_only": True}, False)],
)
def test_who_does_not_push_does_not_promise_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], says: bool
) -> None:
    """One line if rows are left and will be pushed. Without pending rows there is no line and no thread."""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push="manual") as cache:
        cache.encode(texts(3), SPEC, Encoder())
    assert capsys.readouterr().err == ""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), **options):
        err = capsys.readouterr().err
        assert err.count("\n") == err.count("3 rows (168 B) are pending in the mirror") == says
        assert len(timers()) == says
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo")) as cache:
        cache.push()
    capsys.readouterr()
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), **options):
        assert (capsys.readouterr().err, timers()) == ("", [])


def test_a_mirror_of_another_user_is_not_pushed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that cannot be written cannot record what was pushed."""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push="manual") as cache:
        cache.encode(texts(3), SPEC, Encoder())
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"))
    assert (capsys.readouterr().err, timers()) == ("", [])
    cache.close()


@pytest.mark.parametrize("damage", ["{", '{"extents":[[0,1,null,null]]}', None])
def test_a_damaged_namespace_does_not_hide_the_pending_rows_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str | None
) -> None:
    """It counts as one without pending rows."""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push="manual") as cache:
        cache.encode(texts(3), SPEC, Encoder())
    other = tmp_path / "m" / "namespaces" / ("0" * 32)
    other.mkdir()
    if damage is not None:
        (other / "state.json").write_text(damage)
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"))
    assert "3 rows (168 B)" in capsys.readouterr().err
    cache.push([SPEC.namespace])
    cache.close()


def test_the_bytes_of_a_state_tell_whether_rows_are_pending() -> None:
    """Without parsing: never False where an extent has no pack."""
    pack = "a" * 64
    for pending, extents in (
        (False, ()),
        (False, (Extent(0, 2, pack),)),
        (False, (Extent(0, 2, pack, None, "b" * 64, 1),)),
        (True, (Extent(0, 2),)),
        (True, (Extent(0, 2, pack), Extent(2, 3, None, "nonce", "b" * 64))),
    ):
        state = State(sum(e.rows for e in extents), "float32" if extents else None, (4,) if extents else (), extents)
        assert may_have_pending_rows(state.to_bytes()) is pending
        loose = json.dumps(json.loads(state.to_bytes()), indent=1)
        assert may_have_pending_rows(loose.encode()) is pending


def test_a_mirror_without_namespaces_has_no_pending_rows(tmp_path: Path) -> None:
    """There is nothing to read in a new mirror."""
    with Mirror(tmp_path) as mirror:
        assert pending_in(mirror) == (0, 0)
