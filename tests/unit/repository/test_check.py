"""Check: silent about healthy repositories, frugal, read-only, and not confused by concurrent clients."""

import json
import os
import re
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EncoderSpec
from cas_cache.cli import main
from cas_cache.errors import RemoteUnavailable
from cas_cache.format import layout
from cas_cache.identity import canonical_json, keys_of_texts
from cas_cache.repository import Repository, check_pack, pack
from cas_cache.repository.check_pack import KeyCount
from cas_cache.repository.check_report import KINDS, CheckReport, Severity
from cas_cache.repository.checking import check, packs_to_read
from cas_cache.storage import open_storage
from cas_cache.storage.interface import ObjectInfo
from fault_injection import DAY, World
from paths import ROOT, TESTS
from storages import (
    OTHER_SPEC,
    SPEC,
    Counting,
    Flaky,
    Machine,
    Memory,
    manifest_of,
    packs,
    reseal,
    texts,
)
from tiers import sampled

DOCS = ROOT / "docs" / "reference" / "check.md"
GOLDEN = TESTS / "golden" / "v1" / "repository"


def kinds(report: CheckReport) -> list[str]:
    return sorted(found.kind for found in report.findings)


def filled(directory: Path, storage: Any, counts: tuple[int, ...] = (10, 10)) -> None:
    """Push packs with these numbers of rows."""
    machine, start = Machine(directory, storage), 0
    for count in counts:
        machine.encode(texts(count, start))
        machine.push()
        start += count


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, because these tests crash nothing."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return two packs of 10 rows in chunks of 96 bytes."""
    memory = Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "CHUNK_BYTES", 96)
        filled(tmp_path_factory.mktemp("author"), memory)
    return memory.objects


@pytest.fixture
def memory(whole: dict[str, bytes]) -> Memory:
    """Return a repository of two packs."""
    memory = Memory()
    memory.objects = dict(whole)
    return memory


# Healthy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_data", [False, True])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    sampled(
        [
            ("float32", (4,)),
            ("float16", (3, 5)),
            ("int8", (1,)),
            ("bool", (7,)),
            ("uint64", (2, 1, 2)),
            ("float64", (90,)),
        ],
        keep=4,
    ),
)
def test_a_healthy_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, shape: tuple[int, ...], read_data: bool
) -> None:
    """There are no findings, for any dtype and shape and any division into chunks; nothing is written."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", 200)
    memory = Counting(Memory())
    machine = Machine(tmp_path / "author", memory)
    for count, start in ((1, 0), (23, 1), (7, 24)):
        vectors = np.arange(1, count * np.prod(shape) + 1).reshape(count, *shape).astype(dtype)
        machine.mirror.namespace(SPEC).append(keys_of_texts(texts(count, start)), vectors)
        machine.push()
    published = len(packs(memory.inner))
    memory.taken()
    report = check(Repository(memory), read_data=read_data)
    assert report.findings == []
    assert (report.packs, report.rows, report.packs_read) == (published, 31, published if read_data else 0)
    assert report.clean
    assert {verb for verb, _ in memory.taken()} == {"get", "list"}


def test_a_repository_without_packs(tmp_path: Path) -> None:
    """A new repository is clean; an empty place is not a repository."""
    memory = Memory()
    assert kinds(check(Repository(memory))) == ["nothing-there"]
    Repository(memory).create()
    assert kinds(check(Repository(memory), read_data=True)) == []


@pytest.mark.parametrize("read_data", [False, True])
def test_the_golden_repository(read_data: bool) -> None:
    """The golden repository holds one orphan, one foreign file, and a merge of two packs that still exist."""
    report = check(Repository(open_storage(str(GOLDEN))), read_data=read_data)
    assert sorted(kinds(report)) == ["foreign", "orphan", "superseded"]
    assert (report.packs, report.rows) == (5, 39)
    orphan = next(found for found in report.findings if found.kind == "orphan")
    assert (orphan.pack, orphan.path) == ("f" * 64, f"packs/{'f' * 64}")


def test_the_budget(memory: Memory) -> None:
    """Check reads one marker, one listing, one GET per manifest, one per spec; the data is one GET per object."""
    counting = Counting(memory)
    documents = [("get", layout.MARKER), ("get", layout.spec_path(SPEC.namespace)), ("list", "")]
    documents += [("get", layout.manifest_path(*name)) for name in packs(memory)]
    check(Repository(counting))
    assert counting.taken() == sorted(documents)
    data = [("get", path) for path in memory.objects if path.startswith("packs/")]
    report = check(Repository(counting), read_data=True)
    assert counting.taken() == sorted(documents + data)
    assert report.bytes == sum(map(len, memory.objects.values()))


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack of 16 chunks is read while only a few are held in memory."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", 2 << 20)

    class Fresh(Memory):
        def get(self, path: str, start: int, stop: int) -> bytes:
            return bytes(bytearray(super().get(path, start, stop)))

    memory = Fresh()
    machine = Machine(tmp_path / "author", memory)
    rows = (32 << 20) // 4096
    vectors = np.ones((rows, 1024), np.float32)
    machine.mirror.namespace(SPEC).append(keys_of_texts(texts(rows)), vectors)
    assert machine.push().packs == 1
    del vectors
    tracemalloc.start()
    try:
        assert check(Repository(memory), read_data=True).findings == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # About 6 chunks of 2 MiB, and the blocks of 4 MiB in which rows are digested, widened to 64 bits.
    assert peak < 28 << 20


# Findings that the damage matrix does not make ---------------------------------------------------------------------


def test_packs_of_two_kinds(tmp_path: Path) -> None:
    """With two dtypes in one namespace, the rows of the rarer dtype are reported."""
    memory = Memory()
    filled(tmp_path / "author", memory)
    author = Machine(tmp_path / "other", memory)
    author.encode(texts(3, 50), dtype="float16")
    author.push()
    (found,) = check(Repository(memory)).findings
    assert (found.kind, found.severity, found.namespace, found.rows) == ("kind-conflict", "loss", SPEC.namespace, 3)
    assert "2 packs of float32[4]" in found.what
    assert "1 packs of float16[4]" in found.what
    assert Machine(tmp_path / "reader", memory).pull().problems


def test_the_same_rows_twice(tmp_path: Path) -> None:
    """Rows that two writers pushed are a note, which needs the keys to be read."""
    memory = Memory()
    filled(tmp_path / "one", memory, (10,))
    filled(tmp_path / "two", memory, (12,))
    assert check(Repository(memory)).findings == []
    report = check(Repository(memory), read_data=True)
    (found,) = report.findings
    assert (found.kind, found.severity, found.what.split()[0]) == ("duplicate-keys", "note", "10")
    assert report.clean


def test_duplicates_are_estimated_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, the number is estimated from a part of the keys."""
    monkeypatch.setattr(check_pack, "MAX_KEYS", 3000)
    keys = np.random.default_rng(0).integers(0, 256, (40_000, 32), np.uint8)
    count = KeyCount()
    for start in range(0, 40_000, 1000):
        count.add(keys[start : start + 1000])
    assert count.repeats == 0
    count.add(keys[:20_000])
    assert count._count <= 3000
    assert 17_000 < count.repeats < 23_000


@pytest.mark.parametrize("array", ["keys", "vectors"])
def test_wrong_rows_are_counted_beside_damage(memory: Memory, array: str) -> None:
    """Wrong digests are counted over all chunks, and a damaged chunk hides no other."""
    name = packs(memory)[0][1]
    for chunk in manifest_of(memory, SPEC.namespace, name).chunks("digests"):
        path = layout.object_path(name, chunk[0])
        data = np.frombuffer(memory.objects[path], "<u8").copy()
        data[[2, 4, 8]] += np.uint64(1)
        memory.objects[path] = data.tobytes()
    name = reseal(memory, SPEC.namespace, name)
    found = {found.kind: found for found in check(Repository(memory), read_data=True).findings}
    assert set(found) == {"row-digest"}
    assert found["row-digest"].what.startswith("3 rows")
    assert found["row-digest"].rows == 10
    # The first chunk of either array has rows 2, and with vectors row 4.
    path = f"packs/{name}/{array}/c/0/0"
    memory.objects[path] = memory.objects[path][::-1]
    found = {found.kind: found for found in check(Repository(memory), read_data=True).findings}
    assert set(found) == {"row-digest", "object-content"}
    assert found["row-digest"].what.startswith("2 rows" if array == "keys" else "1 rows")
    # Pull reads complete chunks: rows 0 to 4, then 5 to 9.
    assert found["row-digest"].rows == (10 if array == "keys" else 5)


EDITS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "shape": ("vectors", lambda d: d | {"shape": [9, 4]}),
    "dtype": ("vectors", lambda d: d | {"data_type": "int32"}),
    "chunks": ("keys", lambda d: d | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 32]}}}),
    "endian": ("vectors", lambda d: d | {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]}),
    "compressed": ("digests", lambda d: d | {"codecs": [*d["codecs"], {"name": "zstd"}]}),
    "separator": ("keys", lambda d: d | {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}}),
    "fill value": ("vectors", lambda d: d | {"fill_value": 1.0}),
    "version": ("keys", lambda d: d | {"zarr_format": 2}),
    "a group": ("digests", lambda d: d | {"node_type": "group"}),
    "no grid": ("digests", lambda d: {k: v for k, v in d.items() if k != "chunk_grid"}),
    "a list": ("digests", lambda d: [d]),
    "a word": ("digests", lambda d: d | {"codecs": "bytes"}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_zarr_metadata_that_says_other_than_the_manifest(memory: Memory, edit: str) -> None:
    """The hashes are right, but a Zarr reader would see other rows: the array is named."""
    array, change = EDITS[edit]
    name = packs(memory)[0][1]
    path = f"packs/{name}/{array}/zarr.json"
    memory.objects[path] = json.dumps(change(json.loads(memory.objects[path]))).encode()
    name = reseal(memory, SPEC.namespace, name)
    (found,) = check(Repository(memory), read_data=True).findings
    assert (found.kind, found.severity, found.path) == ("metadata", "repair", f"packs/{name}/{array}/zarr.json")


def test_a_manifest_without_metadata(memory: Memory) -> None:
    """A pack whose manifest names no zarr.json cannot be opened by Zarr. This is seen without reading the data."""
    name = packs(memory)[0][1]
    path = layout.manifest_path(SPEC.namespace, name)
    document = json.loads(memory.objects[path])
    del document["objects"]["keys/zarr.json"]
    memory.objects[path] = canonical_json(document)
    kept = memory.objects.pop(f"packs/{name}/keys/zarr.json")
    name = reseal(memory, SPEC.namespace, name)
    assert kinds(check(Repository(memory))) == ["metadata"]
    memory.objects[f"packs/{name}/keys/zarr.json"] = kept
    assert kinds(check(Repository(memory))) == ["foreign", "metadata"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("manifests/notes.txt", ["foreign"]),
        ("packs/notes.txt", ["foreign"]),
        (f"packs/{'a' * 64}/../x", ["foreign"]),
        (f"packs/{'a' * 64}/keys/c/0/0", ["orphan"]),
        ("specs/spec.json", ["foreign"]),
        (f"specs/{'A' * 32}.json", ["foreign"]),
        (f"specs/{'a' * 32}.json", ["spec-damaged"]),
        ("notes.txt", []),
        ("other/notes.txt", []),
    ],
)
def test_names_that_are_not_ours(memory: Memory, path: str, expected: list[str]) -> None:
    """Foreign names below our folders are noted; elsewhere they are ignored."""
    memory.objects[path] = b"x"
    assert kinds(check(Repository(memory))) == expected


def test_every_finding_is_explained() -> None:
    """Each kind has a cost and a repair, and docs/reference/check.md lists it with its severity."""
    for _, cost, repair in KINDS.values():
        assert cost.endswith(".")
        assert repair.endswith(".")
    lines = re.findall(r"^\| (`.*`) \| (loss|repair|note) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    told = {kind: severity for named, severity in lines for kind in re.findall(r"`([a-z-]+)`", named)}
    assert told == {kind: severity for kind, (severity, _, _) in KINDS.items()}


def test_a_newer_repository_is_left_alone(memory: Memory) -> None:
    """A version that cannot read the repository reports nothing about it."""
    document = json.loads(memory.objects[layout.MARKER])
    memory.objects[layout.MARKER] = canonical_json({**document, "version": 2})
    counting = Counting(memory)
    report = check(Repository(counting), read_data=True)
    assert (kinds(report), report.clean, counting.taken()) == (["marker-newer"], False, [("get", layout.MARKER)])


# What a spec's repair says of today's push -------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [False, True])
def test_who_writes_a_lost_spec(tmp_path: Path, memory: Memory, by_hand: bool) -> None:
    """The repair works: the next push writes the spec although it knew the packs, or a mirror's copy is put back."""
    machine = Machine(tmp_path / "mirror", memory)
    machine.pull()
    machine = Machine(tmp_path / "mirror", memory)
    del memory.objects[layout.spec_path(SPEC.namespace)]
    (found,) = check(Repository(memory)).findings
    assert (found.kind, found.severity, found.namespace) == ("spec-missing", "repair", SPEC.namespace)
    if by_hand:
        document = (machine.mirror.namespace(SPEC).folder / "spec.json").read_bytes()
        memory.objects[layout.spec_path(SPEC.namespace)] = document
    else:
        machine.encode(texts(1, 90))
        machine.push()
    assert check(Repository(memory)).findings == []


# Sampling ----------------------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_each_time() -> None:
    """It depends on the pack id alone, has about the requested size, contains smaller samples, and is never empty."""
    ids = [f"{word:016x}" + "0" * 48 for word in np.random.default_rng(0).integers(0, 2**64, 1000, np.uint64).tolist()]
    listed = [layout.PackRef("a" * 32, name) for name in ids]
    chosen = [packs_to_read(listed, part) for part in (0.0, 1e-9, 0.01, 0.1, 1.0)]
    assert [len(some) for some in chosen[:2]] == [0, 1]
    assert 2 <= len(chosen[2]) <= 25
    assert 70 <= len(chosen[3]) <= 130
    assert chosen[4] == set(ids)
    assert chosen[1] <= chosen[2] <= chosen[3]
    assert packs_to_read(reversed(listed), 0.1) == chosen[3]


def test_a_sample_reads_its_packs_only(memory: Memory) -> None:
    """Sizes and manifests are checked for all packs, data only for the sample."""
    counting = Counting(memory)
    report = check(Repository(counting), read_data=True, sample=1e-9)
    first = min(name for _, name in packs(memory))
    read = {path.split("/")[1] for verb, path in counting.taken() if verb == "get" and path.startswith("packs/")}
    assert (read, report.packs, report.packs_read) == ({first}, 2, 1)


# Others at work ----------------------------------------------------------------------------------------------------


class Then:
    """Runs an action after the first call of a verb on a path with a prefix."""

    def __init__(self, inner: Memory, verb: str, prefix: str, act: Callable[[], None]) -> None:
        self.inner, self.url, self.traffic = inner, inner.url, inner.traffic
        self.when, self.act = (verb, prefix), act

    def _after(self, verb: str, path: str) -> None:
        if verb == self.when[0] and path.startswith(self.when[1]):
            self.when = ("", "")
            self.act()

    def get(self, path: str, start: int, stop: int) -> bytes:
        try:
            return self.inner.get(path, start, stop)
        finally:
            self._after("get", path)

    def list(self, prefix: str) -> list[ObjectInfo]:
        listed = self.inner.list(prefix)
        self._after("list", prefix)
        return listed

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        raise AssertionError


def remove(memory: Memory, *prefixes: str) -> None:
    for path in [path for path in memory.objects if path.startswith(prefixes)]:
        del memory.objects[path]


@pytest.mark.parametrize("read_data", [False, True])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("moment", ["list ", "get specs/", "get manifests/{0}/{1}", "get packs/{1}"])
def test_a_prune_meanwhile(memory: Memory, moment: str, which: int, read_data: bool) -> None:
    """If a pack is deleted, manifest first, after any of the requests, no damage is reported."""
    namespace, name = sorted(packs(memory))[which]
    verb, prefix = moment.format(namespace, name).split(" ")
    storage = Then(memory, verb, prefix, lambda: remove(memory, f"manifests/{namespace}/{name}", f"packs/{name}"))
    assert check(Repository(storage), read_data=read_data).findings == []


def test_half_of_a_prune_before_the_listing(memory: Memory) -> None:
    """The manifest is gone and the data is going: an orphan only if objects remain at the second look."""
    namespace, name = packs(memory)[0]
    remove(memory, f"manifests/{namespace}/{name}")
    assert kinds(check(Repository(memory))) == ["orphan"]
    storage = Then(memory, "list", "", lambda: remove(memory, f"packs/{name}"))
    assert check(Repository(storage)).findings == []


def test_a_writer_at_work_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects without a manifest are a note on their first day, and need attention afterwards."""
    world, memory = World(monkeypatch), Memory()
    repository = Repository(memory)
    repository.create()
    memory.put(f"packs/{'a' * 64}/keys/c/0/0", b"x")
    for clean in (True, False):
        report = check(repository, read_data=True)
        assert kinds(report) == ["orphan"]
        assert report.clean is clean
        world.wait(DAY + 1)


@pytest.mark.parametrize("read_data", [False, True])
def test_a_namespace_dropped_meanwhile(memory: Memory, read_data: bool) -> None:
    """A whole namespace, including its spec, is deleted after the listing."""
    storage = Then(memory, "list", "", lambda: remove(memory, "manifests/", "packs/", "specs/"))
    assert check(Repository(storage), read_data=read_data).findings == []


def test_a_push_meanwhile(tmp_path: Path, memory: Memory) -> None:
    """Objects that were listed without their manifest, or in part, are not reported once the manifest exists."""
    namespace, name = packs(memory)[0]
    path = layout.manifest_path(namespace, name)
    manifest = memory.objects.pop(path)
    storage = Then(memory, "list", "", lambda: memory.objects.update({path: manifest}))
    assert check(Repository(storage)).findings == []


def test_a_listing_that_was_behind(memory: Memory) -> None:
    """A manifest was listed without an object that exists at the second look: listings are not snapshots."""
    path = f"packs/{packs(memory)[0][1]}/vectors/c/0/0"
    whole = memory.objects.pop(path)
    storage = Then(memory, "list", "", lambda: memory.objects.update({path: whole}))
    assert check(Repository(storage), read_data=True).findings == []


@pytest.mark.parametrize("part", ["vectors/c/0/0", "keys/zarr.json", None, "spec", "marker"])
def test_an_answer_cut_short_once(memory: Memory, part: str | None) -> None:
    """An object that verifies at the second read was never damaged."""
    namespace, name = packs(memory)[0]
    paths = {None: layout.manifest_path(namespace, name), "spec": layout.spec_path(namespace), "marker": layout.MARKER}
    path = paths.get(part) or layout.object_path(name, str(part))
    get, cuts = memory.get, [1]

    def cut(wanted: str, start: int, stop: int) -> bytes:
        data = get(wanted, start, stop)
        return data[: -cuts.pop()] if wanted == path and cuts else data

    memory.get = cut  # type: ignore[method-assign]
    assert check(Repository(memory), read_data=True).findings == []
    assert not cuts


def test_a_repository_made_meanwhile(memory: Memory) -> None:
    """The marker appears after the request for it."""
    marker = memory.objects.pop(layout.MARKER)
    storage = Then(memory, "get", layout.MARKER, lambda: memory.objects.update({layout.MARKER: marker}))
    assert check(Repository(storage)).findings == []


def test_a_listing_that_shows_nothing(memory: Memory) -> None:
    """A readable marker with an empty listing is reported, and never taken for an empty repository."""
    memory.list = lambda prefix: []  # type: ignore[method-assign]
    report = check(Repository(memory), read_data=True)
    assert kinds(report) == ["listing-incomplete"]
    assert not report.clean


@pytest.mark.parametrize(("verb", "at"), [("get", 1), ("get", 2), ("get", 4), ("list", 1)])
def test_a_remote_that_fails_is_an_error(memory: Memory, verb: str, at: int) -> None:
    """There is no verdict unless every request was answered."""
    with pytest.raises(RemoteUnavailable):
        check(Repository(Flaky(memory, verb, at)))


# The command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Return a function that runs `cas-cache check` and returns code, stdout and stderr."""
    for name in ("CAS_CACHE_REMOTE", "CAS_CACHE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path / "mirrors"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cas-cache", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Return a repository in a directory."""
    filled(tmp_path / "author", open_storage(str(tmp_path / "remote")))
    shutil.rmtree(tmp_path / "author")
    return tmp_path / "remote"


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in root.rglob("*")}


def test_the_command_makes_and_changes_nothing(run: Any, tmp_path: Path, remote: Path) -> None:
    """However it is named, a clean repository gives one line and code 0, and nothing is created anywhere."""
    before = tree(tmp_path)
    for arguments in (
        [tmp_path / "mirror", "--repository", "--remote", remote],
        ["--remote", remote],
        [f"file://{remote}"],
    ):
        for options in ([], ["--read-data"], ["--read-data", "--sample", "1%"]):
            code, out, err = run(*arguments, *options)
            assert (code, err, out.count("\n")) == (0, "", 1)
            assert out.startswith("checked 2 packs, 20 rows, of ")
            assert "0 loss, 0 repair, 0 note; " in out
    assert tree(tmp_path) == before


def test_the_command_tells_findings(run: Any, remote: Path) -> None:
    """The output has one line per finding, the worst first, then the counts; the code is 1."""
    victim = min((remote / "packs").glob("*/vectors/c/0/0"))
    victim.write_bytes(b"")
    (remote / "manifests" / "notes.txt").write_text("x")
    code, out, err = run("--remote", remote)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (1, "", 3)
    assert lines[0].startswith(f"loss   object-size: {victim.relative_to(remote)}: It has 0 bytes")
    assert lines[1].startswith("note   foreign: manifests/notes.txt: ")
    assert "1 loss, 0 repair, 1 note" in lines[2]
    victim.unlink()
    code, out, _ = run("--remote", remote, "--json")
    document = json.loads(out)
    assert code == 1
    assert list(document) == [
        "url", "read_data", "sample", "clean", "packs", "rows", "packs_read", "bytes", "counts", "findings",
    ]  # fmt: skip
    assert document["counts"] == {"loss": 1, "repair": 0, "note": 1}
    assert document["findings"][0] == {
        "kind": "object-missing", "severity": "loss", "path": victim.relative_to(remote).as_posix(),
        "namespace": SPEC.namespace, "pack": victim.parents[3].name, "rows": 10, "what": "It is not listed.",
        "cost": KINDS["object-missing"][1], "repair": KINDS["object-missing"][2],
    }  # fmt: skip


def test_notes_are_clean(run: Any, remote: Path) -> None:
    """With notes alone, the exit code is 0."""
    (remote / "manifests" / "notes.txt").write_text("x")
    code, out, _ = run("--remote", remote)
    assert (code, out.count("\n")) == (0, 2)


@pytest.mark.parametrize("part", ["0", "0%", "101%", "1.5", "-1", "nan", "x", "", "1e-3", "%"])
def test_parts_that_are_none(run: Any, tmp_path: Path, part: str) -> None:
    """A sample must be above 0 and at most everything."""
    code, _, err = run("--remote", tmp_path, "--read-data", "--sample", part)
    assert (code, "--sample" in err) == (2, True)


def test_usage(run: Any, tmp_path: Path, remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing repository argument or an empty sample is a usage error; offline and missing places are failures."""
    assert run("--remote", remote, "--sample", "1%")[0] == 2
    assert run("--repository")[0] == 2
    assert run(tmp_path, "--repository")[0] == 2
    assert run(tmp_path)[0] == 1
    assert run()[0] == 1
    code, out, _ = run("--remote", tmp_path / "mistyped")
    assert (code, "nothing-there" in out) == (1, True)
    assert not (tmp_path / "mistyped").exists()
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    code, _, err = run("--remote", remote)
    assert (code, "offline" in err) == (1, True)


def test_severities_are_ordered() -> None:
    """The worst severity comes first, as printed."""
    assert list(Severity) == ["loss", "repair", "note"]


def test_other_encoders_are_other_namespaces(tmp_path: Path) -> None:
    """Kinds and keys are compared within a namespace only."""
    memory = Memory()
    author = Machine(tmp_path / "author", memory)
    author.encode(texts(5))
    author.encode(texts(5), OTHER_SPEC, dtype="int8")
    author.encode(texts(5), EncoderSpec(model="org/third", revision="1"))
    author.push()
    assert check(Repository(memory), read_data=True).findings == []


def test_a_bucket(run: Any, tmp_path: Path, s3_remote: Any) -> None:
    """A bucket is checked in the same way: clean, then one object less; `--storage-option` reaches the file system."""
    storage = open_storage(s3_remote.url, s3_remote.storage_options)
    filled(tmp_path / "author", storage, (10,))
    assert check(Repository(storage), read_data=True).findings == []
    storage.put("manifests/notes.txt", b"x")
    options = [f"--storage-option={key}={value}" for key, value in s3_remote.storage_options.items()]
    code, out, err = run(s3_remote.url, *options, "--read-data")
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["note   foreign"]
