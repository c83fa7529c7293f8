"""Every storage keeps the contract: memory, disk, and S3, Google and Azure as servers on this machine."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cas_cache.storage import Storage
from cas_cache.testing import (
    BucketContract,
    CountingStorage,
    FlakyStorage,
    MemoryStorage,
    RefusalContract,
    StorageContract,
)
from servers import Place

Opener = Callable[[], Storage]

# aiohttp prefers files for bodies above 1 MiB, but gcsfs and adlfs pass bytes. Only speed is affected.
RAW_BODIES = pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")


class TestMemory(StorageContract):
    """A storage in a dict."""

    @pytest.fixture
    def opener(self) -> Opener:
        memory = MemoryStorage()
        return lambda: memory


class TestWrapped(StorageContract):
    """Wrappers without faults change nothing."""

    @pytest.fixture
    def opener(self) -> Opener:
        memory = MemoryStorage()
        return lambda: CountingStorage(FlakyStorage(memory, at=2**62))


class TestLocal(StorageContract, RefusalContract):
    """A local directory."""

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return Place(str(tmp_path / "store"))

    @pytest.fixture
    def refused(self) -> Iterator[Opener]:
        """Return an opener for a directory that this process, even as root, can neither read nor write."""
        with tempfile.TemporaryDirectory(prefix="cas-cache-test-") as directory:
            Path(directory).chmod(0)
            root = os.geteuid() == 0
            if root:
                os.seteuid(65534)
            try:
                yield Place(directory)
            finally:
                if root:
                    os.seteuid(0)
                Path(directory).chmod(0o755)


class TestFsspecMemory(StorageContract):
    """fsspec's memory file system: no service, but used through the same class."""

    @pytest.fixture
    def opener(self) -> Opener:
        return Place(f"memory://{uuid.uuid4().hex}/emb")


class TestLocalStack(StorageContract, BucketContract):
    """S3 by LocalStack."""

    # More than one page of 1,000; 2,500 objects take 13 s.
    many = 1_100

    @pytest.fixture
    def opener(self, s3_remote: Any) -> Opener:
        return Place(s3_remote.url, s3_remote.storage_options)

    @pytest.fixture
    def nowhere(self, s3_remote: Any) -> Opener:
        return Place(f"s3://no-{uuid.uuid4().hex}/emb", s3_remote.storage_options)


class TestRclone(StorageContract, BucketContract, RefusalContract):
    """S3 by rclone, on a directory."""

    @pytest.fixture
    def opener(self, rclone_place: Place) -> Opener:
        return rclone_place.fresh()

    @pytest.fixture
    def nowhere(self, rclone_place: Place) -> Opener:
        return Place("s3://nowhere/emb", rclone_place.options)

    @pytest.fixture
    def refused(self, rclone_place: Place) -> Opener:
        return rclone_place.fresh().with_options(secret="not the secret")


class TestSeaweedFS(StorageContract, RefusalContract):
    """S3 by SeaweedFS. A missing bucket is not an error there: an admin's upload creates it."""

    # 2,500 objects take 20 s.
    many = 1_100

    @pytest.fixture
    def opener(self, seaweed_place: Place) -> Opener:
        return seaweed_place.fresh()

    @pytest.fixture
    def refused(self, seaweed_place: Place) -> Opener:
        return seaweed_place.fresh().with_options(secret="not the secret")


@pytest.fixture
def _google_without_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    # gcsfs first asks a gRPC service for the type of a bucket, and waits 60 s per call if there is no such service.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@RAW_BODIES
@pytest.mark.usefixtures("_google_without_grpc")
class TestGoogle(StorageContract, BucketContract):
    """Google Cloud Storage by gcp-storage-emulator."""

    # The emulator rewrites its index at every PUT, so 2,500 objects take 70 s, and they would be one page of 5,000
    # anyway. It handles one request at a time, so the last of sixteen may exceed the request timeout.
    many = 300
    writers = 2

    @pytest.fixture
    def opener(self, google_place: Place) -> Opener:
        return google_place.fresh()

    @pytest.fixture
    def nowhere(self, google_place: Place) -> Opener:
        return Place("gs://nowhere/emb", google_place.options)


@RAW_BODIES
class TestAzure(StorageContract, BucketContract, RefusalContract):
    """Azure Blob Storage by Azurite."""

    # 2,500 objects take 13 s and are one page of 5,000, as these are.
    many = 1_000

    @pytest.fixture
    def opener(self, azure_place: Place) -> Opener:
        return azure_place.fresh()

    @pytest.fixture
    def nowhere(self, azure_place: Place) -> Opener:
        return Place("az://nowhere/emb", azure_place.options)

    @pytest.fixture
    def refused(self, azure_place: Place) -> Opener:
        wrong = azure_place.options["connection_string"].replace("Eby8", "AAAA")
        return azure_place.fresh().with_options(connection_string=wrong)
