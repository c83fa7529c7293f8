"""docs/reference/json.schema.json is what the commands print with ``--json``: no field more, none less."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cas_cache.cli import cli
from cas_cache.mirror import Mirror
from cli_fixtures import DOCUMENTS, Places, leaves, made
from paths import ROOT
from storages import OTHER_SPEC, SPEC, texts

REFERENCE = ROOT / "docs" / "reference"
SCHEMA: dict[str, Any] = json.loads((REFERENCE / "json.schema.json").read_text("utf-8"))
KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
    "null": type(None),
}  # fmt: skip


def is_kind(value: object, kind: str) -> bool:
    """Whether a value is of a type of JSON Schema; true is no number there."""
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def documented(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Every field below a schema."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from documented(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from documented(schema[key], f"{path}.{key}")


class Checker:
    """Compares documents with the schema, and remembers which fields it has met.

    A stricter reading than JSON Schema's own: an object has no field that is not named, unless it says so.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.wrong: list[str] = []

    def check(self, value: object, schema: dict[str, Any], path: str) -> None:
        self.seen.add(path)
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            self.check(value, SCHEMA["$defs"][name], name)
            return
        if "anyOf" in schema:
            chosen = next(it for it in schema["anyOf"] if (it.get("type") == "null") == (value is None))
            self.check(value, chosen, path)
            return
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(is_kind(value, kind) for kind in kinds):
            self.wrong.append(f"{path} is {value!r}, not {kinds}")
        elif "enum" in schema and value not in schema["enum"]:
            self.wrong.append(f"{path} is {value!r}, not one of {schema['enum']}")
        elif isinstance(value, int | float) and value < schema.get("minimum", value):
            self.wrong.append(f"{path} is {value!r}")
        elif isinstance(value, list):
            for item in value:
                self.check(item, schema["items"], f"{path}.items")
        elif isinstance(value, dict):
            self.fields(value, schema, path)

    def fields(self, value: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        self.wrong += [f"{path}.{name} is missing" for name in set(schema.get("required", ())) - value.keys()]
        for name, field in value.items():
            if name in schema.get("properties", {}):
                self.check(field, schema["properties"][name], f"{path}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                self.check(field, schema["additionalProperties"], f"{path}.additionalProperties")
            elif schema.get("additionalProperties") is not True:
                self.wrong.append(f"{path}.{name} is not documented")


def damage(places: Places) -> None:
    """Break what the reports then tell: a manifest and a spec there, an object of a small pack, rows here."""
    manifest = min((places.remote / "manifests" / DOCUMENTS.namespace).iterdir())
    manifest.write_bytes(b"{}")
    (places.remote / "specs" / f"{DOCUMENTS.namespace}.json").write_bytes(b"{}")
    pack = min((places.remote / "manifests" / SPEC.namespace).iterdir()).stem
    (places.remote / "packs" / pack / "vectors" / "c" / "0" / "0").write_bytes(b"x")
    rows = places.mirror / "namespaces" / OTHER_SPEC.namespace / "vectors.npy"
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)


def calls(places: Places) -> Iterator[tuple[str, list[object]]]:
    """Yield a command and its arguments; between them they print every field. Their order matters."""
    here: list[object] = [places.mirror]
    there: list[object] = ["--remote", places.remote]
    both = [*here, *there]
    of_spec = ["--namespace", SPEC.namespace]
    yield "ls", here
    yield "ls", []
    yield "info", here
    yield "ls", ["--repository", *there]
    yield "info", [*here, *of_spec]
    yield "info", ["--settings"]
    yield "info", [*both, "--namespace", DOCUMENTS.namespace, "--why", texts(1, 10)[0]]
    yield "keys new", ["alice"]
    yield "keys list", []
    yield "check", there
    yield "check", ["--mirror", *here]
    yield "export", [*here, places.out / "dry", "--format", "npy", *of_spec, "--dry-run"]
    yield "export", [*here, places.out / "old", "--format", "mteb", *of_spec]
    old = [places.out / "old", "--spec", places.out / "old" / "spec.json", "--accept-unsafe"]
    yield "import mteb", [*old, places.out / "new"]
    yield "import mteb", [*old, *here, "--dry-run"]
    yield "search", [*here, texts(1)[0], "--task", "Task", "-k", 2]
    yield "search", [*here, texts(1)[0], *of_spec, "-k", 1]
    yield "compact", [*both, "--at-least", 2, "--dry-run"]
    yield "status", both
    yield "pull", [*both, "--dry-run"]
    yield "pull", [places.out / "unverified", *there]
    yield "check", ["--mirror", places.out / "unverified"]
    yield "push", [*both, "--dry-run"]
    yield "sync", [*both, "--dry-run"]
    yield "compact", [*both, "--at-least", 2]
    yield "ls", ["--repository", *there]
    yield "prune", [*both, "--dry-run", "--grace", "0s", "--force"]
    yield "prune", [*both, "--yes", "--grace", "0s", "--force"]
    yield "drop", [*both, *of_spec, "--dry-run"]
    yield "drop", [*both, "--pack", min((places.remote / "manifests" / SPEC.namespace).iterdir()).stem, "--dry-run"]
    yield "evict", [*here, "--max-size", 0, "--dry-run"]
    yield "demo", []
    damage(places)
    yield from calls_on_damaged(places, here, there)


def calls_on_damaged(places: Places, here: list[object], there: list[object]) -> Iterator[tuple[str, list[object]]]:
    """Yield those that have something to report, and those that go on all the same."""
    both = [*here, *there]
    yield "info", [*both, "--namespace", SPEC.namespace, "--why", "never encoded"]
    yield "ls", ["--repository", *there]
    yield "compact", [*both, "--at-least", 2]
    yield "check", [*both, "--repository", "--read-data"]
    yield "check", ["--mirror", *here]
    yield "status", [places.out / "new", *there]
    yield "pull", [places.out / "new", *there]
    yield "push", [*both, "--namespace", SPEC.namespace]
    yield "sync", [*both, "--role", "query", "--model", SPEC.model]
    yield "evict", [*here, "--max-size", "1B", "--yes"]
    yield "drop", [*both, "--namespace", DOCUMENTS.namespace, "--yes", "--force"]
    yield "doctor", ["--remote", "s3://no-such-bucket-of-ours/emb", *here]
    yield "doctor", [*both, "--test-remote"]


@pytest.fixture
def checker(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checker:
    """What came of running every command."""
    for name in ("AWS_ENDPOINT_URL", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_MAX_ATTEMPTS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path))
    places = made(tmp_path)
    for path in places.remote.rglob("*.json"):
        os.utime(path, (0, path.stat().st_mtime - 30 * 86_400))
    checker, called = Checker(), set()
    for name, words in calls(places):
        result = run(*name.split(), *words, "--json")
        assert result.code in (0, 1), (name, words, result)
        assert result.out, (name, words, result.err)
        checker.check(json.loads(result.out), SCHEMA["properties"][name], name)
        called.add(name)
    assert called == set(leaves(cli)), "every command is called here"
    return checker


@pytest.mark.verify
def test_what_is_printed_is_what_is_documented(checker: Checker) -> None:
    """For every command, nested fields too: nothing undocumented, of another type, or documented in vain."""
    assert set(SCHEMA["properties"]) == set(leaves(cli))
    assert checker.wrong == []
    fields = [
        field for name, part in (SCHEMA["properties"] | SCHEMA["$defs"]).items() for field in documented(part, name)
    ]
    assert [field for field in fields if field not in checker.seen] == []


def test_a_difference_is_found() -> None:
    """The checker sees a field more, one less, one of another type, a word that is not listed."""
    schema = SCHEMA["properties"]["drop"]
    right = {"url": "u", "dry_run": True, "namespace": "n", "packs": ["p"], "objects": 1, "bytes": 2}
    assert wrong(right, schema) == []
    assert wrong({**right, "more": 1}, schema) == ["drop.more is not documented"]
    assert wrong({name: value for name, value in right.items() if name != "url"}, schema) == ["drop.url is missing"]
    assert wrong({**right, "bytes": True}, schema) == ["drop.bytes is True, not ['integer']"]
    assert wrong({**right, "packs": [1]}, schema) == ["drop.packs.items is 1, not ['string']"]
    assert wrong({**right, "bytes": -1}, schema) == ["drop.bytes is -1"]
    where = SCHEMA["properties"]["ls"]["properties"]["namespaces"]["items"]["properties"]["where"]
    assert wrong("elsewhere", where)
    of_a_pack = {"rows", "other_rows", "mirror_rows"}
    assert set(documented(schema, "drop")) == {f"drop.{name}" for name in {*right, *of_a_pack}}


def wrong(document: object, schema: dict[str, Any]) -> list[str]:
    checker = Checker()
    checker.check(document, schema, "drop")
    return checker.wrong


def test_the_page_is_up_to_date() -> None:
    """If this fails: `python docs/reference/make_json.py`, and read what changed."""
    script = "import sys; sys.path.insert(0, '.'); import make_json; print(make_json.page(), end='')"
    done = subprocess.run([sys.executable, "-c", script], cwd=REFERENCE, capture_output=True, text=True, check=True)
    assert done.stdout == (REFERENCE / "json.md").read_text("utf-8")
    assert all(f"## cas-cache {name} --json" in done.stdout for name in SCHEMA["properties"])


def test_every_field_says_what_it_is() -> None:
    """Each has a description, and each object says which fields are always there."""

    def each(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield schema
        for inner in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
            if isinstance(inner, dict):
                yield from each(inner)

    for part in (*SCHEMA["properties"].values(), *SCHEMA["$defs"].values()):
        for schema in each(part):
            assert all("description" in field for field in schema.get("properties", {}).values())
            assert set(schema.get("required", ())) <= set(schema.get("properties", {}))
            assert ("required" in schema) == ("properties" in schema)


def test_nothing_but_the_document_is_on_standard_output(run: Any, tmp_path: Path) -> None:
    """`-q` changes nothing about it."""
    places = made(tmp_path)
    plain = run("ls", places.mirror, "--json")
    assert run("ls", places.mirror, "--json", "-q").out == plain.out
    assert Mirror(places.mirror).ids() == [one["namespace"] for one in json.loads(plain.out)["namespaces"]]
