"""Run a function in another process and return its result. For tests: a failure in the process fails the test."""

from __future__ import annotations

import multiprocessing
import traceback
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_R = TypeVar("_R")

ANSWER_SECONDS = 120
"""Seconds after which a silent process fails the test. Forked processes hang if they wait for a thread of their
parent."""


def in_process(method: Literal["fork", "spawn"], function: Callable[..., _R], *args: Any) -> _R:
    """Return function(*args), called in a new process.

    Args:
        method: With "fork" the child uses the same objects; with "spawn" it gets pickled copies, and a function that it
            can import.
        function: The function to call.
        *args: Its arguments.

    Raises:
        AssertionError: If the function raises, with the child's traceback, or does not return in time.
    """
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args))
    with warnings.catch_warnings():
        # Python 3.12 warns about a fork of a process with threads, which is exactly what these tests do.
        warnings.filterwarnings("ignore", r".*use of fork\(\) may lead to deadlocks", DeprecationWarning)
        process.start()
    sender.close()
    try:
        if not receiver.poll(ANSWER_SECONDS):
            raise AssertionError(f"No answer from a process ({method}) within {ANSWER_SECONDS} s.")
        try:
            done, answer = receiver.recv()
        except EOFError:
            process.join()
            raise AssertionError(f"A process ({method}) ended with {process.exitcode} and no answer.") from None
    finally:
        receiver.close()
        process.kill()
        process.join()
        process.close()
    if not done:
        raise AssertionError(f"In a process ({method}):\n{answer}")
    result: _R = answer
    return result


def _answer(sender: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answer = (True, function(*args))
    except BaseException:  # noqa: BLE001 - the parent raises it again
        answer = (False, traceback.format_exc())
    sender.send(answer)
    sender.close()
