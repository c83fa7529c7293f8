"""``cas-cache demo``: the cache in action, in seconds."""

from __future__ import annotations

import shlex
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import json_option, remote_option, storage_option
from cas_cache.cli.output import exit_if, print_json, say, show
from cas_cache.display import grid
from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command(
    cls=Command,
    examples=(
        "cas-cache demo",
        "cas-cache demo --keep demo",
    ),
)
@json_option
@remote_option("Share by way of this repository, and keep it.")
@storage_option
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Keep the files in DIR.")
def demo(remote: str | None, storage_options: dict[str, str | bool], *, keep: Path | None, as_json: bool) -> None:
    """Encode the docstrings of Python's standard library: without a cache, cold, warm, and on a second machine.

    The encoder is a few lines of NumPy; nothing is downloaded. The second machine is a new process with an empty mirror
    and the same remote. By default all is in a temporary directory, which is deleted at the end.

    Exit codes: 0 every vector is the same in every bit and none was encoded twice, 1 if not, or a failure, 2 usage.
    """
    from cas_cache.demo import read_texts, run_cached, run_elsewhere, run_plain, what_is_wrong

    url, shown = _remote(remote)
    if storage_options and url is None:
        raise click.UsageError("--storage-option is for a remote: name one with --remote.")
    with _directory(keep) as directory:
        where = url or str(directory / "remote")
        texts = read_texts()
        if not as_json:
            say(f"{len(texts):,} docstrings of the standard library, {texts.distinct:,} of them distinct\n")
        runs = [
            run_plain(texts),
            run_cached("cold cache", texts, directory / "mirror", where, storage_options),
            run_cached("warm cache", texts, directory / "mirror", where, storage_options),
            run_elsewhere("second machine", directory / "second_mirror", where, storage_options),
        ]
    wrong = what_is_wrong(runs, texts)
    following = _next(keep, shown)
    if as_json:
        print_json(
            {
                "texts": len(texts),
                "distinct": texts.distinct,
                "remote": shown or (None if keep is None else where),
                "kept": None if keep is None else str(directory),
                "runs": [asdict(run) for run in runs],
                "wrong": wrong,
                "next": following,
            }
        )
    else:
        headings = ("run", "items encoded", "compared", "seconds", "bytes up", "bytes down")
        rows = ((run.name, run.encoded, run.compared, run.seconds, run.bytes_up, run.bytes_down) for run in runs)
        show(grid(None, headings, rows))
        say("\n".join(wrong) or "\nEvery run gave the same vectors, bit for bit. Nothing was encoded twice.")
        if keep is not None:
            say(f"The mirrors are {directory / 'mirror'} and {directory / 'second_mirror'}.")
        say(f"The repository {'was temporary' if keep is None and shown is None else f'is {shown or where}'}.")
        say("\nTry next:\n" + "\n".join(f"  {line}" for line in following))
    exit_if(wrong)


def _remote(remote: str | None) -> tuple[str | None, str | None]:
    """Return the repository's URL, and the same without credentials; None if the demo makes its own repository.

    Raises:
        ConfigurationError: If the settings forbid writing to a remote.
    """
    from cas_cache.config.locations import places
    from cas_cache.config.settings import Settings
    from cas_cache.config.urls import is_url, without_credentials

    if remote is None:
        return None, None
    settings = Settings.read()
    if settings.offline or settings.read_only:
        name = "CAS_CACHE_OFFLINE" if settings.offline else "CAS_CACHE_READ_ONLY"
        raise ConfigurationError(
            f"{name} is on, and the demo writes to the remote that it is given. Unset it, or leave out --remote."
        )
    url = places(".", remote, settings)[1] or remote
    return url, without_credentials(url) if is_url(url) else url


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Yield a directory for the mirrors, which is deleted at the end unless the user keeps it.

    Raises:
        ConfigurationError: If the directory to keep is not empty, because the first run would not be a cold one.
    """
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="cas-cache-demo-") as temporary:
            yield Path(temporary)
        return
    if keep.exists() and any(keep.iterdir()):
        raise ConfigurationError(f"{keep} is not empty. Name a new directory with --keep.")
    yield keep.absolute()


def _next(keep: Path | None, remote: str | None) -> list[str]:
    """Return commands that show the results; if nothing was kept, first a command that makes them again."""
    mirror = shlex.quote(str((keep or Path("demo")) / "mirror"))
    url = shlex.quote(remote or str((keep or Path("demo")) / "remote"))
    first = [] if keep is not None else ["cas-cache demo --keep demo" + (f" --remote {url}" if remote else "")]
    return [
        *first,
        f"cas-cache ls {mirror}",
        f"cas-cache ls --remote {url}",
        f"cas-cache status {mirror} --remote {url}",
        *([f"cas-cache check --remote {url} --read-data"] if keep is not None else []),
    ]
