"""Play a page of the documentation as a new user would, and give the page back with what was really printed.

Purpose: outputs that are printed on a page are compared with real ones, and renewed from real ones.

Adds: `play`. A `python` block whose first line is ``# NAME.py`` is saved under that name; a `console` block is run line
by line (``$ `` begins a command, all else is what it prints, errors included); an `sh` block must succeed. So must the
commands and the caches in backticks between the blocks, each where it stands.

Never: lets a command see this process's directory or settings, but for what the caller passes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(?:(cas-cache [^`]+)|(EmbeddingCache\([^`]+\)))`")
HOME = "/home/you/tutorial"
"""Where pages say that they are played."""

VOLATILE = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "PACK"),  # drawn with a nonce
    (re.compile(r"http://127\.0\.0\.1:\d+"), "ENDPOINT"),
    (re.compile(r"\b\d+(\.\d)? (B|[kMG]B)( *$)?\b", re.MULTILINE), "SIZE"),  # of metadata that zarr and SDKs write
    (re.compile(r"bytes_(pushed|pulled)=[1-9]\d*"), r"bytes_\1=SIZE"),
    (re.compile(r"\d+(\.\d+)? s(econds)?\b|(?<=│) +\d+\.\d\d (?=│)"), "SECONDS"),
    (re.compile(r"\b\d{1,3}(,\d{3})+\b"), "MANY"),  # docstrings of this Python's library, bytes
    (re.compile(r" +$", re.MULTILINE), ""),
)


def settled(text: str) -> str:
    """Return a text with what differs from day to day replaced: pack ids, ports, sizes, seconds, spaces at the end."""
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


def play(
    text: str,
    folder: Path,
    environment: Mapping[str, str],
    instead: Mapping[str, Callable[[dict[str, str]], str]] | None = None,
) -> str:
    """Run a page's blocks, in order, in one folder.

    Args:
        text: The page.
        folder: An empty directory.
        environment: Of every command; ``export NAME=VALUE`` in a block adds to it.
        instead: Commands that are not run, by their words, and what gives their output; it is handed the environment
            of the commands that follow.

    Returns:
        The page, with the output that there was.
    """
    variables = {**environment, "COLUMNS": "80", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def prose(match: re.Match[str]) -> str:
        command, cache = (" ".join((words or "").split()) for words in match.groups())
        if cache:
            command = f"{sys.executable} -c 'from cas_cache import EmbeddingCache; {cache}.close()'"
        done = shell(command)
        assert done.returncode == 0, f"{match[0]}\n{done.stdout}"
        return match[0]

    def block(match: re.Match[str]) -> str:
        language, body = match.groups()
        if language == "python":
            first = body.partition("\n")[0]
            assert re.fullmatch(r"# \w+\.py", first), f"a block that is saved under no name: {first}"
            (folder / first[2:]).write_text(body, "utf-8")
        elif language == "sh":
            done = shell(body)
            assert done.returncode == 0, f"{body}\n{done.stdout}"
        elif language == "console":
            commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
            return f"```console\n{''.join(typed(command) for command in commands)}```"
        return match[0]

    def typed(command: str) -> str:
        if instead and command in instead:
            return f"$ {command}\n{instead[command](variables)}"
        assigned = re.fullmatch(r"export (\w+)=(\S*)", command)
        if assigned:
            variables[assigned[1]] = assigned[2]
            return f"$ {command}\n"
        if command.startswith("unset "):
            variables.pop(command.split()[1], None)
            return f"$ {command}\n"
        return f"$ {command}\n{shell(command).stdout.replace(str(folder), HOME)}"

    def shell(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    either = re.compile(f"{FENCED.pattern}|{INLINE.pattern}", re.DOTALL | re.MULTILINE)

    def part(match: re.Match[str]) -> str:
        fenced = FENCED.fullmatch(match[0])
        if fenced:
            return block(fenced)
        inline = INLINE.fullmatch(match[0])
        return prose(inline) if inline else match[0]

    return re.sub(r"^( *\S.*[^ \n]) +$", r"\1", either.sub(part, text), flags=re.MULTILINE)


def a_users(home: Path) -> dict[str, str]:
    """Return the environment of a user who has set nothing, with this interpreter's commands on the path."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
