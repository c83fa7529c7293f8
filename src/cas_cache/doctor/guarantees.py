"""The guarantees of a storage in plain words: what it means if one is broken, and what to do.

`BASICS` are the doctor's own guarantees, each tested alone so that a failure is named precisely. `CONTRACT` describes
the tests in `cas_cache.testing.StorageContract`. Both report a broken guarantee as an AssertionError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas_cache.doctor.report import Status
from cas_cache.errors import AccessDenied, ObjectNotFound, RemoteError

if TYPE_CHECKING:
    from cas_cache.storage.interface import Storage


@dataclass(frozen=True, slots=True)
class Guarantee:
    """Advice on one guarantee.

    Attributes:
        means: The consequence for cas_cache if it is broken.
        repair: What to do about it.
        status: The severity.
        rests_on: Names in `BASICS`, or ``clock``, that it depends on. If one of them is broken, this one is not
            reported again.
    """

    means: str
    repair: str = "Use another storage, or ask who runs this one; cas_cache cannot work around it."
    status: Status = Status.FAIL
    rests_on: frozenset[str] = frozenset()


_SERVER = "Ask who runs the storage; services under the names s3://, gs:// and az:// keep this promise."

BASICS = {
    "put": Guarantee("Nothing can be pushed: rows stay pending in the mirror."),
    "stored": Guarantee("What is read is not what was written: every pack looks damaged, and is skipped.", _SERVER),
    "whole": Guarantee(
        "Readers meet objects that are not all there: their hashes show it, and the rows are encoded again.", _SERVER
    ),
    "missing": Guarantee("A missing object is taken for something else: no repository can be made."),
    "ranges-past-end": Guarantee(
        "Documents whose size nobody knows are read so: no repository can be opened.", _SERVER
    ),
    "largest": Guarantee(
        "Packs of many rows cannot be pushed: their vectors go up in objects of up to 48 MiB.",
        "Let the server, and every proxy before it, take bodies of 48 MiB (nginx: client_max_body_size 64m).",
    ),
    "list-at-once": Guarantee(
        "Pulls may miss fresh packs, for a while or for good; their rows are encoded again.", _SERVER
    ),
    "times": Guarantee(
        "Prune cannot tell what is old, and will refuse to run.",
        "Nothing, unless you want to prune; then use a file system that lists times.",
        Status.WARN,
    ),
    "overwrite": Guarantee("A push that is repeated leaves the old bytes, or a mixture.", _SERVER),
    "ranges": Guarantee(
        "Pulls read chunks and rows by their place in an object: every pack looks damaged, and is skipped.", _SERVER
    ),
    "ranges-beyond": Guarantee(
        "Nothing that cas_cache reads begins beyond the end of an object, unless the object was cut.",
        "Nothing.",
        Status.WARN,
        frozenset({"ranges"}),
    ),
    "create-only": Guarantee(
        "Two people who make a repository at the same moment may end with two ids; one of their mirrors is then "
        "refused. Nothing else relies on it.",
        "Let one person make the first push. Or have the server honour If-None-Match on PUT.",
        Status.WARN,
    ),
    "delete": Guarantee("prune and drop free no space, and what they deleted comes back.", _SERVER),
    "manifests": Guarantee(
        "The packs concerned are skipped.", "Run `cas-cache check --repository` for all that is damaged."
    ),
}

_CLOCKS = "Set this machine's clock, or ask who runs the storage."

CONTRACT = {
    "test_nothing_is_there_at_first": Guarantee(
        "An empty place does not look empty: no repository can be made.", rests_on=frozenset({"missing"})
    ),
    "test_a_write_is_seen_at_once": Guarantee(
        "LIST or GET does not show an object right after its PUT: pulls may miss fresh packs for a while.", _SERVER
    ),
    "test_overwrite": Guarantee(BASICS["overwrite"].means, _SERVER, rests_on=frozenset({"overwrite", "whole"})),
    "test_ranges": Guarantee(BASICS["ranges"].means, _SERVER, rests_on=frozenset({"ranges", "ranges-beyond"})),
    "test_empty_object": Guarantee(
        "Objects without bytes get lost; cas_cache writes none.", status=Status.WARN, rests_on=frozenset({"ranges"})
    ),
    "test_large_object": Guarantee(
        "Chunks of vectors come back other than they went: their hashes show it, and the rows are encoded again.",
        rests_on=frozenset({"ranges", "whole", "largest"}),
    ),
    "test_listing_of_nested_folders": Guarantee(
        "LIST of a folder shows less or more than is below it: pulls miss packs."
    ),
    "test_listing_is_complete": Guarantee(
        "LIST is cut off: pulls miss packs as soon as there are more than fit on a page.", _SERVER
    ),
    "test_delete": Guarantee(BASICS["delete"].means, _SERVER, rests_on=frozenset({"delete", "missing"})),
    "test_delete_is_idempotent": Guarantee("A prune whose answer was lost cannot be repeated.", status=Status.WARN),
    "test_modified": Guarantee(
        "Times in listings cannot be relied on, or the clocks are more than ten minutes apart: prune may keep what is "
        "old, or take for old what is new. Its grace period must be longer than that.",
        _CLOCKS,
        Status.WARN,
        frozenset({"times", "clock", "overwrite"}),
    ),
    "test_create_only": Guarantee(
        BASICS["create-only"].means,
        BASICS["create-only"].repair,
        Status.WARN,
        frozenset({"create-only", "overwrite"}),
    ),
    "test_many_create_one_name": Guarantee(
        f"Create-only does not hold when many try at once. {BASICS['create-only'].means}",
        BASICS["create-only"].repair,
        Status.WARN,
        frozenset({"create-only", "whole"}),
    ),
    "test_many_threads": Guarantee("Pushes and pulls, which use four threads, lose or mix up objects."),
    "test_another_process_writes_behind_ones_back": Guarantee(
        "What other processes write or delete is not seen: a long run does not find what colleagues push.",
        rests_on=frozenset({"overwrite", "delete", "missing"}),
    ),
    "test_use_after_fork": Guarantee(
        "Programs that fork after they used the repository (DataLoader workers) may hang or fail there.",
        "Start workers with the method spawn, or use the repository in one process only.",
        Status.WARN,
    ),
    "test_names_that_are_not_ours": Guarantee(
        "Files that others put under the prefix disturb listings. cas_cache's own names are plain.",
        "Keep other files out of the prefix.",
        Status.WARN,
    ),
    "test_paths_of_our_layout": Guarantee("Some names that a repository has cannot be written, listed or read."),
    "test_traffic_is_counted": Guarantee(
        "The byte counts in statistics are wrong.", "", Status.NOTE, frozenset({"ranges"})
    ),
}
"""Advice on each test of the contract, by the name of the test."""


def check_ranges(storage: Storage, path: str, whole: bytes) -> None:
    """Read parts of an object, up to its end and beyond.

    Raises:
        AssertionError: If the bytes of one part are wrong.

    Raises:
        AssertionError: If one is not that part.
    """
    size = len(whole)
    for start, stop in ((0, 1), (1, 3), (size // 2, size), (size - 1, size + 1)):
        _check_range(storage, path, whole, start, stop)


def check_ranges_beyond(storage: Storage, path: str, whole: bytes) -> None:
    """Read ranges that begin at or beyond the end of an object.

    Raises:
        AssertionError: If one is not empty.
    """
    size = len(whole)
    for start, stop in ((size, size + 10), (size + 5, 2**62)):
        _check_range(storage, path, whole, start, stop)


def _check_range(storage: Storage, path: str, whole: bytes, start: int, stop: int) -> None:
    past = ", past its end," if stop > len(whole) else ""
    asked = f"GET of bytes {start} to {stop} of an object of {len(whole)}{past}"
    try:
        data = storage.get(path, start, stop)
    except AccessDenied:
        raise
    except RemoteError as err:
        raise AssertionError(f"{asked} fails: {err}") from err
    if data != whole[start:stop]:
        raise AssertionError(f"{asked} gives {len(data)} bytes that are not those.")


def check_missing(storage: Storage, path: str) -> None:
    """Read an object that does not exist.

    Raises:
        AssertionError: If it can be read.
    """
    try:
        data = storage.get(path, 0, 10)
    except ObjectNotFound:
        return
    raise AssertionError(f"GET of a name that does not exist gives {len(data)} bytes.")
