"""Options that several commands have. Options that belong together reach the command as one object."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from cas_cache.cli.choose import Filters, ViewChoice
from cas_cache.cli.completion import (
    complete_directories,
    complete_models,
    complete_namespaces,
    complete_remotes,
    complete_roles,
    complete_tasks,
)
from cas_cache.cli.output import say
from cas_cache.cli.target import Target
from cas_cache.errors import from_locale

if TYPE_CHECKING:
    from collections.abc import Callable

_F = TypeVar("_F", bound="Callable[..., Any]")


class _Text(click.types.StringParamType):
    """A text that is compared with stored UTF-8, so it is read as UTF-8 in every locale."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType.convert`."""
        return from_locale(str(super().convert(value, param, ctx)))


TEXT = _Text()
"""Type of arguments and options that name items, models, roles and tasks. Paths are left as the system gave them."""


def _collecting(name: str, make: Callable[..., Any], *options: str) -> Callable[[_F], _F]:
    """Return a decorator that gives a command one argument, made of the values of several options."""

    def decorate(command: _F) -> _F:
        @functools.wraps(command)
        def call(**values: Any) -> Any:
            made = make(**{option: values.pop(option) for option in options if option in values})
            return command(**{name: made}, **values)

        return cast("_F", call)

    return decorate


def json_option(command: _F) -> _F:
    """Add ``--json`` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def mirror_options(command: _F) -> _F:
    """Add CACHE, ``--remote`` and ``--json`` to a command, which gets a `Target`."""
    command = _collecting("target", Target, "cache", "remote", "storage_options")(command)
    command = remote_option("The repository, if CACHE is a directory.")(json_option(command))
    return click.argument("cache", required=False, shell_complete=complete_directories)(command)


def cache_options(command: _F) -> _F:
    """Add the options of `mirror_options`, and ``--storage-option``."""
    return storage_option(mirror_options(command))


def remote_option(purpose: str) -> Callable[[_F], _F]:
    """Return a decorator that adds ``--remote`` to a command."""
    return click.option("--remote", metavar="URL", shell_complete=complete_remotes, help=purpose)


def storage_option(command: _F) -> _F:
    """Add ``--storage-option`` to a command, which gets a mapping."""
    return click.option(
        "--storage-option",
        "storage_options",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_parsed_options,
        help="Handed to fsspec, for example endpoint_url=http://127.0.0.1:4566. May be repeated.",
    )(command)


def _parsed_options(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str | bool]:
    """Return ``KEY=VALUE`` pairs as a mapping. ``true`` and ``false`` become booleans: s3fs takes "false" for true."""
    parsed: dict[str, str | bool] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            # The value is not shown, because it may be a secret.
            raise click.BadParameter("expected KEY=VALUE", param_hint="--storage-option")
        parsed[key] = {"true": True, "false": False}.get(value.lower(), value)
    return parsed


def side_options(command: _F) -> _F:
    """Add ``--repository`` and ``--mirror`` to a command that can look at either side: see `Target.is_repository`."""
    command = click.option(
        "--mirror", "side", flag_value="mirror", help="The mirror's side: the default unless a repository is named."
    )(command)
    return click.option(
        "--repository",
        "side",
        flag_value="repository",
        help="The repository's side: the default for a URL, a repository's directory, or --remote without CACHE.",
    )(command)


def namespace_option(name: str, purpose: str, *, multiple: bool = False) -> Callable[[_F], _F]:
    """Return a decorator that adds ``-n``, ``--namespace``, which means the same on every command that has it.

    Args:
        name: The parameter that gets the value.
        purpose: A sentence that says what the command does with the namespace.
        multiple: True if the option may be repeated.
    """
    return click.option(
        "-n",
        "--namespace",
        name,
        metavar="ID",
        multiple=multiple,
        shell_complete=complete_namespaces,
        help=f"{purpose} Give its id, or the beginning of it.{' May be repeated.' if multiple else ''}",
    )


def filter_options(command: _F) -> _F:
    """Add ``--namespace``, ``--model``, ``--role`` and ``--task`` to a command, which gets `Filters`."""
    command = _collecting("filters", Filters, "namespaces", "models", "roles", "tasks")(command)
    for name, what, complete in (
        ("task", "Only what this mteb task uses, as far as specs and this mirror's views say.", complete_tasks),
        ("role", "Only vectors of this role: query, document, or none.", complete_roles),
        ("model", "Only this model; * stands for anything, as in 'org/*'.", complete_models),
    ):
        command = click.option(
            f"--{name}",
            f"{name}s",
            type=TEXT,
            multiple=True,
            metavar=name.upper(),
            shell_complete=complete,
            help=f"{what} May be repeated.",
        )(command)
    return namespace_option("namespaces", "Only this namespace.", multiple=True)(command)


def view_options(purpose: str) -> Callable[[_F], _F]:
    """Return a decorator that adds ``--task`` and the options that choose its views; the command gets a `ViewChoice`.

    Args:
        purpose: A sentence that says what the command does with the task.
    """

    def decorate(command: _F) -> _F:
        command = _collecting("views", ViewChoice, "task", "role", "model", "subset", "split")(command)
        for name, what in (
            ("split", "Of the task's."),
            ("subset", "Of the task's."),
            ("model", "Of the task's: a model's name, or name@revision."),
            ("role", "Of the task's: query or document."),
        ):
            command = click.option(f"--{name}", type=TEXT, help=what)(command)
        return click.option("--task", type=TEXT, shell_complete=complete_tasks, help=purpose)(command)

    return decorate


def dry_run_option(command: _F) -> _F:
    """Add ``--dry-run`` to a command."""
    return click.option(
        "--dry-run", is_flag=True, help="Only say what would be done; write nothing, neither locally nor remotely."
    )(command)


def yes_option(command: _F) -> _F:
    """Add ``--yes`` to a command that deletes: it asks first on a terminal, and elsewhere it needs the option."""
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
