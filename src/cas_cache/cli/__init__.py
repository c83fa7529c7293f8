"""``cas-cache``: one file a command; each parses, calls the library, and prints.

Exit codes: 0 fine, 1 failure or findings, 2 usage.
"""

from __future__ import annotations

import sys
import traceback
import warnings

import click

from cas_cache.cli.check import check
from cas_cache.cli.compact import compact
from cas_cache.cli.doctor import doctor
from cas_cache.cli.drop import drop
from cas_cache.cli.evict import evict
from cas_cache.cli.export import export
from cas_cache.cli.import_ import import_
from cas_cache.cli.info import info
from cas_cache.cli.ls import ls
from cas_cache.cli.prune import prune
from cas_cache.cli.pull import pull
from cas_cache.cli.push import push
from cas_cache.cli.search import search
from cas_cache.cli.status import status
from cas_cache.cli.sync import sync
from cas_cache.cli.talk import Talk, talking
from cas_cache.errors import CasCacheError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cas-cache", prog_name="cas-cache")
def cli() -> None:
    """Look at and move a shared cache of embeddings.

    CACHE is a mirror's directory or a remote URL. Without it, CAS_CACHE_DIR and CAS_CACHE_REMOTE say where.
    """


COMMANDS = (
    *(ls, info, status, pull, push, sync, search),
    *(check, doctor, compact, prune, drop, evict, import_, export),
)
for command in COMMANDS:
    cli.add_command(talking(command))


def main() -> None:
    """Run the command line: errors of ours are one line on stderr, not a traceback."""
    warnings.simplefilter("ignore", ResourceWarning)
    talk = Talk()
    try:
        # Without standalone mode, click returns the code of an Exit instead of exiting.
        code = cli(standalone_mode=False, obj=talk)
    except CasCacheError as err:
        if talk.verbose:
            traceback.print_exc()
        click.echo(f"cas-cache: {err}", err=True)
        sys.exit(1)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except click.exceptions.Abort:
        click.echo("cas-cache: stopped. Nothing is lost; the same command run again goes on.", err=True)
        sys.exit(1)
    sys.exit(code or 0)
