"""``cas-cache search``: the nearest neighbours of texts that have vectors in the cache, or of vectors from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import click
import numpy as np

from cas_cache.cli.completion import complete_namespaces, complete_tasks
from cas_cache.cli.export import one_namespace, view_list, view_options, views_of
from cas_cache.cli.help import Command
from cas_cache.cli.options import (
    namespace_option,
    open_trusted_mirror,
    print_json,
)
from cas_cache.cli.text import TEXT
from cas_cache.cli.verbosity import say
from cas_cache.errors import CacheMiss, ConfigurationError
from cas_cache.formatting import pluralize
from cas_cache.identity import keys_of_texts
from cas_cache.mirror.index import ABSENT
from cas_cache.search import METRICS, open_search

if TYPE_CHECKING:
    from io import TextIOWrapper

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace, View
    from cas_cache.search import Neighbours

MAX_NAMED = 3
"""Maximum number of texts without a vector that an error names."""

SHOWN_CHARACTERS = 100
"""Maximum characters of a query in output for people; ``--json`` has the full query."""


@click.command(
    cls=Command,
    examples=(
        "cas-cache search my_mirror 'apple pie' -n 55dc47fb",
        "cas-cache search my_mirror --input queries.txt -n 55dc47fb -k 3 --json",
    ),
)
@click.argument("cache")
@click.argument("texts", nargs=-1, type=TEXT, metavar="[TEXT]...")
@namespace_option("namespace", "Search this namespace.")
@click.option(
    "--from",
    "source",
    metavar="ID",
    shell_complete=complete_namespaces,
    help="Where the texts have their vectors; by default the one searched.",
)
@click.option(
    "--input", "file", type=click.File("r", encoding="utf-8"), metavar="FILE", help="One text a line; - is stdin."
)
@click.option("--vectors", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="Queries: (n, d), .npy.")
@click.option(
    "--task", type=TEXT, shell_complete=complete_tasks, help="Search only what this task asked for, and show its ids."
)
@view_options
@click.option("-k", "--k", type=click.IntRange(min=1), default=10, show_default=True, help="How many for each query.")
@click.option("--metric", type=click.Choice(METRICS), default="cosine", show_default=True)
@click.option("--index", type=TEXT, help="A FAISS index as its index_factory names it: HNSW32. Default: exact search.")
@click.option("--parameters", type=TEXT, default="", help="Of a search in the index, as FAISS names them: nprobe=32.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def search(
    cache: str,
    texts: tuple[str, ...],
    *,
    namespace: str | None,
    source: str | None,
    file: TextIOWrapper | None,
    vectors: str | None,
    task: str | None,
    k: int,
    metric: str,
    index: str | None,
    parameters: str,
    as_json: bool,
    **asked: str | None,
) -> None:
    """Find the nearest neighbours of each TEXT among the vectors of CACHE's mirror.

    Nothing is encoded: a text must have its vector in the cache, in the namespace that is searched or in the one of
    --from (that of a model's queries, say). Or name the queries' --vectors. Every vector that is compared exactly, and
    every one that is shown, is proved by its digest.
    """
    if sum((bool(texts), file is not None, vectors is not None)) != 1:
        raise click.UsageError("Say what to look for: TEXT..., --input FILE, or --vectors FILE.")
    if vectors is not None and source is not None:
        raise click.UsageError("--from says where texts have their vectors; --vectors are vectors already.")
    if task is not None and namespace is not None:
        raise click.UsageError("A task's rows are of one namespace: name the --task, or the --namespace.")
    if task is None and any(value is not None for value in asked.values()):
        raise click.UsageError("--role, --model, --subset and --split choose among a task's views: name a --task.")
    mirror = open_trusted_mirror(cache, None)
    view = None if task is None else _one_view(mirror, task, asked)
    searched = one_namespace(mirror, namespace if view is None else view.namespace)
    if vectors is not None:
        labels: list[Any] = []
        queries = _loaded(vectors)
        labels = list(range(len(queries)))
    else:
        labels = list(texts) if file is None else _lines(file)
        queries = _vectors_of(labels, searched if source is None else one_namespace(mirror, source), searched)
    searcher = open_search(mirror, searched.spec.namespace, index=index, metric=metric, parameters=parameters)
    neighbours = searcher.search(queries, k, view=view)
    lines = _as_json(neighbours)
    if as_json:
        print_json(
            {
                "namespace": searched.spec.namespace,
                "model": searched.spec.model,
                "metric": metric,
                "index": index,
                "queries": [{"query": label, "neighbours": line} for label, line in zip(labels, lines, strict=True)],
            }
        )
        return
    for label, line in zip(labels, lines, strict=True):
        say(f"query {label}" if vectors is not None else _shortened(label))
        for hit in line:
            name = hit["key"][:16] if hit.get("id") is None else hit["id"]
            say(f"{hit['rank']:>4}  {hit['score']:>9.5f}  row {hit['row']:<11,} {name}")


def _one_view(mirror: Mirror, task: str, asked: dict[str, str | None]) -> View:
    """Return the view that the options choose.

    Raises:
        click.UsageError: If they choose none, or several.
    """
    chosen = views_of(mirror, task, asked)
    if len(chosen) > 1:
        raise click.UsageError(
            f"{pluralize(len(chosen), 'view')} of the task {task} match: {view_list(chosen)}. Choose with --role, "
            "--model, --subset and --split."
        )
    return chosen[0]


def _vectors_of(texts: list[str], source: Namespace, searched: Namespace) -> NDArray[Any]:
    """Return the vectors of texts, (n, d).

    Raises:
        ConfigurationError: If the namespaces belong to different models, or the keys of `source` need more than a text.
        CacheMiss: If `source` has no vector for a text.
    """
    spec = source.spec
    if (spec.model, spec.revision) != (searched.spec.model, searched.spec.revision):
        raise ConfigurationError(
            f"The texts' vectors are of {spec.model}@{spec.revision}, those searched of "
            f"{searched.spec.model}@{searched.spec.revision}: they cannot be compared. Name namespaces of one model."
        )
    if spec.fields != ("text",):
        raise ConfigurationError(
            f"The vectors of {spec.namespace} are found by {', '.join(spec.fields)}, not by a text alone. Pass "
            "--vectors, or --from another namespace."
        )
    rows = source.find(keys_of_texts(texts))
    missing = np.flatnonzero(rows == ABSENT)
    if len(missing):
        examples = ", ".join(repr(_shortened(texts[at])) for at in missing[:MAX_NAMED])
        raise CacheMiss(
            f"There is no vector for {len(missing):,} of {pluralize(len(texts), 'text')} in the namespace "
            f"{spec.namespace} ({spec.model}, role {spec.role}): {examples}. Nothing was encoded. "
            "Name the namespace that has them with --from (`cas-cache ls` lists all), "
            "encode them with EmbeddingCache.encode first, or pass --vectors.",
            positions=tuple(int(at) for at in missing[:10]),
            missing=len(missing),
        )
    return source.take(rows)


def _loaded(path: str) -> NDArray[Any]:
    try:
        # Mapped, so that memory is used for the data that exists, not for the shape that the header claims.
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, OverflowError, BadZipFile) as err:
        raise ConfigurationError(f"{path} is not a .npy file ({err}). Write the queries with numpy.save.") from err
    if not isinstance(loaded, np.ndarray):
        raise ConfigurationError(f"{path} holds several arrays. Write the queries with numpy.save.")
    return loaded


def _lines(file: TextIOWrapper) -> list[str]:
    """Return the texts of a file. Only a line feed ends a text."""
    try:
        texts = file.read().removesuffix("\n").split("\n")
    except UnicodeDecodeError as err:
        raise ConfigurationError(f"{file.name} is not UTF-8 ({err}). Convert it first.") from err
    if texts == [""]:
        raise click.UsageError(f"{file.name} holds no text.")
    return texts


def _as_json(neighbours: Neighbours) -> list[list[dict[str, Any]]]:
    """Return each query's neighbours as plain JSON."""
    return [
        [
            {
                "rank": rank + 1,
                "score": float(neighbours.scores[line, rank]),
                "row": int(neighbours.rows[line, rank]),
                "key": neighbours.keys[line, rank].tobytes().hex(),
                **({} if neighbours.ids is None else {"id": neighbours.ids[line][rank]}),
            }
            for rank in range(neighbours.rows.shape[1])
        ]
        for line in range(len(neighbours.rows))
    ]


def _shortened(text: str) -> str:
    """Return a text on one line, shortened."""
    plain = " ".join(text.split())
    return plain if len(plain) <= SHOWN_CHARACTERS else plain[: SHOWN_CHARACTERS - 3] + "..."
