"""Commands and groups whose ``--help`` ends with examples.

Adds to click the argument ``examples`` of a command. Each example is a single line that can be typed as shown.
"""

from __future__ import annotations

from typing import Any

import click


class Command(click.Command):
    """A command with examples.

    Attributes:
        examples: Command lines, shown below the options in the order given.
    """

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the examples without wrapping, because a wrapped command line cannot be copied."""
        with formatter.section("Examples"):
            for line in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class CommandGroup(Command, click.Group):
    """A group of commands with examples."""
