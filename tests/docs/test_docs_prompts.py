"""Every snippet that names a prompt gives that prompt to the encoder.

The cache puts the prompt in front, so a snippet is right by construction unless it adds the prompt itself or says
`adds_prompt=True` without doing so. All snippets are read for that; those of the pages are run by their own tests.
"""

from __future__ import annotations

import re

import pytest

from paths import ROOT

SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = [*sorted((ROOT / "examples").rglob("*.py")), ROOT / "src" / "cas_cache" / "demo.py"]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CALL = re.compile(r"\.encode\(.*?(?:encode=|, )(?P<encoder>lambda.*|\w+)\)", re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    found = [(str(path.relative_to(ROOT)), body) for path in SOURCES for body in FENCE.findall(path.read_text("utf-8"))]
    scripts = [(str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in SCRIPTS]
    return [(where, body) for where, body in found + scripts if "EncoderSpec" in body or "cache.encode" in body]


def test_there_are_snippets_with_a_prompt() -> None:
    """The pattern finds what it looks for."""
    assert sum(re.search(r"EncoderSpec\([^)]*prompt=", body) is not None for _, body in blocks()) >= 3


@pytest.mark.parametrize(("where", "body"), blocks())
def test_a_snippet_adds_no_prompt_of_its_own(where: str, body: str) -> None:
    """A lambda that puts the prompt in front would put it there twice; `adds_prompt` is for one that passes it on."""
    for line in body.splitlines():
        if ".encode(" not in line:
            continue
        adds = re.search(r"(?:prompt|\"[a-z]+: \")\s*\+|prompt=", line) is not None
        assert adds == ("adds_prompt=True" in line), f"{where}: {line.strip()}"
