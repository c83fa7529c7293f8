"""How options choose namespaces, views and specs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NoReturn

import click

from cas_cache.cli.output import name_of, say
from cas_cache.display import ID_CHARACTERS, pluralize
from cas_cache.errors import ConfigurationError, RepositoryError
from cas_cache.identity import NAMESPACE_ID, EncoderSpec, canonical_json, parsed_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from cas_cache.cache import EmbeddingCache
    from cas_cache.mirror import Mirror, Namespace, View
    from cas_cache.repository import Repository
    from cas_cache.sync import SyncStatus

MAX_NAMED = 10
"""Maximum number of namespaces, models, roles or tasks that an error names."""

MAX_SUGGESTIONS = 3
"""Maximum number of suggestions for a misspelt value."""


def empty(mirror: Mirror) -> str:
    """Return the sentence for a mirror without namespaces."""
    return f"The mirror {mirror.directory} is empty. `cas-cache pull` fetches what others have pushed."


def one_namespace(mirror: Mirror, beginning: str | None) -> Namespace:
    """Return the mirror's namespace whose id starts with `beginning`.

    Raises:
        click.UsageError: If there is no such namespace, or more than one.
    """
    namespaces = mirror.namespaces()
    matches = [ns for ns in namespaces if ns.spec.namespace.startswith(beginning or "")]
    if len(matches) == 1:
        return matches[0]
    if not namespaces:
        raise click.UsageError(empty(mirror))
    begin = f"begin with {beginning!r}" if beginning else "could be meant"
    named = (matches or namespaces)[:MAX_NAMED]
    choices = ", ".join(f"{ns.spec.namespace[:ID_CHARACTERS]} ({name_of(ns.spec)})" for ns in named)
    more = ", ... (`cas-cache ls` lists all)" if len(matches or namespaces) > MAX_NAMED else ""
    raise click.UsageError(
        f"{pluralize(len(matches), 'namespace')} of {mirror.directory} {begin}. "
        f"Choose one by its id, with --namespace: {choices}{more}."
    )


def full_namespace(repository: Repository, beginning: str) -> str:
    """Return the id of the repository's namespace that starts with `beginning`. A complete id is returned unchecked.

    Raises:
        ConfigurationError: If there is no such namespace, or more than one.
        RemoteError: If the storage is unreachable or refuses a request.
    """
    if NAMESPACE_ID.fullmatch(beginning):
        return beginning
    repository.must_exist()
    namespaces = sorted({namespace for namespace, _ in repository.packs()})
    matches = [namespace for namespace in namespaces if namespace.startswith(beginning)]
    if len(matches) != 1 or not beginning:
        raise ConfigurationError(
            f"{pluralize(len(matches), 'namespace')} of {repository.url} begin with {beginning!r}. "
            f"Name one by its id, or so much of it that it is the only one. It has {_named(namespaces, '(none)')}."
        )
    return matches[0]


def spec_in_file(path: Path) -> EncoderSpec:
    """Return the spec in a file: a spec document, or the output of `cas-cache info --json`.

    Raises:
        ConfigurationError: If the file cannot be read as JSON.
        IdentityError: If it is not an encoder spec.
    """
    try:
        document = parsed_json(path.read_bytes())
    except (OSError, ValueError) as err:
        raise ConfigurationError(
            f"{path} cannot be read as JSON ({err}). Write it with `cas-cache info CACHE --namespace ID --json`."
        ) from err
    inner = document.get("spec") if isinstance(document, dict) else None
    return EncoderSpec.from_canonical(canonical_json(document if inner is None else inner))


class ViewChoice:
    """Values of the options that choose views of an mteb task.

    Attributes:
        task: Name of the task; None if none is named.
        requested: The role, model, subset and split of the views; None matches any.
    """

    def __init__(self, task: str | None, **requested: str | None) -> None:
        if task is None and any(value is not None for value in requested.values()):
            raise click.UsageError("--role, --model, --subset and --split choose among a task's views: name a --task.")
        self.task = task
        self.requested = requested

    def matching(self, mirror: Mirror) -> list[View]:
        """Return the task's views that match, at least one.

        Raises:
            click.UsageError: If there is none.
        """
        views = mirror.views.of(self.task or "")
        chosen = [view for view in views if view.matches(**self.requested)]
        if not chosen:
            tasks = f"The tasks are: {', '.join(mirror.views.tasks()) or '(none)'}"
            hint = f"It has {_view_list(views)}" if views else tasks
            raise click.UsageError(f"Nothing that the task {self.task} asked for matches. {hint}.")
        return chosen

    def one(self, mirror: Mirror) -> View:
        """Return the one view that matches.

        Raises:
            click.UsageError: If none matches, or several.
        """
        views = self.matching(mirror)
        if len(views) > 1:
            self._ambiguous(f"{pluralize(len(views), 'view')} of the task {self.task} match", views)
        return views[0]

    def of_one_namespace(self, mirror: Mirror) -> list[View]:
        """Return the views that match; all belong to one namespace.

        Raises:
            click.UsageError: If none matches, or they belong to several namespaces.
        """
        views = self.matching(mirror)
        if len({view.namespace for view in views}) > 1:
            self._ambiguous(f"The task {self.task} asked for rows of several namespaces", views)
        return views

    def _ambiguous(self, problem: str, views: list[View]) -> NoReturn:
        raise click.UsageError(
            f"{problem}: {_view_list(views)}. Choose with --role, --model, --subset and --split, or name the "
            "--namespace in place of the task."
        )


def _view_list(views: list[View]) -> str:
    shown = {
        f"{view.model}@{view.revision} {view.role or 'no role'} {view.subset} {view.split} "
        f"({view.namespace[:ID_CHARACTERS]})"
        for view in views
    }
    return ", ".join(sorted(shown))


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
        tasks: dict[str, set[str]] = {namespace: set() for namespace in specs}
        viewed = [(task, view) for task in mirror.views.tasks() for view in mirror.views.of(task)] if mirror else []
        for task, view in viewed:
            if view.namespace in tasks:
                tasks[view.namespace].add(task)
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

    def of_statuses(self, statuses: list[SyncStatus], mirror: Mirror | None) -> list[SyncStatus]:
        """Return the statuses of the namespaces that match. See `chosen`."""
        if not self:
            return statuses
        chosen = set(self.chosen({status.namespace: status.spec for status in statuses}, mirror))
        return [status for status in statuses if status.namespace in chosen]

    def of_cache(self, opened: EmbeddingCache, *, remote: bool) -> list[str] | None:
        """Return the ids that match in the mirror and, if `remote`, in the repository; None if there are no filters.

        Raises:
            ConfigurationError: If a filter value matches no namespace.
            RemoteError: If the remote is unreachable or refuses a request.
        """
        if not self:
            return None
        specs: dict[str, EncoderSpec | None] = {ns.spec.namespace: ns.spec for ns in opened.mirror.namespaces()}
        if remote and opened.repository is not None and not opened.offline:
            opened.repository.must_exist()
            for namespace in sorted({namespace for namespace, _ in opened.repository.packs()} - specs.keys()):
                specs[namespace] = _spec(opened.repository, namespace)
        return self.chosen(specs, opened.mirror)


def _spec(repository: Repository, namespace: str) -> EncoderSpec | None:
    try:
        return repository.spec(namespace)
    except RepositoryError as err:
        say(f"cas-cache: {err}", err=True)
        return None


def _passing(
    name: str, requested: Iterable[str], values: Mapping[str, set[str]], matches: Callable[[str, str], bool]
) -> set[str]:
    """Return the namespaces with a value that matches any requested one; all namespaces if none is requested."""
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
    return f"There is no {name} {requested!r}. There is {_named(existing, 'none at all')}."


def _named(values: list[str], none: str) -> str:
    return (", ".join(values[:MAX_NAMED]) or none) + (", ..." if len(values) > MAX_NAMED else "")
