"""docs/how-to/maintenance.md: its console is what is printed, and its usage lines name every option."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import cli
from paths import ROOT
from storages import SPEC, texts, truth

PAGE = (ROOT / "docs" / "how-to" / "maintenance.md").read_text("utf-8")


@pytest.mark.verify
def test_the_console_prints_what_is_printed(tmp_path: Path) -> None:
    """Each line after a $, in a folder with a repository named `shared`, where nobody can be asked."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "shared") as cache:
        cache.put(texts(3), truth(texts(3)), SPEC)
    (console,) = re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin", "HOME": str(tmp_path)}
    said = ""
    for line in re.findall(r"^\$ (.*)$", console, re.MULTILINE):
        done = subprocess.run(
            ["bash", "-c", f"{line} 2>&1"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said += f"$ {line}\n{done.stdout}"
    assert said == console


@pytest.mark.parametrize("name", ["compact", "prune", "drop", "evict"])
def test_usage_lines_name_every_option(name: str) -> None:
    """But for what all commands have."""
    lines = re.findall(rf"^cas-cache {name} \[.*$", PAGE, re.MULTILINE)
    assert len(lines) == (2 if name == "drop" else 1)
    options = {it.opts[-1] for it in cli.commands[name].params if isinstance(it, click.Option)}
    assert options - {"--quiet", "--verbose", "--storage-option", "--remote"} == set(
        re.findall(r"--[a-z-]+", " ".join(lines))
    ) - {"--remote"}
