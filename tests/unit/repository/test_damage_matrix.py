"""Every kind of object, damaged in every way: the findings of check, the result of a pull, and never a wrong vector.

The table states the expected results. A cell has: the damaged object and the damage; the findings of a check of listing
and manifests; those of a check that reads the data; and the result of a pull into a new mirror: "clean" (all rows),
"miss" (rows missing, no problem reported), "problem" (a pack skipped and reported), "error" (the repository refused).
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import CasCacheError, RepositoryMismatch
from cas_cache.format import layout
from cas_cache.format.manifest import pack_id
from cas_cache.identity import canonical_json
from cas_cache.repository import Repository, pack
from cas_cache.repository.check_report import CheckReport, Severity
from cas_cache.repository.checking import check
from storages import OTHER_SPEC, SPEC, Machine, Memory, manifest_of, packs, reseal, texts
from tiers import sampled

FIRST, SECOND, OTHER = texts(10), texts(10, start=10), texts(7, start=20)
ROWS = 27


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return packs of two namespaces (2 and 1) in 96-byte chunks: 4 of keys, 2 of vectors, 1 of digests."""
    memory = Memory()
    machine = Machine(tmp_path_factory.mktemp("author"), memory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "CHUNK_BYTES", 96)
        for batch, spec in ((FIRST, SPEC), (SECOND, SPEC), (OTHER, OTHER_SPEC)):
            machine.encode(batch, spec)
            assert machine.push().packs == 1
    return memory.objects


@pytest.fixture
def memory(whole: dict[str, bytes]) -> Memory:
    """Return the repository, to be damaged."""
    memory = Memory()
    memory.objects = dict(whole)
    return memory


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, because nothing crashes and each cell makes a mirror."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def first_pack(memory: Memory) -> str:
    return min(name for namespace, name in packs(memory) if namespace == SPEC.namespace)


def victims(memory: Memory) -> dict[str, tuple[str, str]]:
    """Return (path, path of a sibling) of each kind of object."""
    one, two = sorted(name for namespace, name in packs(memory) if namespace == SPEC.namespace)
    (other,) = (name for namespace, name in packs(memory) if namespace == OTHER_SPEC.namespace)
    return {
        "marker": (layout.MARKER, layout.spec_path(SPEC.namespace)),
        "spec": (layout.spec_path(SPEC.namespace), layout.spec_path(OTHER_SPEC.namespace)),
        "manifest": (layout.manifest_path(SPEC.namespace, one), layout.manifest_path(SPEC.namespace, two)),
        "group": (f"packs/{one}/zarr.json", f"packs/{other}/zarr.json"),
        "array": (f"packs/{one}/vectors/zarr.json", f"packs/{one}/keys/zarr.json"),
        "keys": (f"packs/{one}/keys/c/1/0", f"packs/{one}/keys/c/2/0"),
        "vectors": (f"packs/{one}/vectors/c/0/0", f"packs/{one}/vectors/c/1/0"),
        "digests": (f"packs/{one}/digests/c/0", f"packs/{two}/digests/c/0"),
    }


# Damage ------------------------------------------------------------------------------------------------------------


def flip(memory: Memory, path: str, sibling: str) -> None:
    memory.objects[path] = bytes([memory.objects[path][0] ^ 1]) + memory.objects[path][1:]


def truncate(memory: Memory, path: str, sibling: str) -> None:
    memory.objects[path] = memory.objects[path][:-1]


def append(memory: Memory, path: str, sibling: str) -> None:
    memory.objects[path] += b"}"


def empty(memory: Memory, path: str, sibling: str) -> None:
    memory.objects[path] = b""


def delete(memory: Memory, path: str, sibling: str) -> None:
    del memory.objects[path]


def zero(memory: Memory, path: str, sibling: str) -> None:
    memory.objects[path] = bytes(len(memory.objects[path]))


def swap(memory: Memory, path: str, sibling: str) -> None:
    memory.objects[path], memory.objects[sibling] = memory.objects[sibling], memory.objects[path]


def copy(memory: Memory, path: str, sibling: str) -> None:
    """Store the same bytes under another name that an object could have."""
    folder = path.rpartition("/")[0]
    names = {"": "copy.json", "specs": f"specs/{'f' * 32}.json", "manifests": f"{folder}/{'f' * 64}.json"}
    pack_folder = "/".join(path.split("/")[:2])
    memory.objects[names.get(folder.partition("/")[0], f"{pack_folder}/vectors/c/99/0")] = memory.objects[path]


def other_id(memory: Memory, path: str, sibling: str) -> None:
    _edit_marker(memory, path, "id", "0" * 32)


def future_version(memory: Memory, path: str, sibling: str) -> None:
    _edit(memory, path, "version", 2)


def future_feature(memory: Memory, path: str, sibling: str) -> None:
    _edit(memory, path, "reader_features" if path == layout.MARKER else "features", ["ragged"])


def writer_feature(memory: Memory, path: str, sibling: str) -> None:
    _edit_marker(memory, path, "writer_features", ["locks"])


def member(memory: Memory, path: str, sibling: str) -> None:
    """Add a member that this version does not know to a spec, under the right name."""
    data = canonical_json({**json.loads(memory.objects[path]), "later": 1})
    memory.objects[layout.spec_path(hashlib.sha256(data).hexdigest()[:32])] = data


def reseal_flip(memory: Memory, path: str, sibling: str) -> None:
    """Flip a byte before the manifest is made, so that all hashes are right."""
    flip(memory, path, sibling)
    reseal(memory, SPEC.namespace, path.split("/")[1])


def reseal_zero(memory: Memory, path: str, sibling: str) -> None:
    zero(memory, path, sibling)
    reseal(memory, SPEC.namespace, path.split("/")[1])


def reseal_swap(memory: Memory, path: str, sibling: str) -> None:
    swap(memory, path, sibling)
    reseal(memory, SPEC.namespace, path.split("/")[1])


def reseal_padding(memory: Memory, path: str, sibling: str) -> None:
    """Write nonzero bytes after the last row: 10 rows in 4 chunks of 3 keys leave 2 rows of padding."""
    memory.objects[path.replace("c/1", "c/3")] = memory.objects[path.replace("c/1", "c/3")][:-1] + b"\x01"
    reseal(memory, SPEC.namespace, path.split("/")[1])


def _edit_marker(memory: Memory, path: str, name: str, value: Any) -> None:
    memory.objects[path] = canonical_json({**json.loads(memory.objects[path]), name: value})


def _edit(memory: Memory, path: str, name: str, value: Any) -> None:
    """Change a member; a manifest then gets the matching name and objects."""
    _edit_marker(memory, path, name, value)
    named = layout.parse_manifest_path(path)
    if named:
        data = memory.objects.pop(path)
        memory.objects[layout.manifest_path(named[0], pack_id(data))] = data
        for old in [old for old in memory.objects if old.startswith(f"packs/{named[1]}/")]:
            memory.objects[old.replace(named[1], pack_id(data))] = memory.objects.pop(old)


# The table ---------------------------------------------------------------------------------------------------------

MATRIX = """
marker    flip            marker-damaged               marker-damaged               error
marker    truncate        marker-damaged               marker-damaged               error
marker    append          marker-damaged               marker-damaged               error
marker    empty           marker-damaged               marker-damaged               error
marker    delete          marker-missing               marker-missing               error
marker    zero            marker-damaged               marker-damaged               error
marker    swap            marker-damaged,spec-damaged  marker-damaged,spec-damaged  error
marker    copy            -                            -                            clean
marker    other_id        -                            -                            clean
marker    future_version  marker-newer                 marker-newer                 error
marker    future_feature  marker-newer                 marker-newer                 error
marker    writer_feature  writer-features              writer-features              clean
spec      flip            spec-damaged                 spec-damaged                 problem
spec      truncate        spec-damaged                 spec-damaged                 problem
spec      append          spec-damaged                 spec-damaged                 problem
spec      empty           spec-damaged                 spec-damaged                 problem
spec      delete          spec-missing                 spec-missing                 problem
spec      zero            spec-damaged                 spec-damaged                 problem
spec      swap            spec-damaged,spec-damaged    spec-damaged,spec-damaged    problem
spec      copy            spec-damaged                 spec-damaged                 clean
spec      member          spec-damaged                 spec-damaged                 clean
manifest  flip            manifest-damaged             manifest-damaged             problem
manifest  truncate        manifest-damaged             manifest-damaged             problem
manifest  append          manifest-damaged             manifest-damaged             problem
manifest  empty           manifest-damaged             manifest-damaged             problem
manifest  delete          orphan                       orphan                       miss
manifest  zero            manifest-damaged             manifest-damaged             problem
manifest  swap            manifest-damaged,manifest-damaged manifest-damaged,manifest-damaged problem
manifest  copy            manifest-damaged             manifest-damaged             problem
manifest  future_version  pack-newer                   pack-newer                   problem
manifest  future_feature  pack-newer                   pack-newer                   problem
group     flip            -                            metadata                     clean
group     truncate        metadata                     metadata                     clean
group     append          metadata                     metadata                     clean
group     empty           metadata                     metadata                     clean
group     delete          metadata                     metadata                     clean
group     zero            -                            metadata                     clean
group     swap            -                            metadata,metadata            clean
group     copy            foreign                      foreign                      clean
group     reseal_flip     -                            metadata                     clean
array     flip            -                            metadata                     clean
array     truncate        metadata                     metadata                     clean
array     append          metadata                     metadata                     clean
array     empty           metadata                     metadata                     clean
array     delete          metadata                     metadata                     clean
array     zero            -                            metadata                     clean
array     swap            metadata,metadata            metadata,metadata            clean
array     copy            foreign                      foreign                      clean
array     reseal_flip     -                            metadata                     clean
array     reseal_swap     -                            metadata,metadata            clean
keys      flip            -                            object-content               problem
keys      truncate        object-size                  object-size                  problem
keys      append          object-size                  object-size                  clean
keys      empty           object-size                  object-size                  problem
keys      delete          object-missing               object-missing               problem
keys      zero            -                            object-content               problem
keys      swap            -                            object-content,object-content problem
keys      copy            foreign                      foreign                      clean
keys      reseal_flip     -                            row-digest                   problem
keys      reseal_zero     -                            duplicate-keys,row-digest    problem
keys      reseal_swap     -                            row-digest                   problem
keys      reseal_padding  -                            padding                      clean
vectors   flip            -                            object-content               problem
vectors   truncate        object-size                  object-size                  problem
vectors   append          object-size                  object-size                  clean
vectors   empty           object-size                  object-size                  problem
vectors   delete          object-missing               object-missing               problem
vectors   zero            -                            object-content               problem
vectors   swap            -                            object-content,object-content problem
vectors   copy            foreign                      foreign                      clean
vectors   reseal_flip     -                            row-digest                   problem
vectors   reseal_zero     -                            row-digest                   problem
vectors   reseal_swap     -                            row-digest                   problem
digests   flip            -                            object-content               problem
digests   truncate        object-size                  object-size                  problem
digests   append          object-size                  object-size                  clean
digests   empty           object-size                  object-size                  problem
digests   delete          object-missing               object-missing               problem
digests   zero            -                            object-content               problem
digests   swap            -                            object-content,object-content problem
digests   copy            foreign                      foreign                      clean
digests   reseal_flip     -                            row-digest                   problem
digests   reseal_zero     -                            row-digest                   problem
"""
CELLS = [line.split() for line in MATRIX.strip().splitlines()]
DAMAGES: dict[str, Callable[[Memory, str, str], None]] = {
    function.__name__: function
    for function in (
        flip, truncate, append, empty, delete, zero, swap, copy, other_id, future_version, future_feature,
        writer_feature, member, reseal_flip, reseal_zero, reseal_swap, reseal_padding,
    )
}  # fmt: skip


def kinds(memory: Memory, *, read_data: bool) -> list[str]:
    return sorted(found.kind for found in check(Repository(memory), read_data=read_data).findings)


def served(machine: Machine) -> dict[str, list[str]]:
    """Return the texts that the mirror has, by namespace, after checking their vectors."""
    return {spec.namespace: machine.found(batch, spec) for spec, batch in ((SPEC, FIRST + SECOND), (OTHER_SPEC, OTHER))}


def pulled(machine: Machine) -> str:
    """Pull and return the result; every row that arrived is checked."""
    try:
        problems = machine.pull().problems
    except CasCacheError:
        assert not any(served(machine).values())
        return "error"
    if problems:
        return "problem"
    return "clean" if sum(map(len, served(machine).values())) == ROWS else "miss"


@pytest.mark.parametrize("cell", sampled(CELLS, keep=5), ids="-".join)
def test_the_verdicts(tmp_path: Path, memory: Memory, cell: list[str]) -> None:
    """Check and pull give the results in the table, and each served vector is always the right one."""
    victim, damage, listing, data, pull = cell
    DAMAGES[damage](memory, *victims(memory)[victim])
    before = dict(memory.objects)
    assert kinds(memory, read_data=False) == [kind for kind in listing.split(",") if kind != "-"]
    report = check(Repository(memory), read_data=True)
    assert sorted(found.kind for found in report.findings) == [kind for kind in data.split(",") if kind != "-"]
    assert memory.objects == before
    reader = Machine(tmp_path / "reader", memory)
    assert pulled(reader) == pull
    here = served(reader)
    _check_severity(report, damage, lost=sum(map(len, here.values())) < ROWS)
    for spec, batch in ((SPEC, FIRST + SECOND), (OTHER_SPEC, OTHER)):
        missing = [text for text in batch if text not in here[spec.namespace]]
        if missing:
            reader.encode(missing, spec)
        assert reader.found(batch, spec) == batch


def _check_severity(report: CheckReport, damage: str, *, lost: bool) -> None:
    """Damage that costs a new mirror a row is more than a note, and a finding called a loss does cost one."""
    if lost and report.clean:
        # These rows are not lost: an update makes them readable.
        assert {found.kind for found in report.findings} == {"pack-newer"}
    if report.count(Severity.LOSS) and not lost:
        # Extra bytes after the right ones, and a manifest without its pack: check cannot know, and says so.
        assert damage in ("append", "copy")


def test_the_table_is_whole() -> None:
    """The table has every kind of object with every plain damage."""
    cells = {(victim, damage) for victim, damage, *_ in CELLS}
    for victim in ("marker", "spec", "manifest", "group", "array", "keys", "vectors", "digests"):
        for damage in ("flip", "truncate", "append", "empty", "delete", "zero", "swap", "copy"):
            assert (victim, damage) in cells
    assert {damage for _, damage in cells} == set(DAMAGES)


@pytest.mark.verify
def test_every_byte_counts(memory: Memory) -> None:
    """A bit flipped at either end or in the middle of any object is found; only the marker has no hash."""
    assert kinds(memory, read_data=True) == []
    for path in sorted(memory.objects.keys() - {layout.MARKER}):
        whole = memory.objects[path]
        for at in (0, len(whole) // 2, len(whole) - 1):
            memory.objects[path] = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
            assert kinds(memory, read_data=True), (path, at)
        memory.objects[path] = whole


def test_another_id_is_noticed_by_who_knew_it(tmp_path: Path, memory: Memory) -> None:
    """The one cell that no check sees: mirrors that know the repository refuse it."""
    machine = Machine(tmp_path / "reader", memory)
    machine.pull()
    other_id(memory, layout.MARKER, "")
    with pytest.raises(RepositoryMismatch):
        Machine(tmp_path / "reader", memory).pull()


def test_rows_that_are_said_to_be_lost_are(tmp_path: Path, memory: Memory) -> None:
    """A finding counts exactly the rows that a new mirror lacks."""
    name = first_pack(memory)
    manifest = manifest_of(memory, SPEC.namespace, name)
    for array in ("keys", "vectors", "digests"):
        for chunk, _, _ in manifest.chunks(array):
            whole = memory.objects.pop(layout.object_path(name, chunk))
            (found,) = check(Repository(memory)).findings
            reader = Machine(tmp_path / chunk.replace("/", "-"), memory)
            assert pulled(reader) == "problem"
            assert found.rows == ROWS - sum(map(len, served(reader).values()))
            memory.objects[layout.object_path(name, chunk)] = whole
