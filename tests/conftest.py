"""Fixtures for all tests.

Purpose: give tests an S3 remote that is real enough, and keep the developer's own settings out.

Adds: `localstack`, one server for the session; `s3_remote`, one new bucket for each test; `run`, the command line;
and the marker `localstack` on every test that uses them, so `-m "not localstack"` leaves them out. Tests that use
another emulator get the marker `verify`, so `make test` needs no Node.js.

With CAS_CACHE_TEST_REMOTE=s3://bucket/prefix, `s3_remote` is a new prefix there instead, with the user's AWS_*
variables; tests that make buckets, or look into the server, are skipped.

Prints, after the last test, the figures that tests noted with `figure`: crash points, schedules, damages.

Turns the self-check off: most tests count what is encoded, and their encoders are made up. Its own tests turn it on.

Stops ignoring SIGINT: a shell without job control starts background programs with SIGINT ignored, which the processes
that tests start would inherit, so that tests of Ctrl-C would fail.

Never: changes the environment outside a test, or lets a test see CAS_CACHE_* or AWS_* from outside.
"""

import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from cas_cache.cli import main
from user_remote import VARIABLE, UserRemote

RUN_SCRIPT = Path(__file__).resolve().parent.parent / "localstack" / "run.py"
FIGURE = "figure "
EMULATORS = {"rclone_place", "seaweed_place", "google_place", "azure_place"}
USER_REMOTE = UserRemote.of_environment()


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class S3Remote:
    """A place of its own for one test: a bucket, or a prefix in the user's.

    Attributes:
        url: The remote URL.
        storage_options: The s3fs options that reach it.
        own_bucket: The bucket, if that is the test's own too.
    """

    url: str
    storage_options: dict[str, Any]
    own_bucket: str | None = None

    @property
    def bucket(self) -> str:
        """Return the bucket, for a test that may do with it what it likes."""
        if self.own_bucket is None:
            pytest.skip(f"needs a whole bucket; {VARIABLE} gives it a prefix of one")
        return self.own_bucket


def pytest_configure() -> None:
    """Stop ignoring SIGINT, so that the processes of the tests do not ignore it either."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str | None:
    """Say which S3 the tests use, if it is not their own."""
    return None if USER_REMOTE is None else f"S3: {USER_REMOTE.url}, {USER_REMOTE.storage_options or 'at Amazon'}"


NEEDS = {
    "docs/test_docs_demo.py": ("mteb", "mteb"),
    "docs/test_docs_readme.py": ("mteb", "mteb"),
    "unit/interop": ("mteb", "mteb"),
    "mteb": ("mteb", "mteb"),
    "mteb/test_search_mteb.py": ("mteb", "mteb"),
    "unit/search": ("faiss", "faiss"),
    "unit/security": ("mteb", "mteb"),
    "docs/test_stdlib_docs.py": ("mteb", "mteb"),
}
"""Modules and folders of tests, with the package that they cannot do without and the extra that installs it."""


class _Skipped(pytest.Module):
    """A module that is not imported, because a package that it needs is not installed."""

    def collect(self) -> Any:
        package, extra = NEEDS[_place(self.path)]
        pytest.skip(f"{package} is not installed: pip install 'cas-cache[{extra}]'", allow_module_level=True)


def _place(path: Path) -> str:
    """Return the entry of `NEEDS` whose package is missing for a module, or an empty string."""
    below = path.relative_to(Path(__file__).parent)
    places = [below.as_posix(), *(folder.as_posix() for folder in below.parents)]
    missing = [place for place in places if place in NEEDS and importlib.util.find_spec(NEEDS[place][0]) is None]
    return missing[0] if missing else ""


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Skip a whole module, with the reason, where a package that it needs is not installed."""
    return _Skipped.from_parent(parent, path=module_path) if _place(module_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the servers that they use: `localstack`, and `verify` for the emulators of other services."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if {"localstack", "s3_remote"} & fixtures:
            item.add_marker("localstack")
        if EMULATORS & fixtures:
            item.add_marker("verify")


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what imports made: torch and mteb alone are a million objects."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests noted with `figure`, of both processes."""
    totals: Counter[str] = Counter()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if getattr(report, "when", None) == "call":
            for name, amount in report.user_properties:
                if name.startswith(FIGURE):
                    totals[name] += amount
    if totals:
        terminalreporter.section("figures")
        for name, amount in sorted(totals.items()):
            terminalreporter.line(f"{amount:>12,}  {name.removeprefix(FIGURE)}")


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Return a function that notes a number of this test: of one name, the sum over all tests is printed."""

    def note(name: str, amount: int) -> None:
        record_property(f"{FIGURE}{name}", amount)

    return note


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in list(os.environ):
        if name.startswith(("CAS_CACHE_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("CAS_CACHE_SELF_CHECK", "0")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-configuration"))


@pytest.fixture(scope="session")
def localstack_module() -> ModuleType:
    """Return `localstack/run.py` as a module, loaded by its path."""
    spec = importlib.util.spec_from_file_location("cas_cache_localstack_run", RUN_SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def localstack(request: pytest.FixtureRequest, localstack_module: ModuleType) -> Iterator[Any]:
    """Run one LocalStack server for the session, on a free port."""
    if USER_REMOTE is not None:
        pytest.skip(f"makes buckets or looks into the server, which {VARIABLE} is not for")
    # The first use installs the server and prints a line about it, which must not become output of the first test.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        localstack_module.install()
    with localstack_module.running(port=0, buckets=()) as server:
        yield server


@pytest.fixture
def s3_remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Remote]:
    """Return a place with nothing in it and the s3fs options that reach it."""
    if USER_REMOTE is None:
        localstack = request.getfixturevalue("localstack")
        bucket = f"test-{uuid.uuid4().hex}"
        localstack.create_bucket(bucket)
        yield S3Remote(f"s3://{bucket}/emb", localstack.storage_options(), own_bucket=bucket)
        return
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    for name, value in USER_REMOTE.environment.items():
        monkeypatch.setenv(name, value)
    with USER_REMOTE.prefix() as url:
        yield S3Remote(f"{url}/emb", USER_REMOTE.storage_options)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command in this process."""
    monkeypatch.setenv("COLUMNS", "80")
    logger = logging.getLogger("cas_cache")  # -v sets it up for the process, which is this one
    monkeypatch.setattr(logger, "handlers", logger.handlers)
    monkeypatch.setattr(logger, "level", logger.level)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["cas-cache", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(ended.value.code or 0, captured.out, captured.err)

    return run
