"""A batch of items as it was asked for: its size, its keys, and a digest that leads to an answer given before. Pure.

Keys cost a hash an item. The digest costs one hash over the bytes of all of them, so the same batch asked for again is
known without its keys. Batches with one digest have the same items in the same order.
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
"""Below this a digest saves less than a millisecond."""


class Batch:
    """Items of one call.

    Args:
        size: How many.
        make_keys: Returns their keys, (size, 32) uint8.
        digest: Of all that the keys are made of, in order; None if there is no cheap one.
    """

    def __init__(self, size: int, make_keys: Callable[[], NDArray[np.uint8]], digest: bytes | None = None) -> None:
        self.size = size
        self.digest = digest
        self._make_keys = make_keys

    def __repr__(self) -> str:
        return f"Batch({self.size} items)"

    @cached_property
    def keys(self) -> NDArray[np.uint8]:
        """(size, 32) uint8, made when first asked for.

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
        kind: How the parts were made; two kinds never have one digest.
        parts: Each of a fixed length, or a hash, so that none runs into the next.
    """
    digest = hashlib.sha256(f"cas-cache batch 1 {kind}".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def _digest_of_texts(texts: Texts) -> bytes | None:
    """The lengths of all texts and all their characters, which say where each ends."""
    if len(texts) < MIN_ITEMS:
        return None
    lengths, characters = hashlib.sha256(), hashlib.sha256()
    try:
        for block in blocks_of(texts):
            for piece in utf8_of(block):
                characters.update(piece)
            # str.__len__, not len: a subclass of str could lie.
            lengths.update(np.fromiter(map(str.__len__, block), np.int64, len(block)).data)
    except (TypeError, UnicodeEncodeError):
        return None  # the keys say which text it is, and what is wrong with it
    return digest_of_batch("texts", [lengths.digest(), characters.digest()])
