"""docs/tutorial.md is played in an empty directory, block by block, as a new user would, and prints what it says.

To renew what it prints: `PYTHONPATH=tests/support python tests/docs/test_docs_tutorial.py`, and read the difference.
"""

import difflib
import re
import tempfile
import tomllib
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from page_runner import a_users, play, settled
from paths import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
INSTALLS = re.compile(r"^```sh\n((?:.*\n)?pip install .*\n(?:.*\n)?)```$", re.MULTILINE)
"""The blocks that install: the only ones that are looked at, not run."""


def played(folder: Path, server: Any) -> str:
    """Return the page with what is printed when it is played in a folder, with an S3 server at hand."""
    text = PAGE.read_text("utf-8")
    kept: list[str] = INSTALLS.findall(text)
    for number, block in enumerate(kept):
        text = text.replace(f"```sh\n{block}```", f"(install {number})")
    server.create_bucket("cas-cache")
    exports = "".join(f"export {name}={value}\n" for name, value in server.environment.items())

    def start(variables: dict[str, str]) -> str:
        variables.update(server.environment)  # what the page tells to type
        said = f"{exports}# remote URL: s3://cas-cache/team\n# Ctrl-C stops the server and drops its data.\n"
        return said.replace(server.endpoint_url, "http://127.0.0.1:4566")

    text = play(text, folder, a_users(folder), {"../localstack/run": start})
    for number, block in enumerate(kept):
        text = text.replace(f"(install {number})", f"```sh\n{block}```")
    return text


@pytest.mark.verify
@pytest.mark.localstack
@pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")
def test_the_tutorial_prints_what_it_says(localstack: Any, tmp_path: Path) -> None:
    """Every block runs, in order, in an empty directory, and what it prints is on the page."""
    assert not re.search("Traceback|should not have happened", PAGE.read_text("utf-8"))
    said, seen = (settled(text).splitlines() for text in (PAGE.read_text("utf-8"), played(tmp_path, localstack)))
    assert not "\n".join(difflib.unified_diff(said, seen, "the page", "what was printed", lineterm=""))
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith((".", "new_mirror"))]


def test_the_tutorial_installs_what_there_is() -> None:
    """What it tells to install by name is an extra of this package, or a package that the tests install too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    blocks = INSTALLS.findall(PAGE.read_text("utf-8"))
    assert len(blocks) == 2
    for line in re.findall(r"pip install (.*)", "".join(blocks)):
        ours, *others = line.split()
        extras = re.fullmatch(r"'\.\.?\[([\w,]+)\]'", ours)
        assert extras is not None
        assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])
        groups = project["dependency-groups"]
        tested = [*groups["test"], *groups["demo"]]
        assert all(any(isinstance(one, str) and one.startswith(other) for one in tested) for other in others)


def renew() -> None:
    """Write what is really printed into the page."""
    spec = spec_from_file_location("localstack_run", ROOT / "localstack" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder, module.running(port=0, buckets=()) as server:
        text = played(Path(folder), server)
    assert not re.search("Traceback|should not have happened", text), text
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    renew()
