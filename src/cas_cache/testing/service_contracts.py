"""Guarantees that only services can give: they refuse wrong credentials, and have buckets."""
# ruff: noqa: S101 - asserts are what tests are made of

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, BucketNotFound, ObjectNotFound
from cas_cache.testing.expectations import expect_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.storage.interface import Storage

    Opener = Callable[[], Storage]


class RefusalContract:
    """Tests for storages that check credentials. A subclass has a fixture `refused`: an opener with wrong ones."""

    def test_refused_is_not_missing(self, refused: Opener) -> None:
        """Every verb raises AccessDenied, also a PermissionError: never ObjectNotFound, never an empty listing."""
        storage = refused()
        for attempt in _attempts(storage):
            with expect_error(AccessDenied):
                attempt()
        assert issubclass(AccessDenied, PermissionError)


class BucketContract:
    """Tests for storages with buckets. A subclass has a fixture `nowhere`: an opener of a missing bucket."""

    def test_a_missing_bucket_is_not_an_empty_one(self, nowhere: Opener) -> None:
        """LIST and PUT raise BucketNotFound; GET and DELETE where the service tells it from a missing object."""
        storage = nowhere()
        get, listed, listed_below, put, created, delete = _attempts(storage)
        for attempt in (listed, listed_below, put, created):
            with expect_error(BucketNotFound):
                attempt()
        with expect_error(ObjectNotFound, BucketNotFound):
            get()
        with suppress(BucketNotFound):
            delete()


def _attempts(storage: Storage) -> list[Callable[[], object]]:
    return [
        lambda: storage.get("x", 0, 1),
        lambda: storage.list(""),
        lambda: storage.list("manifests"),
        lambda: storage.put("x", b"1"),
        lambda: storage.put("x", b"1", create_only=True),
        lambda: storage.delete("x"),
    ]
