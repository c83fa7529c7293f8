"""The cache for mteb: a wrapper for encoders, their identity, backends for mteb's own wrapper, search for retrieval.

`TextVectorMap` is mteb 1.x's map over cached vectors. Importing this package imports neither mteb nor torch:
`TextVectorMap` works without either.
"""

from cas_cache.models import weights_fingerprint
from cas_cache.mteb.backends import FaissCache, MirrorCache
from cas_cache.mteb.binding import backend
from cas_cache.mteb.search import MirrorSearch
from cas_cache.mteb.specs import spec_of
from cas_cache.mteb.text_vector_map import TextVectorMap
from cas_cache.mteb.wrapper import CachedEmbeddingWrapper

__all__ = [
    "CachedEmbeddingWrapper",
    "FaissCache",
    "MirrorCache",
    "MirrorSearch",
    "TextVectorMap",
    "backend",
    "spec_of",
    "weights_fingerprint",
]
