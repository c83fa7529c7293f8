"""More flows that are cut short: those that read the repository, or that only change files of this machine.

Adds to `scenes.FLOWS`: `STORAGE_FLOWS`, at whose every storage operation a process dies, and `FILE_FLOWS`, those and
the flows that touch no storage, at whose every file operation it does.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cas_cache import EmbeddingCache, sync
from cas_cache.errors import ConfigurationError
from cas_cache.identity import keys_of_texts
from cas_cache.interop import import_mteb
from cas_cache.interop.exporting import export, select_namespace
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.mirror.evict import evict
from cas_cache.mirror.views import View, keys_in
from cas_cache.storage import Storage
from fault_injection import Deadly, Died
from repository_fixtures import (
    ALL,
    FLOWS,
    Flow,
    Found,
    Mirrors,
    Scene,
    assert_has,
    found_by,
    in_use,
    nothing_lost,
    pulled,
    push_finishes,
    push_it,
)
from storages import OTHER_SPEC, SPEC, Machine, truth

TASK, OLD = "Some/Task", "old-cache-of-mteb"
EXPORTED = "-exported"
VIEWS = [View(TASK, SPEC.namespace, "org/model", "a1b2c3d", role, "default", "test") for role in ("query", "document")]

WAITING: Found = [ALL[16:18], []]
"""What the reader that evicts has not pushed, for each of `SPECS`."""

# Scenes --------------------------------------------------------------------------------------------------------------


def behind(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a scene with small packs, one of several chunks, and a reader who knows some, and has rows of its own."""
    made = in_use(mirrors, storage)
    reader = made.first_reader = vars(made)["reader"] = mirrors.new()
    machine = Machine(reader, storage)
    machine.encode(ALL[16:18], OTHER_SPEC)
    machine.pull([OTHER_SPEC.namespace])
    author = Machine(made.author, storage)
    author.encode(ALL[9:20], SPEC)
    author.push()
    made.known = pulled(mirrors.new(), storage)
    made.mine = found_by(author)
    made.here = found_by(Machine(reader, storage))
    return made


def to_evict(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a scene whose reader has all there is and some rows of its own that wait, between the others."""
    made = in_use(mirrors, storage)
    reader = Machine(made.reader, storage)
    reader.encode(ALL[16:18], SPEC)
    Machine(made.author, storage).push()
    reader.pull()
    made.known = pulled(mirrors.new(), storage)
    made.here = [list(some) for some in WAITING]
    made.mine = found_by(Machine(made.author, storage))
    return made


def with_old_cache(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a scene whose author has some of the rows of a folder that mteb made, which lies beside."""
    made = Scene(mirrors, storage, mirrors.new(), mirrors.new())
    author = Machine(made.author, storage)
    author.encode(ALL[:3], OTHER_SPEC)
    author.push()
    Machine(made.reader, storage).pull()
    made.known, made.mine, made.here = [[], ALL[:3]], [[], ALL[:3]], [[], ALL[:3]]
    folder = _old_cache(made)
    folder.mkdir()
    (folder / "vectors.npy").write_bytes(truth(ALL[2:12]).tobytes())
    index = {key.tobytes().hex(): row for row, key in enumerate(keys_of_texts(ALL[2:12]))}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "dimension").write_text("4")
    return made


def half_pushed(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a scene whose author died in a push, after some of what a pack is made of."""
    made = in_use(mirrors, storage)
    with suppress(Died):
        Machine(made.author, Deadly(storage, 9, after=True)).push()
    return made


def nobody(mirrors: Mirrors, storage: Storage) -> Scene:
    """Return a scene with nothing at all."""
    return Scene(mirrors, storage, mirrors.new(), mirrors.new())


# What happens --------------------------------------------------------------------------------------------------------


def pull_it(scene: Scene, storage: Storage) -> None:
    assert scene.reader_at(storage).pull().problems == []
    scene.acknowledge(scene.here, scene.known)


def lazy_it(scene: Scene, storage: Storage) -> None:
    """Take the keys, then the vectors of some, then of others."""
    reader = scene.reader_at(storage)
    assert sync.pull_keys(reader.mirror, reader.repository).problems == []
    for texts in (ALL[1:6], ALL[4:13]):
        keys = keys_of_texts(texts)
        ns = reader.mirror.get(SPEC.namespace)
        assert ns is not None
        missing = keys[ns.find(keys) < 0]
        assert sync.pull_rows(reader.mirror, reader.repository, SPEC.namespace, missing).problems == []
        scene.acknowledge(scene.here, [texts, []])


def evict_it(scene: Scene, storage: Storage) -> None:
    """Free half of the space, then take all again."""
    reader = scene.reader_at(storage)
    reader.found(ALL[:5])  # a use
    # What was pushed may go from here, what a pull has brought before included; what waits may not.
    for some, waiting in zip(scene.here, WAITING, strict=True):
        some[:] = waiting
    scene.told()
    total = evict(reader.mirror, 0, dry_run=True).before
    evict(reader.mirror, total // 2)
    pull_it(scene, storage)


def import_it(scene: Scene, storage: Storage) -> None:
    author = scene.author_at(storage)
    import_mteb(author.mirror, _old_cache(scene), OTHER_SPEC, accept_unsafe=True, mteb_1=True)
    scene.acknowledge(scene.mine, [[], ALL[2:12]])
    push_it(scene, storage)


def commit_it(scene: Scene, storage: Storage) -> None:
    """Append to a namespace twice, and make another."""
    author = scene.author_at(storage)
    for which, spec, start, stop in ((0, SPEC, 9, 16), (0, SPEC, 14, 20), (1, OTHER_SPEC, 9, 13)):
        author.encode(ALL[start:stop], spec)
        scene.acknowledge(scene.mine, [ALL[start:stop] if at == which else [] for at in (0, 1)])


def first_commit_it(scene: Scene, storage: Storage) -> None:
    """Make the mirror and encode, chunk by chunk, then encode some again and some more."""
    key = (scene.author, id(storage), "cache")
    cache: Any = scene.kept.get(key) or scene.kept.setdefault(key, EmbeddingCache(scene.author, chunk_items=3))
    for start, stop in ((0, 5), (2, 9), (2, 9)):
        vectors = cache.encode(ALL[start:stop], SPEC, truth)
        np.testing.assert_array_equal(vectors, truth(ALL[start:stop]))
        scene.acknowledge(scene.mine, [ALL[start:stop], []])


def views_it(scene: Scene, storage: Storage) -> None:
    """Note what a task asked for: with texts and ids from the start, and from the second call on."""
    views = scene.author_at(storage).mirror.views
    for turn in range(2):
        for at, view in enumerate(VIEWS):
            texts = ALL[3 * turn : 3 * turn + 3]
            plain = at == 1 and turn == 0
            keys = keys_of_texts(texts)
            views.record(view, keys, None if plain else keys, None if plain else texts)
            scene.views[at] = 3 * turn + 3
            scene.told()


def rebind_it(scene: Scene, storage: Storage) -> None:
    scene.author_at(storage).mirror.rebind()
    push_it(scene, storage)


def export_it(scene: Scene, storage: Storage) -> None:
    """Write a folder and a file, where they are not there."""
    ns = scene.author_at(storage).mirror.get(SPEC.namespace)
    assert ns is not None
    for format_, target in _targets(scene).items():
        if not target.exists():
            export(select_namespace(ns), target, format_)


# Judgement -----------------------------------------------------------------------------------------------------------


def mirrors_whole(scene: Scene) -> None:
    """After a death: each mirror opens, has what was acknowledged and nothing wrong, and views as they were noted."""
    for directory, acknowledged in ((scene.author, scene.mine), (scene.reader, scene.here)):
        if not directory.exists() and acknowledged == [[], []]:
            continue
        machine = Machine(directory, scene.storage)
        report = check_mirror(machine.mirror)
        assert report.clean, report.findings
        assert_has(found_by(machine), acknowledged)
        _judge_views(machine.mirror, scene.views if directory == scene.author else [0, 0])
    for target in _targets(scene).values():
        _judge_export(scene, target)


def reader_catches_up(scene: Scene) -> None:
    """The next run does what is left: the reader has all, and nothing is left to pull."""
    reader = Machine(scene.reader, scene.storage)
    assert reader.pull().problems == []
    assert reader.pull().packs == 0
    mine: Found = [[t for t in ALL if t in {*a, *b}] for a, b in zip(scene.known, scene.here, strict=True)]
    assert found_by(reader) == mine


def does_again(happens: Any) -> Any:
    """Return a judgement: it runs again to its end, and what it acknowledges is there."""

    def finishes(scene: Scene) -> None:
        happens(scene, scene.storage)
        mirrors_whole(scene)

    return finishes


def both(*judgements: Any) -> Any:
    def judge(scene: Scene) -> None:
        for judgement in judgements:
            judgement(scene)

    return judge


def _judge_views(mirror: Mirror, noted: list[int]) -> None:
    for view, least in zip(VIEWS, noted, strict=True):
        if view not in mirror.views.of(TASK):
            assert not least, "a view is lost"
            continue
        keys, texts = keys_in(mirror.views.folder(TASK), view)
        assert len(keys) >= least
        np.testing.assert_array_equal(keys, keys_of_texts(ALL[: len(keys)]))
        assert texts is None or len(texts) == len(keys)
        shown = mirror.view(TASK, role=view.role)
        assert shown.missing == 0
        np.testing.assert_array_equal(shown.vectors, truth(ALL[: len(keys)]))


def _judge_export(scene: Scene, target: Path) -> None:
    """A target is not there, or is whole; a folder may be there and empty, which says that it was cut short."""
    if target.is_dir() and any(target.iterdir()):
        rows = np.load(target / "vectors.npy")
        np.testing.assert_array_equal(rows, truth(scene.mine[0]))
        assert np.load(target / "keys.npy").tobytes() == keys_of_texts(scene.mine[0]).tobytes()
        assert (target / "spec.json").read_bytes() == SPEC.canonical()
    elif target.is_file():
        import pyarrow.parquet as pq

        table = pq.read_table(target)
        keys = [key.tobytes().hex() for key in keys_of_texts(scene.mine[0])]
        assert table["key"].to_pylist() == keys
        np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), truth(scene.mine[0]))


def export_finishes(scene: Scene) -> None:
    """What is not there is written now; an empty folder is in the way, and that is said."""
    folder = _targets(scene)["npy"]
    if folder.is_dir() and not any(folder.iterdir()):
        machine = Machine(scene.author, scene.storage)
        with suppress(ConfigurationError):
            ns = machine.mirror.get(SPEC.namespace)
            assert ns is not None
            export(select_namespace(ns), folder, "npy")
            raise AssertionError
        folder.rmdir()
    does_again(export_it)(scene)
    assert all(target.exists() for target in _targets(scene).values())


def _targets(scene: Scene) -> dict[str, Path]:
    name = f"{scene.author.name}{EXPORTED}"
    return {"npy": scene.author.with_name(name), "parquet": scene.author.with_name(f"{name}.parquet")}


def _old_cache(scene: Scene) -> Path:
    return scene.first_author.with_name(OLD)


STORAGE_FLOWS = {
    **FLOWS,
    "pull": Flow(behind, pull_it, nothing_lost, reader_catches_up),
    "lazy pull": Flow(behind, lazy_it, nothing_lost, both(does_again(lazy_it), reader_catches_up)),
    "evict": Flow(to_evict, evict_it, nothing_lost, reader_catches_up),
    "import": Flow(with_old_cache, import_it, nothing_lost, both(does_again(import_it), push_finishes)),
    "open after a crash": Flow(half_pushed, push_it, nothing_lost, push_finishes),
    "rebind": Flow(in_use, rebind_it, nothing_lost, does_again(rebind_it)),
}
"""Whatever touches a storage."""

FILE_FLOWS = {
    **STORAGE_FLOWS,
    "first commit": Flow(nobody, first_commit_it, mirrors_whole, does_again(first_commit_it)),
    "commit": Flow(in_use, commit_it, mirrors_whole, does_again(commit_it)),
    "views": Flow(in_use, views_it, mirrors_whole, does_again(views_it)),
    "export": Flow(in_use, export_it, mirrors_whole, export_finishes),
}
"""Whatever changes files."""
