"""Targets: what people and programs pass in: items, identities, settings, URLs, command lines."""

import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np

from cas_cache.cli import cli, main
from cas_cache.config.locations import places
from cas_cache.config.settings import VARIABLES, Settings
from cas_cache.config.urls import check_url, is_url, without_credentials
from cas_cache.errors import ConfigurationError, IdentityError, InvalidItem, RemoteUnavailable
from cas_cache.identity import EncoderSpec, canonical_json, keys_of_rows, keys_of_texts
from cas_cache.mirror import Mirror, View
from cas_cache.storage import open_storage
from cas_cache.storage.fsspec_storage import FsspecStorage
from cli_fixtures import leaves, made
from fuzz.choices import NUMBERS, TEXTS, Choices, mutated_bytes
from fuzz.fixtures import Target, assert_printable, fast, only, typed
from storages import SPEC, truth

HOSTILE = "org/\x1b]0;owned\x07\x1b[2J\x9b31m\u202eledom\r\b"
"""A model's name, as whoever may write to a repository can choose it."""

SETTINGS = b"""directory = "/tmp/x"
remote = "team"
offline = false
self_check = 8
progress = true
[remotes]
team = "s3://bucket/prefix"
"""

TOML = (
    b"tool = 5\n", b"[tool]\ncas_cache = 3\n", b"[tool.cas_cache]\nremote = 1\n", b"a = " + b"[" * 2000 + b"\n",
    b"self_check = " + b"9" * 5000 + b"\n", b"self_check = 1e400\n", b"directory = '~nobody99/x'\n",
    b'directory = "a\\u0000b"\n', b"remotes = 3\n", b"remotes.a.b = 1\n", b"lazy = nan\n", b"x = 2026-11-23T99:99:99\n",
    b"a.b = 1\na.b = 2\n", b"\xff\xfe", b"x = {a = 1, a = 2}\n", b'"" = 1\n',
)  # fmt: skip


def texts(folder: Path) -> Target:
    """Items: texts, and rows of any columns."""

    def run(script: bytes) -> None:
        choices = Choices(script)
        items = [choices.value() if choices.below(4) == 0 else choices.text() for _ in range(choices.below(5))]
        with only(InvalidItem):
            keys = keys_of_texts(items)
            assert keys.shape == (len(items), 32)
            assert keys.tobytes() == keys_of_texts(iter(items)).tobytes()
        fields = ("text", "title", "conversation", "image", "audio", "video", choices.text())
        names = [choices.of(fields) for _ in range(1 + choices.below(3))]
        columns = {name: [_media(choices) for _ in range(choices.of((2, 2, 2, 0)))] for name in names}
        with only(InvalidItem):
            assert keys_of_rows(columns, names).shape[1] == 32

    return Target(run, [b"abc"])


def _media(choices: Choices) -> Any:
    kind = choices.below(5)
    if kind == 0:
        array = choices.of((np.zeros(3), np.zeros((0, 2), "<i2"), np.array(["a"]), np.float32(1), [[1], [1, 2]], None))
        return {"array": array, "sampling_rate": choices.of((16000, 0, -1, 10**5000, 1.5, None))}
    return choices.text() if kind < 3 else choices.value()


def identity(folder: Path) -> Target:
    """Encoder specs, and any value as canonical JSON."""

    def run(script: bytes) -> None:
        choices = Choices(script)
        with only(IdentityError):
            data = canonical_json(value := choices.value())
            assert canonical_json(json.loads(data)) == data, value
        given: dict[str, Any] = {"model": "org/m", "revision": "1"}
        for _ in range(1 + choices.below(4)):
            name = choices.of(("model", "revision", "prompt", "role", "params", "scope", "fields"))
            given[name] = choices.value()
            if name in ("params", "scope") and choices.below(3):
                given[name] = {choices.text(): choices.value()}
        with only(IdentityError):
            spec = EncoderSpec(**given)
            assert EncoderSpec.from_canonical(spec.canonical()) == spec
            assert len(spec.namespace) == 32

    return Target(run, [b"abc"])


def configuration(folder: Path) -> Target:
    """``config.toml``, ``pyproject.toml`` and the environment."""
    project, home = folder / "project", folder / "home" / "cas_cache"
    project.mkdir()
    home.mkdir(parents=True)

    def run(script: bytes) -> None:
        choices = Choices(script)
        parts = (SETTINGS, b"[tool.cas_cache]\n" + SETTINGS.replace(b"[remotes]", b"[tool.cas_cache.remotes]"), *TOML)
        for path in (home / "config.toml", project / "pyproject.toml"):
            data = choices.of(parts)
            path.write_bytes(data if choices.below(2) else mutated_bytes(data, choices))
        environment = {"XDG_CONFIG_HOME": str(home.parent)}
        if choices.below(2):
            text = choices.text().replace("\0", "")
            environment[choices.of(sorted(VARIABLES.values()))] = text.encode("utf-8", "ignore").decode()
        with _working_in(project), mock.patch.dict(os.environ, environment), only(ConfigurationError):
            found = Settings.read()
            assert found.self_check is None or found.self_check >= 0
            places(None, None, found)

    return Target(run, [b"abc", *[bytes([at, 0, at, 0]) for at in range(18)]])


def urls(folder: Path) -> Target:
    """Places: URLs and paths, as a remote, as a cache, as a setting."""
    parts = ("s3://", "gs://", "az://", "abfs://", "file://", "memory://", "s3:/", "://", "user:pw@", "a" * 300, "/",
             "?", "#", "::", "@", "bucket", "[::1]", ":9000", "%00", "\n", "~", "~nobody99", " ", "C:\\")  # fmt: skip
    settings = Settings(folder, None, False, False, False, False, None, None, remotes={"team": "s3://b/p"})

    def run(script: bytes) -> None:
        choices = Choices(script)
        text = "".join(choices.of(parts) if choices.below(3) else choices.text() for _ in range(1 + choices.below(4)))
        shown = without_credentials(text)
        with typed():
            assert is_url(text) in (True, False)
        with typed():
            check_url(text, shown, text.partition("://")[0].lower())
        for location, named in ((text, None), (None, text), (text, "x")):
            with typed():
                places(location, named, settings)
        with typed():
            open_storage(text, later=True)

    return Target(run, [b"abc"])


def command_line(folder: Path) -> Target:
    """Any arguments of any command but the demo: an exit code, a sentence, and nothing that a terminal would act on."""
    fast()
    real = folder / "real"
    real.mkdir()
    scene = made(real)
    hostile = replace(SPEC, model=HOSTILE, prompt=HOSTILE, params={HOSTILE: HOSTILE}, scope={"task": HOSTILE})
    mirror = Mirror(scene.mirror)
    names = [f"text {i}" for i in range(3)]
    mirror.namespace(hostile).append(keys_of_texts(names), truth(names))
    view = View(HOSTILE, hostile.namespace, HOSTILE, "1", "query", HOSTILE, "test")
    mirror.views.record(view, keys_of_texts(names), None, [HOSTILE, "b", "c"])
    np.save(real / "queries.npy", truth(names))
    (real / "lines.txt").write_text("text 1\ntext 2\n")
    (real / "spec.json").write_bytes(hostile.canonical())
    (real / "deep.json").write_bytes(b"[" * 5000)
    work = folder / "work"
    commands = {name: command for name, command in leaves(cli).items() if name != "demo"}
    files = ["mirror", "remote", "out", "out/new", "queries.npy", "lines.txt", "spec.json", "deep.json", "missing", "."]
    words = [*files, "mirror", "remote", "mirror", "text 1", SPEC.namespace, hostile.namespace[:6], hostile.namespace,
             "query", "document", "none", "Task", "org/*", "cosine", "l2", "hnsw", "nlist=2", "a=1", "npy", "1%", "50%",
             "0", "1", "10GB", "7d", "0s", "9" * 400 + "GB", "9" * 400 + "d", "9" * 5000, "nlist=" + "9" * 5000,
             "a=" + "[" * 3000, "a=NaN", "1e999%", "s3://bucket/prefix", "~nobody99/x", HOSTILE]  # fmt: skip

    def value(choices: Choices) -> str:
        if choices.below(4):
            return choices.of(words)
        drawn = choices.of(TEXTS) if choices.below(2) else str(choices.of(NUMBERS[:-7]))
        return (
            drawn.replace("\0", "")
            .encode("utf-8", "surrogateescape" if "\ud800" not in drawn else "replace")
            .decode("utf-8", "surrogateescape")
        )

    def run(script: bytes) -> None:
        choices = Choices(script)
        name = choices.of(sorted(commands))
        arguments = name.split()
        for parameter in commands[name].params:
            if isinstance(parameter, click.Option):
                if choices.below(6) == 0 or (parameter.required and choices.below(6)):
                    arguments.append(choices.of(parameter.opts))
                    if not (parameter.is_flag or parameter.count):
                        arguments.append(value(choices))
            elif choices.below(8):
                arguments.append(choices.of(("mirror", "mirror", "remote")) if choices.below(3) else value(choices))
        if choices.below(12) == 0:
            arguments.insert(1 + choices.below(len(arguments)), value(choices))
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(real, work)
        _called(arguments, work)

    return Target(run, [bytes([at]) + b"\1\1\1\1" for at in range(len(commands))])


def _called(arguments: list[str], work: Path) -> None:
    """Run a command where it can reach nothing else."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    refused = mock.Mock(side_effect=RemoteUnavailable("There is no network here. Go on without."))
    environment = {"HOME": str(work), "XDG_CONFIG_HOME": str(work / "conf"), "XDG_CACHE_HOME": str(work / "cache"),
                   "COLUMNS": "80"}  # fmt: skip
    logger = logging.getLogger("cas_cache")
    level, handlers = logger.level, logger.handlers
    try:
        with (
            _working_in(work),
            mock.patch.dict(os.environ, environment),
            mock.patch.object(FsspecStorage, "_open", refused),
            mock.patch.object(sys, "argv", ["cas-cache", *arguments]),
            mock.patch.object(sys, "stdin", io.StringIO("text 1\n")),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            main()
    except SystemExit as ended:
        code = ended.code
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
    assert code in (None, 0, 1, 2), f"exit code {code!r} of {arguments!r}"
    said = out.getvalue() + err.getvalue()
    assert "should not have happened" not in said, f"{arguments!r}: {said[-600:]}"
    verbose = any(argument in ("-v", "--verbose") for argument in arguments)
    assert verbose or "Traceback" not in said, f"{arguments!r}: {said[-600:]}"
    assert_printable(said)


@contextmanager
def _working_in(place: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


TARGETS = {
    "texts": texts,
    "identity": identity,
    "configuration": configuration,
    "urls": urls,
    "command line": command_line,
}
