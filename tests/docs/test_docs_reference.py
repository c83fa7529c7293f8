"""docs/reference/cli.md is what the code says."""

import subprocess
import sys
import tomllib
from pathlib import Path

from cas_cache.cli import cli
from cas_cache.config.settings import KINDS, VARIABLES
from paths import ROOT


def test_the_reference_is_up_to_date() -> None:
    """If this fails: `python docs/reference/make.py`, and read what changed."""
    script = "import sys; sys.path.insert(0, 'docs/reference'); import make; print(make.page(), end='')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    for name in cli.commands:
        assert f"## cas-cache {name}" in done.stdout


def test_completion_is_there() -> None:
    """What the page says to put into ~/.bashrc prints a script."""
    environment = {"_CAS_CACHE_COMPLETE": "bash_source", "PATH": "/usr/bin:/bin"}
    command = str(Path(sys.executable).with_name("cas-cache"))
    done = subprocess.run([command], env=environment, capture_output=True, text=True, check=True)
    assert "complete " in done.stdout
    assert "cas-cache" in done.stdout


def test_every_setting_is_documented() -> None:
    """By its name in a file and in the environment; the example is one that is read."""
    text = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    for name, variable in VARIABLES.items():
        assert f"| `{name}` | `{variable}` |" in text
    example = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    assert set(example) <= {*KINDS, "remotes"}
    assert example["remotes"][example["remote"]].startswith("s3://")
