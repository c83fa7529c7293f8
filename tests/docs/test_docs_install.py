"""docs/install.md and docs/index.md: what they tell to type is what exists."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from installs import ROOT, assert_installs

SH = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = ("install.md", "index.md")


def lines(page: str) -> list[str]:
    return "".join(SH.findall((ROOT / "docs" / page).read_text("utf-8"))).splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_every_line_is_known(run: Any, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installs name extras that exist; commands run. Demo and completion have tests of their own."""
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path))
    for line in lines(page):
        words = shlex.split(line)
        if words[:2] == ["pip", "install"]:
            assert_installs(words[2:])
        elif line == "cas-cache demo":
            continue  # test_cli_demo.py runs it, and compares what it prints
        elif words[0] == "cas-cache":
            assert run(*words[1:]).code == 0, line
        else:
            assert words[0] in {"git", "python3", "eval"}, line


def test_every_extra_is_on_the_page() -> None:
    """With what it is for, and the Pythons that the package supports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "docs" / "install.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert rows == {extra for extra in project["optional-dependencies"] if extra != "all"}
    for line in project["classifiers"]:
        if ":: Python :: 3." in line:
            assert line.rpartition(" ")[2] in text
