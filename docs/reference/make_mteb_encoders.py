"""Write docs/reference/mteb-encoders.md, how each encoder class of the installed mteb is treated.

    python docs/reference/make_mteb_encoders.py

Classes are read from the source of `mteb.models` and not imported, so that classes inside of a loader function are
found too. A test compares the page with what this prints.
"""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"

from cas_cache.mteb import reviewed
from cas_cache.mteb.classification import REASONS, Treatment

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent / "mteb-encoders.md"

INTERFACES = ({"encode"}, {"predict"}, {"index", "search"})
"""Methods of mteb's protocols for encoders, cross-encoders and search models."""

ABSTRACT_ENCODER = "abs_encoder.AbsEncoder"

HEAD = """# Encoder classes of mteb

Made with mteb {version} by `python docs/reference/make_mteb_encoders.py`. `cas_cache.mteb.classification` decides how
the vectors of a class are treated; this page lists its decision for every class of `mteb.models` that encodes, searches
or scores.

| treatment | classes | registered models |
|---|---|---|
{counts}

- **Known function of the item:** tasks share vectors. The encoder spec holds all that changes a vector.
- **Scoped to the task:** the cache stores the vectors, and serves them for the same task, subset, split and role only.
  The key covers every content field of a row. A class that is not on this page, such as one of your own or one of a
  newer mteb, is treated so.
- **Passed through:** nothing is stored; one `DataWarning` says why.
- **Refused:** a `TypeError` says what to do.

The class decides first. Metadata of a model can only narrow it: `model_type` "sparse" or "late-interaction", or MaxSim
as similarity, are passed through whatever the class. A `SentenceTransformer` alone is treated as mteb would wrap it.

"Reads" lists what the code of a class looks at in addition to the content of an item, as far as its source shows: the
task (its name, type, prompt or instruction), the role, or title and body apart from the joined text.

## Services and what the self-check costs

Classes marked "service" send each item to a service, which may charge for it. Before vectors that others pushed are
served for the first time, the [self-check](../explanation/self-check.md) encodes a few of them again: `self_check` rows
(8 by default), and of each pack at least one. A scoped class has a namespace for each task, role, subset and split, so
each of these is checked. A log line (INFO, `cas_cache.mteb.wrapper`) says so when such a model is wrapped.

- **How many:** a new mirror that takes {example_tasks} retrieval tasks, each with queries and documents in one subset
  and split, in at most 8 packs, sends {example_tasks} x 2 x 8 = {example_items} items, and {example_few} with
  `self_check=1` and one pack each. A run after that sends none: the mirror remembers what was compared. `stats.checked`
  counts the items.
- **Bound:** `max_self_check=` is how many items one call of `encode` may send for it. More are an error before
  anything is sent.
- `self_check=0` or `CAS_CACHE_SELF_CHECK=0` sends none, and trusts whoever may write to the repository.
  `only_cached=True` sends nothing at all.
- Vectors of a service are reproducible only as far as its provider keeps the model under that name.
"""

EXAMPLE_TASKS = 10
SELF_CHECK = 8


@dataclass(frozen=True)
class SourceClass:
    """A class as its source defines it."""

    name: str
    bases: tuple[str, ...]
    methods: frozenset[str]
    reads: frozenset[str]


def source_classes() -> dict[str, SourceClass]:
    """Return every class of `mteb.models` by the name that `reviewed` uses."""
    spec = find_spec("mteb")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("mteb is not installed")
    root = Path(spec.origin).parent / "models"
    found: dict[str, SourceClass] = {}
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                name = f"{module.removeprefix('model_implementations.')}.{node.name}"
                bases = tuple(ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases)
                methods = frozenset(item.name for item in node.body if isinstance(item, ast.FunctionDef))
                found[name] = SourceClass(name, bases, methods, frozenset(_reads(node)))
    return found


def encoder_classes(classes: dict[str, SourceClass]) -> dict[str, SourceClass]:
    """Return the classes that encode, search or score; protocols and classes that only inherit `AbsEncoder` do not."""
    chosen = {}
    for name, found in sorted(classes.items()):
        methods = frozenset[str]().union(*(base.methods for base in _lineage(found, classes)))
        is_abstract = name == ABSTRACT_ENCODER or "Protocol" in found.bases
        if not is_abstract and any(methods.issuperset(needed) for needed in INTERFACES):
            chosen[name] = found
    return chosen


def _lineage(found: SourceClass, classes: dict[str, SourceClass]) -> Iterator[SourceClass]:
    """Yield a class and its bases within mteb, but no abstract one."""
    yield found
    for base in found.bases:
        known = next((other for other in classes.values() if other.name.endswith(f".{base}")), None)
        if known is not None and known is not found and known.name != ABSTRACT_ENCODER:
            yield from _lineage(known, classes)


def _reads(node: ast.ClassDef) -> Iterator[str]:
    """Yield what the methods of a class look at in addition to the content of an item."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "task_metadata":
            yield "task"
        if isinstance(part, ast.Call) and any(
            word in ast.unparse(part.func) for word in ("get_prompt", "_resolve_prompt", "get_task_instr", "get_instr")
        ):
            yield "task"
        if isinstance(part, ast.Compare) and "prompt_type" in ast.unparse(part):
            yield "role"
        if isinstance(part, ast.Constant) and part.value in ("title", "body"):
            yield "title and body"


def registered_models(classes: dict[str, SourceClass]) -> tuple[Counter[str], list[str]]:
    """Return how many registered models each class loads, and the models whose loader makes none of the classes."""
    from mteb.models.model_implementations import MODEL_REGISTRY

    counts: Counter[str] = Counter()
    unknown = []
    for name, meta in MODEL_REGISTRY.items():
        made = _made_by(meta.loader, classes)
        if made is None:
            unknown.append(str(name))
        else:
            counts[made] += 1
    return counts, unknown


def _made_by(loader: Any, classes: dict[str, SourceClass]) -> str | None:
    """Return the class that a loader makes: itself, one that it closes over, or the last that its source calls."""
    if loader is None:
        return None
    if not inspect.isclass(loader):
        loader = inspect.unwrap(loader)
        held = [cell.cell_contents for cell in loader.__closure__ or () if inspect.isclass(cell.cell_contents)]
        if not held:
            tree = ast.parse(textwrap.dedent(inspect.getsource(loader)))
            called = [ast.unparse(part.func) for part in ast.walk(tree) if isinstance(part, ast.Call)]
            return next((name for word in reversed(called) for name in classes if name.endswith(f".{word}")), None)
        loader = held[0]
    module = loader.__module__.removeprefix("mteb.models.").removeprefix("model_implementations.")
    return f"{module}.{loader.__name__}"


def page() -> str:
    """Return the page."""
    classes = source_classes()
    encoders = encoder_classes(classes)
    models, _ = registered_models(encoders)
    by_treatment: dict[Treatment, list[str]] = {treatment: [] for treatment in Treatment}
    for name in encoders:
        by_treatment[_reason(name).treatment].append(name)
    counts = "\n".join(
        f"| {treatment} | {len(names)} | {sum(models[name] for name in names)} |"
        for treatment, names in by_treatment.items()
    )
    items = EXAMPLE_TASKS * 2
    head = HEAD.format(
        version=version("mteb"),
        counts=counts,
        example_tasks=EXAMPLE_TASKS,
        example_items=items * SELF_CHECK,
        example_few=items,
    )
    return head + "".join(_section(title, names, models, classes) for title, names in by_treatment.items())


def _section(title: Treatment, names: list[str], models: Counter[str], classes: dict[str, SourceClass]) -> str:
    reasons = sorted({reviewed.REASON_OF.get(name, "unreviewed") for name in names})
    parts = [f"\n## {title.value.capitalize()}\n"]
    for reason in reasons:
        parts.append(f"\nBecause {REASONS[reason].reason}:\n\n| class | models | reads | |\n|---|---|---|---|\n")
        for name in names:
            if reviewed.REASON_OF.get(name, "unreviewed") == reason:
                reads = frozenset[str]().union(*(base.reads for base in _lineage(classes[name], classes)))
                service = "service" if name in reviewed.SERVICES else ""
                parts.append(f"| `{name}` | {models[name] or ''} | {', '.join(sorted(reads))} | {service} |\n")
    return "".join(parts)


def _reason(name: str) -> Any:
    return REASONS[reviewed.REASON_OF.get(name, "unreviewed")]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
