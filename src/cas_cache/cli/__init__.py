"""``cas-cache``: one file per command. Each parses its arguments, calls the library, and prints.

Exit codes: 0 fine, 1 failure or findings, 2 usage, 130 stopped by Ctrl-C, 143 by SIGTERM.

Ctrl-C and SIGTERM, which batch systems send, stop a command at once, and its completed work is kept. The first signal
unwinds the command as Ctrl-C does in any Python program, so that temporary files are removed. Then the process ends
without waiting for threads, whose results are no longer needed. A second signal ends the process at once. Neither can
break anything: every local or remote write is complete or absent, because a process can always be killed.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import click

from cas_cache.cli.commands import Group
from cas_cache.cli.output import Verbosity, escape_unencodable, libraries_are_quiet, redacted, say
from cas_cache.errors import CasCacheError
from cas_cache.progress import plain_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

STOPPED = "stopped. Nothing is lost; the same command run again goes on."

SIGNALS = (signal.SIGINT, signal.SIGTERM)

BASE_CODE = 128
"""Plus the number of the signal, the exit code of a stopped command: 130 for Ctrl-C, 143 for SIGTERM."""


@click.group(
    cls=Group,
    examples=(
        "cas-cache demo",
        "cas-cache ls my_mirror",
        "cas-cache sync my_mirror --remote s3://team/emb",
    ),
)
@click.version_option(package_name="cas-cache", prog_name="cas-cache")
def cli() -> None:
    """Look at and move a shared cache of embeddings.

    CACHE is a mirror's directory or a remote URL. Without it, CAS_CACHE_DIR and CAS_CACHE_REMOTE say where.
    """


def main() -> None:
    """Run the command line. Errors are printed to stderr, with a traceback only if ``-v`` was given."""
    warnings.simplefilter("ignore", ResourceWarning)
    escape_unencodable()
    verbosity = Verbosity()
    with _signals_handled() as stop, plain_lines(), libraries_are_quiet():
        try:
            # With standalone_mode=False, click returns the code of an Exit instead of exiting.
            code = cli(standalone_mode=False, obj=verbosity)
        except click.ClickException as err:
            shown = io.StringIO()
            err.show(shown)
            say(redacted(shown.getvalue()), err=True, nl=False)
            sys.exit(err.exit_code)
        except (click.exceptions.Abort, KeyboardInterrupt):
            say(f"cas-cache: {STOPPED}", err=True)
            stop.end()
        except Exception as err:  # noqa: BLE001 - print every error as a sentence or two
            if verbosity.verbose:
                say(redacted(traceback.format_exc()), err=True, nl=False)
            say(f"cas-cache: {redacted(error_text(err))}", err=True)
            sys.exit(1)
    sys.exit(code or 0)


def error_text(err: Exception) -> str:
    """Return a text for an error: what happened, and what to do about it."""
    if isinstance(err, CasCacheError):
        return str(err)
    if not isinstance(err, OSError):
        from cas_cache.storage.redaction import first_line

        return (
            f"This should not have happened ({first_line(err)}). Nothing that was stored is lost. Please report it, "
            "with what the same command prints with -v."
        )
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full ({err}). Make room and run the same command again: it goes on."
    if isinstance(err, PermissionError) or err.errno == errno.EROFS:
        return f"The system refuses access ({err}). Check who may read and write there."
    return f"The system reports an error ({err}). Check the path, and run the same command again: it goes on."


class _SignalHandler:
    """Remembers the signal that stopped the command."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, _: object) -> None:
        """Interrupt the command; at the second signal, end the process."""
        if self.number is not None:
            os._exit(BASE_CODE + number)
        self.number = number
        raise KeyboardInterrupt

    def end(self) -> NoReturn:
        """End the process with a failure; if a signal has stopped it, without waiting for threads."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        if self.number is not None:
            os._exit(BASE_CODE + self.number)
        sys.exit(1)


@contextmanager
def _signals_handled() -> Iterator[_SignalHandler]:
    """Handle signals while the block runs. A signal that is ignored stays ignored, as under nohup."""
    handler = _SignalHandler()
    if threading.current_thread() is not threading.main_thread():
        yield handler  # only the main thread may set signal handlers
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, previous in before.items():
        if previous is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield handler
    finally:
        for number, previous in before.items():
            if previous is not None:
                signal.signal(number, previous)
