"""The shared side: packs, manifests and specs under one URL, which many clients write without coordination."""

from cas_cache.repository.interface import Storage, ordered_map
from cas_cache.repository.manifest import Manifest, superseders
from cas_cache.repository.pack import PackRows, most_rows_of_a_pack
from cas_cache.repository.repository import MAX_SECONDS, Repository
from cas_cache.repository.storage import open_storage
from cas_cache.repository.urls import is_url, without_credentials

__all__ = [
    "MAX_SECONDS",
    "Manifest",
    "PackRows",
    "Repository",
    "Storage",
    "is_url",
    "most_rows_of_a_pack",
    "open_storage",
    "ordered_map",
    "superseders",
    "without_credentials",
]
