"""Describe what an encoder computes and what it looks like, for `cas_cache.mteb` and every other integration.

Importing it imports neither torch nor transformers nor sentence-transformers; they are used only if a model of
theirs is given.
"""

from cas_cache.models.appearance import appearance_of
from cas_cache.models.description import Description, describe
from cas_cache.models.encoders import describe_encoder, weights_fingerprint

__all__ = [
    "Description",
    "appearance_of",
    "describe",
    "describe_encoder",
    "weights_fingerprint",
]
