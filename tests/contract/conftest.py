"""Servers for the storage contract; each is started once per session."""

import sys
from collections.abc import Iterator

import pytest

import servers

if "cas_cache.testing.contract" not in sys.modules:
    pytest.register_assert_rewrite("cas_cache.testing.contract")


@pytest.fixture(scope="session")
def rclone_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Place]:
    """Run rclone's S3 for the session."""
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as place:
        yield place


@pytest.fixture(scope="session")
def seaweed_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Place]:
    """Run SeaweedFS for the session."""
    with servers.seaweed(tmp_path_factory.mktemp("seaweed")) as place:
        yield place


@pytest.fixture(scope="session")
def google_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Place]:
    """Run Google's emulator for the session."""
    with servers.google(tmp_path_factory.mktemp("google")) as place:
        yield place


@pytest.fixture(scope="session")
def azure_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Place]:
    """Run Azurite for the session."""
    with servers.azurite(tmp_path_factory.mktemp("azurite")) as place:
        yield place
