"""The basic guarantees of a storage, each tested alone with a few objects. A broken one raises AssertionError."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cas_cache.doctor.guarantees import check_ranges, check_ranges_beyond
from cas_cache.errors import AccessDenied, ObjectNotFound, RemoteError
from cas_cache.repository.pack import CHUNK_BYTES

if TYPE_CHECKING:
    from cas_cache.storage.interface import Storage

FIRST, SECOND, LARGE, CREATED = "basics/first", "basics/second", "basics/large", "basics/created"
LARGEST = "basics/largest"
CONTENT = bytes(range(64))
LARGE_BYTES = 1 << 18
MAX_TRIED_BYTES = CHUNK_BYTES
"""Maximum size of the body of a push's request."""
MIN_TRIED_BYTES = 6 << 20
"""Smallest size limit that is searched for, because the contract writes an object of that size."""
LOOKS = 200
"""Number of reads of an object, by each of two threads, while it is rewritten; fewer if that ends sooner."""
REWRITES = 4
"""Number of writes of one object while others read it; Google takes about one write a second of a name, and retries."""
LAG_SECONDS = 3.0

KEPT = {
    "put": "PUT of a small object is allowed.",
    "ranges-past-end": "GET of more than there is gives what there is.",
    "largest": "PUT of an object as large as a push sends is taken.",
    "stored": "GET gives the bytes that were PUT.",
    "whole": "GET during a PUT gives the old bytes or the new ones, never a part.",
    "missing": "GET of a name that does not exist says so.",
    "list-at-once": "LIST shows an object right after its PUT.",
    "times": "LIST tells when objects were written.",
    "overwrite": "PUT over an object leaves the new bytes and size.",
    "ranges": "GET gives the range that is asked for, up to the end of an object and past it.",
    "ranges-beyond": "GET of a range that begins beyond the end of an object gives nothing.",
    "create-only": "PUT that must not overwrite does not.",
    "delete": "DELETE is allowed, and what is deleted is gone from GET and LIST at once.",
}
"""Text for each guarantee that is kept."""


def put(storage: Storage) -> None:
    """PUT an object."""
    storage.put(FIRST, CONTENT)


def stored(reader: Storage) -> None:
    """GET the object that was PUT."""
    data = reader.get(FIRST, 0, len(CONTENT))
    if data != CONTENT:
        raise AssertionError(f"GET after a PUT of {len(CONTENT)} bytes gives {len(data)} bytes that are not those.")


def past_end(reader: Storage) -> None:
    """GET more bytes than exist, from the beginning, which is how documents of unknown size are read."""
    for stop in (len(CONTENT) + 1, 16 * len(CONTENT)):
        asked = f"GET of a range past the end of an object (bytes 0 to {stop} of {len(CONTENT)})"
        try:
            data = reader.get(FIRST, 0, stop)
        except AccessDenied:
            raise
        except RemoteError as err:
            raise AssertionError(f"{asked} fails: {err}") from err
        if data != CONTENT:
            raise AssertionError(f"{asked} gives {len(data)} bytes that are not those.")


def largest(writer: Storage, reader: Storage) -> None:
    """PUT an object as large as the largest of a push; if that fails, find a size that the storage accepts."""
    refusal = _refusal(writer, reader, MAX_TRIED_BYTES)
    if refusal is None:
        return
    size = MAX_TRIED_BYTES // 2
    while size >= MIN_TRIED_BYTES and _refusal(writer, reader, size) is not None:
        size //= 2
    taken = f"one of {size / 2**20:g} MiB is taken" if size >= MIN_TRIED_BYTES else "nor is a smaller one taken"
    raise AssertionError(f"PUT of an object of {MAX_TRIED_BYTES / 2**20:g} MiB fails, {taken}: {refusal}") from refusal


def _refusal(writer: Storage, reader: Storage, size: int) -> Exception | None:
    """Write an object of a size and read its end; return the error, or None."""
    try:
        writer.put(LARGEST, bytes(size - 1) + b"1")
        if reader.get(LARGEST, size - 2, size).endswith(b"\x001"):
            return None
    except AccessDenied:
        raise
    except RemoteError as err:
        return err
    return AssertionError("its end cannot be read.")


def whole(writer: Storage, reader: Storage) -> None:
    """GET an object from two threads while it is overwritten."""
    contents = [bytes([i]) * LARGE_BYTES for i in range(REWRITES)]
    writer.put(LARGE, contents[0])
    going, seen = True, set()

    def look() -> None:
        for _ in range(LOOKS):
            if not going:
                return
            data = reader.get(LARGE, 0, LARGE_BYTES + 1)
            seen.add(len(data) if data not in contents else -1)
            time.sleep(0.005)

    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        try:
            for content in contents:
                writer.put(LARGE, content)
        finally:
            going = False
        for future in looking:
            future.result()
    if seen - {-1}:
        raise AssertionError(
            f"During a PUT of {LARGE_BYTES} bytes over as many, GET gave neither the old bytes nor the new ones."
        )


def lists(writer: Storage, reader: Storage) -> None:
    """LIST right after a PUT; if the object is not listed, measure how long that takes."""
    writer.put(SECOND, CONTENT)
    listed = {entry.path: entry.size for entry in reader.list("basics")}
    if SECOND in listed:
        if listed[SECOND] != len(CONTENT):
            raise AssertionError(f"LIST says that an object of {len(CONTENT)} bytes has {listed[SECOND]}.")
        return
    started = time.monotonic()
    while time.monotonic() - started < LAG_SECONDS:
        time.sleep(0.1)
        if any(entry.path == SECOND for entry in reader.list("basics")):
            raise AssertionError(
                f"LIST does not show an object right after its PUT, but {time.monotonic() - started:.1f} s later."
            )
    raise AssertionError(f"LIST does not show an object right after its PUT, nor within {LAG_SECONDS:.0f} s.")


def times(reader: Storage) -> None:
    """LIST, and check that the entries have times."""
    if any(math.isnan(entry.modified) for entry in reader.list("basics")):
        raise AssertionError("LIST tells no times.")


def overwrite(writer: Storage, reader: Storage) -> None:
    """PUT over an object, longer and then shorter."""
    for content in (CONTENT * 2, CONTENT[:5]):
        writer.put(FIRST, content)
        data = reader.get(FIRST, 0, 10 * len(CONTENT))
        if data != content:
            raise AssertionError(f"GET gives {len(data)} bytes that are not those of the last of several PUTs.")


def ranges(writer: Storage, reader: Storage) -> None:
    """GET parts of an object."""
    writer.put(FIRST, CONTENT)
    check_ranges(reader, FIRST, CONTENT)


def ranges_beyond(reader: Storage) -> None:
    """GET ranges beyond the end of an object."""
    check_ranges_beyond(reader, FIRST, CONTENT)


def create_only(writer: Storage, reader: Storage) -> None:
    """PUT twice, the second time without permission to overwrite."""
    writer.put(CREATED, b"first", create_only=True)
    writer.put(CREATED, b"the second", create_only=True)
    if reader.get(CREATED, 0, 100) != b"first":
        raise AssertionError(
            "Create-only is declared and not honoured: a PUT that must not overwrite (If-None-Match) did."
        )


def delete(writer: Storage, reader: Storage) -> None:
    """DELETE, then LIST and GET."""
    writer.delete(FIRST)
    if any(entry.path == FIRST for entry in reader.list("basics")):
        raise AssertionError("LIST still shows an object that was deleted.")
    try:
        reader.get(FIRST, 0, 1)
    except ObjectNotFound:
        return
    raise AssertionError("GET still reads an object that was deleted.")
