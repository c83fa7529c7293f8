"""The command line: what it prints, and the code it ends with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from storages import OTHER_SPEC, SPEC, Encoder, texts, truth

LONG = EncoderSpec(
    model="sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    revision="c9745ed13fe8aabbccddeeff0011223344556677",
    prompt="Instruct: Given a web search query, retrieve relevant passages\nQuery: ",
    role="document",
)
PROMPT_LINES = [
    f"{'':14}prompt 'Instruct: Given a web search query, retrieve relevant",
    f"{'':14}passages\\nQuery: '",
]
COMMANDS = ("ls", "info", "pull", "push", "check", "compact", "prune", "drop", "evict", "doctor", "import", "export")
BRACKETS = EncoderSpec(model="org/[bold]model", revision="1")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror with three namespaces, whose rows all wait."""
    cache = EmbeddingCache(tmp_path / "mirror")
    cache.encode(texts(3), SPEC, Encoder())
    cache.put(texts(1200), np.ones((1200, 384), np.float16), LONG)
    cache.encode(texts(1), BRACKETS, Encoder("int8"))
    return tmp_path / "mirror"


def test_ls(run: Any, mirror: Path) -> None:
    """Two lines a namespace, three where it has a prompt; whole names, nothing wider than 80 columns."""
    result = run("ls", mirror)
    assert (result.code, result.err) == (0, "")
    lines = [line.rstrip() for line in result.out.splitlines()]
    assert lines[0].split() == ["namespace", "model@revision,", "role"]
    assert all(len(line) <= 80 for line in lines)
    assert lines[1:] == [
        line
        for spec, shown, counts in sorted(
            [
                (SPEC, "org/model@a1b2c3d, query", r"3 rows      local only  float32[4]    48 B"),
                (
                    LONG,
                    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2@c9745e",
                    r"1,200 rows  local only  float16[384]  921.6 kB",
                ),
                (BRACKETS, "org/[bold]model@1", r"1 row       local only  int8[4]       4 B"),
            ],
            key=lambda item: item[0].namespace,
        )
        for line in (
            f"{spec.namespace[:12]}  {shown}",
            *([f"{'':14}d13fe8, document"] if spec is LONG else []),
            f"{'':14}{counts}",
            *({LONG: PROMPT_LINES}.get(spec, [])),
        )
    ]


def test_ls_json(run: Any, mirror: Path) -> None:
    """One JSON document with whole ids."""
    result = run("ls", mirror, "--json")
    document = json.loads(result.out)
    assert (result.code, document["mirror"]) == (0, str(mirror))
    found = {ns["namespace"]: ns for ns in document["namespaces"]}
    assert set(found) == {SPEC.namespace, LONG.namespace, BRACKETS.namespace}
    assert found[SPEC.namespace] == {
        "namespace": SPEC.namespace, "model": "org/model", "revision": "a1b2c3d", "role": "query", "prompt": "",
        "rows": 3, "pending": 3, "where": "local only", "dtype": "float32", "shape": [4], "bytes": 48,
    }  # fmt: skip


def test_ls_of_an_empty_mirror(run: Any, tmp_path: Path) -> None:
    """An empty mirror is said to be empty, with the next step."""
    EmbeddingCache(tmp_path / "new")
    result = run("ls", tmp_path / "new")
    assert result.code == 0
    assert "cas-cache pull" in result.out
    assert json.loads(run("ls", tmp_path / "new", "--json").out)["namespaces"] == []


@pytest.mark.parametrize("command", [("ls", "--mirror"), ("info",), ("push",)])
def test_looking_makes_nothing(run: Any, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A mistyped path is an error that says so, and no mirror is left there."""
    result = run(*command, tmp_path / "mistyped", "--remote", tmp_path / "remote")
    assert result.code == 1
    assert "no cas_cache mirror at" in result.err
    assert list(tmp_path.iterdir()) == []


def test_info(run: Any, mirror: Path) -> None:
    """One namespace, by the beginning of its id, with the document that is its identity."""
    result = run("info", mirror, "-n", LONG.namespace[:6])
    assert (result.code, result.err) == (0, "")
    facts, _, spec = result.out.partition("spec\n")
    assert json.loads(spec) == LONG.document()
    assert re.search(r"^rows +1,200$", facts, re.MULTILINE)
    assert LONG.namespace in facts
    document = json.loads(run("info", mirror, "--namespace", SPEC.namespace, "--json").out)
    assert document["spec"] == SPEC.document()
    assert document["packs"] == []
    assert document["repository"] is None


def test_info_needs_to_know_which(run: Any, mirror: Path, tmp_path: Path) -> None:
    """Several are shown as an overview; none, or none at all, is usage, with what to do."""
    result = run("info", mirror)
    assert result.code == 0
    assert "3 namespaces match" in result.err
    assert "--namespace" in result.err
    assert result.out.startswith(f"mirror {mirror}\n")
    assert result.out.endswith(run("ls", mirror).out)
    assert json.loads(run("info", mirror, "--json").out) == json.loads(run("ls", mirror, "--json").out)
    assert run("info", mirror, "-n", "zz").code == 2
    EmbeddingCache(tmp_path / "new")
    assert "cas-cache ls" in run("info", tmp_path / "new").err


def test_push_and_pull(run: Any, mirror: Path, tmp_path: Path) -> None:
    """What one mirror pushes, the other pulls, and a second time there is nothing to do."""
    repo = tmp_path / "repo"
    result = run("push", mirror, "--remote", repo)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("pushed 3 packs, 1,204 rows, ")
    assert json.loads(run("push", mirror, "--remote", repo, "--json").out) == {
        "dry_run": False, "packs": 0, "rows": 0, "bytes": 0, "problems": [], "hints": [], "untrusted": 0,
    }  # fmt: skip
    document = json.loads(run("pull", tmp_path / "far", "--remote", repo, "--json").out)
    assert (document["packs"], document["rows"], document["problems"]) == (3, 1204, [])
    assert run("pull", tmp_path / "far", "--remote", repo).out.startswith("pulled 0 packs, 0 rows, ")
    vectors, found = EmbeddingCache(tmp_path / "far").get(texts(3), SPEC)
    assert found.all()
    np.testing.assert_array_equal(vectors, truth(texts(3)))
    assert len(json.loads(run("info", tmp_path / "far", "-n", SPEC.namespace, "--json").out)["packs"]) == 1


def test_push_and_pull_on_s3(run: Any, mirror: Path, tmp_path: Path, s3_remote: Any) -> None:
    """The remote's URL alone, with storage options, works for all commands."""
    options = [f"--storage-option={key}={value}" for key, value in s3_remote.storage_options.items()]
    assert run("push", mirror, "--remote", s3_remote.url, *options).code == 0
    environment = {"CAS_CACHE_DIR": str(tmp_path / "settings")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAS_CACHE_DIR", environment["CAS_CACHE_DIR"])
        assert run("pull", s3_remote.url, *options).out.startswith("pulled 3 packs, 1,204 rows")
        assert json.loads(run("ls", s3_remote.url, *options, "--json").out)["repository"] == s3_remote.url
        assert list((tmp_path / "settings").glob("*/cas-cache-mirror.json"))


def test_settings_say_where(run: Any, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CACHE, CAS_CACHE_DIR and CAS_CACHE_REMOTE do."""
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("CAS_CACHE_REMOTE", str(tmp_path / "repo"))
    assert run("push", mirror).code == 0
    assert run("pull").out.startswith("pulled 3 packs")
    assert str(tmp_path / "settings") in run("ls", "--json").out


def test_findings_are_exit_code_1(run: Any, mirror: Path, tmp_path: Path) -> None:
    """A pack that was skipped is printed and counts as a failure, with and without --json."""
    run("push", mirror, "--remote", tmp_path / "repo")
    EmbeddingCache(tmp_path / "other", remote=str(tmp_path / "repo"), push="manual").encode(
        ["a"], OTHER_SPEC, Encoder()
    )
    run("push", tmp_path / "other", "--remote", tmp_path / "repo")
    victim = next(path for path in (tmp_path / "repo" / "packs").rglob("vectors/c/0/0"))
    victim.write_bytes(bytes(victim.stat().st_size))
    result = run("pull", tmp_path / "far", "--remote", tmp_path / "repo")
    assert result.code == 1
    assert result.out.startswith("pulled 3 packs")
    assert result.err.startswith("skipped: ")
    result = run("pull", tmp_path / "far", "--remote", tmp_path / "repo", "--json")
    assert result.code == 1
    (problem,) = json.loads(result.out)["problems"]
    assert problem["error"] == "DamagedPack"
    assert victim.parents[3].name in problem["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["pull", "{new}"],
        ["push", "{new}"],
        ["ls", "{file}"],
        ["ls", "s3:/team/emb"],
        ["pull", "{new}", "--remote", "s4://x"],
        ["pull", "{new}", "--remote", "{file}"],
        ["pull", "{new}", "--remote", "{occupied}"],
        ["ls", "{occupied}"],
    ],
    ids=" ".join,
)
def test_failures_are_one_line_and_exit_code_1(run: Any, tmp_path: Path, arguments: list[str]) -> None:
    """An error of ours is one line on stderr, nothing on stdout, no traceback."""
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").write_text("x")
    places = {"new": tmp_path / "new", "file": tmp_path / "occupied" / "file", "occupied": tmp_path / "occupied"}
    result = run(*(argument.format(**places) for argument in arguments))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("cas-cache: ")
    assert result.err.count("\n") == 1


def test_wrong_switches_in_the_environment(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is neither on nor off is one line, too."""
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "maybe")
    result = run("ls")
    assert (result.code, result.err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["ls", "--nonsense"], ["ls", "a", "b"], ["ls", "x", "--storage-option", "hunter2"]]
)
def test_usage_is_exit_code_2(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """What cannot be parsed is usage, and shows no value that could be a secret."""
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == 2
    assert "Usage: " in result.err
    assert "hunter2" not in result.err


def test_help_and_version(run: Any) -> None:
    """Every command is listed; help and version end with 0."""
    result = run("--help")
    assert result.code == 0
    assert all(command in result.out for command in COMMANDS)
    assert "cas-cache" in run("--version").out
    for command in COMMANDS:
        assert "Usage: " in run(command, "-h").out


def test_as_a_program(mirror: Path, tmp_path: Path) -> None:
    """`python -m cas_cache` is the same program; stdout that is closed early is no traceback."""
    command = [sys.executable, "-m", "cas_cache"]
    environment = {**os.environ, "COLUMNS": "80"}
    process = subprocess.run(
        [*command, "ls", str(mirror)], capture_output=True, text=True, env=environment, check=False
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert SPEC.namespace[:12] in process.stdout
    failed = subprocess.run([*command, "pull", str(tmp_path / "new")], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.count("\n") == 1
