"""The doctor names each thing that is wrong for what it is, and nothing else; it leaves what it looked at as it was.

Each broken promise is a wrapper that breaks that one only.
"""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import main
from cas_cache.doctor import DoctorReport, Role, Status, examine_remote, machine
from cas_cache.doctor.guarantees import GATE, GUARANTEES, finding_name
from cas_cache.doctor.policies import grant, removal, s3_policy
from cas_cache.doctor.probe import Probe, ShorterContract, names_of
from cas_cache.doctor.scratch import Scratch
from cas_cache.errors import AccessDenied, InvalidURL, ObjectNotFound, RemoteUnavailable
from cas_cache.format.marker import new_marker
from cas_cache.identity import canonical_json
from cas_cache.repository import Repository
from cas_cache.storage import Storage, open_storage
from cas_cache.storage.interface import CREATE_ONLY, ObjectInfo
from cas_cache.testing import CountingStorage, FlakyStorage, MemoryStorage, StorageContract
from cas_cache.testing.processes import in_process
from storages import SPEC, Encoder, Machine, texts
from tiers import sampled

BAD = {Status.WARN, Status.FAIL}


class Wrapped:
    """Another storage; subclasses break one promise."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.url, self.traffic, self.capabilities = inner.url, inner.traffic, inner.capabilities

    def close(self) -> None:
        self.inner.close()

    def get(self, path: str, start: int, stop: int) -> bytes:
        return self.inner.get(path, start, stop)

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        self.inner.put(path, data, create_only=create_only)

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, path: str) -> None:
        self.inner.delete(path)


class Lagging(Wrapped):
    """LIST shows what was there before the last PUT."""

    last = ""

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        super().put(path, data, create_only=create_only)
        self.last = path

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [entry for entry in super().list(prefix) if entry.path != self.last]


class Late(Wrapped):
    """LIST shows an object half a second after its PUT."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [entry for entry in super().list(prefix) if entry.modified < time.time() - 0.5]


class WrongSizes(Wrapped):
    """LIST tells sizes that are too large by one."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [replace(entry, size=entry.size + 1) for entry in super().list(prefix)]


class WithoutRanges(Wrapped):
    """GET gives the whole object."""

    def get(self, path: str, start: int, stop: int) -> bytes:
        return super().get(path, 0, 2**62)


class Partial(Wrapped):
    """PUT can be seen half done."""

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        if not create_only:
            super().put(path, data[: len(data) // 2])
            time.sleep(0.02)
        super().put(path, data, create_only=create_only)


class Truncating(Wrapped):
    """PUT loses the last byte."""

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        super().put(path, data[:-1], create_only=create_only)


class FirstStays(Wrapped):
    """PUT never overwrites."""

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        super().put(path, data, create_only=True)


class Overwriting(Wrapped):
    """PUT with create_only overwrites, though it declares otherwise."""

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        super().put(path, data)


class Undeclared(Overwriting):
    """PUT with create_only overwrites, as it declares."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {CREATE_ONLY}


class Timeless(Wrapped):
    """LIST tells no times."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [ObjectInfo(entry.path, entry.size) for entry in super().list(prefix)]


class Ahead(Wrapped):
    """The storage's clock is an hour ahead."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [replace(entry, modified=entry.modified + 3600) for entry in super().list(prefix)]


class Immortal(Wrapped):
    """DELETE does nothing."""

    def delete(self, path: str) -> None:
        pass


class Ghosts(Wrapped):
    """LIST goes on showing what was deleted."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.gone: dict[str, ObjectInfo] = {}

    def delete(self, path: str) -> None:
        self.gone |= {entry.path: entry for entry in super().list("") if entry.path == path}
        super().delete(path)

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [*super().list(prefix), *(e for e in self.gone.values() if e.path.startswith(prefix))]


class OnePage(Wrapped):
    """LIST ends after 100 objects."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        return super().list(prefix)[:100]


class Neighbours(Wrapped):
    """LIST of a folder shows those whose names begin alike."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        found = self.inner.list("")
        return [entry for entry in found if entry.path.startswith(prefix)]


class Hiding(Wrapped):
    """GET of what is not there is refused, as S3 does to those who may not list."""

    def get(self, path: str, start: int, stop: int) -> bytes:
        try:
            return super().get(path, start, stop)
        except ObjectNotFound as err:
            raise AccessDenied(f"{self.url} refuses a read (Forbidden). Check the credentials") from err


class PastTheEnd(Wrapped):
    """GET of more than there is fails."""

    def get(self, path: str, start: int, stop: int) -> bytes:
        for entry in self.inner.list(""):
            if entry.path == path and stop > entry.size:
                raise RemoteUnavailable("memory did not answer as it should (416). Check the network.")
        return super().get(path, start, stop)


class WholeBeyond(Wrapped):
    """GET of a range that begins beyond the end gives the whole object."""

    def get(self, path: str, start: int, stop: int) -> bytes:
        return super().get(path, start, stop) or super().get(path, 0, 2**62)


def limited(most: int) -> Callable[[Storage], Storage]:
    """Return a wrapper whose PUT takes so many bytes."""

    class Limited(Wrapped):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            if len(data) > most and "largest-object/" in path:
                raise RemoteUnavailable(f"memory refuses a body of {len(data)} bytes (413). Check the network.")
            super().put(path, data, create_only=create_only)

    return Limited


def refusing(verb: Any) -> Callable[[Storage], Storage]:
    """Return what makes a storage refuse a verb, always."""

    def error(message: str) -> Exception:
        return AccessDenied(f"memory refuses a {verb} (PermissionError: {message}). Check the credentials")

    return lambda inner: FlakyStorage(inner, verb, times=None, error=error)


def repository() -> MemoryStorage:
    """Return a storage with a repository of one pack."""
    memory = MemoryStorage()
    with tempfile.TemporaryDirectory() as directory:
        machine = Machine(Path(directory), memory)
        machine.encode(texts(3))
        machine.push()
    return memory


def bad(report: DoctorReport) -> dict[str, str]:
    return {found.name: str(found.status) for found in report.findings if found.status in BAD}


def told(report: DoctorReport, name: str) -> str:
    return " ".join(f"{f.what} {f.means} {f.repair}" for f in report.findings if f.name == name)


def examined(storage: Storage, role: Role = Role.WRITER, **options: Any) -> DoctorReport:
    report = DoctorReport(role=role)
    examine_remote(report, lambda: storage, **{"trial": True, **options})
    return report


@pytest.fixture(autouse=True)
def _fewer_objects(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.function is not test_thorough_lists_more:
        monkeypatch.setattr(ShorterContract, "many", 120)
    monkeypatch.setattr(StorageContract, "largest", 1 << 16)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Return a function that runs the command in this process: (code, stdout, stderr)."""
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path / "mirrors"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cas-cache", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def line(out: str, name: str) -> str:
    (found,) = [line for line in out.splitlines() if line[6:].startswith(f"{name}: ")]
    return found


# A storage that keeps every promise ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MemoryStorage, repository])
def test_nothing_is_wrong(make: Any) -> None:
    """Every promise is named once, nothing warns, and the storage is as it was."""
    memory = make()
    before = dict(memory.objects)
    report = examined(memory)
    assert bad(report) == {}
    assert memory.objects == before
    names = [found.name for found in report.findings]
    shown = [finding_name(name) for name in names_of(StorageContract())]
    assert len(shown) >= 23
    assert [name for name in names if name in shown] == shown
    assert len(names) == len(set(names))
    assert report.policy == ""


@pytest.mark.verify
def test_a_directory_is_tried_with_processes(tmp_path: Path) -> None:
    """What declares to be for many processes is tried from another; nothing is left but the directory."""
    opener = functools.partial(open_storage, str(tmp_path / "repo"))
    report = DoctorReport()
    examine_remote(report, opener, trial=True)
    assert bad(report) == {}
    assert "capabilities" not in {found.name for found in report.findings}
    assert list((tmp_path / "repo").iterdir()) == []


def test_looking_never_writes() -> None:
    """Without a trial, and in a reader's trial, there are only GETs and LISTs."""
    for make in (MemoryStorage, repository):
        for options in ({"trial": False}, {"role": Role.READER}, {"role": Role.READER, "trial": False}):
            counting = CountingStorage(make())
            report = examined(counting, **options)
            assert bad(report) == {}
            assert set(counting.by_verb()) <= {"get", "list"}
            assert "Not tried" in told(report, "write")


@pytest.mark.verify
def test_thorough_lists_more() -> None:
    """1,100 objects, or the contract's own number."""
    for options, many in (({}, 1_100), ({"thorough": True}, 2_500)):
        counting = CountingStorage(MemoryStorage())
        examined(counting, **options)
        listed = [path for verb, path in counting.calls if verb == "put" and "listing-is-complete" in path]
        assert len(listed) == many


# Broken promises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "expected", "words"),
    sampled(
        [
            (Lagging, {"a-write-is-seen-at-once": "FAIL"}, "LIST of packs/ does not show packs/a."),
            (Late, {"a-write-is-seen-at-once": "FAIL"}, "pulls miss fresh packs, for a while"),
            (WrongSizes, {"a-write-is-seen-at-once": "FAIL"}, "that packs/a, an object of 64 bytes, has 65."),
            (
                WithoutRanges,
                {"ranges": "FAIL"},
                "GET of bytes 0 to 1 of an object of 64 gives 64 bytes that are not those",
            ),
            (Partial, {"reads-during-a-write": "FAIL"}, "GET gave neither the old bytes nor the new ones"),
            (Truncating, {"a-write-is-seen-at-once": "FAIL"}, "gives 63 bytes that are not those"),
            (FirstStays, {"overwrite": "FAIL"}, "GET of bytes 0 to 100 of an object of 15, past its end, gives 5"),
            (
                Overwriting,
                {"create-only": "warn"},
                "Two people who make a repository at the same moment may end with two",
            ),
            (Timeless, {"modified": "warn"}, "LIST tells no times."),
            (
                PastTheEnd,
                {"reads-past-the-end": "FAIL"},
                "GET of a range past the end of cas-cache.json fails",
            ),
            (
                WholeBeyond,
                {"ranges-beyond-the-end": "warn"},
                "GET of bytes 64 to 74 of an object of 64, past its end,",
            ),
            (limited(1 << 15), {"largest-object": "FAIL"}, "PUT of an object of 0.0625 MiB fails: memory refuses"),
            (Ghosts, {"delete": "FAIL"}, "LIST of packs/ shows packs/b, which does not exist"),
            (Immortal, {"delete": "FAIL", "cleaning": "warn"}, "LIST of packs/ shows packs/b, which does not exist"),
            (OnePage, {"listing-is-complete": "FAIL"}, "as soon as there are more than fit on a page"),
            (Neighbours, {"listing-of-nested-folders": "FAIL"}, "less or more than is below it"),
            (refusing("list"), {"list": "FAIL"}, "LIST is refused: memory refuses a list (PermissionError"),
            (refusing("get"), {"get": "FAIL"}, "GET is refused"),
            (refusing("put"), {"put": "FAIL"}, "Nothing can be pushed: rows stay pending in the mirror."),
            (refusing("delete"), {"delete": "warn", "cleaning": "warn"}, "prune and drop cannot run"),
            (Hiding, {"missing": "FAIL"}, "GET of a name that does not exist is refused"),
            (Undeclared, {}, ""),
            (Ahead, {}, ""),
        ],
        keep=4,
    ),
)
def test_what_is_broken_is_named_and_nothing_else(wrap: Any, expected: dict[str, str], words: str) -> None:
    """One promise broken: one finding in plain words, and where it cannot be cleaned up, that too."""
    memory = repository()
    before = dict(memory.objects)
    report = examined(wrap(memory))
    assert bad(report) == expected
    assert words in told(report, next(iter(expected), "write"))
    assert report.fails == ("FAIL" in expected.values())
    for finding in report.findings:
        assert (finding.status in BAD) == bool(finding.repair), finding
    if "cleaning" not in expected or wrap is Ghosts:
        assert memory.objects == before


def test_a_capability_that_is_not_declared_is_a_note() -> None:
    """Nobody promised it, so nothing is broken."""
    report = examined(Undeclared(MemoryStorage()))
    assert bad(report) == {}
    assert "does not declare writes that only create and use from several processes" in told(report, "capabilities")


def test_clocks_that_differ_are_told_and_not_judged() -> None:
    """The two clocks are compared for information; what follows from that is not named as broken."""
    report = examined(Ahead(repository()))
    assert "+3600 s" in told(report, "clock") or "+3599 s" in told(report, "clock")
    assert "because of clock: modified." in told(report, "not-tried")


def test_what_follows_is_not_named_again() -> None:
    """Tests that rest on a broken promise are not tried, and are listed in one note."""
    report = examined(Overwriting(MemoryStorage()))
    assert told(report, "not-tried").strip() == "Not tried, because of create-only: many-create-one-name."


def test_what_cannot_be_deleted_is_left_and_said() -> None:
    """Beside a repository a writer without DELETE is tried with a few objects, whose folder is named."""
    memory = repository()
    before = set(memory.objects)
    report = examined(refusing("delete")(memory))
    left = set(memory.objects) - before
    assert 0 < len(left) <= 6
    (folder,) = {"/".join(path.split("/")[:2]) for path in left}
    assert f"{len(left)} objects are left below memory/{folder}/" in told(report, "cleaning")
    assert "space and nothing else" in told(report, "cleaning")
    assert "The rest was not tried, because of delete" in told(report, "contract")
    assert not report.fails


def test_nothing_is_written_into_an_empty_place_that_could_not_be_emptied() -> None:
    """An empty place stays empty."""
    memory = MemoryStorage()
    report = examined(refusing("delete")(memory))
    assert memory.objects == {}
    assert bad(report) == {"delete": "warn"}
    assert "could not be deleted again" in told(report, "write")


def test_a_missing_marker_without_list_permission() -> None:
    """What S3 calls forbidden and LIST shows to be absent is named so, before there is a repository too."""
    report = examined(Hiding(MemoryStorage()), trial=False)
    assert bad(report) == {"missing": "FAIL"}


@pytest.mark.parametrize("error", sampled([KeyboardInterrupt, ValueError], keep=4))
@pytest.mark.parametrize("at", [1, 2, 5, 20, 150])
def test_whatever_happens_it_is_cleaned_up(at: int, error: Any) -> None:
    """Ctrl-C and bugs included: the scratch folder is emptied, and what raised goes on."""
    memory = repository()
    before = dict(memory.objects)
    flaky = FlakyStorage(memory, "put", at=at, after=True, error=error)
    report = DoctorReport()
    try:
        examine_remote(report, lambda: flaky, trial=True)
    except (KeyboardInterrupt, ValueError):
        assert report.findings[-1].name == "cleaning"
    else:
        assert report.fails
    assert memory.objects == before
    assert "is empty again" in told(report, "cleaning")


def test_ctrl_c_while_cleaning_says_what_is_left() -> None:
    """The folder is named even if the cleaning itself is stopped."""
    memory = repository()

    class Stopping(Wrapped):
        def list(self, prefix: str) -> list[ObjectInfo]:
            if prefix.count("/") == 1 and prefix.startswith("doctor/"):
                raise KeyboardInterrupt
            return super().list(prefix)

    report = DoctorReport()
    with pytest.raises(KeyboardInterrupt):
        examine_remote(report, lambda: Stopping(memory), trial=True)
    assert "left below memory/doctor/" in told(report, "cleaning")


def test_a_listing_that_breaks_leaves_nothing_behind() -> None:
    """What was written is deleted by name, so the place stays one in which a repository can be made."""
    memory = MemoryStorage()

    class Broken(Wrapped):
        def list(self, prefix: str) -> list[ObjectInfo]:
            if prefix.startswith("doctor/") and self.inner.list(prefix):
                raise RemoteUnavailable("No listing. Check the network.")
            return super().list(prefix)

    report = examined(Broken(memory))
    assert memory.objects == {}
    assert bad(report) == {"reach": "FAIL"}
    assert "is empty again" in told(report, "cleaning")
    assert Repository(memory).open() is False


def test_left_overs_do_not_keep_a_repository_from_being_made() -> None:
    """What the doctor says of them is true: the first push makes a repository beside them."""
    memory = MemoryStorage()
    memory.objects["doctor/" + "0" * 32 + "/basics/first"] = b"1"
    assert bad(examined(memory)) == {"left-overs": "warn"}
    Repository(memory).create()
    assert "cas-cache.json" in memory.objects


def test_a_marker_that_cannot_be_read_past_its_end() -> None:
    """It is the range that is named, not a GET; in an empty place, too."""
    assert bad(examined(PastTheEnd(repository()), trial=False)) == {"reads-past-the-end": "FAIL"}
    report = examined(PastTheEnd(MemoryStorage()))
    assert bad(report) == {"reads-past-the-end": "FAIL"}
    assert "GET of bytes 0 to 65 of an object of 64, past its end, fails" in told(report, "reads-past-the-end")


def test_a_storage_that_goes_away_ends_the_trial() -> None:
    """The rest is not tried one by one against a server that does not answer."""
    memory = repository()

    class Away(Wrapped):
        def __init__(self, since: str) -> None:
            super().__init__(memory)
            self.since, self.away = since, False

        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            self.away = self.away or self.since in path
            self.list("")
            super().put(path, data, create_only=create_only)

        def list(self, prefix: str) -> list[ObjectInfo]:
            if self.away:
                raise RemoteUnavailable("No answer. Check the network.")
            return super().list(prefix)

    report = examined(Away("/large-object/"))
    assert bad(report) == {"reach": "FAIL"}
    assert "Check the network." in told(report, "reach")
    assert "listing-is-complete" not in {found.name for found in report.findings}
    assert "LIST does not show that (No answer." in told(report, "cleaning")


def test_a_role_that_creates_and_does_not_overwrite() -> None:
    """Google's objectCreator: PUT of a new name is allowed, and over an old one refused."""
    memory = repository()

    class Creating(Wrapped):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            if path in memory.objects and not create_only:
                raise AccessDenied("gs://team refuses a write (Forbidden). Check the credentials")
            super().put(path, data, create_only=create_only)

    memory.url = "gs://team/emb"
    report = examined(refusing("delete")(Creating(memory)))
    assert bad(report) == {"delete": "warn", "overwrite": "FAIL", "cleaning": "warn"}
    assert "PUT over an object that exists is refused" in told(report, "overwrite")
    assert "roles/storage.objectUser" in report.policy


def test_every_test_of_the_contract_has_its_words() -> None:
    """A new promise needs a line here, and rests on what is tried before it."""
    names = list(names_of(ShorterContract()))
    assert names == list(GUARANTEES)
    assert set(names) >= GATE
    for advice in GUARANTEES.values():
        assert advice.rests_on <= {*names, "clock"}
        assert advice.means
        assert bool(advice.repair) == (advice.status in BAD)


def test_a_test_without_words_is_told_by_its_docstring() -> None:
    """Contracts of others can be run, too."""

    class More(StorageContract):
        def test_of_ones_own(self, opener: Any) -> None:
            """Bytes taste good."""
            raise AssertionError("They do not.")

    report = DoctorReport()
    Probe(MemoryStorage, report, marked=True)._run_test(More(), "test_of_ones_own")
    assert "Bytes taste good. Seen otherwise: They do not." in told(report, "of-ones-own")


@pytest.mark.parametrize("elsewhere", sampled([False, True], keep={True}))
@pytest.mark.parametrize(
    ("error", "shown", "hidden"),
    sampled(
        [
            (RemoteUnavailable("No answer. Check the network."), "No answer. Check the network.", "nothing"),
            (ValueError("url?token=hunter2"), "ValueError", "hunter2"),
            (AssertionError("one of two"), "one of two", "nothing"),
        ],
        keep=3,
    ),
)
def test_how_a_failed_test_is_told(error: Exception, shown: str, hidden: str, *, elsewhere: bool) -> None:
    """In the words of our errors and assertions; of others, which may quote a token, the name only."""

    class One(MemoryStorage):
        def list(self, prefix: str) -> list[ObjectInfo]:
            raise error

    class More(StorageContract):
        def test_of_ones_own(self, opener: Any) -> None:
            """Bytes taste good."""
            if elsewhere:
                in_process("fork", lambda: opener().list("x"))
            opener().list("x")

    report = DoctorReport()
    trial = Probe(One, report, marked=True)
    trial._answers = lambda: True  # type: ignore[method-assign]
    trial._run_test(More(), "test_of_ones_own")
    assert shown in told(report, "of-ones-own")
    assert hidden not in told(report, "of-ones-own")


def test_fork_is_not_tried_where_it_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS a forked process with threads may be ended by the system."""
    monkeypatch.setattr(sys, "platform", "darwin")
    report = examined(MemoryStorage())
    assert "Not tried: forking" in told(report, "use-after-fork")
    assert bad(report) == {}


# What a reader needs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (WithoutRanges, "ranges"),
        (Hiding, "missing"),
        (refusing("list"), "list"),
        (refusing("get"), "get"),
        (refusing("put"), ""),
        (refusing("delete"), ""),
        (Timeless, "modified"),
    ],
)
def test_a_reader_is_told_what_a_reader_needs(wrap: Any, expected: str) -> None:
    """Ranges, missing names, LIST and GET; nothing about writing."""
    report = examined(wrap(repository()), Role.READER)
    assert list(bad(report)) == ([expected] if expected else [])
    assert report.role == Role.READER


def test_a_reader_verifies_manifests_and_specs() -> None:
    """A few are read; damage names the object."""
    memory = repository()
    assert "1 manifest and the specs" in told(examined(memory, Role.READER), "manifests")
    (manifest,) = (path for path in memory.objects if path.startswith("manifests/"))
    whole, memory.objects[manifest] = memory.objects[manifest], b"{}"
    assert manifest in told(examined(memory, Role.READER), "manifests")
    memory.objects[manifest] = whole
    (spec,) = (path for path in memory.objects if path.startswith("specs/"))
    memory.objects[spec] = b"{}"
    report = examined(memory, Role.READER)
    assert bad(report) == {"manifests": "FAIL"}
    assert spec in told(report, "manifests")


# Repositories ----------------------------------------------------------------------------------------------------


def marker(**changes: Any) -> bytes:
    return canonical_json({**json.loads(new_marker("ab" * 16)), **changes})


@pytest.mark.parametrize(
    ("objects", "expected", "words"),
    [
        ({}, {}, "There is nothing yet"),
        ({"cas-cache.json": marker()}, {}, "Version 1, id abab"),
        ({"data.csv": b"1"}, {"repository": "FAIL"}, "'data.csv' is one"),
        ({"cas-cache.json": b"{"}, {"repository": "FAIL"}, "Name another prefix"),
        ({"cas-cache.json": marker(version=2)}, {"repository": "FAIL"}, "Update cas_cache"),
        ({"cas-cache.json": marker(reader_features=["x"])}, {"repository": "FAIL"}, "Update cas_cache"),
        ({"cas-cache.json": marker(writer_features=["x"])}, {"repository": "warn"}, "asks writers for ['x']"),
        ({"doctor/" + "0" * 32 + "/basics/first": b"1"}, {"left-overs": "warn"}, "They cost space and nothing else."),
        (
            {"cas-cache.json": marker(), "doctor/" + "0" * 32 + "/x": b"1"},
            {"left-overs": "warn"},
            "They cost space and nothing else.",
        ),
    ],
)
def test_what_is_there(objects: dict[str, bytes], expected: dict[str, str], words: str) -> None:
    """Nothing, a repository of any kind, something else, and what a killed doctor left."""
    memory = MemoryStorage()
    memory.objects.update(objects)
    report = examined(memory, trial=False)
    assert bad(report) == expected
    assert words in told(report, next(iter(expected), "repository"))
    assert memory.objects == objects
    if "FAIL" in expected.values():
        counting = CountingStorage(memory)
        examined(counting)
        assert set(counting.by_verb()) <= {"get", "list"}, "a place that is another's is not tried"


def test_the_mirror_belongs_or_does_not() -> None:
    """The id in the marker counts."""
    memory = repository()
    own = json.loads(memory.objects["cas-cache.json"])["id"]
    assert bad(examined(memory, trial=False, mirror_repository=own)) == {}
    report = examined(memory, trial=False, mirror_repository="0" * 32)
    assert bad(report) == {"belongs": "FAIL"}
    assert f"belongs to the repository 00000000; here is {own[:8]}." in told(report, "belongs")
    assert "here is none" in told(examined(MemoryStorage(), trial=False, mirror_repository="0" * 32), "belongs")


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [(RemoteUnavailable, "reach", "no answer"), (AccessDenied, "list", "LIST is refused")],
)
def test_unreachable_is_told_from_refused(error: Any, name: str, words: str) -> None:
    """An outage and a refusal are two things."""
    report = examined(FlakyStorage(MemoryStorage(), "list", times=None, error=error))
    assert bad(report) == {name: "FAIL"}
    assert words in told(report, name)


class NoCredentialsError(Exception):
    """Called as botocore's is."""


class ServiceError(Exception):
    """An answer of a service, as botocore has it."""

    response = {"Error": {"Code": "RequestTimeTooSkewed"}}  # noqa: RUF012 - as there


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (NoCredentialsError("Unable to locate credentials"), "does not know who asks"),
        (Exception("Server failed to authenticate the request."), "does not know who asks"),
        (ServiceError("skewed"), "Set the clock"),
    ],
)
def test_wrong_credentials_are_no_missing_permission(cause: Exception, words: str) -> None:
    """No policy mends them, so none is printed; they are named once."""
    memory = MemoryStorage()
    memory.url = "s3://team/emb"

    def error(_: str) -> Exception:
        denied = AccessDenied(f"s3://team/emb refuses a list ({cause}). Check the credentials")
        denied.__cause__ = cause
        return denied

    report = examined(FlakyStorage(memory, times=None, error=error))
    assert bad(report) == {"credentials": "FAIL"}
    assert words in told(report, "credentials")
    assert report.policy == ""


def test_no_secret_is_printed() -> None:
    """Whatever a server echoes, values of secret options are replaced."""
    report = DoctorReport(secrets=("hunter2hunter2",))
    refused = FlakyStorage(MemoryStorage(), "list", times=None, error=lambda _: AccessDenied("no: hunter2hunter2"))
    examine_remote(report, lambda: refused)
    assert "no: ***" in told(report, "list")
    assert "hunter2" not in json.dumps(report.as_json())


def test_a_file_system_that_cannot_be_made() -> None:
    """Where one logs in when it is made, what `requests` raises has the token in a URL."""

    def opener() -> Storage:
        raise ConnectionError("Max retries exceeded with url: /tokeninfo?access_token=%2Fhunter2")

    report = DoctorReport()
    examine_remote(report, opener, trial=True)
    assert bad(report) == {"url": "FAIL"}
    assert "it raised ConnectionError" in told(report, "url")
    assert "hunter2" not in json.dumps(report.as_json())


# Policies --------------------------------------------------------------------------------------------------------


def test_s3_policies() -> None:
    """Each role has the actions that it needs, on the prefix and nothing else."""
    assert s3_policy("s3://team/emb/v1", Role.READER) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": ["arn:aws:s3:::team"],
                "Condition": {"StringLike": {"s3:prefix": ["emb/v1", "emb/v1/*"]}},
            },
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": ["arn:aws:s3:::team/emb/v1", "arn:aws:s3:::team/emb/v1/*"],
            },
        ],
    }
    actions = {
        role: sorted(a for s in s3_policy("s3://team/emb", role)["Statement"] for a in s["Action"]) for role in Role
    }
    assert actions == {
        Role.READER: ["s3:GetObject", "s3:ListBucket"],
        Role.WRITER: ["s3:GetObject", "s3:ListBucket", "s3:PutObject"],
        Role.MAINTAINER: ["s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"],
    }
    whole = s3_policy("s3://team", Role.MAINTAINER)
    assert "Condition" not in json.dumps(whole)
    assert whole["Statement"][2]["Resource"] == ["arn:aws:s3:::team/*"]
    assert json.loads(grant("s3://team/emb", Role.WRITER)) == s3_policy("s3://team/emb", Role.WRITER)


@pytest.mark.parametrize(
    ("url", "role", "words"),
    [
        ("gs://team/emb", Role.READER, ["gs://team ", "roles/storage.objectViewer"]),
        ("gs://team/emb", Role.WRITER, ["roles/storage.objectUser", "objectCreator is not enough"]),
        ("gs://team/emb", Role.MAINTAINER, ["roles/storage.objectUser"]),
        ("az://team/emb", Role.READER, ['"Storage Blob Data Reader"', "/containers/team\n", "permissions rl"]),
        ("az://team/emb", Role.WRITER, ['"Storage Blob Data Contributor"', "permissions rwl"]),
        (
            "abfs://team@acme.dfs.core.windows.net/emb",
            Role.MAINTAINER,
            ["/storageAccounts/acme/", "/containers/team\n", "permissions rwdl"],
        ),
        ("memory://x", Role.READER, []),
        ("https://x/y", Role.WRITER, []),
    ],
)
def test_other_policies(url: str, role: Role, words: list[str]) -> None:
    """Role names for Google and Azure; nothing where nobody knows."""
    text = grant(url, role)
    assert bool(text) == bool(words)
    assert all(word in text for word in words)


def test_a_directorys_policy_is_its_owner_and_mode(tmp_path: Path) -> None:
    """Who owns what is on the way, and what would let a group in."""
    (tmp_path / "repo").mkdir(mode=0o750)
    text = grant(str(tmp_path / "repo"), Role.WRITER)
    assert f"drwxr-x--- {tmp_path.owner()}:{tmp_path.group()} {tmp_path / 'repo'}" in text
    assert "chmod -R g+rwX" in text
    assert "g+rX" in grant(str(tmp_path / "repo"), Role.READER)
    assert "rwX" not in grant(str(tmp_path / "not-there"), Role.READER)


def test_ways_to_remove() -> None:
    """The command for each storage, of the folder and nothing else."""
    assert removal("s3://team/emb/doctor") == "aws s3 rm --recursive s3://team/emb/doctor/"
    assert removal("gs://team/doctor") == "gcloud storage rm --recursive gs://team/doctor/"
    assert "--source team --pattern 'emb/doctor/*'" in removal("abfs://team@acme.dfs.core.windows.net/emb/doctor")
    assert removal("/srv/emb/doctor") == "rm -r '/srv/emb/doctor'"
    assert removal("memory") == "delete every object below memory"


@pytest.mark.parametrize(
    ("verb", "role"), [("list", Role.WRITER), ("get", Role.WRITER), ("put", Role.WRITER), ("delete", Role.MAINTAINER)]
)
def test_a_refusal_brings_the_policy_of_the_role(verb: str, role: Role) -> None:
    """The verb decides whose policy is printed, for the root and not for the scratch folder."""
    memory = repository()
    memory.url = "s3://team/emb"
    report = examined(refusing(verb)(memory))
    assert report.role == role
    assert json.loads(report.policy) == s3_policy("s3://team/emb", role)
    action = {"list": "s3:ListBucket", "get": "s3:GetObject", "put": "s3:PutObject", "delete": "s3:DeleteObject"}[verb]
    assert f"Grant {action};" in told(report, verb)


def test_a_scratch_folder_is_new_each_time() -> None:
    """32 hex digits, drawn at random."""
    folders = {Scratch.fresh(MemoryStorage).folder for _ in range(10)}
    assert len(folders) == 10
    assert all(len(folder) == len("doctor/") + 32 for folder in folders)


# The command -----------------------------------------------------------------------------------------------------


def everything_below(directory: Path) -> dict[str, tuple[int, float]]:
    return {
        str(path): (path.stat().st_mode, 0 if path.is_dir() else path.stat().st_mtime)
        for path in sorted(directory.rglob("*"))
    }


def test_a_first_look(run: Any, tmp_path: Path) -> None:
    """Nothing set up yet: nothing fails, nothing is made, and the next step is named."""
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "CAS_CACHE_REMOTE to share it" in line(out, "remote")
    code, out, _ = run("--remote", tmp_path / "repo")
    assert code == 0
    assert "There is nothing yet" in line(out, "repository")
    assert "--test-remote" in line(out, "write")
    assert list(tmp_path.iterdir()) == []


def test_hidden_files_are_no_obstacle(run: Any, tmp_path: Path) -> None:
    """A run makes its mirror beside them; a look does not."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").write_text("x")
    code, out, _ = run(tmp_path / "new")
    assert (code, "is not there yet; the first run makes it" in line(out, "mirror")) == (0, True)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".DS_Store"]


@pytest.mark.verify
def test_a_look_at_what_is_there_changes_nothing(run: Any, tmp_path: Path) -> None:
    """Mirror and repository are the same afterwards, file by file; one line a check."""
    with EmbeddingCache(tmp_path / "mirror", remote=str(tmp_path / "repo")) as cache:
        cache.encode(texts(3), SPEC, Encoder())
    before = everything_below(tmp_path)
    code, out, err = run(tmp_path / "mirror", "--remote", tmp_path / "repo")
    assert (code, err) == (0, "")
    assert "belongs to the repository" in line(out, "mirror")
    assert "belongs to this repository" in line(out, "belongs")
    assert "1 pack in 1 namespace" in line(out, "repository")
    assert out.splitlines()[-1].endswith(" 0 warn, 0 FAIL")
    assert everything_below(tmp_path) == before
    code, out, _ = run(tmp_path / "mirror", "--remote", tmp_path / "repo", "--test-remote")
    assert code == 0, out
    assert everything_below(tmp_path) == before


def test_quiet_prints_what_fails(run: Any, tmp_path: Path) -> None:
    """On standard error, and nothing else."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    code, out, err = run(tmp_path / "m", "--remote", tmp_path / "other", "-q")
    assert (code, out) == (1, "")
    assert err.startswith("FAIL  repository: ")
    assert err.count("\n") == 1
    assert run(tmp_path / "m", "--remote", tmp_path / "new", "-q") == (0, "", "")


def test_json(run: Any, tmp_path: Path) -> None:
    """One document, whose findings have name, status, what, means and repair."""
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "file").write_text("x")
    code, out, _ = run("--remote", tmp_path / "repo", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["ok"] is False
    assert document["url"] == str(tmp_path / "repo")
    assert document["counts"]["FAIL"] == 1
    (failed,) = [found for found in document["findings"] if found["status"] == "FAIL"]
    assert set(failed) == {"name", "status", "what", "means", "repair"}
    assert failed["name"] == "repository"
    assert document["policy"] is None
    code, out, _ = run("--remote", tmp_path / "other", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)


@pytest.mark.parametrize("arguments", [["--test-remote"], ["--thorough"], ["--read-only", "--thorough"], ["a", "b"]])
def test_usage(run: Any, arguments: list[str]) -> None:
    """What cannot be meant ends with 2."""
    assert run(*arguments)[0] == 2


def test_switches(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: no look and no test. Read only: no test of writing."""
    monkeypatch.setenv("CAS_CACHE_READ_ONLY", "1")
    code, out, _ = run("--remote", tmp_path / "repo", "--test-remote")
    assert code == 0
    assert "read only" in line(out, "write")
    assert "CAS_CACHE_READ_ONLY on" in line(out, "settings")
    assert not (tmp_path / "repo").exists()
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    code, out, _ = run("--remote", tmp_path / "repo")
    assert (code, "Not looked at" in line(out, "remote")) == (0, True)
    code, _, err = run("--remote", tmp_path / "repo", "--test-remote")
    assert (code, "Unset CAS_CACHE_OFFLINE" in err) == (1, True)


def test_no_credentials_are_shown(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from a URL in the settings nor from options."""
    monkeypatch.setenv("CAS_CACHE_REMOTE", "s3://user:hunter2hunter2@team/emb")
    code, out, err = run("--storage-option", "secret=hunter3hunter3")
    assert code == 1
    assert "hunter" not in out + err
    assert "CAS_CACHE_REMOTE=s3://team/emb" in line(out, "settings")

    def echo(_: str, options: dict[str, str]) -> Storage:
        raise InvalidURL(f"{options} cannot be. Check them.")

    monkeypatch.setattr(sys.modules["cas_cache.cli.doctor"], "open_storage", echo)
    code, out, _ = run("s3://team/emb", "--storage-option=secret=hunter3hunter3")
    assert "'secret': '***'" in line(out, "url")


@pytest.mark.parametrize("which", ["file", "damaged", "inside"])
def test_directories_that_are_no_mirrors(run: Any, tmp_path: Path, which: str) -> None:
    """Each is said to be what it is."""
    target = tmp_path / "target"
    if which == "file":
        target.write_text("x")
    else:
        with EmbeddingCache(tmp_path / "mirror", remote=str(tmp_path / "repo")) as cache:
            cache.encode(texts(3), SPEC, Encoder())
        target = tmp_path / "mirror" / ("namespaces" if which == "inside" else "")
        if which == "damaged":
            (target / "cas-cache-mirror.json").write_text("{")
    code, out, _ = run(target)
    assert code == 1
    assert line(out, "mirror").startswith("FAIL")
    words = {
        "file": "is a file",
        "damaged": "is damaged",
        "inside": "folder in one",
    }
    assert words[which] in line(out, "mirror")


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """Return a directory that this process may pass, with a mirror that it may not write and a closed repository."""
    with tempfile.TemporaryDirectory(prefix="cas-cache-test-") as directory:
        place = Path(directory)
        EmbeddingCache(place / "mirror")
        (place / "repo").mkdir()
        (place / "mirror" / "cas-cache-mirror.json").chmod(0o644)
        for path, mode in ((place, 0o755), (place / "mirror", 0o555), (place / "repo", 0)):
            path.chmod(mode)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield place
        finally:
            if root:
                os.seteuid(0)
            for path in (place / "mirror", place / "repo"):
                path.chmod(0o755)


def test_directories_that_may_not_be_used(run: Any, nobodys: Path) -> None:
    """A mirror, or the place for one, that may not be written; a repository that may not be read."""
    assert "you may not write" in line(run(nobodys / "mirror")[1], "mirror")
    assert "you may not make it" in line(run(nobodys / "mirror" / "new")[1], "mirror")
    code, out, _ = run(nobodys / "mirror", "--remote", nobodys / "repo", "--read-only")
    assert code == 1
    assert line(out, "list").startswith("FAIL")
    assert "Grant read and execute on every folder; the least that a reader needs" in out
    assert "chmod -R g+rX" in out


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.verify
def test_a_command_that_is_stopped_leaves_nothing(tmp_path: Path, sent: signal.Signals) -> None:
    """Ctrl-C and SIGTERM, in the midst of the contract: the scratch folder goes, and a line says so."""
    command = [sys.executable, "-u", "-m", "cas_cache", "doctor", "--remote", str(tmp_path / "repo"), "--test-remote"]
    environment = {**os.environ, "CAS_CACHE_DIR": str(tmp_path / "mirrors")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            if "large-object" in printed:
                process.send_signal(sent)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sent
    assert "is empty again" in line(out, "cleaning")
    assert "Traceback" not in err
    # A folder that was made for an object that was not written may stay.
    assert [path for path in (tmp_path / "repo").rglob("*") if path.is_file()] == []


def test_mirrors_on_network_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount that holds the directory decides, the later of two at one place; no table, no judgement."""
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(machine, "MOUNTS", mounts)
    assert machine.file_system_of(tmp_path) == ""
    shared = tmp_path / "a b"
    shared.mkdir()
    escaped = str(shared).replace(" ", r"\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nauto {escaped} autofs rw 0 0\nhost:/x {escaped} nfs4 rw 0 0\n")
    assert machine.file_system_of(tmp_path) == "ext4"
    assert machine.file_system_of(shared) == "nfs4"
    report = DoctorReport()
    machine.examine_mirror(report, shared / "mirror")
    assert bad(report) == {"mirror-disk": "warn"}
    monkeypatch.setattr(machine, "LITTLE_ROOM", math.inf)
    report = DoctorReport()
    machine.examine_mirror(report, tmp_path / "mirror")
    assert "A pull may not fit" in told(report, "mirror-disk")


def test_a_package_that_is_missing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings the file system is named."""
    monkeypatch.setattr(machine, "_version", lambda name: "" if name == "s3fs" else "1")
    report = DoctorReport()
    machine._packages(report, "s3://team/emb")
    assert bad(report) == {"packages": "FAIL"}
    assert "pip install s3fs" in told(report, "packages")
    report = DoctorReport()
    machine._packages(report, "some/directory")
    assert bad(report) == {}
