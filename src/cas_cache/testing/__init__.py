"""What it takes to test storages, and to test with them.

Adds: `StorageContract`, what every storage promises, as tests for pytest; `MemoryStorage`, a dict as a storage;
`CountingStorage`, `LatencyStorage`, `FaultyStorage` and `FlakyStorage`, policy around any other; `failing_disk`, faults
of a local disk; and in `cas_cache.testing.proxy` the faults of real HTTP. Imports neither pytest nor fsspec.
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
