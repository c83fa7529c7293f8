"""How much a command says: ``-q`` and ``-v``, which every command has."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from cas_cache.errors import printable
from cas_cache.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(slots=True)
class Talk:
    """What was asked for.

    Attributes:
        quiet: Print results only as JSON, if that is asked for; errors in any case.
        verbose: How often ``-v`` was given: once shows what is done, and tracebacks; twice every detail.
    """

    quiet: bool = False
    verbose: int = 0


def verbosity_options() -> list[click.Parameter]:
    """Return ``-q`` and ``-v``. They count wherever they are typed, before a command's name and after it."""

    def quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
        _talk(context).quiet |= value

    def verbose(context: click.Context, _: click.Parameter, value: int) -> None:
        talk = _talk(context)
        talk.verbose += value
        if value:
            _log(logging.DEBUG if talk.verbose > 1 else logging.INFO)

    more = "Say what is done, and show tracebacks; twice: every detail."
    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=quiet, help="Print errors only."),
        click.Option(["-v", "--verbose"], count=True, expose_value=False, callback=verbose, help=more),
    ]


def talking(command: click.Command) -> click.Command:
    """Give a command ``-q`` and ``-v``; a group's commands get them as well."""
    command.params += verbosity_options()
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            talking(inner)
        return command
    call = cast("Callable[..., Any]", command.callback)

    @functools.wraps(call)
    def call_quietly(*args: Any, **kwargs: Any) -> Any:
        if not _talk(click.get_current_context()).quiet or kwargs.get("as_json"):
            return call(*args, **kwargs)
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            return call(*args, **kwargs)

    command.callback = call_quietly
    return command


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a line or more that a terminal can only show: others wrote specs, ids of documents, names of objects."""
    # The streams themselves: click takes a stream of ASCII for a mistake and writes UTF-8 to it.
    click.echo(printable(text), file=sys.stderr if err else sys.stdout, nl=nl)


def is_quiet() -> bool:
    """Return True if ``-q`` was given: standard output is closed then, and what failed goes to standard error."""
    context = click.get_current_context(silent=True)
    return context is not None and _talk(context).quiet


def bars_wanted() -> bool | None:
    """Whether the command that runs shows how far it is: not if it is quiet, else as the settings say.

    None, if they say nothing: bars on a terminal, lines elsewhere.
    """
    return False if is_quiet() else Settings.read().progress


@contextlib.contextmanager
def libraries_are_quiet() -> Iterator[None]:
    """Keep warnings that others log off stderr, where Python prints them if nobody has said what to do with them."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def _talk(context: click.Context) -> Talk:
    return context.ensure_object(Talk)


def _log(level: int) -> None:
    """Send what ``cas_cache`` logs to stderr."""
    from cas_cache.cli.redact import PrintableFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("cas_cache")
    logger.handlers = [handler]
    logger.setLevel(level)
