"""Megabytes that each environment of the Makefile downloads, per Python version, on Linux (x86-64).

    python benchmarks/downloads.py [--python 3.11 --python 3.12]

uv resolves each environment against the package index, with constraints.txt, and downloads no package: the sizes come
from the index. torch and its own dependencies (CUDA) are shown separately, because an index with CPU builds has a wheel
of about 190 MB instead. Environments can be resolved for Pythons that are not installed. Prints a table and, as its
last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
INSTALLED = re.compile(r"^\$\((\w+)\)/\.ready: +INSTALL = (.*)$", re.MULTILINE)
CUDA = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)] + ["manylinux2014_x86_64", "linux_x86_64"]


def environments() -> dict[str, str]:
    """Return the arguments of pip for each environment of the Makefile."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return {name.lower(): what for name, what in INSTALLED.findall(makefile)}


def options(installed: str) -> list[str]:
    """Return the options of uv that correspond to the arguments of pip."""
    groups = [f"--group={name}" for name in re.findall(r"--group (\S+)", installed)]
    extras = re.search(r"\.\[([\w,]+)\]", installed)
    if extras:
        return ["pyproject.toml", *groups, *(f"--extra={name}" for name in extras[1].split(","))]
    return ["pyproject.toml", *groups] if "-e" in installed else groups


def resolve(installed: str, python: str) -> list[dict[str, Any]]:
    """Return the packages of an environment, as pylock.toml describes them.

    Raises:
        RuntimeError: If it cannot be resolved: a package has no release for this Python.
    """
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder, "pylock.toml")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--system-certs", "--no-build"]
        command += [
            *options(installed),
            "--constraint=constraints.txt",
            "--format=pylock.toml",
            f"--output-file={lock}",
        ]
        command += [f"--python-version={python}", "--python-platform=x86_64-manylinux_2_28"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        packages: list[dict[str, Any]] = tomllib.loads(lock.read_text("utf-8"))["packages"]
        return packages


def size(package: dict[str, Any], python: str) -> int:
    """Return the size in bytes of the file that pip downloads: the best wheel, otherwise the source."""
    version = tuple(map(int, python.split(".")))
    tags = [*cpython_tags(version, platforms=PLATFORMS), *compatible_tags(version, platforms=PLATFORMS)]
    rank = {tag: number for number, tag in reversed(list(enumerate(tags)))}
    ranked = [
        (min(rank[tag] for tag in fitting), int(wheel["size"]))
        for wheel in package.get("wheels", ())
        if (fitting := parse_wheel_filename(wheel.get("name") or wheel["url"].rpartition("/")[2])[3] & rank.keys())
    ]
    return min(ranked)[1] if ranked else int(package["sdist"]["size"])


def measure(installed: str, python: str) -> dict[str, float]:
    """Return megabytes of torch with CUDA, and of all other packages."""
    found = {"rest": 0.0, "torch": 0.0}
    for package in resolve(installed, python):
        if "wheels" in package or "sdist" in package:  # not this project itself
            found["torch" if CUDA.fullmatch(package["name"]) else "rest"] += size(package, python) / 1e6
    return {name: round(megabytes, 1) for name, megabytes in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="may be repeated (default: all that are supported)")
    pythons = parser.parse_args().python or PYTHONS
    measured: dict[str, dict[str, dict[str, float] | str]] = {}
    table = Table(title="MB without torch + MB of torch and CUDA")
    for column in ("environment", *pythons):
        table.add_column(column, justify="right")
    for name, installed in environments().items():
        row = measured.setdefault(name, {})
        for python in pythons:
            try:
                row[python] = measure(installed, python)
            except RuntimeError as err:
                row[python] = str(err)
        cells = (f"{c['rest']:,.0f} + {c['torch']:,.0f}" if isinstance(c, dict) else "none" for c in row.values())
        table.add_row(name, *cells)
    Console().print(table)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
