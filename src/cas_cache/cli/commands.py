"""The commands by name, each imported when it is called: ``--help`` and ``ls`` answer before all of them could be.

A command's file is named as it is (``import_`` where Python has the word), and so is what it defines there.
"""

from __future__ import annotations

import importlib
import keyword
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

import click

from cas_cache.cli.talk import talking

if TYPE_CHECKING:
    from collections.abc import Iterator

SUMMARIES = {
    "check": "Compare what a repository holds with what it says.",
    "compact": "Merge a repository's small packs, so that new mirrors pull faster.",
    "demo": "See it work in seconds: cold, warm, and on a second machine.",
    "doctor": "Say what is wrong with a set-up or a storage, and what to do.",
    "drop": "Delete a namespace, with all its vectors, from a repository.",
    "evict": "Make a mirror smaller: what was used longest ago goes.",
    "export": "Write vectors as files of other tools.",
    "import": "Take vectors that something else stored.",
    "info": "Show what identifies a namespace, or the settings in force.",
    "keys": "Make signing keys, and list those that sign and are trusted.",
    "ls": "List the namespaces of a mirror, or with --there of a repository.",
    "prune": "Delete from a repository what nothing refers to.",
    "pull": "Take what the repository has and the mirror has not.",
    "push": "Publish what waits in the mirror.",
    "search": "Find the nearest neighbours of texts among the vectors of a mirror.",
    "status": "Say what is only here and what is only there.",
    "sync": "Pull, then push.",
}
"""What each is for, in a line of 80 columns."""


class Commands(MutableMapping[str, click.Command]):
    """Every command; to look at one is to import it."""

    def __init__(self) -> None:
        self._imported: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._imported:
            if name not in SUMMARIES:
                raise KeyError(name)
            file = f"{name}_" if keyword.iskeyword(name) else name
            self._imported[name] = talking(getattr(importlib.import_module(f"cas_cache.cli.{file}"), file))
        return self._imported[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._imported[name] = command

    def __delitem__(self, name: str) -> None:
        del self._imported[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


class Group(click.Group):
    """`Commands` with a help that imports none of them."""

    def __init__(self, **options: object) -> None:
        super().__init__(commands=Commands(), **options)  # type: ignore[arg-type]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write each with its summary."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(SUMMARIES.items()))
