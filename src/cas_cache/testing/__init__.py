"""What it takes to test storages, and to test with them.

Adds: `StorageContract`, what every storage promises, as tests for pytest; `MemoryStorage`, a dict as a storage;
`CountingStorage` and `FlakyStorage`, policy around any other. Imports neither pytest nor fsspec.
"""

from cas_cache.testing.contract import BucketContract, RefusalContract, StorageContract
from cas_cache.testing.storages import CountingStorage, FlakyStorage, MemoryStorage

__all__ = [
    "BucketContract",
    "CountingStorage",
    "FlakyStorage",
    "MemoryStorage",
    "RefusalContract",
    "StorageContract",
]
