"""``cas-cache ls``: the namespaces of a mirror."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cas_cache.cli.options import human_bytes, mirror_options, open_mirror, print_json

if TYPE_CHECKING:
    from cas_cache.mirror import Namespace


@click.command()
@mirror_options
def ls(cache: str | None, remote: str | None, *, as_json: bool) -> None:
    """List the namespaces of CACHE's mirror: whose vectors, how many, how many wait to be pushed."""
    mirror = open_mirror(cache, remote)
    found = [describe(ns) for ns in mirror.namespaces()]
    if as_json:
        print_json({"mirror": str(mirror.directory), "namespaces": found})
    elif not found:
        click.echo(f"The mirror {mirror.directory} is empty. `cas-cache pull` fetches what others have pushed.")
    else:
        _print_table(found)


def describe(ns: Namespace) -> dict[str, Any]:
    """Return a namespace's line as plain JSON."""
    return {
        "namespace": ns.spec.namespace,
        "model": ns.spec.model,
        "revision": ns.spec.revision,
        "role": ns.spec.role,
        "prompt": ns.spec.prompt,
        "rows": ns.rows,
        "waiting": ns.waiting_rows,
        "dtype": None if ns.dtype is None else ns.dtype.name,
        "shape": list(ns.shape),
        "bytes": ns.rows * ns.row_bytes,
    }


def _print_table(found: list[dict[str, Any]]) -> None:
    """Two lines a namespace: model names are long, and eight columns leave them five characters of eighty."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("namespace", no_wrap=True)
    table.add_column("model@revision, role", overflow="fold")
    for ns in found:
        vector = f"{ns['dtype']}[{','.join(map(str, ns['shape']))}]" if ns["dtype"] else "-"
        role = f", {ns['role']}" if ns["role"] else ""
        rows, waiting = f"{ns['rows']:,} rows", f"{ns['waiting']:,} to push"
        counts = f"{rows:<17}{waiting:<19}{vector:<15}{human_bytes(ns['bytes'])}"
        # Text, because square brackets in a plain string are markup.
        table.add_row(ns["namespace"][:12], Text(f"{ns['model']}@{ns['revision'][:12]}{role}\n{counts}"))
    Console(highlight=False).print(table)
