"""Bytes by path on any fsspec file system, with bounded concurrency. This package knows nothing of packs."""

from cas_cache.storage.fsspec_storage import open_storage
from cas_cache.storage.interface import ObjectInfo, Storage, TransferStats
from cas_cache.storage.threads import ordered_map

__all__ = ["ObjectInfo", "Storage", "TransferStats", "open_storage", "ordered_map"]
