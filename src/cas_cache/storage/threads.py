"""Bounded concurrency: run work in daemon threads, or in the calling thread if the interpreter refuses to start them.

Daemon threads do not keep a process alive: after Ctrl-C a program ends at once, although a request may take minutes.
`concurrent.futures.ThreadPoolExecutor` cannot do that, because the interpreter waits for its threads. An interrupted
request loses nothing: an object is written completely or not at all.

CPython 3.12.0 and 3.12.1 start no thread once the main thread has ended, which is when pending rows are pushed by a
program that did not close its cache. Later releases still start threads at that time (CPython issue gh-113964), and
refuse them in plain exit handlers only.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from cas_cache.storage.failures import Unanswered, put_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cas_cache.storage.interface import Storage

_P = ParamSpec("_P")
_T = TypeVar("_T")
_R = TypeVar("_R")

IN_FLIGHT = 3
"""Number of objects transferred concurrently. s3fs holds sent data twice: 3 chunks of 48 MiB take 300 MB."""


def start(thread: threading.Thread) -> None:
    """Start a thread, or run its target in the calling thread if the interpreter is shutting down.

    Raises:
        RuntimeError: If the machine has no more threads.
    """
    try:
        thread.start()
    except RuntimeError as err:
        if "interpreter shutdown" not in str(err):  # CPython has no type for that
            raise
        thread.run()


def pool() -> Executor:
    """Return an executor that runs each call in a daemon thread of its own. The caller limits how many run at once."""
    return _DaemonThreads()


class _DaemonThreads(Executor):
    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        arguments = (future, fn, args, kwargs)
        thread = threading.Thread(target=_run, args=arguments, name="cas-cache-request", daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        start(thread)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - no call is queued
        if wait:
            for thread in filter(threading.Thread.is_alive, self._threads):
                thread.join()


def _run(future: Future[_T], fn: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        future.set_result(fn(*args, **kwargs))
    except BaseException as err:
        future.set_exception(err)  # raises it
        if isinstance(err, KeyboardInterrupt):
            raise  # only the main thread gets it: it must not go on with the next call
    finally:
        del future  # the error's traceback holds this frame, and the future holds the error


def in_time(call: Callable[[], _T], seconds: float) -> _T:
    """Run a function with a time limit; return its result, or raise its error.

    Raises:
        Unanswered: If it takes longer. It continues in its thread, which does not keep the process alive.
    """
    future = pool().submit(call)
    if not wait([future], timeout=seconds).done:
        raise Unanswered(seconds)
    try:
        return future.result()
    finally:
        del future  # the error's traceback holds this frame, and the future holds the error


def put_all(storage: Storage, objects: Iterable[tuple[str, Callable[[], bytes | memoryview]]]) -> None:
    """Write objects, a few concurrently, in any order. Each is built only when it is sent; none after a failure.

    Args:
        storage: The storage to write to.
        objects: (path, function that builds the content) of each object.

    Raises:
        RemoteError: If a write fails; other objects may have been written.
    """

    def put(path: str, make: Callable[[], bytes | memoryview]) -> None:
        put_object(storage, path, make())

    workers = pool()
    running: set[Future[None]] = set()
    join = True
    try:
        for path, make in objects:
            if len(running) == IN_FLIGHT:
                _finish_some(running)
            running.add(workers.submit(put, path, make))
        while running:
            _finish_some(running)
    except KeyboardInterrupt:
        # Do not wait for uploads: one can take minutes, and an unfinished upload is not an object.
        join = False
        raise
    finally:
        workers.shutdown(wait=join)


def _finish_some(running: set[Future[None]]) -> None:
    """Wait for at least one of the futures, remove those that are done, and raise the first error among them."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    running -= done
    while done:
        done.pop().result()  # no variable: with its error, traceback and frame, a failed future would form a cycle


def ordered_map(function: Callable[[_T], _R], items: Sequence[_T], *, in_flight: int = IN_FLIGHT) -> Iterator[_R]:
    """Yield function(item) for each item, in order; a few are computed ahead in threads."""
    if len(items) == 1:
        yield function(items[0])
        return
    workers = pool()
    join = True
    try:
        ahead = [workers.submit(function, item) for item in items[:in_flight]]
        for position in range(len(items)):
            result = ahead.pop(0).result()
            following = position + in_flight
            if following < len(items):
                ahead.append(workers.submit(function, items[following]))
            yield result
    except GeneratorExit:
        # The generator was abandoned, perhaps by the garbage collector, which may run in any thread and under any lock:
        # waiting for other threads could then wait forever.
        join = False
        raise
    except KeyboardInterrupt:
        join = False
        raise
    finally:
        workers.shutdown(wait=join)
