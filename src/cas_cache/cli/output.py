"""What commands print: verbosity (``-q``, ``-v``), text without secrets and control characters, JSON and tables.

The library's own messages contain no secrets. Tracebacks, log lines and click's messages can quote arguments and other
libraries.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from cas_cache.config.settings import Settings, cloud_secrets
from cas_cache.config.urls import is_url, without_credentials
from cas_cache.display import ID_CHARACTERS, listing, pluralize, size
from cas_cache.errors import InvalidURL, from_locale, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from cas_cache.errors import CasCacheError
    from cas_cache.identity import EncoderSpec
    from cas_cache.sync import SyncReport


@dataclass(slots=True)
class Verbosity:
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
        _verbosity(context).quiet |= value

    def verbose(context: click.Context, _: click.Parameter, value: int) -> None:
        verbosity = _verbosity(context)
        verbosity.verbose += value
        if value:
            _log(logging.DEBUG if verbosity.verbose > 1 else logging.INFO)

    more = "Say what is done, and show tracebacks; twice: every detail."
    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=quiet, help="Print errors only."),
        click.Option(["-v", "--verbose"], count=True, expose_value=False, callback=verbose, help=more),
    ]


def with_verbosity(command: click.Command) -> click.Command:
    """Add ``-q`` and ``-v`` to a command and, for a group, to its commands."""
    command.params += verbosity_options()
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_verbosity(inner)
        return command
    call = cast("Callable[..., Any]", command.callback)

    @functools.wraps(call)
    def call_quietly(*args: Any, **kwargs: Any) -> Any:
        if not is_quiet() or kwargs.get("as_json"):
            return call(*args, **kwargs)
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            return call(*args, **kwargs)

    command.callback = call_quietly
    return command


def is_quiet() -> bool:
    """Return True if ``-q`` was given: then standard output is discarded, and failures go to standard error."""
    context = click.get_current_context(silent=True)
    return context is not None and _verbosity(context).quiet


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


def escape_unencodable() -> None:
    """Make standard output and standard error write characters that they cannot encode as Python escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text, without characters that a terminal would act on: specs, ids and object names come from others."""
    # Pass the streams explicitly: click takes an ASCII stream for a mistake and would write UTF-8 to it.
    click.echo(printable(text), file=sys.stderr if err else sys.stdout, nl=nl)


def show(table: RenderableType) -> None:
    """Print a table of `cas_cache.display`, as wide as the terminal; without styles if it is not a terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=shutil.get_terminal_size().columns, highlight=False)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def show_namespaces(rows: Iterable[tuple[str, Sequence[str | Sequence[str]]]]) -> None:
    """Print namespaces with the lines about each; the first line is `name_of` its spec. See `listing`."""
    show(listing(("namespace", "model@revision, role"), ((name[:ID_CHARACTERS], lines) for name, lines in rows)))


def name_of(spec: EncoderSpec | None) -> str:
    """Return the model, revision and role of a spec on one line."""
    if spec is None:
        return "(its spec cannot be read)"
    return f"{spec.model}@{spec.revision[:ID_CHARACTERS]}" + (f", {spec.role}" if spec.role else "")


def print_json(document: Any) -> None:
    """Print a JSON document in ASCII."""
    say(json_text(document, only_ascii=True))


def json_text(document: Any, *, only_ascii: bool = False) -> str:
    """Return JSON without characters that a terminal would act on.

    Args:
        document: The document to write.
        only_ascii: Also escape all letters that are not ASCII, so that every stream can carry them.
    """

    def escaped(character: str) -> str:
        if character == "\n" or (character.isprintable() and (character.isascii() or not only_ascii)):
            return character
        # Outside of strings, JSON has only printable ASCII and line feeds.
        return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"

    return "".join(map(escaped, from_locale(json.dumps(document, indent=2, ensure_ascii=False))))


def print_report(verb: str, report: SyncReport, *, as_json: bool, dry_run: bool = False) -> None:
    """Print what a push or pull did or would do; exit with 1 if something was skipped because of a problem."""
    if as_json:
        print_json({"dry_run": dry_run, **report.as_json()})
        exit_if(report.problems)
        return
    say(f"{verb} {pluralize(report.packs, 'pack')}, {pluralize(report.rows, 'row')}, {size(report.bytes)}")
    print_skipped(report.problems)
    if report.untrusted:
        say(
            f"left out: {pluralize(len(report.untrusted), 'pack')} that no trusted key has signed; "
            "`cas-cache check --repository` says why",
            err=True,
        )
    for hint in report.hints:
        say(f"hint: {hint}", err=True)
    exit_if(report.problems)


def print_skipped(problems: Iterable[CasCacheError]) -> None:
    """Print what was skipped because of a problem."""
    for problem in problems:
        say(f"skipped: {problem}", err=True)


def exit_if(failed: object) -> None:
    """Exit with 1 if something failed, or if problems were found."""
    if failed:
        raise click.exceptions.Exit(1)


def redacted(text: str) -> str:
    """Return a text without secrets of the command line and the environment, and without control characters."""
    from cas_cache.storage.redaction import secrets_in, without_secrets, without_signatures

    for argument in sys.argv[1:]:
        if argument in text and argument != _without_secrets(argument):
            text = text.replace(argument, _without_secrets(argument))
    pairs = (argument.removeprefix("--storage-option=").partition("=") for argument in sys.argv[1:])
    options = {name: value for name, equals, value in pairs if equals}
    return printable(without_signatures(without_secrets(text, (*cloud_secrets(), *secrets_in(options)))))


class RedactingFormatter(logging.Formatter):
    """Formats log lines without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return redacted(super().format(record))


def _without_secrets(argument: str) -> str:
    """Return a URL without credentials; other arguments unchanged."""
    try:
        return without_credentials(argument) if is_url(argument) else argument
    except InvalidURL:
        return argument.partition(":")[0] + ":***" if "@" in argument else argument


def _verbosity(context: click.Context) -> Verbosity:
    return context.ensure_object(Verbosity)


def _log(level: int) -> None:
    """Send the log messages of ``cas_cache`` to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("cas_cache")
    logger.handlers = [handler]
    logger.setLevel(level)
