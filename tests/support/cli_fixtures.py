"""Small real mirrors and repositories for the tests of the command line, and what is in a directory."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click

from cas_cache import EmbeddingCache
from cas_cache.mirror import Mirror, View
from storages import OTHER_SPEC, SPEC, texts, truth

DOCUMENTS = replace(SPEC, role="document", prompt="")
EMPTY = replace(SPEC, model="org/empty")


class Places(NamedTuple):
    """A mirror, its repository, and a directory for what comes out."""

    mirror: Path
    remote: Path
    out: Path


def made(directory: Path) -> Places:
    """Return a mirror and a repository of which both have what the other lacks.

    Of `SPEC` the mirror has four small packs that are pushed, and three rows that wait; of `OTHER_SPEC` all rows wait;
    of `EMPTY` there is none. A colleague has pushed `DOCUMENTS`.
    """
    places = Places(directory / "mirror", directory / "remote", directory / "out")
    places.out.mkdir()
    with EmbeddingCache(places.mirror, remote=places.remote, push="manual") as cache:
        for number in range(4):
            cache.put(texts(5, 5 * number), truth(texts(5, 5 * number)), SPEC)
            cache.push()
        cache.put(texts(3, 100), truth(texts(3, 100)), SPEC)
        cache.put(texts(6), truth(texts(6)), OTHER_SPEC)
        cache.mirror.namespace(EMPTY)
    with EmbeddingCache(directory / "colleague", remote=places.remote) as cache:
        cache.put(texts(7), truth(texts(7)), DOCUMENTS)
    mirror = Mirror(places.mirror)
    view = View("Task", SPEC.namespace, SPEC.model, SPEC.revision, "query", "default", "test")
    mirror.views.record(view, mirror.namespace(SPEC).keys[:3], None, ["a", "b", "c"])
    return places


def tree(directory: Path) -> dict[str, bytes | None]:
    """Return every file below a directory with its bytes, and every folder."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def leaves(group: click.Group, *path: str) -> dict[str, click.Command]:
    """Return every command by the words that call it."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= leaves(command, *path, name)
        else:
            found[" ".join((*path, name))] = command
    return found
