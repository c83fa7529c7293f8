"""Tools for testing storages, and for testing code with storages.

Provides `StorageContract`, the guarantees of every storage as pytest tests; `MemoryStorage`, a storage in a dict; and
`CountingStorage`, `LatencyStorage`, `FaultyStorage` and `FlakyStorage`, which wrap any other storage. Imports neither
pytest nor fsspec.
"""

from cas_cache.testing.contract import StorageContract
from cas_cache.testing.faults import Fault, FaultyStorage, FlakyStorage
from cas_cache.testing.service_contracts import BucketContract, RefusalContract
from cas_cache.testing.storages import CountingStorage, LatencyStorage, MemoryStorage, StorageCall, WrappedStorage

__all__ = [
    "BucketContract",
    "CountingStorage",
    "Fault",
    "FaultyStorage",
    "FlakyStorage",
    "LatencyStorage",
    "MemoryStorage",
    "RefusalContract",
    "StorageCall",
    "StorageContract",
    "WrappedStorage",
]
