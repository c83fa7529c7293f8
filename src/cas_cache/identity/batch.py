"""A batch of items in the order of a call: its size, its keys, and a digest that finds an earlier answer. Pure.

Keys cost one hash per item. The digest costs one hash over the bytes of all items, so a repeated batch is recognised
without its keys. Batches with the same digest have the same items in the same order.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.identity.keys import keys_of_texts
from cas_cache.identity.texts import Texts, as_texts, blocks_of, utf8_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

MIN_ITEMS = 1024
"""Minimum number of items for a digest; with fewer it saves less than a millisecond."""


class Batch:
    """The items of one call.

    Args:
        size: Number of items.
        make_keys: Returns their keys, (size, 32) uint8.
        digest: Digest of everything that the keys are computed from, in order; None if there is no cheap one.
    """

    def __init__(self, size: int, make_keys: Callable[[], NDArray[np.uint8]], digest: bytes | None = None) -> None:
        self.size = size
        self.digest = digest
        self._make_keys = make_keys

    def __repr__(self) -> str:
        return f"Batch({self.size} items)"

    @cached_property
    def keys(self) -> NDArray[np.uint8]:
        """(size, 32) uint8 keys, computed at the first access.

        Raises:
            InvalidItem: If an item has no key.
        """
        return self._make_keys()


def batch_of_texts(texts: Iterable[str] | Texts) -> Batch:
    """Return texts as a batch.

    Raises:
        InvalidItem: If the texts are not a sequence or an iterator; see `as_texts`.
    """
    checked = as_texts(texts)
    return Batch(len(checked), lambda: keys_of_texts(checked), _digest_of_texts(checked))


def digest_of_batch(kind: str, parts: Iterable[bytes]) -> bytes:
    """Return the digest of a batch: 32 bytes.

    Args:
        kind: Name of the way in which the parts were made; different kinds never have the same digest.
        parts: Parts of fixed length, or hashes, so that the boundary between two is unambiguous.
    """
    digest = hashlib.sha256(f"cas-cache batch 1 {kind}".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def _digest_of_texts(texts: Texts) -> bytes | None:
    """Return a digest of the lengths and the characters of all texts; the lengths say where each text ends."""
    if len(texts) < MIN_ITEMS:
        return None
    lengths, characters = hashlib.sha256(), hashlib.sha256()
    try:
        for block in blocks_of(texts):
            for piece in utf8_of(block):
                characters.update(piece)
            # str.__len__ rather than len, because a subclass of str could return another length.
            lengths.update(np.fromiter(map(str.__len__, block), np.int64, len(block)).data)
    except (TypeError, UnicodeEncodeError):
        return None  # computing the keys reports the text and what is wrong with it
    return digest_of_batch("texts", [lengths.digest(), characters.digest()])
