"""The local side: memory-mapped vectors and a key index for each namespace, and the views of callers.

The mirror answers every look-up. It may lose rows but never invents one: rows that fail verification raise an error.
"""

from cas_cache.mirror.ledger import PlannedPack, WholePack
from cas_cache.mirror.mirror import Mirror, ViewRows
from cas_cache.mirror.namespace import Namespace
from cas_cache.mirror.views import View, Views, ids_in, keys_in, views_in

__all__ = [
    "Mirror",
    "Namespace",
    "PlannedPack",
    "View",
    "ViewRows",
    "Views",
    "WholePack",
    "ids_in",
    "keys_in",
    "views_in",
]
