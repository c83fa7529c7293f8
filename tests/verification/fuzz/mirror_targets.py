"""Targets: files of a mirror that something else has changed, or that were put there."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.mirror.evict import without_packs
from cas_cache.mirror.state import State
from cas_cache.search import finder as search_finder
from fuzz.choices import Choices, mutated, mutated_bytes
from fuzz.fixtures import DAMAGE, ROWS, STRANGERS, Target, assert_printable, fast, look_at, only, typed
from fuzz.fixtures import mirror as made_mirror
from storages import SPEC, truth

KINDS = {
    "columns": ("keys.npy", "vectors.npy", "digests.npy"),
    "state": ("state.json", "spec.json"),
    "index": ("index.*",),
    "memo": ("memo/*",),
    "catalogue": ("catalogue/**/*",),
    "notes": ("used.json", "vouched.json", "appearances.json"),
}
"""Files of a namespace's folder, by the target that changes them."""


def _files(kind: str) -> Any:
    def made(folder: Path) -> Target:
        directory = made_mirror(folder)
        inner = directory / "namespaces" / SPEC.namespace
        files = [path for pattern in KINDS[kind] for path in sorted(inner.glob(pattern)) if path.is_file()]
        return _changing([path for path in files if path.name != ".lock"], directory)

    return made


def views(folder: Path) -> Target:
    """What a task asked for."""
    directory = made_mirror(folder)
    files = [p for p in sorted((directory / "Task").rglob("*")) if p.is_file() and p.name != ".lock"]
    return _changing(files, directory)


def mirror_marker(folder: Path) -> Target:
    """The file that makes a directory a mirror."""
    directory = made_mirror(folder)
    return _changing([directory / "cas-cache-mirror.json"], directory)


def _changing(files: list[Path], directory: Path) -> Target:
    """Change some of the files, look at the mirror, and put them back."""
    assert files
    real = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    def run(script: bytes) -> None:
        choices = Choices(script)
        changed = {choices.of(files) for _ in range(1 + choices.below(2))}
        for path in sorted(changed):
            kind = choices.below(16)
            path.unlink(missing_ok=True)
            if kind == 0:
                continue
            if kind == 1:
                path.mkdir()
            else:
                head = real[path][:192] if path.suffix == ".npy" and kind < 10 else real[path]
                path.write_bytes(mutated(head, choices) + real[path][len(head) :])
        try:
            look_at(directory)
            serve(directory)
        finally:
            for path in directory.rglob("*"):
                if path not in real and path.is_file():
                    path.unlink()
            for path, data in real.items():
                if path.is_dir():
                    shutil.rmtree(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    return Target(run, [bytes([0, at, 5]) + b"\3abcd" for at in range(len(files))])


def serve(directory: Path) -> None:
    """What a caller is given is the truth, whatever is in the files."""
    from cas_cache import EmbeddingCache

    with typed(), EmbeddingCache(directory, only_cached=True) as cache:
        for asked in (ROWS[:5], ROWS[3:20:2], STRANGERS):
            with typed():
                vectors, found = cache.get(asked, SPEC)
                # Of no row, the shape of one is not known.
                assert not found.any() or np.array_equal(vectors[found], truth(asked)[found])
            with typed():
                np.testing.assert_array_equal(cache.encode(asked, SPEC, encoder=truth), truth(asked))


def state(folder: Path) -> Target:
    """``state.json`` alone, without a mirror around it: many times quicker."""
    directory = made_mirror(folder)
    real = (directory / "namespaces" / SPEC.namespace / "state.json").read_bytes()

    def run(script: bytes) -> None:
        with only(*DAMAGE):
            read = State.from_bytes(mutated(real, Choices(script)), "state.json")
            again = State.from_bytes(read.to_bytes(), "state.json")
            assert again == read
            assert sum(extent.rows for extent in read.extents) == read.rows
            assert read.row_bytes >= 0
            read.unpublished()
            without_packs(read, read.applied)

    return Target(run, [b"\0" + real, b"\3abcdef"])


def saved(folder: Path) -> Target:
    """A saved search index, and what is said of it."""
    from cas_cache.mirror import Mirror
    from cas_cache.search.faiss_index import Design
    from cas_cache.search.rows import NamespaceRows

    fast()
    search_finder.faiss_index.MIN_ROWS = 16
    namespace = Mirror(folder / "mirror").namespace(EncoderSpec(model="org/found", revision="1"))
    names = [f"text {i}" for i in range(64)]
    namespace.append(keys_of_texts(names), truth(names))
    design = Design("l2", "HNSW32")
    rows = NamespaceRows(namespace)
    place = folder / "faiss"
    search_finder.Finder(rows, design, place)
    real = {path: path.read_bytes() for path in place.iterdir() if path.suffix in (".json", ".index")}
    files = sorted(real)
    queries = truth(names)[:3]

    def run(script: bytes) -> None:
        choices = Choices(script)
        path = choices.of(files)
        change = mutated if path.suffix == ".json" else mutated_bytes
        path.write_bytes(change(real[path], choices))
        try:
            with typed():
                scores, found = search_finder.Finder(rows, design, place).find(queries, 2)
                true = -np.linalg.norm(truth(names)[found] - queries[:, None], axis=2)
                np.testing.assert_allclose(scores, true, rtol=1e-5)
        finally:
            for other in place.iterdir():
                if other not in real and other.is_file():
                    other.unlink()
            for other, data in real.items():
                other.write_bytes(data)

    return Target(run, [b"\0\3abc", b"\1\3abc"])


def imported(folder: Path) -> Target:
    """Old caches of mteb: an index, the length of a vector, and vectors, raw or FAISS's."""
    from cas_cache.interop import find_folders, plan_import
    from cas_cache.mirror import Mirror

    fast()
    old = _old_caches(folder)
    real = {path: path.read_bytes() for path in sorted(old.rglob("*")) if path.is_file()}
    files = list(real)
    into = folder / "into"
    specs = (SPEC, EncoderSpec(model="org/model", revision="a1b2c3d", role="document"))

    def run(script: bytes) -> None:
        choices = Choices(script)
        path = choices.of(files)
        path.unlink()
        kind = choices.below(16)
        if kind == 1:
            path.mkdir()
        elif kind:
            path.write_bytes(mutated(real[path], choices))
        try:
            with typed():
                for spec in specs:
                    plan = plan_import(find_folders(old), spec, None, accept_unsafe=True, mteb_1=True)
                    assert_printable("".join(plan.lines()).replace("\n", ""))
                    if plan.taken and not choices.below(4):
                        plan.run(Mirror(into).namespace(spec))
        finally:
            if path.is_dir():
                shutil.rmtree(path)
            path.write_bytes(real[path])
            shutil.rmtree(into, ignore_errors=True)

    return Target(run, [bytes([at, 5]) + b"\6abcd" for at in range(len(files))])


def _old_caches(folder: Path) -> Path:
    """Make the files that mteb's NumpyCache and FaissCache make."""
    import faiss

    keys = [key.tobytes().hex() for key in keys_of_texts(ROWS)]
    old = folder / "old"
    for name in ("Task/query", "Task/document"):
        (old / name).mkdir(parents=True)
        (old / name / "index.json").write_text(json.dumps({key: row for row, key in enumerate(keys)}))
    (old / "Task/query/dimension").write_text("4")
    (old / "Task/query/vectors.npy").write_bytes(truth(ROWS).tobytes())
    (old / "Task/query/spec.json").write_bytes(SPEC.canonical())
    flat = faiss.IndexFlatIP(4)
    flat.add(truth(ROWS))
    faiss.write_index(flat, str(old / "Task/document/vectors.faiss"))
    return old


TARGETS = {
    **{f"mirror {kind}": _files(kind) for kind in KINDS},
    "mirror views": views,
    "mirror marker": mirror_marker,
    "state": state,
    "saved index": saved,
    "imported": imported,
}
