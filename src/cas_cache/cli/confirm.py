"""``--yes``: commands that delete show their plan and ask first on a terminal; elsewhere they need the option."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from cas_cache.cli.verbosity import say

_F = TypeVar("_F", bound=Callable[..., Any])


def yes_option(command: _F) -> _F:
    """Add ``--yes`` to a command."""
    return click.option("--yes", is_flag=True, help="Do not ask. Needed where nobody can be asked.")(command)


def is_to_ask(*, yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Return True if the command must ask before it deletes. Called before any request, so that a script fails at once.

    Raises:
        click.UsageError: If it must ask but cannot: standard input is not a terminal, or ``--json`` was given.
    """
    if yes or dry_run:
        return False
    if as_json:
        raise click.UsageError("With --json nobody can be asked: add --yes or --dry-run.")
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(
            "This deletes, and nobody can be asked: standard input is not a terminal. Add --yes, or --dry-run to see "
            "the plan."
        )
    return True


def ask(question: str) -> None:
    """Ask on standard error, which ``-q`` does not silence; exit with 1 if the answer is no."""
    if not click.confirm(question, err=True):
        say("Nothing was deleted.", err=True)
        raise click.exceptions.Exit(1)
