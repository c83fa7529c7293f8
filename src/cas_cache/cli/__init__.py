"""``cas-cache``: one file per command. Each parses its arguments, calls the library, and prints.

Exit codes: 0 fine, 1 failure or findings, 2 usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import errno
import io
import sys
import traceback
import warnings

import click

from cas_cache.cli.commands import Group
from cas_cache.cli.signals import STOPPED, stopping
from cas_cache.cli.text import escape_unencodable
from cas_cache.cli.verbosity import Talk, libraries_are_quiet, say
from cas_cache.errors import CasCacheError
from cas_cache.progress import plain_lines


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    talk = Talk()
    with stopping() as stop, plain_lines(), libraries_are_quiet():
        try:
            # With standalone_mode=False, click returns the code of an Exit instead of exiting.
            code = cli(standalone_mode=False, obj=talk)
        except click.ClickException as err:
            from cas_cache.cli.redact import printable

            shown = io.StringIO()
            err.show(shown)
            say(printable(shown.getvalue()), err=True, nl=False)
            sys.exit(err.exit_code)
        except (click.exceptions.Abort, KeyboardInterrupt):
            say(f"cas-cache: {STOPPED}", err=True)
            stop.end()
        except Exception as err:  # noqa: BLE001 - print every error as a sentence or two
            from cas_cache.cli.redact import printable

            if talk.verbose:
                say(printable(traceback.format_exc()), err=True, nl=False)
            say(f"cas-cache: {printable(error_text(err))}", err=True)
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
