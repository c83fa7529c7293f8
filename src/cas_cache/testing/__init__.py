"""Tools for testing storages, and for testing code with storages.

Provides `StorageContract`, the guarantees of every storage as pytest tests; `MemoryStorage`, a storage in a dict;
`CountingStorage`, `LatencyStorage`, `FaultyStorage` and `FlakyStorage`, which wrap any other storage; `failing_disk`,
faults of a local disk; and, in `cas_cache.testing.proxy`, faults of real HTTP. Imports neither pytest nor fsspec.
"""

from cas_cache.testing.contract import BucketContract, RefusalContract, StorageContract
from cas_cache.testing.disk import failing_disk
from cas_cache.testing.faults import Fault, FaultyStorage
from cas_cache.testing.latency import LatencyStorage
from cas_cache.testing.proxy import FaultProxy
from cas_cache.testing.storages import CountingStorage, FlakyStorage, MemoryStorage

__all__ = [
    "BucketContract",
    "CountingStorage",
    "Fault",
    "FaultProxy",
    "FaultyStorage",
    "FlakyStorage",
    "LatencyStorage",
    "MemoryStorage",
    "RefusalContract",
    "StorageContract",
    "failing_disk",
]
