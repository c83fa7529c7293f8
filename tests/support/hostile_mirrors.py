"""A mirror that has every kind of file, the repository it came from, and all that is done with the two."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import CasCacheError
from cas_cache.identity import keys as identity_keys
from cas_cache.identity import keys_of_texts
from cas_cache.interop import export, import_mteb, select_namespace, select_views
from cas_cache.mirror import Mirror, View, index
from cas_cache.mirror.check import check_mirror
from cas_cache.mirror.evict import evict
from cas_cache.mteb import FaissCache, TextVectorMap
from cas_cache.mteb.calibration import StoredRanges
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from cas_cache.search import faiss_index, open_search
from cas_cache.storage import open_storage
from storages import truth

SPEC = EncoderSpec(model="org/model", revision="a1b2c3d", role="document")
TEXTS = [f"text {i}" for i in range(200)]
MORE = [f"another text {i}" for i in range(60)]
TASK = "Task"


def embed(texts: list[str]) -> Any:
    """The encoder; it takes a measurable time, so that its pace is noted."""
    return truth(texts)


def opened(directory: Path, remote: Path | None = None, **options: Any) -> EmbeddingCache:
    return EmbeddingCache(directory, remote=remote, push="manual", **options)


def view_of(spec: EncoderSpec = SPEC) -> View:
    return View(TASK, spec.namespace, spec.model, spec.revision, spec.role, "default", "test")


@contextmanager
def small_files() -> Iterator[None]:
    """Write index files, memos and FAISS indexes for a few rows already."""
    with (
        mock.patch.object(index, "SAVE_ROWS", 8),
        mock.patch.object(identity_keys, "MIN_ITEMS", 8),
        mock.patch.object(faiss_index, "MIN_ROWS", 8),
    ):
        yield


def make(place: Path) -> None:
    """Make a repository, ``remote``, and ``mirror``, which pulled some of it lazily and has rows of its own."""
    with small_files(), opened(place / "author", place / "remote") as cache:
        cache.encode(TEXTS[:100], SPEC, embed)
        cache.push()
        cache.encode(TEXTS[100:], SPEC, embed)
        cache.push()
    with small_files(), opened(place / "mirror", place / "remote", lazy=True) as cache:
        cache.encode(TEXTS[:150], SPEC, embed)
        cache.encode(MORE[:30], SPEC, embed)
        keys = keys_of_texts(TEXTS[:20])
        cache.mirror.views.record(view_of(), keys, keys, [f"d{i}" for i in range(20)])
        cache.mirror.namespace(SPEC).note_verified(["0" * 64])
        open_search(cache.mirror, SPEC, index="HNSW32").search(embed(TEXTS[:2]), 3)
        StoredRanges().of(cache.mirror.directory, SPEC, embed(TEXTS), normalized=False)
        backend = FaissCache(spec=SPEC, cache=cache, directory=cache.mirror.directory / TASK)
        backend.save()


# What is done with a mirror ------------------------------------------------------------------------------------------


def look_up(mirror: Path, remote: Path) -> None:
    with opened(mirror, remote, offline=True) as cache:
        cache.get(TEXTS, SPEC)
        cache.encode(TEXTS[:150], SPEC, embed)
        cache.encode(MORE[:30], SPEC, embed)


def encode(mirror: Path, remote: Path) -> None:
    with opened(mirror, remote, lazy=True) as cache:
        cache.encode(TEXTS[140:] + MORE, SPEC, embed)


def encode_elsewhere(mirror: Path, remote: Path) -> None:
    """Another encoder: a namespace that is not there yet."""
    with opened(mirror, remote, offline=True) as cache:
        cache.encode(MORE, EncoderSpec(model="org/other", revision="a1b2c3d"), embed)


def push(mirror: Path, remote: Path) -> None:
    with opened(mirror, remote) as cache:
        cache.push()


def pull(mirror: Path, remote: Path) -> None:
    with opened(mirror, remote) as cache:
        cache.pull()


def rebind(mirror: Path, _: Path) -> None:
    Mirror(mirror).rebind()


def look_at_views(mirror: Path, _: Path) -> None:
    opened_mirror = Mirror(mirror)
    opened_mirror.views.tasks()
    opened_mirror.view(TASK, role="document")
    TextVectorMap(mirror / TASK).load(name=TASK)


def record(mirror: Path, _: Path) -> None:
    keys = keys_of_texts(MORE[:10])
    Mirror(mirror).views.record(view_of(), keys, keys, [f"m{i}" for i in range(10)])


def search(mirror: Path, _: Path) -> None:
    open_search(Mirror(mirror), SPEC, index="HNSW32").search(embed(TEXTS[:2]), 3)


def quantize(mirror: Path, _: Path) -> None:
    StoredRanges().of(mirror, SPEC, embed(TEXTS), normalized=False)


def look_over(mirror: Path, _: Path) -> None:
    opened_mirror = Mirror(mirror)
    opened_mirror._repr_mimebundle_()
    wrong = [it for it in check_mirror(opened_mirror).findings if it.kind == "damaged"]
    if wrong:
        raise CasCacheError(wrong[0].what)


def shrink(mirror: Path, _: Path) -> None:
    evict(Mirror(mirror), 0)


FLOWS: dict[str, Callable[[Path, Path], None]] = {
    "look-up": look_up,
    "views": look_at_views,
    "search": search,
    "calibration": quantize,
    "look over": look_over,
    "encode": encode,
    "encode elsewhere": encode_elsewhere,
    "search again": search,
    "record": record,
    "push": push,
    "pull": pull,
    "evict": shrink,
    "rebind": rebind,
}
"""In an order in which each finds something to do."""


def all_of_it(mirror: Path, remote: Path) -> dict[str, str]:
    """Do all of it; return what refused, and what it said."""
    refused = {}
    with small_files(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name, flow in FLOWS.items():
            try:
                flow(mirror, remote)
            except CasCacheError as err:
                refused[name] = f"{type(err).__name__}: {err}"
    return refused


# What is done with the two, and what else there is -------------------------------------------------------------------


def maintain(remote: Path) -> None:
    repository = Repository(open_storage(str(remote)))
    repository.open()
    compact(repository, at_least=2)
    check(repository, read_data=True)
    prune(repository, grace=0, force=True)


def take_out(mirror: Path, place: Path) -> None:
    """Export in every format."""
    opened_mirror = Mirror(mirror)
    rows = select_namespace(opened_mirror.namespace(SPEC))
    for format_ in ("npy", "mteb", "parquet"):
        export(rows, place / f"out-{format_}", format_)
    export(select_views(opened_mirror, [view_of()], with_ids=True), place / "view", "parquet")


def old_cache(folder: Path, texts: list[str] = TEXTS[:8]) -> Path:
    """Write a cache folder as mteb's `NumpyCache` does."""
    folder.mkdir(parents=True)
    (folder / "vectors.npy").write_bytes((truth(texts) / 3).astype("float32").tobytes())
    (folder / "index.json").write_text(
        json.dumps({keys_of_texts([it])[0].tobytes().hex(): i for i, it in enumerate(texts)})
    )
    (folder / "dimension").write_text("4")
    return folder


def take_in(mirror: Path, folder: Path) -> Any:
    return import_mteb(Mirror(mirror), folder, EncoderSpec(model="org/old", revision="a1b2c3d"), mteb_1=True)


def copy(place: Path, other: Path) -> Path:
    shutil.copytree(place, other, symlinks=True)
    return other


def bits(vectors: Any) -> bytes:
    return bytes(np.ascontiguousarray(vectors).tobytes())
