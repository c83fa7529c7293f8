"""One wrong pack can be dropped alone: from the repository, with its merges, and from the mirror."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import ConfigurationError, MirrorError, SelfCheckFailed
from cas_cache.format import layout
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import forget_packs
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.dropping import drop_pack
from mixed_weights import fill, publish, rows_of, wrong
from storages import SPEC, Counting, Encoder, Memory, packs, texts, truth


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Three writers pushed 20 rows each; the second had other weights."""
    for writer in range(3):
        with EmbeddingCache(tmp_path / f"writer {writer}", remote=tmp_path / "remote", self_check=0) as cache:
            cache.put(rows_of(writer), (wrong if writer == 1 else truth)(rows_of(writer)), SPEC)
    return tmp_path / "remote"


def refused(mirror: Path, remote: Path) -> tuple[str, str]:
    """Ask for everything; return the message of the self-check and the pack that it names, with the mirror closed."""
    with EmbeddingCache(mirror, remote=remote, push="manual") as cache, pytest.raises(SelfCheckFailed) as failed:
        cache.encode(EVERYTHING, SPEC, truth)
    found = str(failed.value), failed.value.packs[0]
    del cache, failed
    gc.collect()  # the traceback holds the mirror open
    return found


EVERYTHING = rows_of(0) + rows_of(1) + rows_of(2)


def test_the_command_of_the_message_ends_the_trouble(remote: Path, tmp_path: Path, run: Any) -> None:
    """For the reader, and for the next one; only the rows of that pack are encoded again."""
    message, _ = refused(tmp_path / "mirror", remote)
    command = message.split("`")[1].split()
    assert command[:2] == ["cas-cache", "drop"]
    answer = run(*command[1:], "--yes")
    assert (answer.code, "20 rows in the mirror" in answer.out) == (0, True)
    encoder = Encoder()
    with EmbeddingCache(tmp_path / "mirror", remote=remote) as cache:
        np.testing.assert_array_equal(cache.encode(EVERYTHING, SPEC, encoder), truth(EVERYTHING))
        assert (sorted(encoder.asked), cache.stats.checked) == (sorted(rows_of(1)), 0)
    with EmbeddingCache(tmp_path / "next", remote=remote) as cache:
        np.testing.assert_array_equal(cache.encode(EVERYTHING, SPEC, truth), truth(EVERYTHING))
        assert (cache.stats.encoded, cache.stats.checked) == (0, 8)


def test_another_mirror_that_has_the_rows(remote: Path, tmp_path: Path, run: Any) -> None:
    """It goes on refusing them; the same command there finds nothing in the repository and removes the rows."""
    mirror = tmp_path / "mirror"
    with EmbeddingCache(mirror, remote=remote, self_check=0) as cache:
        cache.pull()
    del cache
    _, bad = refused(mirror, remote)
    assert run("drop", tmp_path / "elsewhere", "--remote", remote, "--pack", bad, "--yes").code == 0
    answer = run("drop", mirror, "--remote", remote, "--pack", bad, "--dry-run", "--json")
    document = json.loads(answer.out)
    assert (document["namespace"], document["packs"], document["mirror_rows"]) == (None, [], 20)
    assert run("drop", mirror, "--remote", remote, "--pack", bad, "--yes").code == 0
    with EmbeddingCache(mirror, remote=remote, push="manual") as cache:
        np.testing.assert_array_equal(cache.encode(EVERYTHING, SPEC, truth), truth(EVERYTHING))
    del cache
    assert run("drop", mirror, "--remote", remote, "--pack", bad, "--yes").code == 1


def test_a_merge_of_it_goes_too() -> None:
    """Manifests before objects; the other packs stay, and the repository is clean."""
    memory = fill(3, 1)
    bad = _pack_with_wrong_rows(memory)
    (merge,) = compact(Repository(memory), at_least=2).written
    counting = Counting(memory)
    report = drop_pack(Repository(counting), bad)
    assert (report.packs, report.rows, report.other_rows, len(report.objects)) == ([bad, merge], 20, 0, 14)
    deleted = [path for verb, path in counting.calls if verb == "delete"]
    assert set(deleted[:2]) == {layout.manifest_path(SPEC.namespace, pack) for pack in (bad, merge)}
    assert set(deleted[2:]) == set(report.objects)
    assert len(packs(memory)) == 2
    assert check(Repository(memory), read_data=True).findings == []


def test_rows_of_others_in_a_merge_go_only_by_force() -> None:
    """When the packs that were merged are pruned, the merge alone holds their rows."""
    memory = Memory()
    publish(memory, texts(5), truth(texts(5)))
    publish(memory, texts(7, start=5), wrong(texts(7, start=5)))
    bad = _pack_with_wrong_rows(memory)
    (merge,) = compact(Repository(memory), at_least=2).written
    (good,) = {pack for _, pack in packs(memory)} - {bad, merge}
    del memory.objects[layout.manifest_path(SPEC.namespace, good)]
    with pytest.raises(ConfigurationError, match="holds 5 rows of other packs"):
        drop_pack(Repository(memory), bad)
    assert drop_pack(Repository(memory), bad, dry_run=True).other_rows == 5
    assert len(packs(memory)) == 2
    drop_pack(Repository(memory), bad, force=True)
    assert packs(memory) == []
    assert not [path for path in memory.objects if bad in path or merge in path]


def test_names_of_packs() -> None:
    """The beginning of one is enough if there is no other; none, and an empty one, delete nothing."""
    memory = fill(20, None)
    for pack in ("", next(name for _, name in packs(memory))[:0]):
        with pytest.raises(ConfigurationError, match="begin with"):
            drop_pack(Repository(memory), pack)
    assert drop_pack(Repository(memory), "f" * 64).namespace is None
    assert len(packs(memory)) == 20


def test_a_mirror_in_use_is_left_as_it_is(remote: Path, tmp_path: Path) -> None:
    """The message says so; no row is lost."""
    with EmbeddingCache(tmp_path / "mirror", remote=remote, self_check=0) as cache:
        cache.pull()
    del cache
    _, bad = refused(tmp_path / "mirror", remote)
    code = """
import sys
from cas_cache.mirror import Mirror
held = Mirror(sys.argv[1]).namespaces()
print("open", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "mirror")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(MirrorError, match="still has 20 rows of the dropped pack"):
            forget_packs(Mirror(tmp_path / "mirror"), [bad])
        other.communicate()
    assert forget_packs(Mirror(tmp_path / "mirror"), [bad]) == 20


def test_the_command_wants_one_of_the_two(tmp_path: Path, run: Any) -> None:
    """A namespace or a pack, not both and not neither."""
    for options in ([], ["--namespace", SPEC.namespace, "--pack", "0" * 64]):
        assert run("drop", tmp_path / "m", "--remote", tmp_path / "r", *options, "--yes").code == 2


def _pack_with_wrong_rows(memory: Memory) -> str:
    repository = Repository(memory)
    for namespace, pack in packs(memory):
        manifest = repository.manifest(namespace, pack)
        keys = repository.keys(pack, manifest)
        if any((chunk.vectors < 0).all() for chunk in repository.read(pack, manifest, keys)):
            return pack
    raise AssertionError
