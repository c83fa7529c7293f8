"""What a broken guarantee of a storage means, and what to do, for each test of `cas_cache.testing.StorageContract`."""

from __future__ import annotations

from dataclasses import dataclass

from cas_cache.doctor.report import Status


@dataclass(frozen=True, slots=True)
class Guarantee:
    """Advice on one guarantee.

    Attributes:
        means: The consequence for cas_cache if it is broken.
        repair: What to do about it.
        status: The severity.
        rests_on: Tests, or ``clock``, that it depends on. If one of them fails, this one is not tried.
    """

    means: str
    repair: str = "Use another storage, or ask who runs this one; cas_cache cannot work around it."
    status: Status = Status.FAIL
    rests_on: frozenset[str] = frozenset()


_SERVER = "Ask who runs the storage; services under the names s3://, gs:// and az:// keep this promise."
_ONE_PUSH = "Let one person make the first push. Or have the server honour If-None-Match on PUT."
_TWO_IDS = (
    "Two people who make a repository at the same moment may end with two ids; one of their mirrors is then refused. "
    "Nothing else relies on it."
)


def _on(*tests: str) -> frozenset[str]:
    return frozenset(tests)


GUARANTEES = {
    "test_nothing_is_there_at_first": Guarantee(
        "An empty place does not look empty, or a missing object looks like something else: no repository can be made."
    ),
    "test_a_write_is_seen_at_once": Guarantee(
        "What is read is not what was written, or LIST does not show it: every pack looks damaged and is skipped, or "
        "pulls miss fresh packs, for a while or for good. Their rows are encoded again.",
        _SERVER,
    ),
    "test_reads_past_the_end": Guarantee(
        "Documents whose size nobody knows are read so: no repository can be opened.", _SERVER
    ),
    "test_overwrite": Guarantee("A push that is repeated leaves the old bytes, or a mixture.", _SERVER),
    "test_ranges": Guarantee(
        "Pulls read chunks and rows by their place in an object: every pack looks damaged, and is skipped.", _SERVER
    ),
    "test_ranges_beyond_the_end": Guarantee(
        "Nothing that cas_cache reads begins beyond the end of an object, unless the object was cut.",
        "Nothing.",
        Status.WARN,
        _on("test_ranges"),
    ),
    "test_delete": Guarantee("prune and drop free no space, and what they deleted comes back.", _SERVER),
    "test_delete_is_idempotent": Guarantee("A prune whose answer was lost cannot be repeated.", status=Status.WARN),
    "test_empty_object": Guarantee(
        "Objects without bytes get lost; cas_cache writes none.",
        status=Status.WARN,
        rests_on=_on("test_ranges", "test_ranges_beyond_the_end"),
    ),
    "test_large_object": Guarantee(
        "Chunks of vectors come back other than they went: their hashes show it, and the rows are encoded again.",
        rests_on=_on("test_ranges"),
    ),
    "test_largest_object": Guarantee(
        "Packs of many rows cannot be pushed: their vectors go up in objects of up to 48 MiB.",
        "Let the server, and every proxy before it, take bodies of 48 MiB (nginx: client_max_body_size 64m).",
        rests_on=_on("test_ranges"),
    ),
    "test_reads_during_a_write": Guarantee(
        "Readers meet objects that are not all there: their hashes show it, and the rows are encoded again.",
        _SERVER,
        rests_on=_on("test_overwrite"),
    ),
    "test_listing_of_nested_folders": Guarantee(
        "LIST of a folder shows less or more than is below it: pulls miss packs."
    ),
    "test_listing_is_complete": Guarantee(
        "LIST is cut off: pulls miss packs as soon as there are more than fit on a page.", _SERVER
    ),
    "test_modified": Guarantee(
        "Prune cannot tell what is old: it refuses to run without times, and may take for old what is new if they are "
        "wrong or the clocks are more than ten minutes apart. Its grace period must be longer than that.",
        "Set this machine's clock, or ask who runs the storage; nothing, unless you want to prune.",
        Status.WARN,
        _on("clock", "test_overwrite"),
    ),
    "test_create_only": Guarantee(_TWO_IDS, _ONE_PUSH, Status.WARN, _on("test_overwrite")),
    "test_many_create_one_name": Guarantee(
        f"Create-only does not hold when many try at once. {_TWO_IDS}",
        _ONE_PUSH,
        Status.WARN,
        _on("test_create_only", "test_reads_during_a_write"),
    ),
    "test_many_threads": Guarantee("Pushes and pulls, which use four threads, lose or mix up objects."),
    "test_another_process_writes_behind_ones_back": Guarantee(
        "What other processes write or delete is not seen: a long run does not find what colleagues push.",
        rests_on=_on("test_overwrite"),
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
        "The byte counts in statistics are wrong.", "", Status.NOTE, _on("test_ranges")
    ),
}
"""Advice on each test of the contract, in the contract's order."""

GATE = {"test_a_write_is_seen_at_once", "test_reads_past_the_end", "test_delete"}
"""Tests that all others need: without these guarantees, their thousand objects cannot be recognised or removed."""


def finding_name(test: str) -> str:
    """Return the name of the finding of a test."""
    return test.removeprefix("test_").replace("_", "-")
