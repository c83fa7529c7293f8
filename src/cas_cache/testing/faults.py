"""Named faults of storages, and a storage that injects them.

A fault is injected at its n-th opportunity. Injected faults are recorded in `fired`, so a test that expects a fault to
be harmless can check that it occurred.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from cas_cache.errors import AccessDenied, BucketNotFound, ObjectNotFound, RemoteUnavailable
from cas_cache.testing.storages import Verb, WrappedStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cas_cache.storage.interface import ObjectInfo, Storage
    from cas_cache.testing.storages import StorageCall

_ANY: frozenset[Verb] = frozenset(get_args(Verb))
_GET: frozenset[Verb] = frozenset({"get"})
_LIST: frozenset[Verb] = frozenset({"list"})

KINDS: Mapping[str, frozenset[Verb]] = {
    # The call, and its answer as a whole
    **dict.fromkeys(("error", "error-after", "lost-answer", "timeout", "stall"), _ANY),
    "repeated": frozenset({"put", "delete"}),
    "no-space": frozenset({"put"}),
    # What a service says
    **dict.fromkeys(
        ("forbidden", "not-found", "conflict", "precondition-failed", "too-many-requests", "slow-down"), _ANY
    ),
    # What is read
    **dict.fromkeys(("short-body", "flipped-bit", "range-ignored", "range-wrong"), _GET),
    # What is listed
    **dict.fromkeys(("stale-entry", "missing-entry", "duplicate-entry", "cut-listing", "failing-page", "skew"), _LIST),
}
"""Kinds of fault, with the calls in which each can occur. `docs/how-to/test-with-faults.md` describes their effects."""

_SAID: dict[str, tuple[type[Exception], str]] = {
    "error": (RemoteUnavailable, "no answer to {verb} {path}: not done"),
    "error-after": (RemoteUnavailable, "no answer to {verb} {path}: done"),
    "lost-answer": (RemoteUnavailable, "the connection was reset at {verb} {path}"),
    "timeout": (RemoteUnavailable, "{verb} {path} was not answered in time"),
    "no-space": (RemoteUnavailable, "no space left on the device for {verb} {path}"),
    "forbidden": (AccessDenied, "403 Forbidden: {verb} {path}"),
    "conflict": (RemoteUnavailable, "409 Conflict: {verb} {path}"),
    "precondition-failed": (RemoteUnavailable, "412 Precondition Failed: {verb} {path}"),
    "too-many-requests": (RemoteUnavailable, "429 Too Many Requests: {verb} {path}"),
    "slow-down": (RemoteUnavailable, "503 SlowDown: {verb} {path}"),
    "failing-page": (RemoteUnavailable, "a page of {verb} {path} failed"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and the calls that it affects.

    Attributes:
        kind: The kind of fault, one of `KINDS`.
        verb: The verb whose calls count; None counts all calls in which this kind can occur.
        at: The first call with the fault, counted from 1 among the calls that match verb and path.
        times: The number of calls with the fault from then on; None for all until `mend`.
        path: A regular expression that is searched for in the path; for a listing, in the listed folder.
        which: The byte of a body, or the entry of a listing, that is affected. Negative numbers count from the end;
            numbers that are too large wrap around.
        seconds: The duration of a stall or timeout, or the shift of times. Other kinds ignore it.
        error: Makes the exception from a message; None for the default of the kind.
    """

    kind: str
    verb: Verb | None = None
    at: int = 1
    times: int | None = 1
    path: str = ""
    which: int = 0
    seconds: float = 0.0
    error: Callable[[str], Exception] | None = None

    kinds: ClassVar[Mapping[str, frozenset[Verb]]] = KINDS

    def __post_init__(self) -> None:
        if self.kind not in self.kinds:
            raise ValueError(f"There is no fault {self.kind!r}. There are: {', '.join(sorted(self.kinds))}.")
        if self.verb is not None and self.verb not in self.verbs:
            raise ValueError(f"{self.kind!r} is not a fault of a {self.verb}.")
        if self.at < 1 or (self.times is not None and self.times < 1):
            raise ValueError("Calls are counted from 1.")

    @property
    def verbs(self) -> frozenset[Verb]:
        """The calls in which it can occur."""
        return self.kinds[self.kind]

    def concerns(self, verb: str, path: str) -> bool:
        """Return True if a call counts."""
        return verb in self.verbs and self.verb in {None, verb} and re.search(self.path, path) is not None


class Schedule:
    """Counts the opportunities of faults, and records which were used. Thread-safe.

    Args:
        faults: The faults to inject.
        possible: The kinds that can occur in this place.

    Attributes:
        fired: (fault, verb, path) of each injected fault.
    """

    def __init__(self, faults: Iterable[Fault], possible: Iterable[str]) -> None:
        self.faults = tuple(faults)
        if wrong := sorted({fault.kind for fault in self.faults}.difference(possible)):
            raise ValueError(f"{', '.join(wrong)} cannot happen here.")
        self.fired: list[tuple[Fault, str, str]] = []
        self._counts: Counter[int] = Counter()
        self._mended = False
        self._lock = threading.Lock()

    def mend(self) -> None:
        """Inject no more faults."""
        self._mended = True

    def due(self, verb: str, path: str) -> list[Fault]:
        """Count a call and return its faults."""
        if self._mended:
            return []
        due = []
        with self._lock:
            for n, fault in enumerate(self.faults):
                if fault.concerns(verb, path):
                    self._counts[n] += 1
                    past = self._counts[n] - fault.at
                    if past >= 0 and (fault.times is None or past < fault.times):
                        due.append(fault)
        return due

    def note(self, fault: Fault, verb: str, path: str) -> None:
        """Record that a fault was injected."""
        with self._lock:
            self.fired.append((fault, verb, path))


class FaultyStorage(WrappedStorage):
    """Injects faults into the calls of another storage.

    Args:
        inner: The storage that does the work.
        faults: The faults to inject. If several affect one call, the first is nearest to the caller.
        sleep: The function that a stall calls. With a function that moves a clock, no time passes.

    Attributes:
        deleted: Entries that a stale listing may still show: objects that were deleted through this storage after it
            had listed them, and entries that a test adds.
    """

    def __init__(
        self, inner: Storage, faults: Iterable[Fault] = (), *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        super().__init__(inner)
        self.deleted: dict[str, ObjectInfo] = {}
        self._schedule = Schedule(faults, KINDS)
        self._sleep = sleep
        self._seen: dict[str, ObjectInfo] = {}
        self._late: list[Callable[[], object]] = []

    @property
    def fired(self) -> list[tuple[Fault, str, str]]:
        """(fault, verb, path) of each injected fault."""
        return list(self._schedule.fired)

    def mend(self) -> None:
        """Inject no more faults, and run the delayed calls."""
        self._schedule.mend()
        for run in self._take_late():
            run()

    def _call(self, call: StorageCall) -> Any:
        due = self._schedule.due(call.verb, call.path)
        late = self._take_late()
        try:
            return self._answered(call, due)
        finally:
            for run in late:
                run()

    def _answered(self, call: StorageCall, due: list[Fault]) -> Any:
        if not due:
            answer = call.run()
            self._remember(call, answer)
            return answer
        fault, *others = due
        inside = replace(call, run=lambda: self._answered(call, others))
        change = _CHANGES.get(fault.kind)
        if change is not None:
            before = inside.run()
            after = change(self, fault, call, before)
            # Entries compare equal if only their times differ, so a skew is recorded by its kind.
            if after != before or (fault.kind == "skew" and before):
                self._schedule.note(fault, call.verb, call.path)
            return after
        self._schedule.note(fault, call.verb, call.path)
        return self._failed(fault, inside)

    def _failed(self, fault: Fault, call: StorageCall) -> Any:
        """Inject a fault that affects the whole call."""
        kind = fault.kind
        if kind == "stall":
            self._sleep(fault.seconds)
            return call.run()
        if kind == "repeated":
            # The answer was lost, and the client retried on its own.
            call.run()
            return call.run()
        if kind in {"error-after", "lost-answer", "failing-page"}:
            call.run()
        elif kind == "timeout" and call.verb in {"put", "delete"}:
            # The request is still on its way: it takes effect after the next call.
            self._late.append(call.run)
        elif kind == "precondition-failed" and call.create_only:
            # The object exists, perhaps because a first attempt wrote it and its answer was lost.
            return call.run()
        elif kind == "conflict" and call.create_only:
            # Another client is writing it, or began to and never finishes. File systems take that for written.
            return None
        elif kind == "not-found":
            raise _not_found(call)
        known, text = _SAID[kind]
        raise (fault.error or known)(text.format(verb=call.verb, path=call.path))

    def _remember(self, call: StorageCall, answer: Any) -> None:
        if call.verb == "list":
            self._seen.update((entry.path, entry) for entry in answer)
        elif call.verb == "delete" and call.path in self._seen:
            self.deleted[call.path] = self._seen[call.path]

    def _take_late(self) -> list[Callable[[], object]]:
        """Return and clear the unanswered calls that are still on their way."""
        late, self._late = self._late, []
        return late

    def _range_ignored(self, _fault: Fault, call: StorageCall, data: bytes) -> bytes:
        return self.inner.get(call.path, 0, max(call.stop, 1 << 30)) if data else data

    def _range_wrong(self, _fault: Fault, call: StorageCall, data: bytes) -> bytes:
        """Return as many bytes from the beginning, or from a later position."""
        start = 0 if call.start else max(1, len(data) // 2)
        return self.inner.get(call.path, start, start + len(data)) if data else data

    def _stale_entry(self, fault: Fault, call: StorageCall, entries: list[ObjectInfo]) -> list[ObjectInfo]:
        paths = {entry.path for entry in entries}
        inside = f"{call.path}/" if call.path else ""
        gone = [
            deleted for path, deleted in sorted(self.deleted.items()) if path not in paths and path.startswith(inside)
        ]
        return sorted([*entries, gone[fault.which % len(gone)]], key=lambda deleted: deleted.path) if gone else entries


class FlakyStorage(FaultyStorage):
    """Fails at the n-th call, before or after its effect: a `FaultyStorage` with one fault.

    Args:
        inner: The storage that does the work.
        verb: The verb whose calls count; None counts all.
        at: The first call that fails, counted from 1.
        times: The number of calls that fail from then on; None for all until `mend`.
        after: Let the call take effect and lose its answer.
        error: Makes the exception from a message.
    """

    def __init__(
        self,
        inner: Storage,
        verb: Verb | None = None,
        *,
        at: int = 1,
        times: int | None = 1,
        after: bool = False,
        error: Callable[[str], Exception] = RemoteUnavailable,
    ) -> None:
        super().__init__(inner, [Fault("error-after" if after else "error", verb, at, times, error=error)])


def _not_found(call: StorageCall) -> Exception:
    if call.verb == "get":
        return ObjectNotFound(f"404 Not Found: {call.verb} {call.path}")
    return BucketNotFound(f"404 Not Found: {call.verb} {call.path}")


def short_body(fault: Fault, data: bytes) -> bytes:
    """Return the first half of a body, or its first `which` bytes."""
    return data[: fault.which or len(data) // 2]


def flipped_bit(fault: Fault, data: bytes) -> bytes:
    """Return a body with the lowest bit of one byte flipped."""
    if not data:
        return data
    at = fault.which % len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def missing_entry(fault: Fault, entries: list[Any]) -> list[Any]:
    """Return a listing without one of its entries."""
    at = fault.which % max(1, len(entries))
    return entries[:at] + entries[at + 1 :]


def duplicate_entry(fault: Fault, entries: list[Any]) -> list[Any]:
    """Return a listing with one of its entries repeated."""
    at = fault.which % max(1, len(entries))
    return entries[: at + 1] + entries[at:]


def cut_listing(_fault: Fault, entries: list[Any]) -> list[Any]:
    """Return the first half of a listing, as if it were complete."""
    return entries[: len(entries) // 2]


def _skew(_storage: FaultyStorage, fault: Fault, _call: StorageCall, entries: list[ObjectInfo]) -> list[ObjectInfo]:
    return [replace(entry, modified=entry.modified + fault.seconds) for entry in entries]


_CHANGES: dict[str, Callable[[FaultyStorage, Fault, StorageCall, Any], Any]] = {
    "short-body": lambda _storage, fault, _call, data: short_body(fault, data),
    "flipped-bit": lambda _storage, fault, _call, data: flipped_bit(fault, data),
    "range-ignored": FaultyStorage._range_ignored,  # noqa: SLF001 - its own
    "range-wrong": FaultyStorage._range_wrong,  # noqa: SLF001 - its own
    "stale-entry": FaultyStorage._stale_entry,  # noqa: SLF001 - its own
    "missing-entry": lambda _storage, fault, _call, entries: missing_entry(fault, entries),
    "duplicate-entry": lambda _storage, fault, _call, entries: duplicate_entry(fault, entries),
    "cut-listing": lambda _storage, fault, _call, entries: cut_listing(fault, entries),
    "skew": _skew,
}
