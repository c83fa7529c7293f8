"""Run work in daemon threads, and in the calling thread where the interpreter refuses to start them.

Daemon threads do not keep a process alive: after Ctrl-C a program ends at once, although a request may take minutes.
`concurrent.futures.ThreadPoolExecutor` cannot do that, because the interpreter waits for its threads. An interrupted
request loses nothing: an object is written completely or not at all.

CPython 3.12.0 and 3.12.1 start no thread once the main thread has ended, which is when pending rows are pushed by a
program that did not close its cache. Later releases still start threads at that time (CPython issue gh-113964), and
refuse them in plain exit handlers only.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
    except BaseException as err:  # noqa: BLE001 - raised by the future
        future.set_exception(err)
    finally:
        del future  # the error's traceback holds this frame, and the future holds the error
