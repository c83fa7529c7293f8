"""Write docs/reference/api.md, the reference of the public names, from their signatures and docstrings.

    python docs/reference/make_api.py

A test compares the page with what this prints.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from cas_cache import errors

PAGE = Path(__file__).parent / "api.md"

ORDER: dict[str, tuple[str, ...]] = {
    "cas_cache": ("EmbeddingCache", "EncoderSpec", "CachedEncoder", "Signing", "Stats", "SyncReport"),
    "cas_cache.models": ("describe", "describe_encoder", "weights_fingerprint"),
    "cas_cache.mteb": ("CachedEmbeddingWrapper", "weights_fingerprint", "spec_of", "TextVectorMap", "backend"),
    "cas_cache.search": ("open_search", "Searcher", "Neighbours"),
    "cas_cache.storage": ("open_storage",),
    "cas_cache.repository": (
        "Repository",
        "check",
        "CheckReport",
        "CheckFinding",
        "Severity",
        "compact",
        "CompactReport",
        "Merge",
        "prune",
        "PruneReport",
        "Deletion",
        "drop",
        "DropReport",
        "drop_pack",
        "DropPackReport",
        "inventory",
        "NamespaceContent",
    ),
    "cas_cache.testing": ("StorageContract",),
    "cas_cache.doctor": ("examine_machine", "examine_mirror", "examine_remote"),
}
"""The public modules and, of each, the names that are used first, in the order of use. The others follow."""

IN_PART = {
    "cas_cache.storage": (),
    "cas_cache.repository": (),
    "Mirror": ("namespaces", "namespace", "get", "view", "repository", "repository_url", "close"),
    "Repository": ("open_zarr", "open_dask", "url", "id"),
    "Signing": (),
    "Stats": ("hit_rate", "seconds_saved", "as_json", "summary"),
    "SyncReport": ("as_json",),
}
"""Modules of which the names above are public and no other, and classes of which only these members are."""

PARTS = ("Displayable", "SharedMirror")
"""Bases that divide a large class, or show it in a notebook; their members are listed with those of the class."""

MEMBERS = ("encode", "get", "missing", "bind", "put", "pull", "push", "sync", "close", "load", "search", "stats")
"""Members of classes that are used first."""

HEAD = """# Python reference

Made from the code by `python docs/reference/make_api.py`. Shapes are in parentheses: (n, d) is n rows of d numbers.
Errors are on a separate page: [errors](errors.md). Everything that is not on this page may change in any release.
Names are in the order in which they are used.
"""

SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example):$", re.MULTILINE)
WIDTH = 100
LINKS: dict[str, str] = {}
"""Links to the descriptions of public names."""


def page() -> str:
    """Return the page."""
    public = public_names()
    LINKS.update({name: f"#{name.lower()}" for names in public.values() for name in names})
    LINKS.update({name: "errors.md" for name in vars(errors) if name[0].isupper() and name not in LINKS})
    parts = [HEAD, contents(public)]
    for name, names in public.items():
        module = importlib.import_module(name)
        parts.append(f"\n## {name}\n\n{described(module)}\n")
        parts += [
            f"\n### {public_name}\n\n{entry(public_name, getattr(module, public_name))}\n" for public_name in names
        ]
    return "".join(parts)


def public_names() -> dict[str, list[str]]:
    """Return the public names of each module in order of use; a name in two modules is listed in the first."""
    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    for name, first in ORDER.items():
        module = importlib.import_module(name)
        others = () if name in IN_PART else set(module.__all__) - set(first)
        names = [*first, *sorted(others, key=str.lower)]
        found[name] = [public_name for public_name in names if id(getattr(module, public_name)) not in seen]
        seen |= {id(getattr(module, public_name)) for public_name in names}
    return found


def contents(public: dict[str, list[str]]) -> str:
    """Return a table of all public names, each with a link and the first sentence of its docstring."""
    rows = []
    for name, names in public.items():
        module = importlib.import_module(name)
        for public_name in names:
            thing = getattr(module, public_name)
            documented = inspect.isclass(thing) or callable(thing)
            summary = (
                code(inspect.cleandoc(thing.__doc__).partition("\n\n")[0].replace("\n", " ")) if documented else ""
            )
            rows.append(f"| `{name}` | [`{public_name}`](#{public_name.lower()}) | {summary} |")
    return "\n| module | name | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def entry(name: str, thing: Any) -> str:
    """Return what the page says of one public name."""
    if not (inspect.isclass(thing) or callable(thing)):
        return f"```text\n{name} = {thing!r}\n```"
    if not inspect.isclass(thing):
        return f"{signature(name, thing)}\n\n{described(thing)}"
    if issubclass(thing, enum.Enum):
        values = "\n".join(f"- `{one.name}`: `{one.value!r}`" for one in thing)
        return f"{described(thing)}\n\n{values}"
    head = f"```text\nclass {name}\n```" if no_constructor(thing) else signature(name, thing)
    named = [base for base in thing.__bases__ if base.__module__.startswith("cas_cache") and base.__name__ not in PARTS]
    bases = [f"`{base.__name__}`" for base in named]
    return "\n\n".join(
        [head, described(thing), *(["A " + ", ".join(bases) + "."] if bases else []), *members(name, thing)]
    )


def members(name: str, thing: type) -> list[str]:
    """Return what the page says of a class's own public members; of tests no more than what they test."""
    parts, tests = [], []
    fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    for member, value in sorted(own_members(thing).items(), key=lambda item: rank(item[0])):
        found = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if member.startswith("_") or member in fields or not getattr(found, "__doc__", None):
            continue
        if member not in IN_PART.get(name, (member,)):
            continue
        if member.startswith("test_"):
            tests.append(f"- `{member}`: {found.__doc__.partition(chr(10))[0]}")
        elif isinstance(found, property):
            parts.append(f"#### {name}.{member}\n\n{returned(found)}{described(found)}")
        elif inspect.isfunction(found):
            bound = getattr(thing, member) if isinstance(value, classmethod | staticmethod) else found
            parts.append(f"#### {name}.{member}\n\n{signature(member, bound)}\n\n{described(found)}")
    return [*parts, *(["\n".join(tests)] if tests else [])]


def own_members(thing: type) -> dict[str, Any]:
    """Return the members of a class, with those of the bases in `PARTS`."""
    found: dict[str, Any] = {}
    for base in reversed(thing.__mro__):
        if base is thing or base.__name__ in PARTS:
            found |= vars(base)
    return found


def rank(member: str) -> int:
    """Return the place of a member among those that are used first; the others keep the order of the code."""
    return MEMBERS.index(member) if member in MEMBERS else len(MEMBERS)


def no_constructor(thing: type) -> bool:
    """Whether a class is not made by calling it with arguments: a protocol, an error, a group of tests."""
    return getattr(thing, "_is_protocol", False) or issubclass(thing, Exception) or thing.__init__ is object.__init__


def signature(name: str, thing: Any) -> str:
    """Return a signature as code, on several lines if it is long."""
    of = inspect.signature(thing)
    parameters = [one for one in of.parameters.values() if one.name != "self"]
    shown = [parameter(one) for one in parameters]
    named = next((n for n, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if named is not None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        shown.insert(named, "*")
    back = "" if of.return_annotation in {of.empty, "None", None} else f" -> {of.return_annotation}"
    line = f"{name}({', '.join(shown)}){back}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){back}"
    return f"```text\n{line}\n```"


def parameter(of: inspect.Parameter) -> str:
    """Return a parameter as it is written."""
    stars = {of.VAR_POSITIONAL: "*", of.VAR_KEYWORD: "**"}.get(of.kind, "")
    kind = "" if of.annotation is of.empty else f": {of.annotation}"
    given = of.default.__name__ if inspect.isclass(of.default) else repr(of.default)
    default = "" if of.default is of.empty else given.replace("<factory>", "...")
    return f"{stars}{of.name}{kind}" + (f"{' = ' if kind else '='}{default}" if default else "")


def returned(found: property) -> str:
    """Return the type of a property as a line of its own."""
    kind = getattr(found.fget, "__annotations__", {}).get("return")
    return f"Type: {type_of(str(kind))}\n\n" if kind else ""


def types(thing: Any) -> dict[str, str]:
    """Return the types of the parameters of a function, or of the attributes and parameters of a class, as written."""
    found = {}
    if inspect.isclass(thing):
        for base in reversed(thing.__mro__):
            found |= {name: str(kind) for name, kind in vars(base).get("__annotations__", {}).items()}
    if callable(thing) and not getattr(thing, "_is_protocol", False):
        try:
            parameters = inspect.signature(thing).parameters
        except ValueError:  # a class that is written in C
            return found
        found |= {name: str(one.annotation) for name, one in parameters.items() if one.annotation is not one.empty}
    return found


def type_of(kind: str) -> str:
    """Return a type as code, with a link if there is a public name in it."""
    target = next((LINKS[name] for name in re.findall(r"\w+", kind) if name in LINKS), None)
    return f"[`{kind}`]({target})" if target else f"`{kind}`"


def described(thing: Any) -> str:
    """Return a docstring as Markdown: its sections as lists, its names with their types and links."""
    text = inspect.cleandoc(thing.__doc__ or "")
    if not text:
        raise ValueError(f"{thing!r} has no docstring")
    first, *sections = SECTION.split(text)
    parts = [prose(first)]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        lines = inspect.cleandoc(f"\n{body}")
        if title == "Example":
            parts.append(f"```pycon\n{re.sub(r'  # doctest: .*', '', lines)}\n```")
            continue
        kinds = types(thing) if title in {"Args", "Attributes"} else {}
        items = [lines] if title in {"Returns", "Yields"} else re.split(r"\n(?=\S)", lines)
        parts.append(f"**{title}:**\n" + "".join(f"\n- {item(entry_of_list, kinds)}" for entry_of_list in items))
    return "\n\n".join(part for part in parts if part)


def item(text: str, kinds: dict[str, str]) -> str:
    """Return one entry of a section on one line, its name as code, with its type or its link."""
    name, colon, rest = code(re.sub(r"\s*\n\s*", " ", text).strip()).partition(": ")
    if not (colon and re.fullmatch(r"\**\w+", name)):
        return f"{name}{colon}{rest}"
    kind = kinds.get(name.lstrip("*"))
    return (f"`{name}` ({type_of(kind)})" if kind else type_of(name)) + f": {rest}"


def prose(text: str) -> str:
    """Return paragraphs with each on its lines; code that is indented becomes a block."""
    text = re.sub(r"::\n\n((?: {4}.*\n?|\n)+)", lambda m: ":\n\n```text\n" + inspect.cleandoc(m[1]) + "\n```\n", text)
    return code(text.strip())


def code(text: str) -> str:
    """Return text with reStructuredText's double backticks as Markdown's."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
