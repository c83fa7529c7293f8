"""Run a LocalStack S3 server on this machine without Docker.

Purpose: give people, tests and the demo an S3 endpoint that needs no account and no container.

Adds: `install`, which puts LocalStack into a virtual environment of its own; `running`, a context manager
around a server; and a command line that keeps a server in the foreground.

Never: listens on anything but 127.0.0.1, keeps data after the server stops, writes outside `.localstack/` and
one temporary directory, reads the caller's AWS settings, or changes the caller's environment.

It needs POSIX and only the standard library, so it can be loaded by path from anywhere.
"""

import argparse
import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

HOST = "127.0.0.1"
DEFAULT_PORT = 4566
DEFAULT_BUCKET = "cas-cache"
HOME = Path(__file__).resolve().parent.parent / ".localstack"
START_TIMEOUT = 60.0

# 4.14.0 needs Python 3.13. With newer versions of the other four packages 4.12.0 does not start.
REQUIREMENTS = (
    "localstack-core[base-runtime]==4.12.0",
    "cbor2<6",
    "pyopenssl<25.2",
    "cryptography<46",
    "service-identity<25",
)

_SERVE = "_serve"  # first argument of the inner process, see `_serve`
_CATALOG = "usr/lib/localstack"  # where LocalStack looks for its index of services, below FILESYSTEM_ROOT
_BIND_FAILED = 98  # exit status of the inner process when the port is taken
_TAIL_LINES = 30


class LocalStackError(RuntimeError):
    """LocalStack could not be installed, started or used."""


class PortTakenError(LocalStackError):
    """Another process already listens on the requested port."""


class Server:
    """A running LocalStack server. Made by `running`; not meant to be made directly.

    Attributes:
        port: the TCP port on 127.0.0.1.
        pid: process id of the server, which is also its process group.
        log: file that holds the server's output until it stops.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.port = port
        self.pid = process.pid
        self.log = log
        self._process = process

    @property
    def endpoint_url(self) -> str:
        """Return the base URL of the S3 endpoint."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the AWS variables that point any AWS client at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def storage_options(self, **extra: Any) -> dict[str, Any]:
        """Return the s3fs options that reach this server without any environment variable.

        Args:
            **extra: further s3fs options; they win over the ones given here.
        """
        return {"key": "test", "secret": "test", "endpoint_url": self.endpoint_url, **extra}

    def create_bucket(self, name: str) -> None:
        """Create a bucket; an existing one is left as it is.

        Args:
            name: bucket name, as S3 allows it.

        Raises:
            LocalStackError: the server refused the name or did not answer.
        """
        request = urllib.request.Request(f"{self.endpoint_url}/{name}", method="PUT")
        try:
            _fetch(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error.read().decode(errors="replace")
            raise LocalStackError(f"Cannot create the bucket {name!r}: {answer}") from error
        except OSError as error:
            raise LocalStackError(f"Cannot create the bucket {name!r}: {error}") from error

    def wait(self) -> int:
        """Wait until the server ends by itself and return its exit status."""
        return self._process.wait()

    def log_tail(self) -> str:
        """Return the last lines of the server's output."""
        return _tail(self.log.read_text(errors="replace")) if self.log.exists() else "(no output)"


def install(home: Path = HOME) -> Path:
    """Install LocalStack into a virtual environment of its own, unless it is there already.

    Several processes may call this at once: one installs, the others wait for it. The stamp is written last
    and holds the requirements, so a half-finished install and one with other pins are both redone.

    Args:
        home: directory that holds the environment, the stamp and the lock.

    Returns:
        The Python interpreter of the environment.

    Raises:
        LocalStackError: the environment could not be built.
    """
    python = home / "venv" / "bin" / "python"
    if _installed(home):
        return python
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _installed(home):
            print(f"Installing {REQUIREMENTS[0]} into {home} (first use only) ...", file=sys.stderr, flush=True)
            (home / "stamp").unlink(missing_ok=True)
            _build(home / "venv")
            unfinished = home / "stamp.new"
            unfinished.write_text(_stamp())
            unfinished.replace(home / "stamp")
    return python


@contextlib.contextmanager
def running(port: int = 0, buckets: Iterable[str] = (DEFAULT_BUCKET,)) -> Iterator[Server]:
    """Run a server for as long as the context is open.

    The server dies with the calling process, even when that is killed with SIGKILL.

    Args:
        port: TCP port on 127.0.0.1; 0 picks a free one.
        buckets: buckets to create before the context opens.

    Yields:
        The healthy server.

    Raises:
        PortTakenError: another process listens on `port`.
        LocalStackError: the server did not become healthy; the message ends with the tail of its log.
    """
    python = install()
    with contextlib.ExitStack() as stack:
        for attempts_left in (2, 1, 0):
            try:
                server = stack.enter_context(_process(python, port or _free_port()))
                break
            except PortTakenError:
                # Between choosing a free port and listening on it another process can take it.
                if port or not attempts_left:
                    raise
        for bucket in buckets:
            server.create_bucket(bucket)
        yield server


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: the command line without the program name; by default the process's own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [_SERVE]:
        _serve(Path(arguments[1]), int(arguments[2]))
        return 0
    parser = argparse.ArgumentParser(prog="localstack/run", description="Run a LocalStack S3 server without Docker.")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--bucket", action="append", metavar="NAME", help=f"may be repeated (default: {DEFAULT_BUCKET})"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _foreground(options.port, options.bucket or [DEFAULT_BUCKET])
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 0
    except LocalStackError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _foreground(port: int, buckets: list[str]) -> int:
    with running(port, buckets) as server:
        for name, value in server.environment.items():
            print(f"export {name}={value}")
        for bucket in buckets:
            print(f"# remote URL: s3://{bucket}/team")
        print("# Ctrl-C stops the server and drops its data.", flush=True)
        status = server.wait()
        raise LocalStackError(f"LocalStack ended by itself with status {status}.\n{server.log_tail()}")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stamp() -> str:
    return "\n".join(REQUIREMENTS) + "\n"


def _installed(home: Path) -> bool:
    # The interpreter is a link to the one that built the environment, which may be gone by now.
    stamp = home / "stamp"
    return (home / "venv/bin/python").exists() and stamp.exists() and stamp.read_text() == _stamp()


def _build(directory: Path) -> None:
    python = [str(directory / "bin" / "python"), "-I", "-m"]
    _run([sys.executable, "-I", "-m", "venv", "--clear", str(directory)])
    _run([*python, "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *REQUIREMENTS])
    # Building the index of services takes longer than all the rest of a start, so it is built here, once.
    (directory / _CATALOG).mkdir(parents=True)
    _run([*python, "localstack.aws.spec"], _environment(directory))


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    result = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if result.returncode:
        output = _tail(result.stdout.decode(errors="replace"))
        raise LocalStackError(f"Cannot install LocalStack: {' '.join(command)} failed.\n{output}")


@contextlib.contextmanager
def _process(python: Path, port: int) -> Iterator[Server]:
    root = Path(tempfile.mkdtemp(prefix="cas-cache-localstack-"))
    try:
        with _popen(python, root, port) as process:
            server = Server(process, port, root / "server.log")
            try:
                _wait_until_healthy(server, process)
                yield server
            finally:
                # There is nothing to save, so the whole group is killed rather than asked. Once its leader
                # has been reaped the number may belong to another group.
                if process.returncode is None:
                    # macOS answers PermissionError for a group whose only member has just ended.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _environment(root: Path) -> dict[str, str]:
    # Built from nothing: the caller's AWS and LocalStack settings must not change the server.
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(root),
        "TMPDIR": str(root),
        "FILESYSTEM_ROOT": str(root),
        "OVERRIDE_IN_DOCKER": "0",  # inside any container it would ignore FILESYSTEM_ROOT and use /var/lib
    }


def _popen(python: Path, root: Path, port: int) -> "subprocess.Popen[bytes]":
    environment = _environment(root) | {
        "SERVICES": "s3",
        "EAGER_SERVICE_LOADING": "1",
        "GATEWAY_LISTEN": f"{HOST}:{port}",
        "LOCALSTACK_HOST": f"{HOST}:{port}",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DISABLE_EVENTS": "1",
        "DNS_ADDRESS": "0",
        "LS_LOG": "warning",
    }
    (root / _CATALOG).parent.mkdir(parents=True)
    (root / _CATALOG).symlink_to(python.parent.parent / _CATALOG)
    with (root / "server.log").open("wb") as log:
        return subprocess.Popen(
            [str(python), "-I", str(Path(__file__).resolve()), _SERVE, str(root), str(port)],
            env=environment,
            cwd=root,
            stdin=subprocess.PIPE,  # its end of file tells the server that this process is gone
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal must reach this process only
        )


def _wait_until_healthy(server: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not _healthy(server):
        status = process.poll()
        if status == _BIND_FAILED:
            raise PortTakenError(f"Port {server.port} on {HOST} is taken. Choose another one, or 0 for a free one.")
        if status is not None:
            raise LocalStackError(f"LocalStack ended with status {status} while starting.\n{server.log_tail()}")
        if time.monotonic() > deadline:
            raise LocalStackError(f"LocalStack was not healthy after {START_TIMEOUT:.0f} s.\n{server.log_tail()}")
        time.sleep(0.05)


def _healthy(server: Server) -> bool:
    # "Ready." comes from this very server; the health address alone could be answered by another one.
    if b"\nReady.\n" not in server.log.read_bytes():
        return False
    try:
        _fetch(urllib.request.Request(f"{server.endpoint_url}/_localstack/health"), timeout=5)
    except OSError:
        return False
    return True


def _fetch(request: urllib.request.Request, timeout: float) -> bytes:
    # The empty handler keeps a configured proxy away from 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as response:
        body: bytes = response.read()
    return body


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_TAIL_LINES:]) or "(no output)"


def _serve(root: Path, port: int) -> None:
    """Be the server. Runs in the process that `_popen` starts, with the environment's own interpreter.

    LocalStack's usual entry point is wrapped for four reasons: its web server listens on all interfaces
    whatever GATEWAY_LISTEN says; it stays up when its port is taken; all servers on a machine keep large
    objects in one fixed directory, so one that deletes a bucket would delete another's objects; and it
    outlives the process that started it.
    """
    threading.Thread(target=_die_with_parent, args=(root, os.getppid()), daemon=True).start()

    from localstack.runtime.main import main as localstack_main
    from localstack.services.s3 import provider
    from twisted.internet import endpoints

    all_interfaces = endpoints.TCP4ServerEndpoint

    class LoopbackEndpoint(all_interfaces):  # type: ignore[misc, valid-type]
        def __init__(self, reactor: Any, port: int) -> None:
            super().__init__(reactor, port, interface=HOST)

        def listen(self, protocol_factory: Any) -> Any:
            return super().listen(protocol_factory).addErrback(_bind_failed, port)

    endpoints.TCP4ServerEndpoint = LoopbackEndpoint
    provider.DEFAULT_S3_TMP_DIR = str(root / "objects")
    localstack_main()


def _bind_failed(failure: Any, port: int) -> None:
    print(f"Cannot listen on {HOST}:{port}: {failure.getErrorMessage()}", flush=True)
    os._exit(_BIND_FAILED)


def _die_with_parent(root: Path, parent: int) -> None:
    # End of file on stdin means that the parent is gone. A forked child of the parent may hold the other end
    # open, so the parent's process id is looked at as well.
    while os.getppid() == parent and not select.select([0], [], [], 1.0)[0]:
        pass
    shutil.rmtree(root, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
