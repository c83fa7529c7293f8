"""Servers for the storage contract: Azurite for Azure, gcp-storage-emulator for Google, rclone and SeaweedFS for S3.

Provides `azurite`, `google`, `rclone` and `seaweed`, context managers that yield a `Place` on a running server, and
`Place`, an opener that can be sent to another process. Each server listens on 127.0.0.1 only and is killed by the
process that started it.

Azurite comes from npm and is installed once, into `.azurite/` at the root of the checkout; the others are Python
packages.
"""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cas_cache.storage import Storage, open_storage
from cas_cache.storage.interface import CREATE_ONLY
from paths import ROOT

HOST = "127.0.0.1"
START_SECONDS = 60
AZURITE = "azurite@3.35.0"
AZURITE_HOME = ROOT / ".azurite"
AZURITE_MAIN = "node_modules/azurite/dist/src/blob/main.js"

KEY, SECRET = "AKIAEXAMPLEEXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

# Public, and the same in every Azurite: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Place:
    """Opens a storage at a URL, also in another process.

    Attributes:
        lacks: Capabilities that this server does not have, although services with its protocol do.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()

    def __call__(self) -> Storage:
        storage = open_storage(self.url, self.options)
        storage.capabilities -= self.lacks
        return storage

    def fresh(self) -> "Place":
        """Return a new, empty place in the same bucket."""
        return replace(self, url=f"{self.url}/{uuid.uuid4().hex}/emb")

    def with_options(self, **options: Any) -> "Place":
        """Return the same place with other options."""
        return replace(self, options={**self.options, **options})


@contextmanager
def rclone(directory: Path) -> Iterator[Place]:
    """Serve a directory as S3, with one key that is checked. The server accepts If-None-Match but ignores it."""
    (directory / "data" / "team").mkdir(parents=True)
    with _free_port() as port:
        command = [_script("rclone"), "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"{HOST}:{port}"]
    with _running([*command, str(directory / "data")], port, directory, RCLONE_CONFIG=os.devnull):
        checksums = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        options = {"key": KEY, "secret": SECRET, "endpoint_url": f"http://{HOST}:{port}", "config_kwargs": checksums}
        yield Place("s3://team", options, lacks=frozenset({CREATE_ONLY}))


@contextmanager
def seaweed(directory: Path) -> Iterator[Place]:
    """Run SeaweedFS with its S3 gateway in one process, with one key that is checked."""
    (directory / "data").mkdir()
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    services = ("master", "volume", "filer", "s3")
    ports = _free_ports(2 * len(services))
    command = [_script("weed"), "server", f"-dir={directory / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}"]
    command += ["-filer", "-s3", f"-s3.config={directory / 's3.json'}", "-master.telemetry=false", "-volume.max=100"]
    command += [f"-{name}.port={port}" for name, port in zip(services, ports[::2], strict=True)]
    command += [f"-{name}.port.grpc={port}" for name, port in zip(services, ports[1::2], strict=True)]
    port = ports[6]
    with _running(command, port, directory):
        options = {"key": KEY, "secret": SECRET, "endpoint_url": f"http://{HOST}:{port}"}
        _create_bucket(options, "team")
        yield Place("s3://team", options)


@contextmanager
def google(directory: Path) -> Iterator[Place]:
    """Run Google's storage in memory. It checks no credentials, and overwrites objects in spite of create-only."""
    with _free_port() as port:
        command = [_script("gcp-storage-emulator"), "start", f"--host={HOST}", f"--port={port}", "--in-memory"]
    with _running([*command, "--default-bucket=team"], port, directory):
        options = {"token": "anon", "endpoint_url": f"http://{HOST}:{port}", "project": "test"}
        yield Place("gs://team", options, lacks=frozenset({CREATE_ONLY}))


@contextmanager
def azurite(directory: Path) -> Iterator[Place]:
    """Run Azure's storage in memory, with one container."""
    home = install_azurite()
    with _free_port() as port:
        command = [_node("node"), str(home / AZURITE_MAIN), "--blobHost", HOST, "--blobPort", str(port)]
    command += ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    with _running(command, port, directory):
        place = Place("az://team", {"connection_string": azure_connection(port, AZURITE_KEY)})
        _create_container(place.options["connection_string"], "team")
        yield place


def azure_connection(port: int, key: str) -> str:
    """Return the connection string of Azurite's one account."""
    account = "devstoreaccount1"
    endpoint = f"http://{HOST}:{port}/{account}"
    return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};BlobEndpoint={endpoint};"


def install_azurite(home: Path = AZURITE_HOME) -> Path:
    """Install Azurite unless it is installed. Several processes may try at once, so the stamp is written last."""
    stamp = home / "stamp"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == AZURITE and (home / AZURITE_MAIN).exists()):
            stamp.unlink(missing_ok=True)
            (home / ".gitignore").write_text("*\n")
            (home / "package.json").write_text('{"private": true}\n')
            command = [_node("npm"), "install", "--no-audit", "--no-fund", "--no-save", AZURITE]
            result = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
            if result.returncode:
                raise RuntimeError(
                    f"Cannot install {AZURITE} into {home}: {' '.join(command)} failed.\n{result.stderr}"
                )
            stamp.write_text(AZURITE)
    return home


def _create_bucket(options: dict[str, Any], name: str) -> None:
    """Create a bucket in a server that answers before it is completely ready, and write an object to it."""
    from botocore.exceptions import BotoCoreError
    from s3fs import S3FileSystem

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            filesystem = S3FileSystem(skip_instance_cache=True, use_listings_cache=False, **options)
            filesystem.mkdir(name)
            filesystem.pipe_file(f"{name}/ready", b"1")
            filesystem.rm_file(f"{name}/ready")
        except (OSError, BotoCoreError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def _create_container(connection: str, name: str) -> None:
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient.from_connection_string(connection) as client:
        client.create_container(name).close()


def _node(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"There is no {program} here. The Azure tests run {AZURITE}: install Node.js 18 or newer.")
    return found


def _script(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"There is no {name} here. It comes with: pip install --group test")
    return found


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        yield probe.getsockname()[1]


def _free_ports(count: int) -> list[int]:
    """Return ports that are all free at the same time."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in sockets]


@contextmanager
def _running(command: list[str], port: int, directory: Path, **environment: str) -> Iterator[None]:
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start.\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0
