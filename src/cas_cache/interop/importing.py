"""Import the vectors of old mteb caches into a namespace.

Three steps: find and read the folders, plan, run. For every key of every folder, the plan says if it is taken and, if
not, why. Vectors that are provably wrong (not a vector, another text's, from a truncated file) are never taken. Folders
that cannot prove a guarantee (that their texts were prepared once, that there was no second writer) are refused unless
the caller accepts it. Only the caller declares that the vectors belong to the spec: mteb records neither model nor
revision nor prompt.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.cache import EmbeddingCache
from cas_cache.errors import IdentityError
from cas_cache.format.rows import finite_rows
from cas_cache.identity import KEY_BYTES, EncoderSpec, first_of_each
from cas_cache.interop.folders import Broken, MtebCacheFolder, OldRows, find_folders
from cas_cache.interop.import_plan import CHUNK_BYTES, SKIP_REASONS, FolderPlan, ImportPlan, ImportReport, chunks_of
from cas_cache.interop.mteb_caches import read_faiss_cache, read_numpy_cache
from cas_cache.mirror.index import ABSENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace

TOLERANCE = 0.03
"""Maximum distance, relative to their length, of two vectors that one encoder made of one text: a cosine of 0.9995.
Batches, padding and half precision cause less; other prompts, and titles that count twice, cause more."""

TEXT_KEY = re.compile("[0-9a-f]{64}")
SPEC_FILE = "spec.json"
"""File that `export` writes beside mteb's files: the encoder spec of the vectors."""

PREPARED_TWICE = (
    "mteb 2.x wrote it: its wrapper prepares rows a second time before it encodes them, so vectors of documents with "
    "titles and of queries with instructions are those of other texts than their keys say"
)
UNKNOWN_VERSION = (
    "its files do not show whether mteb 1.x or 2.x wrote it, and 2.x prepared rows twice; if it was 1.x, say so: "
    "--mteb-1, mteb_1=True"
)
BOTH_ROLES = (
    "mteb 1.x kept queries and documents in one folder: among its vectors may be those of the other role, made with "
    "another prompt"
)
SCOPED = (
    "the encoder's vectors are known to be one subset's and split's of one task alone, and the folder holds those of "
    "all its task's"
)
HALF = (
    "all its numbers fit float16, and no row exists yet that shows the encoder's own dtype: evaluate one task with the "
    "cache first, then the namespace knows it"
)


def import_mteb(  # noqa: PLR0913 - independent switches, all by name
    into: EmbeddingCache | Mirror,
    directory: str | Path,
    spec: EncoderSpec,
    *,
    accept_unsafe: bool = False,
    mteb_1: bool = False,
    dry_run: bool = False,
    progress: bool | None = False,
) -> ImportReport:
    """Import the vectors of mteb caches at and below a directory. The directory is not changed.

    Args:
        into: The cache, or its mirror. The next push uploads the imported vectors.
        directory: mteb's ``cache_path``, or a folder in it.
        spec: The encoder spec of the vectors. mteb finds them again if it is the one that `cas_cache.mteb.spec_of`
            returns for the model, the task and the role, or the spec of a namespace that an evaluation made.
        accept_unsafe: Also import folders that cannot prove what they hold.
        mteb_1: Declare that mteb 1.x wrote the folders, which the files do not show.
        dry_run: Only report what an import would do.
        progress: Show the number of vectors stored; None shows it on a terminal only.

    Raises:
        ConfigurationError: If there is no mteb cache, or it changes during the import.
        IdentityError: If the spec's vectors are not made of texts alone.
        MissingDependency: If a folder is a FAISS cache and faiss is not installed.
    """
    mirror = into.mirror if isinstance(into, EmbeddingCache) else into
    namespace = mirror.get(spec.namespace)
    plan = plan_import(find_folders(directory), spec, namespace, accept_unsafe=accept_unsafe, mteb_1=mteb_1)
    if dry_run or not plan.taken:
        return ImportReport(plan)
    return plan.run(mirror.namespace(spec), progress=progress)


def plan_import(
    folders: Sequence[MtebCacheFolder],
    spec: EncoderSpec,
    namespace: Namespace | None,
    *,
    accept_unsafe: bool = False,
    mteb_1: bool = False,
) -> ImportPlan:
    """Read folders and plan what would be imported from them into a namespace. Nothing is changed.

    Args:
        folders: Folders from `find_folders`.
        spec: The encoder spec of the vectors.
        namespace: The mirror's namespace for this spec; None if it does not exist.
        accept_unsafe: Also import folders that cannot prove what they hold.
        mteb_1: Declare that mteb 1.x wrote the folders.

    Raises:
        IdentityError: If the spec's vectors are not made of texts alone.
        MissingDependency: If a folder is a FAISS cache and faiss is not installed.
    """
    if spec.fields != ("text",):
        raise IdentityError(
            f"The vectors of this spec are of {', '.join(spec.fields)}, and the keys of mteb's caches are those of "
            "texts alone: what else a vector was made of is not known. Only specs whose fields are ['text'] can be "
            "imported into; evaluate the others again."
        )
    if namespace is not None and not namespace.rows:
        namespace = None
    dtype = np.dtype(np.float32) if namespace is None or namespace.dtype is None else namespace.dtype
    plans = [_read_folder(folder, spec, mteb_1=mteb_1) for folder in folders]
    _check_dimensions(plans, namespace)
    for plan in plans:
        _choose(plan, namespace, dtype)
        if not accept_unsafe and plan.refused:
            plan.skip_all("refused")
    _compare_folders(plans)
    for plan in plans:
        if not accept_unsafe and plan.refused:
            plan.skip_all("refused")
    return ImportPlan(spec, dtype, plans, accept_unsafe)


def _read_folder(folder: MtebCacheFolder, spec: EncoderSpec, *, mteb_1: bool) -> FolderPlan:
    """Open a folder and check it as a whole."""
    plan = FolderPlan(folder, passed_over=_not_meant(folder, spec))
    if plan.passed_over is not None:
        return plan
    rows = _rows_of(folder)
    if isinstance(rows, Broken):
        plan.broken, plan.total = rows.why, rows.keys
        if rows.keys:
            plan.left["broken"] = rows.keys
        return plan
    plan.rows, plan.total = rows, len(rows.names)
    if folder.backend == "faiss" or folder.role is not None:
        plan.refused.append(PREPARED_TWICE)
    elif not mteb_1:
        plan.refused.append(UNKNOWN_VERSION)
    elif spec.role is not None:
        plan.refused.append(BOTH_ROLES)
    if folder.experiment is not None:
        plan.refused.append(
            f"it is of settings that mteb named {folder.experiment!r}: whether they are the spec's cannot be seen"
        )
    if spec.scope:
        plan.refused.append(SCOPED)
    return plan


def _not_meant(folder: MtebCacheFolder, spec: EncoderSpec) -> str | None:
    """Return the reason why path or spec show that a folder is another encoder's; None if they do not."""
    task = spec.scope.get("task")
    if folder.role is not None and folder.role != spec.role:
        return f"it is of the role {folder.role}, and the spec of {spec.role or 'none'}"
    if folder.experiment is not None and not folder.is_named:
        return "it is of settings that are not mteb's default; to import it, name it as the directory"
    if task is not None and task != folder.task:
        return f"it is of the task {folder.task}, and the spec's vectors are {task}'s alone"
    if (folder.path / SPEC_FILE).exists() and _spec_in(folder.path) != spec:
        return f"its {SPEC_FILE} says that its vectors are another encoder's"
    return None


def _rows_of(folder: MtebCacheFolder) -> OldRows | Broken:
    """Open a folder and return its rows, or the reason why it cannot be used."""
    if folder.leads_out is not None:
        return Broken(
            f"{folder.leads_out} is a symbolic link that leads out of the directory that was named; name the one that "
            "it leads to, or put a copy in its place"
        )
    if folder.backend == "both":
        return Broken("it has the files of two backends and one index, which cannot be both's")
    return read_faiss_cache(folder.path) if folder.backend == "faiss" else read_numpy_cache(folder.path)


def _spec_in(folder: Path) -> EncoderSpec | None:
    try:
        return EncoderSpec.from_canonical((folder / SPEC_FILE).read_bytes())
    except (OSError, IdentityError):
        return None


def _check_dimensions(plans: list[FolderPlan], namespace: Namespace | None) -> None:
    """Mark folders whose vectors differ in length from the namespace's or, if it has none, from each other's."""
    lengths = {plan.rows.dimension for plan in plans if plan.rows is not None}
    for plan in plans:
        if plan.rows is None:
            continue
        if namespace is not None and namespace.shape != (plan.rows.dimension,):
            plan.broken = f"its vectors have the shape ({plan.rows.dimension},), those here {namespace.shape}"
        elif namespace is None and len(lengths) > 1:
            plan.broken = f"the folders have vectors of {sorted(lengths)} numbers: they are several encoders'"


def _choose(plan: FolderPlan, namespace: Namespace | None, dtype: np.dtype[Any]) -> None:
    """Decide for every row of a folder if it is taken."""
    if plan.rows is None:
        return
    names, at = plan.rows.names, plan.rows.at
    texts = np.array([TEXT_KEY.fullmatch(name) is not None for name in names], np.bool_)
    _, group, sizes = np.unique(at, return_inverse=True, return_counts=True)
    keys = bytes.fromhex("".join(name if is_text else "0" * 64 for name, is_text in zip(names, texts, strict=True)))
    order = np.argsort(at, kind="stable")
    plan.keys, plan.at = np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES)[order], at[order]
    texts, shared = texts[order], (sizes[group] > 1)[order]
    if plan.broken is not None:
        plan.skip_all("broken")
        plan.refused.clear()
        return
    beyond = plan.at >= plan.rows.rows
    plan.skip("not_a_text", ~texts)
    shared, beyond = shared[texts], beyond[texts]
    plan.skip("beyond_file", beyond)
    plan.skip("shared_row", shared[~beyond])
    halves = _compare_rows(plan, namespace, dtype)
    if plan.left.get("differs"):
        plan.refused.append(f"{plan.left['differs']} of its vectors differ from those that are here of the same texts")
    if namespace is None and halves and len(plan.at):
        plan.refused.append(HALF)
    nameless = _rows_without_key(plan.rows)
    if nameless:
        plan.refused.append(
            f"{nameless} rows that hold vectors have no key: a run was killed, or two wrote at once, and then vectors "
            "may be under each other's keys"
        )


def _compare_rows(plan: FolderPlan, namespace: Namespace | None, dtype: np.dtype[Any]) -> bool:
    """Skip rows that are not valid vectors or are already stored; return True if all finite rows fit float16."""
    reasons = np.full(len(plan.at), "", "U16")
    halves = True
    for part in chunks_of(plan):
        vectors = plan.rows.take(plan.at[part]) if plan.rows is not None else np.empty((0, 0), np.float32)
        finite = finite_rows(vectors)
        with np.errstate(over="ignore", invalid="ignore"):
            fits = (vectors.astype(dtype).astype(np.float32) == vectors).all(axis=1)
            halves = halves and bool((vectors.astype(np.float16) == vectors)[finite].all())
        reason = reasons[part]
        if namespace is not None:
            rows = namespace.find(plan.keys[part])
            is_stored = rows != ABSENT
            alike = _are_close(vectors[is_stored], namespace.take(rows[is_stored]))
            reason[is_stored] = np.where(alike, "here", "differs")
        # A row of several reasons has the last of these.
        reason[~fits], reason[~finite], reason[~vectors.any(axis=1)] = "other_dtype", "not_finite", "zero"
    for name in SKIP_REASONS:
        which = reasons == name
        plan.skip(name, which)
        reasons = reasons[~which]
    return halves


def _rows_without_key(rows: OldRows) -> int:
    """Return the number of nonzero rows without a key. Rows that mteb allocates in advance are zero."""
    has_key = np.zeros(rows.rows, np.bool_)
    has_key[rows.at[rows.at < rows.rows]] = True
    spare = np.flatnonzero(~has_key)
    step = max(1, CHUNK_BYTES // (4 * rows.dimension))
    return sum(int(rows.take(spare[at : at + step]).any(axis=1).sum()) for at in range(0, len(spare), step))


def _compare_folders(plans: list[FolderPlan]) -> None:
    """Take a key that several folders have from the first; if their vectors differ, refuse both folders."""
    if not plans:
        return
    owner = np.repeat(np.arange(len(plans)), [len(plan.at) for plan in plans])
    keys, at = np.concatenate([plan.keys for plan in plans]), np.concatenate([plan.at for plan in plans])
    first, which = first_of_each(keys)
    original = first[which] if len(keys) else which
    again = np.flatnonzero(original != np.arange(len(keys)))
    differs = np.zeros(len(keys), np.bool_)
    for start in range(0, len(again), 4096):
        repeated = again[start : start + 4096]
        alike = _are_close(*(_gathered(plans, owner[these], at[these]) for these in (repeated, original[repeated])))
        differs[repeated[~alike]] = True
    repeats = np.zeros(len(keys), np.bool_)
    repeats[again] = True
    apart = {(int(owner[place]), int(owner[original[place]])) for place in np.flatnonzero(differs)}
    for first_plan, second_plan in apart:
        for plan_number, other_number in ((first_plan, second_plan), (second_plan, first_plan)):
            plans[plan_number].refused.append(
                f"vectors of the same texts differ from those in {plans[other_number].folder.path}"
            )
    for number, plan in enumerate(plans):
        mine = owner == number
        plan.skip("differs", differs[mine])
        plan.skip("other_folder", repeats[mine][~differs[mine]])


def _gathered(plans: list[FolderPlan], owner: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vectors of rows of several folders."""
    vectors: dict[int, NDArray[np.float32]] = {}
    for number in np.unique(owner):
        rows = plans[number].rows
        for position, vector in zip(
            np.flatnonzero(owner == number), rows.take(at[owner == number]) if rows else (), strict=True
        ):
            vectors[int(position)] = vector
    return np.stack([vectors[position] for position in range(len(owner))])


def _are_close(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True for each pair of vectors that is equal within `TOLERANCE`."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    longer = np.maximum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    with np.errstate(invalid="ignore"):
        alike: NDArray[np.bool_] = np.linalg.norm(first - second, axis=1) <= TOLERANCE * longer
    return alike
