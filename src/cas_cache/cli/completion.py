"""Shell completion of remotes, directories, namespaces, models, roles and tasks.

Suggestions come from the settings and from the mirror that the command line names so far. Completion never accesses a
remote, because pressing Tab must not wait for a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cas_cache.display import ID_CHARACTERS
from cas_cache.errors import CasCacheError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cas_cache.mirror import Mirror


def complete_directories(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete directories."""
    return [CompletionItem(incomplete, type="dir")]


def complete_remotes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of remotes in the settings; without a match the shell offers directories."""
    from cas_cache.config.settings import Settings
    from cas_cache.config.urls import without_credentials

    try:
        remotes = Settings.read().remotes
    except CasCacheError:
        remotes = {}
    names = [
        CompletionItem(name, help=without_credentials(url))
        for name, url in sorted(remotes.items())
        if name.startswith(incomplete)
    ]
    return [CompletionItem(incomplete, type="dir"), *names]


def complete_namespaces(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the ids of the mirror's namespaces, each with its model and role."""
    from cas_cache.cli.output import name_of

    mirror = _mirror(context)
    namespaces = () if mirror is None else mirror.namespaces()
    return [
        CompletionItem(_id(ns.spec.namespace, incomplete), help=name_of(ns.spec))
        for ns in namespaces
        if ns.spec.namespace.startswith(incomplete)
    ]


def complete_models(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the models of the mirror's namespaces."""
    mirror = _mirror(context)
    return _items((ns.spec.model for ns in mirror.namespaces()) if mirror else (), incomplete)


def complete_roles(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the possible roles of vectors."""
    return _items(("query", "document", "none"), incomplete)


def complete_tasks(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the mteb tasks that the mirror has views of."""
    mirror = _mirror(context)
    return _items(mirror.views.tasks() if mirror else (), incomplete)


def _mirror(context: click.Context) -> Mirror | None:
    """Return the mirror that the command line names; None if it names none or it cannot be opened."""
    from cas_cache.cli.target import Target

    given = _values_so_far(context)
    try:
        return Target(given.get("cache"), given.get("remote")).mirror()
    except CasCacheError:
        return None  # running the command reports the error; a completion has no room for it


def _values_so_far(context: click.Context) -> dict[str, Any]:
    """Return the arguments and options on the command line so far.

    If an option still lacks its value, click gives up before it assigns arguments to their parameters, and leaves them
    in `Context.args`.
    """
    names = [parameter.name for parameter in context.command.params if isinstance(parameter, click.Argument)]
    unmatched = dict(zip(names, context.args, strict=False))
    return {**unmatched, **{name: value for name, value in context.params.items() if value is not None}}


def _id(namespace: str, incomplete: str) -> str:
    """Return an id as `ls` shows it, or the full id if more was typed."""
    return namespace[:ID_CHARACTERS] if len(incomplete) <= ID_CHARACTERS else namespace


def _items(values: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value) for value in sorted(set(values)) if value.startswith(incomplete)]
