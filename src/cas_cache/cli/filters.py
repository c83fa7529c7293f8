"""Filters that select the namespaces of a command."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cas_cache.cli.completion import complete_models, complete_roles, complete_tasks
from cas_cache.cli.options import namespace_option
from cas_cache.cli.text import TEXT
from cas_cache.cli.verbosity import say
from cas_cache.errors import ConfigurationError, RepositoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cas_cache.cache import EmbeddingCache
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Mirror
    from cas_cache.repository import Repository

_F = TypeVar("_F", bound="Callable[..., Any]")

MAX_NAMED = 10
"""Maximum number of models, roles or tasks that an error names."""

MAX_SUGGESTIONS = 3
"""Maximum number of suggestions for a misspelt value."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Values of the filter options. Repeating a filter means OR; different filters combine with AND.

    Attributes:
        namespaces: Ids, or the first characters of ids.
        models: Names, in which ``*`` matches anything.
        roles: ``query``, ``document``, or ``none``.
        tasks: Names of mteb tasks.
    """

    namespaces: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.namespaces or self.models or self.roles or self.tasks)

    def chosen(self, specs: Mapping[str, EncoderSpec | None], mirror: Mirror | None) -> list[str]:
        """Return the ids of the namespaces that match.

        Args:
            specs: The namespaces to choose from; None if a spec could not be read.
            mirror: The mirror whose views tell which namespaces a task has used, in addition to those whose spec names
                the task; None uses no views.

        Raises:
            ConfigurationError: If a filter value matches no namespace; the message suggests similar values.
        """
        views = None if mirror is None else mirror.views
        viewed = {task: {view.namespace for view in views.of(task)} for task in views.tasks()} if views else {}
        tasks = {
            namespace: {task for task, namespaces in viewed.items() if namespace in namespaces} for namespace in specs
        }
        for namespace, spec in specs.items():
            if spec is not None and "task" in spec.scope:
                tasks[namespace].add(str(spec.scope["task"]))
        models = {namespace: {spec.model} if spec else set() for namespace, spec in specs.items()}
        roles = {namespace: {spec.role or "none"} if spec else set() for namespace, spec in specs.items()}
        chosen = set(specs)
        chosen &= _passing("namespace", self.namespaces, {n: {n} for n in specs}, str.startswith)
        chosen &= _passing("model", self.models, models, fnmatchcase)
        chosen &= _passing("role", self.roles, roles, str.__eq__)
        chosen &= _passing("task", self.tasks, tasks, str.__eq__)
        return sorted(chosen)


def filter_options(command: _F) -> _F:
    """Add ``--namespace``, ``--model``, ``--role`` and ``--task`` to a command."""
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


def chosen_namespaces(opened: EmbeddingCache, filters: Filters, *, remote: bool) -> list[str] | None:
    """Return the ids that match in the mirror and, if `remote`, in the repository; None if there are no filters.

    Raises:
        ConfigurationError: If a filter value matches no namespace.
        RemoteError: If the remote is unreachable or refuses a request.
    """
    if not filters:
        return None
    specs: dict[str, EncoderSpec | None] = {ns.spec.namespace: ns.spec for ns in opened.mirror.namespaces()}
    if remote and opened.repository is not None and not opened.offline:
        opened.repository.must_exist()
        for namespace in sorted({namespace for namespace, _ in opened.repository.packs()} - specs.keys()):
            specs[namespace] = _spec(opened.repository, namespace)
    return filters.chosen(specs, opened.mirror)


def _spec(repository: Repository, namespace: str) -> EncoderSpec | None:
    try:
        return repository.spec(namespace)
    except RepositoryError as err:
        say(f"cas-cache: {err}", err=True)
        return None


def _passing(
    name: str, requested: Iterable[str], values: Mapping[str, set[str]], matches: Callable[[str, str], bool]
) -> set[str]:
    """Return the namespaces with a value that matches any wanted one; all namespaces if none is wanted."""
    requested = list(requested)
    if not requested:
        return set(values)
    passing: set[str] = set()
    for pattern in requested:
        met = {namespace for namespace, has in values.items() if any(matches(value, pattern) for value in has)}
        if not met:
            raise ConfigurationError(_no_such(name, pattern, sorted(set().union(*values.values()))))
        passing |= met
    return passing


def _no_such(name: str, requested: str, existing: list[str]) -> str:
    asked = requested.lower().strip("*")
    by_lower = {value.lower(): value for value in existing}
    # Suggest names that contain it, such as without an organisation, then similar spellings. Ids are compared by
    # prefix.
    near = [value for lower, value in by_lower.items() if asked and asked in lower][:MAX_SUGGESTIONS]
    if not near and name == "namespace":
        by_lower = {value[: len(asked)]: value for value in existing}
    near = near or [by_lower[value] for value in difflib.get_close_matches(asked, by_lower, n=MAX_SUGGESTIONS)]
    if near:
        return f"There is no {name} {requested!r}. Did you mean {' or '.join(map(repr, near))}?"
    if name == "task" and not existing:
        return (
            f"There is no task {requested!r}: no spec here names a task, and this mirror has not seen one. Models that "
            "share vectors across tasks are pulled with --model; a lazy cache (CAS_CACHE_LAZY=1) takes just what a "
            "task asks for."
        )
    listing = ", ".join(existing[:MAX_NAMED]) + (", ..." if len(existing) > MAX_NAMED else "")
    return f"There is no {name} {requested!r}. There is {listing or 'none at all'}."
