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

`cas-cache` and `python -m cas_cache` are the same. CACHE is the directory of a mirror, or the URL or directory of a
repository. `--remote` is the URL or directory of a repository, or its name in the settings. Where neither is given, the
settings name both sides. `-n` is short for `--namespace` on every command.

Which side does a command look at?

- `compact`, `prune` and `drop` change the repository: that of CACHE or `--remote`, or the one that CACHE's mirror
  belongs to.
- `info`, `search`, `export`, `import` and `evict` use the mirror. For a URL, that is its mirror in the user's cache
  directory.
- `pull`, `push`, `sync`, `status` and `doctor` use both.
- `ls` and `check` look at what is named: a URL, the directory of a repository, or `--remote` alone is a repository,
  everything else is a mirror. `--repository` and `--mirror` choose the other side: `cas-cache check my_mirror` verifies
  the mirror, `cas-cache check my_mirror --repository` the repository that it belongs to. If both CACHE and `--remote`
  are given, one of the two options is needed.

- **Exit codes:** 0 success; 1 something failed, or a problem was found that should be repaired; 2 a usage error, or a
  command that would delete something and could not ask for confirmation; 130 stopped by Ctrl-C, 143 by SIGTERM.
- **`--json`** prints one document, and nothing else, on standard output: [its fields](json.md). Within a major version,
  fields may be added, but are not renamed or removed.
- **`--dry-run`**, on every command that writes, prints the plan and writes nothing, neither locally nor remotely.
- **`--yes`** skips the confirmation, on every command that deletes. Without it, the command shows its plan and asks. If
  standard input is not a terminal, or with `--json`, it cannot ask, and exits with 2 before it does anything.
- **`-q`** prints errors only (and the document, with `--json`). **`-v`** logs each action on standard error and shows
  tracebacks, `-vv` logs every detail. Both work before and after the command: `cas-cache -v ls`, `cas-cache ls -v`.
- **Ctrl-C** and SIGTERM stop a command at once and lose nothing: the same command run again continues where it stopped,
  even in the middle of a pack. A second signal does not wait for temporary files to be deleted.
- **Progress** is shown as a bar on a terminal, and in a log as a line every ten seconds for longer operations; with
  `-q` or `CAS_CACHE_PROGRESS=0` neither. `CAS_CACHE_PROGRESS=1` shows bars everywhere.
- **Completion:** put `eval "$(_CAS_CACHE_COMPLETE=bash_source cas-cache)"` into `~/.bashrc`; use `zsh_source` and
  `fish_source` for these shells. It completes commands, options, remotes of the settings, and namespaces, models and
  tasks of the mirror. It never contacts a remote.
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
