"""The cache for mteb: a wrapper for encoders, the identity of what it wraps, and mteb 1.x's map over what it keeps.

Importing this imports neither mteb nor torch: `TextVectorMap` works without either.
"""

from cas_cache.mteb.fingerprint import weights_fingerprint
from cas_cache.mteb.specs import spec_of
from cas_cache.mteb.text_vector_map import TextVectorMap
from cas_cache.mteb.wrapper import CachedEmbeddingWrapper

__all__ = ["CachedEmbeddingWrapper", "TextVectorMap", "spec_of", "weights_fingerprint"]
