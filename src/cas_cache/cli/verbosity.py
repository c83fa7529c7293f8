"""Verbosity: ``-q`` and ``-v``, which every command has."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from cas_cache.config.settings import Settings
from cas_cache.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(slots=True)
class Talk:
    """Requested verbosity.

    Attributes:
        quiet: True to print results only as JSON, if that is requested; errors are always printed.
        verbose: The number of times that ``-v`` was given: once shows what is done, and tracebacks; twice shows all
            details.
    """

    quiet: bool = False
    verbose: int = 0


def verbosity_options() -> list[click.Parameter]:
    """Return ``-q`` and ``-v``. They count wherever they are typed, before or after a command's name."""

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
    """Add ``-q`` and ``-v`` to a command and, for a group, to its commands."""
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
    """Print text, without characters that a terminal would act on: specs, ids and object names come from others."""
    # Pass the streams explicitly: click takes an ASCII stream for a mistake and would write UTF-8 to it.
    click.echo(printable(text), file=sys.stderr if err else sys.stdout, nl=nl)


def is_quiet() -> bool:
    """Return True if ``-q`` was given: then standard output is discarded, and failures go to standard error."""
    context = click.get_current_context(silent=True)
    return context is not None and _talk(context).quiet


def bars_wanted() -> bool | None:
    """Return False if the command is quiet; otherwise the setting that turns progress bars on or off.

    None if there is no such setting: bars on a terminal, lines elsewhere.
    """
    return False if is_quiet() else Settings.read().progress


@contextlib.contextmanager
def libraries_are_quiet() -> Iterator[None]:
    """Keep the log warnings of other libraries off stderr, where Python prints them if no handler is set."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def _talk(context: click.Context) -> Talk:
    return context.ensure_object(Talk)


def _log(level: int) -> None:
    """Send the log messages of ``cas_cache`` to stderr."""
    from cas_cache.cli.redact import PrintableFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("cas_cache")
    logger.handlers = [handler]
    logger.setLevel(level)
