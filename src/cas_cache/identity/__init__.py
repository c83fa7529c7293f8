"""The identity of encoders (`EncoderSpec`) and of items (`keys`). Pure: no I/O, no clock, no randomness."""

from cas_cache.identity.canonical import canonical_json, parsed_json, quoted
from cas_cache.identity.keys import (
    KEY_BYTES,
    MIN_ITEMS,
    Batch,
    batch_of_texts,
    digest_of_batch,
    first_of_each,
    keys_of_rows,
    keys_of_texts,
    prefixes_of,
)
from cas_cache.identity.spec import NAMESPACE_ID, EncoderSpec, check_no_credentials, names_of
from cas_cache.identity.texts import Texts, as_texts, texts_at

__all__ = [
    "KEY_BYTES",
    "MIN_ITEMS",
    "NAMESPACE_ID",
    "Batch",
    "EncoderSpec",
    "Texts",
    "as_texts",
    "batch_of_texts",
    "canonical_json",
    "check_no_credentials",
    "digest_of_batch",
    "first_of_each",
    "keys_of_rows",
    "keys_of_texts",
    "names_of",
    "parsed_json",
    "prefixes_of",
    "quoted",
    "texts_at",
]
