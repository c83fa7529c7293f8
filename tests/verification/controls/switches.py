"""Each protection of the code, and how it is turned off: in this process, for as long as it lives.

Add each new protection here, with the tests that notice when it is gone; `tests/verification/controls/run.py` runs
them.
"""

import json
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from cas_cache import self_check
from cas_cache.errors import DamagedPack, RepositoryError
from cas_cache.files import disk
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest, ObjectRecord, pack_id
from cas_cache.format.signing import Trust
from cas_cache.identity import EncoderSpec, keys
from cas_cache.mirror import column, index, marker, memo, namespace_files, rows, table
from cas_cache.repository import compacting, pack, pruning, publishing, reading, repository
from cas_cache.repository.repository import Repository
from cas_cache.storage import local
from cas_cache.sync import pulling
from cas_cache.testing import MemoryStorage

NOT_ITS_NAME = "its SHA-256 is not its name"


class Control(NamedTuple):
    """A protection.

    Attributes:
        off: Turns it off.
        tests: Ids of tests of which one fails then.
    """

    off: Callable[[], None]
    tests: tuple[str, ...]


class _Equal(np.ndarray):  # type: ignore[type-arg]
    """Numbers that differ from none."""

    def __ne__(self, other: object) -> Any:
        return np.zeros(self.shape, np.bool_)


def _digests_agree(module: Any) -> None:
    real = module.digest_rows
    module.digest_rows = lambda *args: real(*args).view(_Equal)


def _row_digest_of_the_mirror() -> None:
    rows.RowVerifier.verify = lambda *_: None  # type: ignore[method-assign]


def _object_sha256() -> None:
    ObjectRecord.__eq__ = lambda *_: True  # type: ignore[method-assign, assignment]


def _manifest_last() -> None:
    publish = Repository.publish

    def early(self: Repository, of: str, source: Any, nonce: str, **options: Any) -> str:
        data = pack.describe(of, source, nonce).to_bytes()
        self.storage.put(layout.manifest_path(of, pack_id(data)), data)
        return publish(self, of, source, nonce, **options)

    Repository.publish = early  # type: ignore[method-assign]


def _grace() -> None:
    plan = pruning.plan_prune
    pruning.plan_prune = lambda *args, **options: plan(*args, **{**options, "grace": 0})


def _storage_clock() -> None:
    pruning.storage_time = lambda _: time.time()


def _lock() -> None:
    namespace_files.lock_of = lambda _: SimpleNamespace(acquire=lambda: None, release=lambda: None)  # type: ignore[assignment, return-value]


def _rows_that_moved() -> None:
    table.Table.has_moved = lambda _: False  # type: ignore[method-assign]


def _os_without_fsync(module: Any) -> None:
    module.os = SimpleNamespace(**{**vars(os), "fsync": lambda _: None})


def _columns_flushed() -> None:
    _os_without_fsync(column)


def _whole_keys() -> None:
    words = index._words
    index._words = lambda keys, rows: np.repeat(words(keys, rows)[:, :1], 4, axis=1)


def _create_only() -> None:
    write = local.write_atomically
    local.write_atomically = lambda path, data, *, create_only=False: write(path, data)  # noqa: PLW0108
    put = MemoryStorage.put
    MemoryStorage.put = lambda self, path, data, *, create_only=False: put(self, path, data)  # type: ignore[method-assign] # noqa: PLW0108


def _data_before_state() -> None:
    append = table.Table.append

    def early(self: table.Table, keys: Any, vectors: Any, digests: Any, state: Any) -> None:
        shaped = table.replace(state, dtype=vectors.dtype.name, shape=vectors.shape[1:])
        before = self.state
        self.commit(shaped)
        self.state = before
        append(self, keys, vectors, digests, state)

    table.Table.append = early  # type: ignore[method-assign]


def _believes_manifests(reason: str) -> None:
    manifest = Repository.manifest

    def believing(self: Repository, of: str, name: str) -> Manifest:
        try:
            return manifest(self, of, name)
        except DamagedPack as problem:
            if reason not in str(problem):
                raise
            return Manifest.from_bytes(self.storage.get(layout.manifest_path(of, name), 0, 1 << 22))

    Repository.manifest = believing  # type: ignore[method-assign]


def _spec_hash() -> None:
    spec = Repository.spec

    def believing(self: Repository, of: str) -> EncoderSpec:
        try:
            return spec(self, of)
        except RepositoryError as problem:
            if NOT_ITS_NAME not in str(problem):
                raise
            document = json.loads(self.storage.get(layout.spec_path(of), 0, 1 << 20))
            found = EncoderSpec(**{**document, "fields": tuple(document["fields"])})
            object.__setattr__(found, "namespace", of) if not hasattr(type(found), "namespace") else None
            return found

    Repository.spec = believing  # type: ignore[method-assign]


def _merges_whole() -> None:
    pruning._is_whole = lambda *_: True


def _in_time() -> None:
    publishing.StagedPack.in_time = lambda _: True  # type: ignore[method-assign]


def _time_from_the_plan() -> None:
    publish = Repository.publish
    Repository.publish = lambda self, *args, began=None: publish(self, *args)  # type: ignore[method-assign] # noqa: PLW0108


def _self_check() -> None:
    self_check.wrong_rows = lambda apart, _: np.flatnonzero(apart < 0)


def _seal_of_memos() -> None:
    memo.Memo._seal = lambda *_: b"0" * memo.SEAL_BYTES  # type: ignore[method-assign]


def _lengths_in_batch_digests() -> None:
    digest = keys.digest_of_batch
    keys.digest_of_batch = lambda kind, parts: digest(kind, list(parts)[-1:])


def _deletions_begin_with_the_manifest() -> None:
    deletion = pruning._deletion
    pruning._deletion = lambda reason, of, name, objects, age: deletion(reason, of, name, objects[::-1], age)


def _listing_of_a_pull() -> None:
    pulling._check_listing = lambda *_, **__: None


def _listing_of_a_prune() -> None:
    pruning._check_listing = lambda *_, **__: None


def _asked_by_name() -> None:
    pruning._is_named = lambda *_: False


def _fresh_look() -> None:
    compacting._merged_or_gone = lambda *_: False


def _one_repository() -> None:
    bind = marker.Marker.bind

    def believing(self: marker.Marker, *args: Any, **options: Any) -> None:
        self.unbind()
        bind(self, *args, **options)

    marker.Marker.bind = believing  # type: ignore[method-assign]


def _signatures() -> None:
    Trust.why_not = lambda *_: None  # type: ignore[method-assign]


def _whole_chunks() -> None:
    read_rows = repository.read_rows
    repository.read_rows = lambda *args, whole_chunks: read_rows(*args)  # noqa: PLW0108


def _filled_under_one_trust() -> None:
    marker._check_filled = lambda *_: None


CONTROLS = {
    "row digests in the mirror": Control(
        _row_digest_of_the_mirror, ("tests/unit/mirror/test_mirror_damage.py::test_rows_that_changed_places",)
    ),
    "row digests of packs": Control(
        lambda: _digests_agree(reading),
        ("tests/unit/repository/test_pack.py::test_only_the_row_digest_sees_rows_swapped_under_a_new_manifest",),
    ),
    "SHA-256 of objects": Control(
        _object_sha256, ("tests/unit/sync/test_sync.py::test_a_damaged_pack_is_named_and_passed_over",)
    ),
    "manifest last": Control(_manifest_last, ("tests/verification/model/test_model_conformance.py::test_a_push",)),
    "grace period": Control(_grace, ("tests/unit/repository/test_prune.py::test_nothing_young_goes",)),
    "clock of the storage": Control(
        _storage_clock, ("tests/unit/repository/test_prune.py::test_the_clock_of_this_machine_does_not_count",)
    ),
    "lock of the mirror": Control(_lock, ("tests/unit/mirror/test_mirror_order.py",)),
    "rows that moved while a namespace was closed": Control(
        _rows_that_moved,
        ("tests/unit/mirror/test_mirror_descriptors.py::test_rows_that_moved_while_the_files_were_closed",),
    ),
    "fsync before a file takes its name": Control(
        lambda: _os_without_fsync(disk), ("tests/unit/files/test_disk.py::test_bytes_are_durable_before_the_name",)
    ),
    "fsync of columns before the state": Control(_columns_flushed, ("tests/unit/mirror/test_mirror_order.py",)),
    "comparison of whole keys": Control(
        _whole_keys, ("tests/unit/mirror/test_mirror_index.py::test_many_keys_with_one_prefix",)
    ),
    "refusal of empty listings by a pull": Control(
        _listing_of_a_pull, ("tests/unit/sync/test_sync.py::test_an_empty_listing_is_suspicious",)
    ),
    "refusal of listings with gaps by a prune": Control(
        _listing_of_a_prune,
        (
            "tests/unit/repository/test_prune.py::test_two_listings_that_differ_delete_nothing",
            "tests/unit/repository/test_prune.py::test_a_repository_of_orphans_alone_must_be_forced",
        ),
    ),
    "manifests asked for by name before a prune": Control(
        _asked_by_name,
        (
            "tests/unit/repository/test_prune.py::test_an_orphan_whose_zarr_json_is_unreadable_is_asked_for_in_every_namespace",
        ),
    ),
    "create-only of the marker": Control(
        _create_only,
        ("tests/unit/repository/test_repository.py::test_the_loser_of_a_race_uses_the_winners_repository",),
    ),
    "data before the state": Control(
        _data_before_state,
        (
            "tests/unit/mirror/test_mirror_namespace.py::test_a_crash_at_any_step_of_an_append",
            "tests/unit/mirror/test_mirror_order.py",
        ),
    ),
    "namespace of a manifest": Control(
        lambda: _believes_manifests("it belongs to namespace"),
        ("tests/unit/repository/test_repository.py::test_a_manifest_is_what_its_name_says",),
    ),
    "hash of a spec": Control(
        _spec_hash,
        ("tests/unit/repository/test_repository.py::test_a_spec_is_what_its_name_says",),
    ),
    "id of a pack": Control(
        lambda: _believes_manifests(NOT_ITS_NAME),
        ("tests/unit/repository/test_repository.py::test_a_manifest_is_what_its_name_says",),
    ),
    "only whole merges replace": Control(
        _merges_whole, ("tests/unit/repository/test_prune.py::test_a_merge_that_is_not_whole_supersedes_nothing",)
    ),
    "manifests before objects in a prune": Control(
        _deletions_begin_with_the_manifest,
        (
            "tests/unit/repository/test_prune.py::test_superseded_packs_go_when_the_merge_is_old",
            "tests/unit/repository/test_prune.py::test_prune",
        ),
    ),
    "time limit of a writer": Control(_in_time, ("tests/unit/storage/test_time_limit.py",)),
    "time limit from the plan on": Control(_time_from_the_plan, ("tests/unit/storage/test_time_limit.py",)),
    "second look of a compaction": Control(
        _fresh_look, ("tests/unit/repository/test_compact.py::test_somebody_else_was_faster",)
    ),
    "self-check": Control(
        _self_check, ("tests/unit/self_check/test_self_check.py::test_another_models_vectors_are_refused",)
    ),
    "seal of a memo": Control(
        _seal_of_memos, ("tests/unit/mirror/test_mirror_memo.py::test_rows_that_hold_other_keys_now_are_not_believed",)
    ),
    "lengths of texts in a batch's digest": Control(
        _lengths_in_batch_digests, ("tests/unit/identity/test_batch.py::test_where_one_text_ends_matters",)
    ),
    "signatures": Control(_signatures, ("tests/unit/signing/test_signed_packs.py::test_who_is_trusted_is_read",)),
    "whole chunks where signatures are asked for": Control(
        _whole_chunks, ("tests/unit/signing/test_signed_packs.py::test_a_forged_row_that_its_digest_does_not_show",)
    ),
    "one trust for a mirror": Control(
        _filled_under_one_trust, ("tests/unit/signing/test_signed_packs.py::test_a_mirror_is_filled_under_one_trust",)
    ),
    "one repository for a mirror": Control(
        _one_repository, ("tests/unit/mirror/test_mirror_directory.py::test_belongs_to_one_repository",)
    ),
}
