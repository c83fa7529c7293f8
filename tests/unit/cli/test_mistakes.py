"""Mistakes and their help: a situation, the command, and what it prints.

Every message is one line: what happened, and what to do about it. Nothing takes longer than half a minute, nothing
shows a traceback unless ``-v`` asks for one, and nothing shows a secret, with ``-vv`` neither.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import (
    AccessDenied,
    BucketNotFound,
    CasCacheError,
    ConfigurationError,
    MirrorWriteError,
    NotAMirror,
    NotARepository,
    RemoteUnavailable,
    RepositoryMismatch,
    UnsupportedFormat,
)
from fault_server import LOGIN, answering, error_document, refusing
from tiers import sampled

KEY, SECRET, TOKEN = "AKIAEXAMPLEEXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "hunter2hunter2hunter2"
SIGNATURE = "sv=2024&sig=hunter2%2Fsignature%3D"
SECRETS = (KEY, SECRET, TOKEN, "hunter2")
SPEC = EncoderSpec(model="org/mini-lm", revision="a1b2c3d", role="query")
SLOWEST = 30.0
"""Seconds in which whatever is wrong must be said."""


class Told(NamedTuple):
    """What is printed, as a pattern; and the error that the same raises in Python."""

    happened: str
    to_do: str
    error: type[CasCacheError]


def assert_told(shown: str, told: Told, *, before: str = "cas-cache: ") -> None:
    """One line that says what happened, then what to do, and no secret."""
    assert shown.count("\n") == 1, shown
    assert shown.startswith(before)
    assert re.search(rf"{told.happened}.*\. .*{told.to_do}", shown), shown
    assert_no_secret(shown)


def assert_no_secret(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


# The service of the bucket -----------------------------------------------------------------------------------------

SERVICE = {
    "AccessDenied": Told(r"refuses a read \(AccessDenied: Access Denied\)", "s3:GetObject and s3:List", AccessDenied),
    "ExpiredToken": Told("The credentials for s3://team/emb have expired", "Get new.*`aws sso login`", AccessDenied),
    "InvalidAccessKeyId": Told("does not accept the credentials", "Check AWS_PROFILE, AWS_ACCESS_KEY_ID", AccessDenied),
    "SignatureDoesNotMatch": Told("does not accept the credentials", "Check AWS_PROFILE", AccessDenied),
    "InvalidToken": Told("does not accept the credentials", "Check AWS_PROFILE", AccessDenied),
    "RequestTimeTooSkewed": Told("refuses the credentials because of the time", "Set this machine", AccessDenied),
    "NoSuchBucket": Told("The bucket of s3://team/emb does not exist", "Check its name and region", BucketNotFound),
    "SlowDown": Told("asks for fewer requests", "Wait a little", RemoteUnavailable),
    "InternalError": Told("The service of s3://team/emb failed", "again later", RemoteUnavailable),
    "AuthorizationHeaderMalformed": Told("another region.*expecting 'eu-west-1'", "Set AWS_REGION", RemoteUnavailable),
    "PermanentRedirect": Told("in another region", "Set AWS_REGION", RemoteUnavailable),
}  # fmt: skip


@contextmanager
def saying_nothing() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@contextmanager
def closed() -> Iterator[str]:
    """An endpoint where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def unknown_host() -> Iterator[str]:
    """An endpoint whose name does not exist."""
    yield "http://s3.no-such-host.invalid"


ENDPOINTS: dict[str, tuple[Callable[[], Any], Told]] = {
    **{code: (lambda code=code: refusing(code), told) for code, told in SERVICE.items()},
    "HTML instead of the object": (
        lambda: answering(200, LOGIN, "text/html"),
        Told("is not the service, but perhaps a proxy", "Check the network and the endpoint", RemoteUnavailable),
    ),
    "HTML and 404": (
        lambda: answering(404, LOGIN, "text/html"),
        Told("is not the service, but perhaps a proxy", "Check the network and the endpoint", RemoteUnavailable),
    ),
    "HTML and 502": (
        lambda: answering(502, LOGIN, "text/html"),
        Told(r"The service of s3://team/emb failed \(502", "again later", RemoteUnavailable),
    ),
    "403 and nothing": (
        lambda: answering(403, ""),
        Told(r"refuses a read \(403: Forbidden\)", "Check the credentials", AccessDenied),
    ),
    "nobody listens": (closed, Told("cannot be reached", "AWS_ENDPOINT_URL", RemoteUnavailable)),
    "no such host": (unknown_host, Told("cannot be reached", "AWS_ENDPOINT_URL", RemoteUnavailable)),
    "no answer": (saying_nothing, Told("does not answer", "AWS_ENDPOINT_URL", RemoteUnavailable)),
}


@pytest.mark.parametrize("situation", sampled(ENDPOINTS, keep=7))
def test_the_service(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, situation: str) -> None:
    """What a pull prints, and what it raises in Python, for each answer of a service."""
    served, told = ENDPOINTS[situation]
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", TOKEN)):
        monkeypatch.setenv(f"AWS_{name}", value)
    began = time.monotonic()
    with served() as endpoint:
        result = run("pull", tmp_path / "m", "--remote", "s3://team/emb", f"--storage-option=endpoint_url={endpoint}")
        assert time.monotonic() - began < SLOWEST
        assert (result.code, result.out) == (1, "")
        assert_told(result.err, told)
        if situation != "no answer":  # 20 s more
            options = {"endpoint_url": endpoint}
            cache = EmbeddingCache(tmp_path / "m", remote="s3://team/emb", storage_options=options, push="manual")
            with pytest.raises(told.error) as caught:
                cache.pull()
            assert f"cas-cache: {caught.value}\n" == result.err


def test_no_credentials(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in options nor in the environment nor in a profile, or a profile that is none."""
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with closed() as endpoint:
        option = f"--storage-option=endpoint_url={endpoint}"
        result = run("pull", tmp_path / "m", "--remote", "s3://team/emb", option)
        assert result.code == 1
        assert_told(result.err, Told("No credentials were found for s3://team/emb", "Set AWS_PROFILE", AccessDenied))
        result = run("pull", tmp_path / "m", "--remote", "s3://team/emb", option, "--storage-option=profile=nobodys")
        assert_told(result.err, Told(r"No credentials were found.*nobodys", "Set AWS_PROFILE", AccessDenied))


# This machine ------------------------------------------------------------------------------------------------------


class Place:
    """A directory with a mirror and its repository, another repository, and a settings file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "configuration" / "cas_cache" / "config.toml"
        self.config.parent.mkdir(parents=True)
        for mirror, repository in (("mirror", "repo"), ("mirror2", "repo2")):
            cache = EmbeddingCache(root / mirror, remote=str(root / repository), push="manual")
            cache.put(["a", "b"], np.ones((2, 4), np.float32), SPEC)
            cache.push()
        (root / "file").write_text("x")

    def newer(self, path: str) -> None:
        """Let a file say that it has version 2."""
        file = self.root / path
        file.write_text(re.sub(r'"version": ?1', '"version": 2', file.read_text()))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return the directory, which is the working directory, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    return Place(tmp_path)


def settings(text: str) -> Callable[[Place], None]:
    return lambda place: void(place.config.write_text(text))


def void(_: object) -> None:
    pass


def as_it_is(_: Place) -> None:
    pass


TEAM = '[remotes]\nteam = "s3://team/emb"\n'

MISTAKES: dict[str, tuple[Callable[[Place], None], str, str, str]] = {
    # situation: (what was done before, command, what happened, what to do)
    "a remote that is nowhere": (as_it_is, "pull x --remote ./repp", "no repository at .*/repp", "Check the URL"),
    "an unknown name": (as_it_is, "push mirror --remote repp", "No remote is called 'repp'", r"write \./repp\."),
    "a remote's name misspelt": (settings(TEAM), "pull x --remote teem", "No remote is called 'teem'", r"mean team\?"),
    "a name in other letters": (settings(TEAM), "push mirror --remote Team", "No remote is called", r"mean team\?"),
    "a scheme misspelt": (as_it_is, "pull x --remote s4://team/emb", "no file system is called 's4'", r"mean s3://\?"),
    "a slash too few": (as_it_is, "pull x --remote s3:/team/emb", "neither a URL nor a plain path", r"s3://team/emb\?"),
    "two remotes": (as_it_is, "pull s3://a/b --remote s3://c/d", "Two remotes are named", "Name a directory and"),
    "no remote": (as_it_is, "pull x", "There is no remote to pull from", "--remote"),
    "a mirror as the remote": (as_it_is, "pull x --remote mirror", "is a mirror, not a repository", "Name it as CACHE"),
    "a repository as CACHE": (as_it_is, "pull repo --remote repo", "It is a repository", "directory of its own"),
    "another repository's mirror, pull": (
        as_it_is, "pull mirror --remote repo2", "belongs to the repository .* at .*/repo;", "name the right remote"
    ),
    "another repository's mirror, push": (
        as_it_is, "push mirror --remote repo2", "belongs to the repository .* at .*/repo;", "name the right remote"
    ),
    "another repository's mirror, sync": (
        as_it_is, "sync mirror --remote repo2", "belongs to the repository .* at .*/repo;", "name the right remote"
    ),
    "no mirror": (as_it_is, "ls mirrer", "There is no cas_cache mirror at", "Check the path"),
    "a folder of the mirror": (
        as_it_is, "ls mirror/namespaces", "is a folder in one|holds no cas_cache mirror", "the mirror is .*/mirror"
    ),
    "an unknown model": (as_it_is, "sync mirror --remote repo --model org/mimi-lm", "no model", r"org/mini-lm'\?"),
    "a model without its org": (as_it_is, "pull mirror --remote repo --model mini-lm", "no model", r"'org/mini-lm'\?"),
    "a model in other letters": (
        as_it_is, "pull mirror --remote repo --model ORG/Mini-LM", "There is no model", r"Did you mean 'org/mini-lm'\?"
    ),
    "an unknown namespace": (
        as_it_is, f"pull mirror --remote repo --namespace {SPEC.namespace[:8]}z", "no namespace", r"Did you mean '\w+'"
    ),
    "an unknown role": (as_it_is, "pull mirror --remote repo --role queri", "There is no role", r"mean 'query'\?"),
    "an unknown task": (as_it_is, "pull mirror --remote repo --task Foo", "There is no task 'Foo'", "--model"),
    "an unknown setting": (settings("remotte = 'x'"), "ls mirror", "unknown setting 'remotte'", r"mean remote\?"),
    "a setting of another kind": (settings("offline = 'yes'"), "ls mirror", "config.toml: offline", "true or false"),
    "settings that are no TOML": (settings("remote = ["), "ls mirror", "cannot be read as TOML", "Mend it"),
    "remotes that are no table": (settings("remotes = 'x'"), "ls mirror", "config.toml: remotes", "table of URLs"),
    "a newer repository": (
        lambda place: place.newer("repo/cas-cache.json"),
        "pull x --remote repo", "written by a newer cas_cache: it has format version 2", "Update cas_cache"
    ),
    "a newer mirror": (
        lambda place: place.newer("mirror/cas-cache-mirror.json"),
        "ls mirror", "has version 2; this cas_cache reads version 1", "Update cas_cache"
    ),
    "a mirror's marker damaged": (
        lambda place: void((place.root / "mirror" / "cas-cache-mirror.json").write_text("{")),
        "ls mirror", "is damaged", "Use another directory"
    ),
    "a file as CACHE": (as_it_is, "pull file --remote repo", "/file is a file", "Name a directory"),
    "CACHE below a file": (as_it_is, "pull file/x --remote repo", "could not be made at .*/file/x", "Name a directory"),
    "a file as the remote": (as_it_is, "pull x --remote file", "a file is where", "Name a directory for the"),
    "the remote below a file": (as_it_is, "push mirror --remote file/x --rebind", "a file is where", "Name a dir"),
    "a target that is there": (
        as_it_is, f"export mirror file --format npy -n {SPEC.namespace}", "exists already", "Name another target"
    ),
    "a target below a file": (
        as_it_is, f"export mirror file/x --format npy -n {SPEC.namespace}", "Writing .*/file/x failed", "another target"
    ),
    "an import from nowhere": (
        as_it_is, "import mteb nowhere x --model a --revision b", "nowhere is not a directory", "Name a cache_path"
    ),
    "a pull while offline": (
        lambda _: os.environ.update(CAS_CACHE_OFFLINE="1"),
        "pull mirror --remote repo", "The cache is offline", "unset CAS_CACHE_OFFLINE"
    ),
    "a push while read-only": (
        lambda _: os.environ.update(CAS_CACHE_READ_ONLY="1"),
        "push mirror --remote repo", "The cache is read-only", "unset CAS_CACHE_READ_ONLY"
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", MISTAKES)
def test_this_machine(run: Any, place: Place, monkeypatch: pytest.MonkeyPatch, situation: str) -> None:
    """What a command prints for each mistake; and nothing is made where it looked."""
    before, command, happened, to_do = MISTAKES[situation]
    for name in ("CAS_CACHE_OFFLINE", "CAS_CACHE_READ_ONLY"):
        monkeypatch.setenv(name, "")  # so that what the situation sets goes afterwards
    before(place)
    there = {path.name for path in place.root.iterdir()}
    result = run(*command.split())
    assert (result.code, result.out) == (1, "")
    shown = result.err
    assert shown.count("\n") == 1, shown
    assert re.search(happened, shown), shown
    assert re.search(to_do, shown), shown
    assert shown.index(re.search(happened, shown)[0]) <= shown.index(re.search(to_do, shown)[0])  # type: ignore[index]
    made = {path.name for path in place.root.iterdir()} - there
    assert made <= {"x"}, "a pull makes its mirror before it asks; nothing else is made"


def test_a_pack_of_a_newer_version(run: Any, place: Place) -> None:
    """It is skipped with what to do, all others are taken, and the exit code is 1."""
    cache = EmbeddingCache(place.root / "mirror", remote=str(place.root / "repo"), push="manual")
    cache.put(["c"], np.ones((1, 4), np.float32), SPEC)
    cache.push()
    newest = max(
        (place.root / "repo" / "manifests" / SPEC.namespace).iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    document = {**json.loads(newest.read_bytes()), "version": 2}
    data = json.dumps(document).encode()
    newest.unlink()
    (newest.parent / f"{hashlib.sha256(data).hexdigest()}.json").write_bytes(data)
    result = run("pull", "x", "--remote", "repo")
    assert result.code == 1
    assert "2 rows" in result.out
    assert_told(
        result.err,
        Told("A pack was written by a newer cas_cache, in format version 2", "Update cas_cache", UnsupportedFormat),
        before="skipped: ",
    )


def test_python_has_the_typed_errors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mistakes, by type."""
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "0")
    for arguments, error in (
        (("mirror", "repo2"), RepositoryMismatch),
        (("new", "mirror"), NotARepository),
        (("repo", "repo"), NotAMirror),
        (("file", "repo"), NotAMirror),
        (("file/x", "repo"), MirrorWriteError),
        (("new", "file"), RemoteUnavailable),
    ):
        with pytest.raises(error):
            EmbeddingCache(arguments[0], remote=arguments[1], push="manual").pull()
    place.config.write_text(TEAM)
    with pytest.raises(ConfigurationError, match="Did you mean team"):
        EmbeddingCache("new", remote="teem")
    place.newer("repo/cas-cache.json")
    with pytest.raises(UnsupportedFormat):
        EmbeddingCache("new", remote="repo").pull()


def test_a_new_directory_may_be_called_nearly_like_a_remote(run: Any, place: Place) -> None:
    """By a path; and a directory that is there needs none."""
    place.config.write_text('[remotes]\nrepo1 = "s3://team/emb"\n')
    assert run("pull", "x", "--remote", "repo").code == 0
    assert run("push", "mirror", "--remote", "./repo3", "--rebind").code == 0


# The disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs commands, one after the other, where ``small`` is a file system of 300 kB."""
    (tmp_path / "small").mkdir()
    unshare = [shutil.which("unshare") or "unshare", "-rm", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=300k small {tmp_path / 'small'}"
    try:
        subprocess.run([*unshare, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not let users mount a file system of their own")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = " ".join(map(str, (sys.executable, "-m", "cas_cache", *words)))
        return subprocess.run([*unshare, f"{mount} && {command}"], capture_output=True, text=True, check=False)

    return run


@pytest.mark.verify
def test_a_full_disk(small_disk: Any, tmp_path: Path) -> None:
    """A pull to it, a push to it, an export to it: what is there stays, and the same command goes on."""
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "r"), push="manual")
    cache.put([f"text {n}" for n in range(2000)], np.ones((2000, 64), np.float32), SPEC)
    cache.push()
    full = "No space left on device|The disk is full"
    for words in (
        ("pull", tmp_path / "small" / "m", "--remote", tmp_path / "r"),
        ("push", tmp_path / "m", "--remote", tmp_path / "small" / "r", "--rebind"),
        ("export", tmp_path / "m", tmp_path / "small" / "x", "--format", "npy", "-n", SPEC.namespace),
    ):
        result = small_disk(*words)
        assert result.returncode == 1
        assert_told(result.stderr, Told(full, "(Make|make) room", MirrorWriteError))
    assert small_disk("ls", tmp_path / "m").returncode == 0


def test_stdout_that_takes_nothing(tmp_path: Path) -> None:
    """Results that cannot be printed are an error like any other."""
    EmbeddingCache(tmp_path / "m").put(["a"], np.ones((1, 4), np.float32), SPEC)
    with Path("/dev/full").open("w") as full:
        call = [sys.executable, "-m", "cas_cache", "ls", str(tmp_path / "m"), "--json"]
        result = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "No space left" in result.stderr


# Secrets -----------------------------------------------------------------------------------------------------------


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, with secrets in its environment."""
    call = [sys.executable, "-m", "cas_cache", *map(str, words)]
    secrets = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN, **environment}
    return subprocess.run(call, capture_output=True, text=True, check=False, env={**os.environ, **secrets})


@pytest.mark.verify
@pytest.mark.parametrize("loud", sampled(["-v", "-vv"], keep={"-vv"}))
def test_no_secret_in_tracebacks_and_logs(tmp_path: Path, loud: str) -> None:
    """A service that quotes key, token and signature: the traceback is there, and they are not in it."""
    told = f" AWSAccessKeyId={KEY} X-Amz-Signature={TOKEN} token {TOKEN} key {SECRET} ?{SIGNATURE}"
    body = error_document("SignatureDoesNotMatch", told.replace("&", "&amp;"))
    with answering(403, body) as endpoint:
        result = command(
            "pull", tmp_path / "m", "--remote", "s3://team/emb", "--storage-option", f"endpoint_url={endpoint}", loud
        )
        assert result.returncode == 1
        assert "Traceback" in result.stderr
        assert "cas_cache.errors.AccessDenied" in result.stderr
        assert_no_secret(result.stdout + result.stderr)
        options = (
            f"--storage-option=key={KEY}",
            f"--storage-option=secret={SECRET}",
            f"--storage-option=token={TOKEN}",
        )
        result = command("pull", tmp_path / "m", "--remote", "s3://team/emb", *options, loud)
        assert_no_secret(result.stdout + result.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "m", f"s3://{KEY}:{SECRET}@team/emb"),
        ("pull", "m", "--remote", f"s3://{KEY}:{SECRET}@team/emb", "-v"),
        ("pull", "m", "--remote", f"s3:/{KEY}:{SECRET}@team/emb", "-v"),
        ("pull", "m", "--remote", f"https://127.0.0.1:1/x?{SIGNATURE}", "-vv"),
        ("pull", f"az://box/x?{SIGNATURE}", "--storage-option", f"sas_token={SIGNATURE}", "-vv"),
        ("pull", "m", "--remote", "s3://team/emb", "--storage-option", f"sekret={SECRET}", "-vv"),
        ("pull", "m", "--remote", "s3://team/emb", "--storage-option", SECRET, "-vv"),
        ("pull", "m", "--storage-option", f"secret={SECRET}", "--nonsense"),
    ],
)
def test_no_secret_of_the_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """Whatever is wrong with them."""
    monkeypatch.chdir(tmp_path)
    with closed() as endpoint:
        result = command(*words, AWS_ENDPOINT_URL=endpoint)
    assert result.returncode in (1, 2)
    assert_no_secret(result.stdout + result.stderr)


def test_no_secret_in_a_traceback_of_python(tmp_path: Path) -> None:
    """What led to our error is left out where it would show one."""
    body = error_document("SignatureDoesNotMatch", f" key {SECRET}")
    with answering(403, body) as endpoint:
        options = {"key": KEY, "secret": SECRET, "endpoint_url": endpoint}
        cache = EmbeddingCache(tmp_path / "m", remote="s3://team/emb", storage_options=options, push="manual")
        with pytest.raises(AccessDenied) as caught:
            cache.pull()
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)


# What nobody thought of --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("x"), "This should not have happened (ZeroDivisionError: x)."),
        (OSError(28, "No space left on device"), "The disk is full"),
        (PermissionError(13, "Permission denied"), "The system refuses access"),
        (IsADirectoryError(21, "Is a directory"), "The system reports an error"),
    ],
)
def test_an_error_that_is_not_ours(
    run: Any, place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """Even a bug is told in words; the traceback is there with -v."""

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("cas_cache.mirror.mirror.Mirror.namespaces", broken)
    result = run("ls", "mirror")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"cas-cache: {message}")
    assert result.err.count("\n") == 1
    assert result.err.count(". ") >= 1
