"""Run work in other threads, and in the calling thread where the interpreter refuses to start them.

CPython 3.12.0 and 3.12.1 start no thread once the main thread has ended, which is when pending rows are pushed by a
program that did not close its cache. Later releases still start threads at that time (CPython issue gh-113964), and
refuse them in plain exit handlers only.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


def start(thread: threading.Thread) -> None:
    """Start a thread, or run its target here if the interpreter is shutting down.

    Raises:
        RuntimeError: If the machine has no more threads.
    """
    try:
        thread.start()
    except RuntimeError as err:
        _check_shutdown(err)
        thread.run()


def pool(workers: int) -> Executor:
    """Return a pool of threads, or one that runs each call here if the interpreter is shutting down.

    Raises:
        RuntimeError: If the machine has no more threads.
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="cas-cache")
    try:
        threads.submit(int).result()  # starts the first thread
    except RuntimeError as err:
        _check_shutdown(err)
        return _CallingThread()
    return threads


class _CallingThread(Executor):
    """Run each call when it is submitted."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as err:  # noqa: BLE001 - raised by the future
            future.set_exception(err)
        return future


def _check_shutdown(err: RuntimeError) -> None:
    """Raise an error again unless it says that the interpreter is shutting down: CPython has no type for that."""
    if "interpreter shutdown" not in str(err):
        raise err
