"""What an encoder computes: the description of torch models that identities are made of.

It is used by `cas_cache.mteb` and by every other integration. Importing it imports neither torch nor transformers nor
sentence-transformers; they are looked at only where a model of theirs is given.
"""

from cas_cache.models.appearance import appearance_of
from cas_cache.models.description import Description, describe
from cas_cache.models.encoders import describe_encoder, modules_of
from cas_cache.models.fingerprint import weights_fingerprint
from cas_cache.models.names import class_name

__all__ = [
    "Description",
    "appearance_of",
    "class_name",
    "describe",
    "describe_encoder",
    "modules_of",
    "weights_fingerprint",
]
