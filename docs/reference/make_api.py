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

PAGE = Path(__file__).parent / "api.md"

MODULES = ("cas_cache", "cas_cache.mteb", "cas_cache.search", "cas_cache.testing", "cas_cache.doctor")

HEAD = """# Python reference

Made from the code by `python docs/reference/make_api.py`. Shapes are in parentheses: (n, d) is n rows of d numbers.
Errors have a page of their own: [errors](errors.md). Everything that is not on this page may change in any release.
"""

SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example):$", re.MULTILINE)
WIDTH = 100


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    seen: set[int] = set()
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"\n## {name}\n\n{described(module)}\n")
        for public in sorted(module.__all__, key=str.lower):
            thing = getattr(module, public)
            if id(thing) not in seen:
                seen.add(id(thing))
                parts.append(f"\n### {public}\n\n{entry(public, thing)}\n")
    return "".join(parts)


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
    bases = [f"`{base.__name__}`" for base in thing.__bases__ if base.__module__.startswith("cas_cache")]
    return "\n\n".join(
        [head, described(thing), *(["A " + ", ".join(bases) + "."] if bases else []), *members(name, thing)]
    )


def members(name: str, thing: type) -> list[str]:
    """Return what the page says of a class's own public members; of tests no more than what they test."""
    parts, tests = [], []
    fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    for member, value in vars(thing).items():
        found = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if member.startswith("_") or member in fields or not getattr(found, "__doc__", None):
            continue
        if member.startswith("test_"):
            tests.append(f"- `{member}`: {found.__doc__.partition(chr(10))[0]}")
        elif isinstance(found, property):
            parts.append(f"#### {name}.{member}\n\n{described(found)}")
        elif inspect.isfunction(found):
            bound = getattr(thing, member) if isinstance(value, classmethod | staticmethod) else found
            parts.append(f"#### {name}.{member}\n\n{signature(member, bound)}\n\n{described(found)}")
    return [*parts, *(["\n".join(tests)] if tests else [])]


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


def described(thing: Any) -> str:
    """Return a docstring as Markdown: its sections as lists."""
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
        items = [lines] if title in {"Returns", "Yields"} else re.split(r"\n(?=\S)", lines)
        parts.append(f"**{title}:**\n" + "".join(f"\n- {item(one)}" for one in items))
    return "\n\n".join(part for part in parts if part)


def item(text: str) -> str:
    """Return one entry of a section on one line, its name as code."""
    name, colon, rest = code(re.sub(r"\s*\n\s*", " ", text).strip()).partition(": ")
    return f"`{name}`: {rest}" if colon and re.fullmatch(r"\**\w+", name) else f"{name}{colon}{rest}"


def prose(text: str) -> str:
    """Return paragraphs with each on its lines; code that is indented becomes a block."""
    text = re.sub(r"::\n\n((?: {4}.*\n?|\n)+)", lambda m: ":\n\n```text\n" + inspect.cleandoc(m[1]) + "\n```\n", text)
    return code(text.strip())


def code(text: str) -> str:
    """Return text with reStructuredText's double backticks as Markdown's."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
