"""The folders of mteb's own `CachedEmbeddingWrapper`: what their path says. Pure.

::

    <cache_path>/<task>[/experiments/<name>][/query|document]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

ROLES = ("query", "document")
EXPERIMENTS = "experiments"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, slots=True)
class Folder:
    """What a path says.

    Attributes:
        cache_path: The directory that the wrapper was given.
        task: The task's name.
        experiment: mteb's name for settings out of the ordinary, or None.
        role: ``"query"``, ``"document"`` or None.
    """

    cache_path: Path
    task: str
    experiment: str | None
    role: str | None


def folder_of(path: Path, experiments: Container[str | None]) -> Folder:
    """Read a path from its end.

    Args:
        path: The folder.
        experiments: The names that a model's folders can have; None among them if it can have none.

    Raises:
        ConfigurationError: If it is no such folder of this model, or `cache_path` was a URL.
    """
    if any(SCHEME.fullmatch(part) for part in path.parts[:1]):
        raise ConfigurationError(
            f"cache_path was a URL, of which mteb's wrapper has made the local folder {path.parts[0]!r}. Pass a local "
            "directory as cache_path, and the URL as backend(model, remote=...)."
        )
    place, role = (path.parent, path.name) if path.name in ROLES else (path, None)
    experiment = None
    if place.parent.name == EXPERIMENTS and place.name in experiments:
        place, experiment = place.parent.parent, place.name
    elif None not in experiments:
        raise ConfigurationError(
            f"{path} is not a folder of this model's: its experiment_kwargs are not the default, and the path does not "
            "name them. Pass backend() the model that mteb's wrapper is given."
        )
    elif EXPERIMENTS in (place.name, place.parent.name):
        raise ConfigurationError(
            f"{path} names an experiment of other settings than this model's. Pass backend() the model that mteb's "
            f"wrapper is given; and name no cache_path that ends in {EXPERIMENTS!r}."
        )
    if not place.name:
        raise ConfigurationError(f"{path} names no task. Pass <cache_path>/<task>, as mteb's wrapper does.")
    return Folder(place.parent, place.name, experiment, role)
