"""Write docs/reference/json.md, what the commands print with ``--json``, from json.schema.json beside it.

    python docs/reference/make_json.py

Tests compare the page with what this prints, and every command with the schema.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = Path(__file__).parent / "json.schema.json"
PAGE = Path(__file__).parent / "json.md"

HEAD = """# What `--json` prints

Made from [json.schema.json](json.schema.json), a JSON Schema, by `python docs/reference/make_json.py`.

With `--json` a command prints one JSON document, and nothing else, on standard output. Errors are sentences on
standard error, and the exit code is the same as without `--json`; a command that fails before it has an answer prints
no document. `-q` does not change the document. The document is ASCII, whatever the terminal can show: other characters
are written as JSON escapes.

- **Stability:** within a major version fields may be added; none is renamed, removed, or given another type, unit or
  meaning. Read the fields that you need and ignore the others.
- Lists of words that a field can hold may grow. The sentences for people (`message`, `what`, ...) may change any time.
- Bytes are whole numbers of bytes. Vectors are counted without keys and digests, unless a field says otherwise.
- A field whose meaning ends with an option ("With `--why`.") or with a side ("Of a repository.") exists only then. All
  other fields always exist; a field that does not apply is `null`, or empty.
- `list` means an array, and `name[]` each of its elements; `name.*` is each value of an object whose names are data.
"""

NAMES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}


def page() -> str:
    """Return the page."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    parts = [HEAD]
    for name, command in sorted(schema["properties"].items()):
        parts.append(_section(f"## cas-cache {name} --json", command))
    parts.append("\n## Parts of several documents\n")
    parts += [_section(f"### {name}", part) for name, part in sorted(schema["$defs"].items())]
    return "".join(parts)


def _section(title: str, schema: dict[str, Any]) -> str:
    rows = "".join(f"| `{path}` | {kind} | {meaning} |\n" for path, kind, meaning in _fields(schema, ""))
    return f"\n{title}\n\n{schema['description']}\n\n| field | type | meaning |\n|---|---|---|\n{rows}"


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, type and meaning of every field below."""
    fields = {f"{path}.{name}" if path else name: field for name, field in schema.get("properties", {}).items()}
    if isinstance(schema.get("additionalProperties"), dict):
        fields[f"{path}.*"] = schema["additionalProperties"]
    for name, field in fields.items():
        yield name, _kind(field), field["description"]
        yield from _fields(field, name)
        if "items" in field:
            yield from _fields(field["items"], f"{name}[]")


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join("null" if value is None else f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        inner = schema["items"]
        return "list" if "properties" in inner else f"list of {_kind(inner)}"
    if schema["type"] == "object":
        return "object"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(NAMES[kind] for kind in kinds)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
