"""Which of the listed packs can be used: manifests are sorted out in one place."""

from pathlib import Path

from cas_cache.errors import DamagedPack, UntrustedPack
from cas_cache.format import layout
from cas_cache.format.signing import Signer, Trust, new_private_key
from cas_cache.repository import Repository, check, compact, inventory
from storages import OTHER_SPEC, Counting, Machine, Memory, packs, texts


def filled(tmp_path: Path, count: int, signer: Signer | None = None) -> tuple[Memory, list[layout.PackRef]]:
    """Return a repository of packs of two rows, and its packs."""
    memory = Memory()
    for number in range(count):
        machine = Machine(tmp_path / str(number), memory, signer=signer)
        machine.encode(texts(2, 2 * number))
        machine.push()
    return memory, packs(memory)


def test_each_pack_is_in_one_group(tmp_path: Path) -> None:
    """Readable, untrusted, damaged, and deleted since the listing."""
    key = Signer(new_private_key())
    memory, signed = filled(tmp_path, 3, key)
    filler = Machine(tmp_path / "unsigned", memory)
    filler.encode(texts(2, 10))
    filler.push()
    (unsigned,) = set(packs(memory)) - set(signed)
    good, damaged, gone = signed
    memory.objects[layout.manifest_path(*damaged)] = b"{}"
    del memory.objects[layout.manifest_path(*gone)]
    repository = Repository(memory, trust=Trust({"alice": key.public}))
    manifests = repository.read_manifests([good, damaged, gone, unsigned])
    assert list(manifests.readable) == [good.pack]
    assert [type(problem) for problem in manifests.untrusted.values()] == [UntrustedPack]
    assert manifests.untrusted.keys() == {unsigned}
    assert [type(problem) for problem in manifests.problems.values()] == [DamagedPack]
    assert manifests.problems.keys() == {damaged}
    assert manifests.gone == {gone}


def test_many_packs_that_have_gone_cost_one_listing(tmp_path: Path) -> None:
    """Not one for each: a drop removes thousands at once."""
    memory, listed = filled(tmp_path, 5)
    for ref in listed[1:]:
        del memory.objects[layout.manifest_path(*ref)]
    counting = Counting(memory)
    manifests = Repository(counting).read_manifests(listed)
    assert manifests.gone == set(listed[1:])
    assert manifests.problems == {}
    assert [verb for verb, _ in counting.calls].count("list") == 1


def test_a_manifest_that_is_listed_and_missing_is_damaged(tmp_path: Path) -> None:
    """The listing shows it before and after the read, so it was not deleted."""
    memory, (ref,) = filled(tmp_path, 1)

    class Unreliable(Counting):
        def get(self, path: str, start: int, stop: int) -> bytes:
            return super().get(f"{path}x" if path == layout.manifest_path(*ref) else path, start, stop)

    manifests = Repository(Unreliable(memory)).read_manifests([ref])
    assert manifests.gone == set()
    assert manifests.problems.keys() == {ref}


def test_packs_that_have_gone_are_not_counted(tmp_path: Path) -> None:
    """Neither inventory nor compact reports a pack that was deleted since it was listed."""
    memory, (_, gone) = filled(tmp_path, 2)

    class Stale(Counting):
        def list(self, prefix: str) -> list:  # type: ignore[type-arg]
            listed = super().list(prefix)
            memory.objects.pop(layout.manifest_path(*gone), None)
            return listed

    contents, problems = inventory(Repository(Stale(memory)))
    assert [content.packs for content in contents] == [1]
    assert problems == []
    assert compact(Repository(Stale(memory)), dry_run=True).problems == []


def test_a_manifest_copied_into_another_namespace_is_damaged_there(tmp_path: Path) -> None:
    """The pack counts once, in its own namespace."""
    memory, (ref,) = filled(tmp_path, 1)
    copy = layout.PackRef(OTHER_SPEC.namespace, ref.pack)
    memory.objects[layout.manifest_path(*copy)] = memory.objects[layout.manifest_path(*ref)]
    memory.objects[layout.spec_path(copy.namespace)] = OTHER_SPEC.canonical()
    report = check(Repository(memory))
    assert (report.packs, report.rows) == (1, 2)
    assert [(item.kind, item.namespace) for item in report.findings] == [("manifest-damaged", copy.namespace)]
    contents, problems = inventory(Repository(memory))
    assert {content.namespace: content.rows for content in contents} == {ref.namespace: 2, copy.namespace: 0}
    assert len(problems) == 1
