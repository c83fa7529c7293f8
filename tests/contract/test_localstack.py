"""The LocalStack runner: it installs once, serves on loopback only, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import s3fs
import yaml

from paths import ROOT

FOLDER = ROOT / "localstack"
RUN_SCRIPT = FOLDER / "run.py"

PARENT = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("run", sys.argv[1])
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
with run.running(port=0) as server:
    print(server.port, server.pid, server.log.parent, flush=True)
    time.sleep(600)
"""


def answers(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex((host, port)) == 0


def wait_until_gone(port: int, directory: Path) -> None:
    deadline = time.monotonic() + 15
    while answers(port) or directory.exists():
        assert time.monotonic() < deadline, "the server outlived the process that started it"
        time.sleep(0.05)


def test_bucket_round_trip(s3_remote: Any) -> None:
    fs = s3fs.S3FileSystem(**s3_remote.storage_options, skip_instance_cache=True, use_listings_cache=False)
    try:
        folder = s3_remote.url.removeprefix("s3://")
        path = f"{folder}/one"
        assert fs.find(folder) == []
        fs.pipe_file(path, b"\x00vector\xff" * 10_000)
        assert fs.cat_file(path) == b"\x00vector\xff" * 10_000
        assert fs.cat_file(path, start=1, end=7) == b"vector"
        assert fs.ls(folder, detail=False) == [path]
        # The create-if-absent that a shared store is built on.
        with pytest.raises(FileExistsError):
            fs.pipe_file(path, b"other", mode="create")
        fs.rm_file(path)
        assert not fs.exists(path)
    finally:
        s3fs.S3FileSystem.close_session(fs.loop, fs.s3)


def test_each_test_gets_its_own_bucket(s3_remote: Any, localstack: Any) -> None:
    assert s3_remote.url == f"s3://{s3_remote.bucket}/emb"
    assert s3_remote.storage_options["endpoint_url"] == localstack.endpoint_url
    localstack.create_bucket(s3_remote.bucket)  # a second time changes nothing


def test_a_bad_bucket_name_is_an_error(localstack: Any, localstack_module: ModuleType) -> None:
    with pytest.raises(localstack_module.LocalStackError, match="InvalidBucketName"):
        localstack.create_bucket("Not_A_Bucket")


def test_environment_is_complete_and_not_applied(localstack: Any) -> None:
    assert localstack.environment == {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{localstack.port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_listens_on_loopback_only(localstack: Any) -> None:
    # Linux routes all of 127/8 to the loopback device. A server on all interfaces would answer here.
    assert answers(localstack.port)
    assert sys.platform != "linux" or not answers(localstack.port, "127.0.0.2")


def test_keeps_its_files_in_its_own_directory(s3_remote: Any, localstack: Any) -> None:
    # By itself LocalStack writes to the real /var/lib inside a container, and objects to one place in /tmp.
    assert (localstack.log.parent / "var/lib/localstack/cache").is_dir()
    assert (localstack.log.parent / "objects" / s3_remote.bucket).is_dir()
    assert not Path("/tmp/localstack-s3-storage", s3_remote.bucket).exists()


def test_the_compose_file_is_the_same_server(localstack: Any, localstack_module: ModuleType) -> None:
    """On this machine only, on the same port; healthy when the bucket of the same name has been made."""
    composed = yaml.safe_load((FOLDER / "docker-compose.yml").read_text("utf-8"))["services"]["localstack"]
    assert composed["ports"] == [f"127.0.0.1:{localstack_module.DEFAULT_PORT}:4566"]
    assert composed["image"].endswith(localstack_module.REQUIREMENTS[0].rpartition("==")[2].removesuffix(".0"))
    (volume,) = composed["volumes"]
    scripts, there, mode = volume.split(":")
    assert (there, mode) == ("/etc/localstack/init/ready.d", "ro")
    assert all(os.access(script, os.X_OK) for script in (FOLDER / scripts).iterdir())
    # The container asks itself; here the same command asks the Docker-free server.
    kind, command = composed["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    command = command.replace("4566", str(localstack.port))
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert subprocess.run(["sh", "-c", command.replace("true", "false")], check=False).returncode != 0


def test_the_script_of_the_container_makes_the_bucket(
    localstack: Any, localstack_module: ModuleType, tmp_path: Path
) -> None:
    """Run against the Docker-free server, with a stand-in for `awslocal`."""
    bucket = f"ready-{uuid.uuid4().hex}"
    script = (FOLDER / "init" / "ready.d" / "bucket.sh").read_text("utf-8")
    assert f"s3 mb s3://{localstack_module.DEFAULT_BUCKET}\n" in script
    stand_in = f'#!/bin/sh\n[ "$1 $2" = "s3 mb" ] && curl -sSf -X PUT "{localstack.endpoint_url}/${{3#s3://}}"\n'
    (tmp_path / "awslocal").write_text(stand_in, "utf-8")
    (tmp_path / "awslocal").chmod(0o755)
    script = script.replace(localstack_module.DEFAULT_BUCKET, bucket)
    environment = {"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", script], env=environment, check=True, capture_output=True)
    fs = s3fs.S3FileSystem(**localstack.storage_options(), skip_instance_cache=True, use_listings_cache=False)
    try:
        assert fs.ls(bucket) == []
    finally:
        s3fs.S3FileSystem.close_session(fs.loop, fs.s3)


@pytest.mark.verify
def test_a_taken_port_is_an_error(localstack: Any, localstack_module: ModuleType) -> None:
    with (
        pytest.raises(localstack_module.PortTakenError, match=str(localstack.port)),
        localstack_module.running(port=localstack.port),
    ):
        pass
    assert answers(localstack.port)


@pytest.mark.parametrize(("ending", "message"), [("exit 3", "status 3"), ("exec sleep 60", "not healthy after 2 s")])
def test_a_server_that_fails_while_starting_shows_its_log(
    localstack_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str, message: str
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\necho out of luck\n{ending}\n")
    broken.chmod(0o755)
    monkeypatch.setattr(localstack_module, "install", lambda: broken)
    monkeypatch.setattr(localstack_module, "START_TIMEOUT", 2.0)
    with (
        pytest.raises(localstack_module.LocalStackError, match=message + r".*\n.*out of luck"),
        localstack_module.running(),
    ):
        pass


@pytest.mark.verify
def test_port_zero_is_a_free_port_and_the_server_stops_with_its_context(
    localstack: Any, localstack_module: ModuleType
) -> None:
    with localstack_module.running(port=0) as server:
        assert server.port not in (0, localstack.port)
        assert answers(server.port)
        directory = server.log.parent
        assert directory.is_dir()
    assert not answers(server.port)
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)


@pytest.mark.localstack
def test_server_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(RUN_SCRIPT)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        port, _, directory = parent.stdout.readline().decode().split(maxsplit=2)
        assert answers(int(port))
        parent.send_signal(signal.SIGKILL)
    wait_until_gone(int(port), Path(directory.strip()))


@pytest.mark.localstack
def test_command_line_prints_the_settings_and_stops_on_sigterm(localstack_module: ModuleType) -> None:
    localstack_module.install()
    command = [sys.executable, str(RUN_SCRIPT), "--port", "0", "--bucket", "one", "--bucket", "two"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(7)]
        port = int(lines[0].rpartition(":")[2])
        assert answers(port)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert not answers(port)
    assert lines[0] == f"export AWS_ENDPOINT_URL=http://127.0.0.1:{port}"
    assert lines[4:6] == ["# remote URL: s3://one/team", "# remote URL: s3://two/team"]


def test_a_second_install_does_nothing(
    localstack: Any, localstack_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localstack_module, "_build", lambda _: pytest.fail("installed again"))
    assert localstack_module.install().exists()


def test_an_install_is_redone_when_half_finished_or_when_a_pin_changed(
    localstack_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = []

    def build(directory: Path) -> None:
        built.append(directory)
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        (directory / "bin/python").touch()

    def fail(directory: Path) -> None:
        build(directory)
        raise localstack_module.LocalStackError("no network")

    monkeypatch.setattr(localstack_module, "_build", fail)
    with pytest.raises(localstack_module.LocalStackError, match="no network"):
        localstack_module.install(tmp_path)
    monkeypatch.setattr(localstack_module, "_build", build)
    localstack_module.install(tmp_path)
    assert len(built) == 2
    localstack_module.install(tmp_path)
    assert len(built) == 2
    monkeypatch.setattr(localstack_module, "REQUIREMENTS", ("other==1",))
    localstack_module.install(tmp_path)
    assert len(built) == 3
