"""Overview of a mirror, read from small files only: for notebooks, and where nothing may be opened or waited for.

Opening a namespace takes a lock and finishes what a crash interrupted. The overview instead reads two small files of
each of a few namespaces. A namespace that cannot be read is shown as damaged.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from cas_cache.display import ID_CHARACTERS, MAX_ROWS, facts, grid, pluralize, size, vector_type
from cas_cache.errors import CasCacheError
from cas_cache.files.disk import check_folder, read_plain
from cas_cache.identity import NAMESPACE_ID, EncoderSpec, names_of
from cas_cache.mirror.state import State, may_have_pending_rows
from cas_cache.mirror.table import STATE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group

    from cas_cache.mirror.mirror import Mirror
    from cas_cache.mirror.namespace import Namespace

logger = logging.getLogger(__name__)


class Line(NamedTuple):
    """One namespace; `spec` or `state` is None if it cannot be read.

    Attributes:
        namespace: The id of the namespace.
        spec: The encoder spec.
        state: The committed state.
    """

    namespace: str
    spec: EncoderSpec | None
    state: State | None


def count_namespaces(mirror: Mirror) -> int | None:
    """Return the number of namespaces of a mirror, from one listing of one folder; None if it cannot be listed."""
    try:
        return sum(1 for path in (mirror.directory / "namespaces").iterdir() if NAMESPACE_ID.fullmatch(path.name))
    except FileNotFoundError:
        return 0
    except OSError:
        return None


def lines_of(mirror: Mirror, most: int) -> Iterator[Line]:
    """Yield the first `most` namespaces of a mirror, ordered by id."""
    try:
        ids = mirror.ids()
    except (OSError, CasCacheError):
        return
    for namespace in islice(ids, most):
        folder = mirror.directory / "namespaces" / namespace
        try:
            check_folder(folder)
            spec = EncoderSpec.from_canonical(read_plain(folder / "spec.json"))
        except (OSError, CasCacheError):
            yield Line(namespace, None, None)
            continue
        try:
            state = State.from_bytes(read_plain(folder / STATE_FILE), str(folder / STATE_FILE))
        except FileNotFoundError:
            state = State(namespace=namespace)
        except (OSError, CasCacheError):
            state = None
        mixed_up = spec.namespace != namespace or (state is not None and state.namespace != namespace)
        yield Line(namespace, None, None) if mixed_up else Line(namespace, spec, state)


def pending_in(mirror: Mirror) -> tuple[int, int]:
    """Return the number of pending rows, and the bytes of their vectors.

    Reads one small file per namespace, and parses it only if rows may be pending. A namespace that is damaged or cannot
    be read counts as one without pending rows.
    """
    rows = vector_bytes = 0
    for namespace in mirror.ids():
        folder = mirror.directory / "namespaces" / namespace
        try:
            check_folder(folder)
            data = read_plain(folder / STATE_FILE)
            if may_have_pending_rows(data):
                state = State.from_bytes(data, str(folder / STATE_FILE))
                pending = sum(extent.rows for extent in state.waiting)
                rows, vector_bytes = rows + pending, vector_bytes + pending * state.row_bytes
        except (OSError, CasCacheError) as problem:
            logger.debug("pending rows of %s are not counted: %s", folder, problem)
    return rows, vector_bytes


def table_of_mirror(mirror: Mirror) -> Group:
    """Return a table of a mirror's namespaces."""
    headings = ("namespace", "model", "revision", "role", "rows", "to push", "vectors", "size")
    rows = [_cells(line) for line in lines_of(mirror, MAX_ROWS)]
    total = count_namespaces(mirror)
    title = f"{pluralize(total, 'namespace') if total else 'no namespaces'} in {mirror.directory}"
    return grid(title, headings, rows, total=total)


def table_of_namespace(ns: Namespace) -> Group:
    """Return a table that describes an open namespace."""
    spec = ns.spec
    values = {
        "model": spec.model,
        "revision": spec.revision,
        "prompt": names_of(spec)["prompt"] or None,
        "role": spec.role,
        "task": spec.scope.get("task") if spec.scope else None,
        "rows": ns.rows,
        "to push": ns.pending_rows,
        "packs": len(ns.packs),
        "vectors": None if ns.dtype is None else vector_type(ns.dtype.name, ns.shape),
        "size": size(ns.rows * ns.row_bytes),
        "folder": ns.folder,
    }
    return facts(f"Namespace {spec.namespace}", values)


def _cells(line: Line) -> tuple[object, ...]:
    spec, state = line.spec, line.state
    if spec is None:
        return (line.namespace[:ID_CHARACTERS], "(damaged)", *[None] * 6)
    shown = (line.namespace[:ID_CHARACTERS], spec.model, spec.revision[:ID_CHARACTERS], spec.role)
    if state is None:
        return (*shown, "(damaged)", None, None, None)
    waiting = sum(extent.rows for extent in state.waiting)
    vectors = None if state.dtype is None else vector_type(state.dtype, state.shape)
    return (*shown, state.rows, waiting, vectors, size(state.rows * state.row_bytes))
