"""What the targets share: what an answer may be, and real files made by the library.

A target is made once in a folder of its own and then run with one input after another. It ends, or it raises: an
assertion if something wrong was served or printed, or whatever escaped that is no error of ours.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cas_cache.errors import CasCacheError, DamagedMirror, UnsupportedFormat
from cas_cache.identity import keys as identity_keys
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror, Namespace, View
from cas_cache.mirror import index as key_index
from cas_cache.mirror.evict import packs_by_use
from cas_cache.mirror.index import ABSENT
from cas_cache.testing import MemoryStorage
from storages import OTHER_SPEC, SPEC, Machine, texts, truth

STRANGERS = texts(5, 500)
ROWS = texts(24)


@dataclass(frozen=True)
class Target:
    """Something that parses.

    Attributes:
        run: Given an input.
        seeds: Scripts to begin with.
    """

    run: Callable[[bytes], None]
    seeds: list[bytes] = field(default_factory=list)


def fast() -> None:
    """Leave out what only a crash of the machine would show; keep indexes and memos of a few rows."""
    os.fsync = lambda _: None  # type: ignore[assignment,misc]
    key_index.SAVE_ROWS = 4
    identity_keys.MIN_ITEMS = 2


@contextmanager
def only(*allowed: type[BaseException]) -> Iterator[None]:
    """Let these errors be the answer, if what they say can be printed."""
    try:
        yield
    except allowed as err:
        assert_printable(str(err))


@contextmanager
def typed() -> Iterator[None]:
    """Let any error of ours be the answer."""
    with only(CasCacheError):
        yield


def assert_printable(text: str) -> None:
    """A terminal can only show it: no control characters, nothing that has no UTF-8."""
    wrong = [c for c in text if not c.isprintable() and c not in "\n\t"]
    assert not wrong, f"{wrong[:5]!r} would be sent to a terminal, in {text[:300]!r}"


def remote(folder: Path) -> MemoryStorage:
    """Return a repository with two packs of `SPEC`, of `ROWS`, and one of another encoder."""
    storage = MemoryStorage()
    machine = Machine(folder / "author", storage)
    for some, spec in ((ROWS[:14], SPEC), (ROWS[14:], SPEC), (texts(3, 300), OTHER_SPEC)):
        machine.encode(some, spec)
        machine.push()
    return storage


def mirror(folder: Path) -> Path:
    """Return a mirror with `ROWS` of `SPEC` with an index file, partly from packs, with every kind of derived file."""
    from cas_cache import EmbeddingCache

    fast()
    with EmbeddingCache(folder / "mirror", remote=folder / "remote", push="manual") as cache:
        for start in range(0, 24, 6):
            cache.put(ROWS[start : start + 6], truth(ROWS[start : start + 6]), SPEC)
            if start < 12:
                cache.push()
        for asked in (ROWS[:5], ROWS[3:20:2]):
            cache.encode(asked, SPEC, encoder=truth)
        view = View("Task", SPEC.namespace, SPEC.model, SPEC.revision, "query", "default", "test")
        ns = cache.mirror.namespace(SPEC)
        cache.mirror.views.record(view, ns.keys[:9], ns.keys[:9], [f"id {i}" for i in range(9)])
        ns.note_verified(ns.packs)
        ns.appearances.note_equal({"prefix": "'a'"}, [ns.appearances.record({"prefix": "'b'"})])
    with EmbeddingCache(folder / "mirror", remote=folder / "remote", push="manual", lazy=True) as cache:
        with EmbeddingCache(folder / "colleague", remote=folder / "remote") as colleague:
            colleague.put(STRANGERS, truth(STRANGERS), SPEC)
        cache.pull_keys()
    return folder / "mirror"


def look_at(directory: Path) -> None:
    """Open a mirror and ask it for everything; what it serves is right."""
    opened: Mirror | None = None
    with typed():
        opened = Mirror(directory, create=False)
    if opened is None:
        return
    with typed():
        assert opened.repository is None or isinstance(opened.repository, str)
        opened.bind("0" * 32, "somewhere")
    opened._repr_mimebundle_()
    with typed():
        for namespace in opened.ids():
            with suppress(CasCacheError):
                ns = opened.get(namespace)
                assert ns is None or ns.spec.namespace == namespace
    with typed():
        ns = opened.get(SPEC.namespace)
        if ns is not None:
            judge(ns)
    with typed():
        tasks = opened.views.tasks()
        for task in tasks:
            for view in opened.views.of(task):
                with typed():
                    got = opened.view(task, role=view.role, model=view.model, subset=view.subset, split=view.split)
                    assert len(got.keys) == len(got.vectors)
                    of = {key.tobytes(): text for key, text in zip(keys_of_texts(ROWS), ROWS, strict=True)}
                    known = [of[key.tobytes()] for key in got.keys if key.tobytes() in of]
                    assert len(known) == len(got.keys)
                    # Of no row, the shape of one is not known.
                    assert not known or np.array_equal(got.vectors, truth(known))


def judge(ns: Namespace) -> None:
    """Ask a namespace for every row: right, missing, or an error."""
    wanted = keys_of_texts(ROWS)
    rows = ns.find(wanted)
    found = rows != ABSENT
    if found.any():
        vectors = ns.take(rows[found])
        np.testing.assert_array_equal(vectors, truth([t for t, here in zip(ROWS, found, strict=True) if here]))
        assert vectors.dtype == np.float32
    assert (ns.find(keys_of_texts(texts(5, 900))) == ABSENT).all()
    ns.doubted(rows, ns.appearances.trusted({"prefix": "'a'"}))
    packs_by_use(ns)
    assert ns.remote_keys.rows >= 0
    located = ns.remote_keys.locate(keys_of_texts(STRANGERS))
    assert all(len(it.at) for it in located)
    ns._repr_mimebundle_()


DAMAGE = (DamagedMirror, UnsupportedFormat)
