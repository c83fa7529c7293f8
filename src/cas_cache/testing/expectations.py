"""What the contract expects of a storage. A failure is an AssertionError that says what the storage did.

``cas-cache doctor`` prints these texts.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, ObjectNotFound, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cas_cache.storage.interface import Storage


def expect_bytes(storage: Storage, path: str, start: int, stop: int, content: bytes) -> None:
    """Read [start, stop) of an object that has a content.

    Raises:
        AssertionError: If other bytes are read, or the range is refused.
    """
    past = ", past its end," if stop > len(content) else ""
    request = f"GET of bytes {start} to {stop} of an object of {len(content)}{past}"
    try:
        data = storage.get(path, start, stop)
    except (AccessDenied, ObjectNotFound):
        raise
    except RemoteError as err:
        raise AssertionError(f"{request} fails: {err}") from err
    if data != content[start:stop]:
        raise AssertionError(f"{request} gives {len(data)} bytes that are not those.")


def expect_missing(storage: Storage, path: str) -> None:
    """Read an object that does not exist.

    Raises:
        AssertionError: If it can be read.
    """
    try:
        data = storage.get(path, 0, 10)
    except ObjectNotFound:
        return
    raise AssertionError(f"GET of {path}, which does not exist, gives {len(data)} bytes.")


def expect_listing(storage: Storage, prefix: str, expected: Mapping[str, int]) -> None:
    """List a folder that holds objects of known sizes, by path.

    Raises:
        AssertionError: If the listing is another one, or not in order of the paths.
    """
    entries = storage.list(prefix)
    listed = {entry.path: entry.size for entry in entries}
    request = f"LIST of {prefix}/" if prefix else "LIST"
    if absent := sorted(expected.keys() - listed.keys()):
        more = f" and {len(absent) - 1} others" if len(absent) > 1 else ""
        raise AssertionError(f"{request} does not show {absent[0]}{more}.")
    if extra := sorted(listed.keys() - expected.keys()):
        raise AssertionError(f"{request} shows {extra[0]}, which does not exist or is not below it.")
    for path, size in expected.items():
        if listed[path] != size:
            raise AssertionError(f"{request} says that {path}, an object of {size} bytes, has {listed[path]}.")
    if [entry.path for entry in entries] != sorted(expected):
        raise AssertionError(f"{request} is not in order of the paths, or shows one twice.")


@contextmanager
def expect_error(*expected: type[Exception]) -> Iterator[None]:
    """Like `pytest.raises`, without pytest."""
    try:
        yield
    except expected:
        return
    raise AssertionError(f"{' or '.join(error.__name__ for error in expected)} was not raised.")


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Set the local time zone of this process."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
