"""Work runs in other threads, or in the calling thread where the interpreter is shutting down."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from cas_cache.storage import ordered_map, threads
from cas_cache.storage.threads import in_time, put_all
from storages import Memory

SHUTDOWN = "can't create new thread at interpreter shutdown"
EXHAUSTED = "can't start new thread"


def refuse_threads(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def name(_: object = None) -> str:
    return threading.current_thread().name


def test_work_runs_in_other_threads() -> None:
    """While the interpreter runs."""
    assert in_time(name, 10) != name()
    assert name() not in list(ordered_map(name, range(5)))


def test_at_shutdown_work_runs_in_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests, ordered work and uploads return the same results, and raise the same errors."""
    refuse_threads(monkeypatch, SHUTDOWN)
    memory = Memory()
    put_all(memory, [(f"a/{number}", lambda: b"content") for number in range(5)])
    assert [found.path for found in memory.list("a")] == [f"a/{number}" for number in range(5)]
    assert in_time(name, 10) == name()
    assert list(ordered_map(lambda number: 2 * number, range(5))) == [0, 2, 4, 6, 8]
    with pytest.raises(FileNotFoundError):
        in_time(Path("absent").read_bytes, 10)
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 // number, range(5)))
    with pytest.raises(ZeroDivisionError):
        put_all(memory, [(f"b/{number}", lambda: b"" * (1 // 0)) for number in range(5)])


@pytest.mark.parametrize(
    "work", [lambda: in_time(name, 10), lambda: threads.pool().submit(name)], ids=["request", "pool"]
)
def test_a_machine_without_threads_is_an_error(monkeypatch: pytest.MonkeyPatch, work: object) -> None:
    """A request without a thread has no time limit, which only the end of the process may accept."""
    refuse_threads(monkeypatch, EXHAUSTED)
    with pytest.raises(RuntimeError, match=EXHAUSTED):
        work()  # type: ignore[operator]


def test_no_thread_keeps_the_process_alive() -> None:
    """A process that ends while a request runs does not wait for it."""
    code = (
        "import threading; from cas_cache.storage import threads\n"
        "threads.pool().submit(threading.Event().wait)\n"
        "print(threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_failed_call_forms_no_reference_cycle() -> None:
    """Its error is freed with the last reference, and with it the files and maps that its frames hold."""

    class Held:
        pass

    def fail() -> None:
        held = Held()
        references.append(weakref.ref(held))
        raise ValueError("failed")

    references: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        with pytest.raises(ValueError, match="failed"):
            in_time(fail, 10)
        with pytest.raises(ValueError, match="failed"):
            list(ordered_map(lambda _: fail(), range(3)))
        assert [reference() for reference in references] == [None] * len(references)
    finally:
        gc.enable()
