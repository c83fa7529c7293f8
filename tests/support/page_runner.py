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
INLINE = re.compile(r"`(?:cas-cache [^`]+|EmbeddingCache\([^`]+\))`")
EITHER = re.compile(f"{FENCED.pattern}|{INLINE.pattern}", re.DOTALL | re.MULTILINE)
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
    *,
    prose: bool = True,
) -> str:
    """Run a page's blocks, and the commands in its prose, in order, in one folder.

    Args:
        text: The page.
        folder: An empty directory.
        environment: Of every command; ``export NAME=VALUE`` in a block adds to it.
        instead: Commands that are not run, by their words, and what gives their output; it is handed the environment
            of the commands that follow.
        prose: Run the commands in the prose, too; False for a page that only names commands between its blocks.

    Returns:
        The page, with the output that there was.
    """
    variables = {**environment, "COLUMNS": "80", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    played = (EITHER if prose else FENCED).sub(Shell(folder, variables, instead or {}).part, text)
    return re.sub(r"^( *\S.*[^ \n]) +$", r"\1", played, flags=re.MULTILINE)


class Shell:
    """What a reader has: a folder, variables, and commands that stand for those which cannot run in a test."""

    def __init__(
        self, folder: Path, variables: dict[str, str], instead: Mapping[str, Callable[[dict[str, str]], str]]
    ) -> None:
        self.folder, self.variables, self.instead = folder, variables, instead

    def part(self, match: re.Match[str]) -> str:
        """Play a block, or what is in backticks; return it with its output."""
        fenced = FENCED.fullmatch(match[0])
        return self.block(fenced) if fenced else self.prose(match)

    def block(self, match: re.Match[str]) -> str:
        language, body = match.groups()
        if language == "python":
            first = body.partition("\n")[0]
            assert re.fullmatch(r"# \w+\.py", first), f"a block that is saved under no name: {first}"
            (self.folder / first[2:]).write_text(body, "utf-8")
        elif language == "sh":
            self.must(body)
        elif language == "console":
            commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
            return f"```console\n{''.join(self.typed(command) for command in commands)}```"
        return match[0]

    def prose(self, match: re.Match[str]) -> str:
        """Run a command, or open a cache; one that is broken over two lines is one line."""
        words = " ".join(match[0].strip("`").split())
        if words.startswith("EmbeddingCache"):
            words = f"python -c 'from cas_cache import EmbeddingCache; {words}.close()'"
        self.must(words)
        return match[0]

    def typed(self, command: str) -> str:
        if command in self.instead:
            return f"$ {command}\n{self.instead[command](self.variables)}"
        assigned = re.fullmatch(r"export (\w+)=(\S*)", command)
        if assigned:
            self.variables[assigned[1]] = assigned[2]
            return f"$ {command}\n"
        if command.startswith("unset "):
            self.variables.pop(command.split()[1], None)
            return f"$ {command}\n"
        return f"$ {command}\n{self.run(command).stdout.replace(str(self.folder), HOME)}"

    def must(self, command: str) -> None:
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}"

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


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
