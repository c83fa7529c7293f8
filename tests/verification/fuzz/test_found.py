"""What fuzzing has found, each by itself: it stays mended, and is understood without a script of decisions."""

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.cli import commands
from cas_cache.config.locations import places
from cas_cache.config.settings import Settings
from cas_cache.errors import (
    CacheMiss,
    ConfigurationError,
    DamagedMirror,
    IdentityError,
    InvalidItem,
    NotARepository,
    RemoteUnavailable,
    printable,
)
from cas_cache.identity import canonical_json, keys_of_rows, keys_of_texts, parsed_json, quoted
from cas_cache.interop import find_folders, plan_import
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import packs_by_use
from cas_cache.mirror.state import State
from cas_cache.repository import Repository
from cas_cache.storage.fsspec_storage import FsspecStorage
from cas_cache.testing import MemoryStorage
from fuzz.fixtures import assert_printable
from fuzz.input_targets import HOSTILE
from storages import SPEC, Machine, texts, truth
from tiers import sampled


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"\xed\xa1\x98\xed\xb4\xa5"',
        "{}".encode("utf-16"),
        b"NaN",
        b'{"a":[1,-Infinity]}',
        b'{"a":1,"a":2}',
        b"9" * 5000,
        b'"\xff"',
        b"",
    ],
)
def test_what_is_no_json(document: bytes) -> None:
    """Nesting, numbers that JSON lacks, a name twice, digits without end: one kind of error for all."""
    with pytest.raises(ValueError, match=r"."):
        parsed_json(document)


def test_nesting_of_an_identity() -> None:
    """It has a bound of its own: Python's depends on how deep the caller is, and is no error of ours."""
    value: Any = 1
    for _ in range(500):
        value = {"a": value}
    with pytest.raises(IdentityError, match="nested more than 64 deep"):
        EncoderSpec(model="org/m", revision="1", params={"a": value})
    with pytest.raises(InvalidItem, match="nested"):
        keys_of_rows({"conversation": [[value]]}, ("conversation",))
    shallow: Any = 1
    for _ in range(60):
        shallow = [shallow]
    assert parsed_json(canonical_json(shallow)) == shallow


def test_messages_quote_the_beginning_alone() -> None:
    """A value of megabytes, or nested without end, does not become a message of megabytes."""
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert len(quoted("x" * 10**6)) < 300
    assert len(quoted(deep)) < 300
    with pytest.raises(IdentityError) as raised:
        EncoderSpec(model="m", revision="1", prompt=["x" * 10**6])  # type: ignore[arg-type]
    assert len(str(raised.value)) < 1000
    with pytest.raises(IdentityError, match="zzz") as raised:
        canonical_json({"y" * 10**6: {"zzz": object()}})
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"planned_at": {"n": 10**400}},
        {"planned_at": {"n": float("inf")}},
        {"shape": [2] * 40_000},
        {"rows": 2**60, "extents": [[0, 2**60, None, None]], "shape": [2**60] * 31},
        {"dtype": ["float32"]},
        {"rows": True},
        {"extents": [[0]]},
    ],
)
def test_a_state_that_claims_too_much(change: dict[str, Any], tmp_path: Path) -> None:
    """Numbers that no file and no type holds are damage, of the mirror that has them."""
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_of_texts(texts(3)), truth(texts(3)))
    path = ns.folder / "state.json"
    document = {**json.loads(path.read_bytes()), **change}
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedMirror):
        _served(tmp_path)
    with pytest.raises(DamagedMirror):
        State.from_bytes(b"[" * 100_000, "state.json")


def _served(directory: Path) -> Any:
    """What a mirror that is opened anew has for three texts."""
    found = Mirror(directory).namespace(SPEC)
    return found.take(found.find(keys_of_texts(texts(3))))


@pytest.mark.parametrize("name", ["state.json", "spec.json", "keys.npy", "vectors.npy", "digests.npy"])
def test_a_folder_where_a_file_should_be(name: str, tmp_path: Path) -> None:
    """It is damage; the system's own error, which callers do not expect, is its cause."""
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_of_texts(texts(3)), truth(texts(3)))
    (ns.folder / name).unlink()
    (ns.folder / name).mkdir()
    with pytest.raises(DamagedMirror):
        _served(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' + b"9" * 400 + b"}", b'{"a":NaN}', b"5"])
@pytest.mark.parametrize("name", ["used.json", "vouched.json", "appearances.json", "catalogue/catalogue.json"])
def test_notes_that_are_damaged(name: str, content: bytes, tmp_path: Path) -> None:
    """Without a note all is served as before."""
    with EmbeddingCache(tmp_path) as cache:
        cache.put(texts(3), truth(texts(3)), SPEC)
    path = Mirror(tmp_path).namespace(SPEC).folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with EmbeddingCache(tmp_path) as cache:
        np.testing.assert_array_equal(cache.get(texts(3), SPEC)[0], truth(texts(3)))
        ns = cache.mirror.namespace(SPEC)
        assert packs_by_use(ns) == []
        assert ns.remote_keys.rows == 0


@pytest.mark.parametrize("change", [{"repository": 5}, {"url": []}, {"format": None}, {"version": None}], ids=str)
def test_a_mirror_marker_of_other_types(change: dict[str, Any], tmp_path: Path) -> None:
    """It is damage when the mirror is opened, not a TypeError when it meets a repository."""
    Mirror(tmp_path)
    path = tmp_path / "cas-cache-mirror.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(Exception, match="mirror") as raised:
        Mirror(tmp_path).bind("0" * 32, "somewhere")
    assert type(raised.value).__module__ == "cas_cache.errors"


@pytest.mark.parametrize("name", ["", "\x1b[2J", "a/b", "a b", "\ud800", "x" * 200])
def test_a_repository_with_an_id_of_control_characters(name: str) -> None:
    """Mirrors keep the id, and people are shown it: it has to be a name."""
    storage = MemoryStorage()
    Repository(storage).create()
    marker = json.loads(storage.objects["cas-cache.json"])
    storage.objects["cas-cache.json"] = json.dumps({**marker, "id": name}).encode()
    with pytest.raises(NotARepository):
        Repository(storage).open()


@pytest.mark.parametrize(
    ("info", "modified"),
    [
        ({"mtime": 10**400}, math.nan),
        ({"mtime": "yesterday"}, math.nan),
        ({"created": "2026-11-23T10:00:00Z"}, 1795428000.0),
        ({"size": None}, None),
        ({"size": math.inf}, None),
        ({"size": "many"}, None),
    ],
)
def test_a_listing_of_odd_numbers(info: dict[str, Any], modified: float | None) -> None:
    """A time that is none is unknown, so nothing is old by it; a size that is none is not a listing."""

    class Odd:
        def find(self, folder: str, **_: Any) -> dict[str, Any]:
            return {f"{folder}/a": {"type": "file", "size": 1, **info}}

    storage = FsspecStorage("memory://fuzz", later=True)
    storage._opened[os.getpid()] = Odd(), "fuzz"
    if modified is None:
        with pytest.raises(RemoteUnavailable):
            storage.list("")
    else:
        assert [entry.modified for entry in storage.list("")] == pytest.approx([modified], nan_ok=True)


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000, "self_check = " + "9" * 5000, "directory = '~nobody99/x'", 'directory = "a\\u0000b"'],
)
def test_settings_that_no_parser_likes(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are errors of ours."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cas_cache").mkdir()
    (tmp_path / "cas_cache" / "config.toml").write_text(text)
    with pytest.raises(ConfigurationError):
        Settings.read()


@pytest.mark.parametrize(("text", "fine"), [("tool = 5\n", True), ("[tool]\ncas_cache = 3\n", False)])
def test_a_project_whose_tool_is_no_table(
    text: str, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's mistake is not ours to judge; a cas_cache that is no table is told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    if fine:
        Settings.read()
    else:
        with pytest.raises(ConfigurationError, match="must be a table"):
            Settings.read()


@pytest.mark.parametrize("place", ["~nobody99/x", "a\0b", "\ud800"])
def test_paths_that_cannot_be(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that is not there, a zero byte, a lone surrogate."""
    for use in (Mirror, lambda it: places(None, it, Settings.read()), lambda it: EmbeddingCache(remote=it)):
        with pytest.raises(ConfigurationError, match="cannot be a path"):
            use(place)
    monkeypatch.setenv("CAS_CACHE_SELF_CHECK", "9" * 5000)
    with pytest.raises(ConfigurationError, match="is not a whole number"):
        Settings.read()


def test_names_of_fields_and_rates_that_have_no_bytes() -> None:
    """A lone surrogate in a column's name, a rate of thousands of digits."""
    with pytest.raises(InvalidItem, match="surrogate"):
        keys_of_rows({"\ud800": ["a"]}, ("\ud800",))
    with pytest.raises(InvalidItem, match="sampling_rate"):
        keys_of_rows({"audio": [{"array": [0.5], "sampling_rate": 10**5000}]}, ("audio",))


@pytest.mark.parametrize("name", ["index.json", "dimension", "vectors.npy", "spec.json"])
def test_an_old_cache_with_a_folder_for_a_file(name: str, tmp_path: Path) -> None:
    """It is broken, or, if it is the spec that is no file, another encoder's."""
    (tmp_path / "index.json").write_text(json.dumps({"0" * 64: 0}))
    (tmp_path / "dimension").write_text("4")
    (tmp_path / "vectors.npy").write_bytes(np.ones(4, "<f4").tobytes())
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    (plan,) = plan_import(find_folders(tmp_path), SPEC, None, accept_unsafe=True, mteb_1=True).folders
    assert plan.broken or plan.passed_over


@pytest.mark.parametrize(
    "arguments",
    [
        ("evict", "m", "--max-size", "9" * 400 + "GB", "--yes"),
        ("search", "m", "text 1", "--parameter", "nlist=" + "9" * 5000),
        ("import", "mteb", "old", "m", "--model", "a", "--revision", "b", "--no-role", "--param", "a=" + "[" * 5000),
        ("ls", "--repository", "--remote", os.fsdecode(b"\xff")),
        ("ls", "~nobody99/x"),
        ("info", "m", "--namespace", os.fsdecode(b"\xff\x1b[2J")),
    ],
    ids=lambda words: " ".join(words)[:40].encode("ascii", "replace").decode(),
)
def test_arguments_that_no_parser_likes(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    """A sentence, and 1 or 2: never a traceback, never "this should not have happened"."""
    monkeypatch.chdir(tmp_path)
    Mirror("m").namespace(SPEC).append(keys_of_texts(texts(3)), truth(texts(3)))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "index.json").write_text("{}")
    result = run(*arguments)
    assert result.code in (1, 2)
    assert "should not have happened" not in result.err
    assert_printable(result.err)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a folder with a mirror and a repository whose spec and objects have names that act on terminals."""
    storage_folder = tmp_path / "remote"
    spec = replace(SPEC, model=HOSTILE, revision=HOSTILE, prompt=HOSTILE, role=HOSTILE, params={HOSTILE: HOSTILE})
    with EmbeddingCache(tmp_path / "mirror", remote=storage_folder, push="manual") as cache:
        cache.put(texts(3), truth(texts(3)), spec)
        cache.push()
        cache.put(texts(5), truth(texts(5)), spec)
    (storage_folder / "packs" / HOSTILE.replace("/", "_")).write_text("?")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    sampled([
        "ls {m}", "ls {m} --json", "ls --remote {r}", "info {m}", "info {m} --json", "status {m} --remote {r}",
        "status {m} --remote {r} --json", "check --remote {r}", "check --remote {r} --read-data --json",
        "check {m} --mirror", "push {m} --remote {r}", "pull {n} --remote {r}", "pull {n} --remote {r} --model nobody",
        "search {m} missing", "search {m} missing --task T", "export {m} {n} --format npy --task T",
        "import mteb {m} {n} --model a",
    ], keep=4),
)  # fmt: skip
def test_names_do_not_act_on_a_terminal(words: str, hostile: Path, run: Callable[..., Any]) -> None:
    """Names and prompts that others wrote are shown, escaped, whatever shows them."""
    result = run(*words.format(m=hostile / "mirror", r=hostile / "remote", n=hostile / "new").split())
    assert_printable(result.out)
    assert_printable(result.err)
    if words.endswith("--json") and words.startswith("info"):
        assert json.loads(result.out)["model"] == HOSTILE


def test_every_command_prints_by_the_one_function() -> None:
    """`say` and `show` escape what others wrote; click's and Python's own functions do not."""
    folder = Path(commands.__file__).parent
    calls = re.compile(r"click\.s?echo\(|sys\.stdout|\bprint\(|Console\(")
    plain = [path.name for path in folder.glob("*.py") if calls.search(path.read_text())]
    assert set(plain) == {"__init__.py", "output.py"}, "output.py defines them; __init__.py flushes the streams"
    plain = [name for name in plain if name != "output.py" and re.search(r"echo\(", (folder / name).read_text())]
    assert plain == []


def test_errors_show_what_they_quote() -> None:
    """In Python, too: a traceback is printed to a terminal."""
    error = CacheMiss(f"no {HOSTILE}\n\tnext \udcff line")
    assert_printable(str(error))
    assert "\n\tnext" in str(error)
    assert "\\x1b]0;owned\\x07" in str(error)
    assert printable("naïve 日本 ok") == "naïve 日本 ok"


def test_a_hostile_name_in_an_answer_of_the_repository(tmp_path: Path) -> None:
    """What a pull says of a namespace whose model is called so."""
    storage = MemoryStorage()
    machine = Machine(tmp_path / "author", storage)
    spec = replace(SPEC, model=HOSTILE)
    machine.encode(texts(3), spec)
    machine.push()
    machine.encode(texts(3, 10), spec)
    (tmp_path / "reader").mkdir()
    reader = Machine(tmp_path / "reader", storage)
    reader.mirror.namespace(spec).append(keys_of_texts(["x"]), truth(["x"], "float16"))
    (problem,) = reader.pull().problems
    assert_printable(str(problem))
    assert "owned" in str(problem)
