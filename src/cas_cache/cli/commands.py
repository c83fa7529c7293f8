"""The commands by name, and their ``--help``, which ends with examples.

A command is imported when it is called, because importing all of them would slow every command.

A command's file has its name (``import_`` where Python reserves the word), and so has the command's object in it.
"""

from __future__ import annotations

import importlib
import keyword
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cas_cache.cli.output import verbosity_options, with_verbosity

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTIONS = {
    "Start": {
        "demo": "See it work in seconds: cold, warm, and on a second machine.",
        "doctor": "Find what is wrong with a set-up or a storage, and what to do.",
    },
    "Look": {
        "ls": "List the namespaces of a mirror, or of a repository's URL.",
        "info": "Show what identifies a namespace, or the settings in force.",
        "status": "Compare a mirror with its repository.",
        "search": "Find the nearest neighbours of texts among the vectors of a mirror.",
    },
    "Share": {
        "pull": "Download packs that the mirror does not have.",
        "push": "Publish the pending rows of a mirror.",
        "sync": "Pull, then push.",
        "keys": "Make signing keys, and list those that sign and are trusted.",
    },
    "Maintain": {
        "check": "Verify the objects of a repository, or the rows of a mirror.",
        "compact": "Merge a repository's small packs, so that new mirrors pull faster.",
        "prune": "Delete from a repository what nothing refers to.",
        "drop": "Delete a namespace, with all its vectors, from a repository.",
        "evict": "Make a mirror smaller: delete what was used longest ago.",
    },
    "Other tools": {
        "import": "Take vectors that something else stored.",
        "export": "Write vectors as files of other tools.",
    },
}
"""Commands in the sections of ``cas-cache --help``, with summaries that fit on a line of 80 columns."""

SUMMARIES = {name: summary for section in SECTIONS.values() for name, summary in section.items()}
"""The summary of every command."""


class Commands(MutableMapping[str, click.Command]):
    """Mapping of all commands by name; accessing a command imports it."""

    def __init__(self) -> None:
        self._imported: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._imported:
            if name not in SUMMARIES:
                raise KeyError(name)
            file = f"{name}_" if keyword.iskeyword(name) else name
            self._imported[name] = with_verbosity(getattr(importlib.import_module(f"cas_cache.cli.{file}"), file))
        return self._imported[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._imported[name] = command

    def __delitem__(self, name: str) -> None:
        del self._imported[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


class Command(click.Command):
    """A command whose ``--help`` ends with examples.

    Attributes:
        examples: Command lines, shown below the options in the order given. Each can be typed as shown.
    """

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **options: Any) -> None:
        options.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the examples without wrapping, because a wrapped command line cannot be copied."""
        with formatter.section("Examples"):
            for line in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class CommandGroup(Command, click.Group):
    """A group of commands with examples."""


class Group(CommandGroup):
    """Group of `Commands` whose help and completion import none of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(commands=Commands(), **options)
        self.params += verbosity_options()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write each command with its summary, section by section."""
        width = max(map(len, SUMMARIES))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer commands with their summaries, or options."""
        commands = [
            CompletionItem(name, help=summary) for name, summary in SUMMARIES.items() if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]
