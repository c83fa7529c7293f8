"""Write docs/reference/cli.md, the reference of the command line, from the commands themselves.

    python docs/reference/make.py

A test compares the page with what this prints.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

os.environ["COLUMNS"] = "80"

from cas_cache.cli import cli
from cas_cache.cli.commands import SECTIONS

PAGE = Path(__file__).parent / "cli.md"

HEAD = """# Command line

Made from the code by `python docs/reference/make.py`.

`cas-cache` and `python -m cas_cache` are the same. CACHE is the directory of a mirror, or a repository's URL, whose
mirror is then in the user's cache directory; `cas-cache ls URL` lists the repository itself. Without CACHE the settings
say where. `--remote` is a URL, a directory, or a name from the settings. `-n` is `--namespace` on every command.

- **Exit codes:** 0 fine; 1 something failed, or was found that should be mended; 2 the command was not understood, or
  would delete something and nobody could be asked; 130 stopped by Ctrl-C, 143 by SIGTERM.
- **`--json`** prints one document, and nothing else, on standard output: [its fields](json.md). Fields may be added,
  none is renamed or removed within a major version.
- **`--dry-run`**, on every command that writes, says what would be done and writes nothing, here or there.
- **`--yes`**, on every command that deletes: without it the plan is shown and a person is asked. Where standard input
  is not a terminal, or with `--json`, nobody can be asked: the command ends with 2 before it does anything.
- **`-q`** prints errors only (and the document, with `--json`). **`-v`** logs what is done on standard error and shows
  tracebacks, `-vv` every detail. Both are taken before the command and after it: `cas-cache -v ls`, `cas-cache ls -v`.
- **Ctrl-C** and SIGTERM stop a command at once and lose nothing: the same command run again goes on where it stopped,
  in the middle of a pack too. A second one does not even wait for temporary files to go.
- **Progress** is a bar on a terminal; in a log, a line every ten seconds for what takes longer; with `-q` or
  `CAS_CACHE_PROGRESS=0` neither. `CAS_CACHE_PROGRESS=1` shows bars everywhere.
- **Completion:** `eval "$(_CAS_CACHE_COMPLETE=bash_source cas-cache)"` in `~/.bashrc`; `zsh_source` and `fish_source`
  for these shells. Commands, options, remotes of the settings, and namespaces, models and tasks of the mirror are
  completed; no remote is asked.
"""


def page() -> str:
    """Return the page."""
    commands = [(name, cli.commands[name]) for names in SECTIONS.values() for name in names]
    return HEAD + overview() + "".join(section(command, ("cas-cache", name)) for name, command in commands)


def overview() -> str:
    """Return the sections of `cas-cache --help` as a table with links."""
    rows = [
        f"| {title} | [`{name}`](#{anchor(name)}) | {summary} |"
        for title, commands in SECTIONS.items()
        for name, summary in commands.items()
    ]
    return "\n| | command | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def anchor(name: str) -> str:
    """Return the anchor of a command's heading; of a group's, that of its first command."""
    command = cli.commands[name]
    inner = f"-{min(command.commands)}" if isinstance(command, click.Group) else ""
    return f"cas-cache-{name}{inner}"


def section(command: click.Command, words: tuple[str, ...]) -> str:
    """Return a command's part of the page, and those of the commands below it."""
    if isinstance(command, click.Group):
        return "".join(section(inner, (*words, name)) for name, inner in sorted(command.commands.items()))
    context = click.Context(command, info_name=" ".join(words), max_content_width=80)
    context.help_option_names = ["-h", "--help"]
    return f"\n## {' '.join(words)}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
