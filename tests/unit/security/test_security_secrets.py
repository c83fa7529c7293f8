"""Nothing secret is kept or shown: every file that is written, and all that is printed, logged or raised, is searched.

What single messages say is tested where they are made; here all of them are, whatever they are.
"""

import contextlib
import io
import json
import logging
import sys
import traceback
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cas_cache import EmbeddingCache
from cas_cache.cli import main
from cas_cache.errors import CasCacheError
from cas_cache.mteb import CachedEmbeddingWrapper
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from fault_server import error_document, refusing
from hostile_mirrors import SPEC, TEXTS, embed
from mteb_encoders import HashEncoder

KEY_ID = "AKIAHUNTER2HUNTER2AA"
SECRETS = {
    "key": KEY_ID,
    "secret": "hunter2/secret+access=key/abcdefghijklmn",
    "token": "hunter2-session-token-AAAAAAAAAAAAAAAA",
    "password": "hunter2:pass@word/with?all#of%it",
    "sas": "sv=2024-01-01&ss=b&sig=hunter2sasSig%2Fabc%3D",
    "connection": "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=hunter2accountkey==;EndpointSuffix=x",
}
"""Each has the word by which it is recognised; but for the key id, which is recognised by itself."""

WORDS = (KEY_ID, "hunter2", b64encode(b"hunter2").decode().rstrip("=")[:-1])
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRETS["secret"],
    "AWS_SESSION_TOKEN": SECRETS["token"],
    "AZURE_STORAGE_CONNECTION_STRING": SECRETS["connection"],
    "AZURE_STORAGE_SAS_TOKEN": SECRETS["sas"],
    "FSSPEC_S3_SECRET": SECRETS["secret"],
}
OPTIONS = {
    "key": KEY_ID,
    "secret": SECRETS["secret"],
    "token": SECRETS["token"],
    "password": SECRETS["password"],
    "sas_token": SECRETS["sas"],
    "connection_string": SECRETS["connection"],
    "client_kwargs": {"aws_session_token": SECRETS["token"], "headers": {"Authorization": "Bearer hunter2bearer"}},
}


def found_in(data: bytes | str) -> list[str]:
    """The secrets that a text or a file has, as they are or as a URL quotes them."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    forms = {form for word in (*WORDS, *SECRETS.values()) for form in (word, quote(word, safe=""), quote_plus(word))}
    return sorted(form for form in forms if form in text)


class Ear:
    """All that is printed, logged, warned of or raised while it listens."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def tell(self, *things: Any) -> None:
        """Take what may be shown of objects: text, repr, HTML, JSON, and what an exception would print."""
        for it in things:
            self.heard += [str(it), repr(it), format(it)]
            if hasattr(it, "_repr_mimebundle_"):
                self.heard += it._repr_mimebundle_().values()
            if hasattr(it, "as_json"):
                self.heard.append(json.dumps(it.as_json(), default=repr))
            if hasattr(it, "summary"):
                self.heard.append(str(it.summary() if callable(it.summary) else it.summary))
            if isinstance(it, BaseException):
                self.heard += traceback.format_exception(it)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        lines, printed = io.StringIO(), io.StringIO()
        handler = logging.StreamHandler(lines)
        logger = logging.getLogger("cas_cache")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            with (
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(printed),
                warnings.catch_warnings(record=True) as warned,
            ):
                warnings.simplefilter("always")
                try:
                    yield
                except CasCacheError as err:
                    self.tell(err)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        self.heard += [lines.getvalue(), printed.getvalue(), *(str(it.message) for it in warned)]


def commands(*lines: list[str]) -> None:
    """Run commands in this process, whatever becomes of them."""
    for words in lines:
        sys.argv = ["cas-cache", *words]
        with contextlib.suppress(SystemExit):
            main()


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Ear:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COLUMNS", "2000")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return Ear()


@pytest.fixture
def memory() -> Iterator[dict[str, Any]]:
    """Fsspec's memory, whatever URLs name there."""
    MemoryFileSystem.store.clear()
    yield MemoryFileSystem.store
    MemoryFileSystem.store.clear()


def files_of(folder: Path, memory: dict[str, Any]) -> dict[str, bytes]:
    """Names and contents of all that was written."""
    found = {str(it): it.read_bytes() for it in folder.rglob("*") if it.is_file()}
    # What fsspec takes for the root there is the URL as it is.
    return found | {f"memory:{name.rpartition('/team/')[2]}": file.getvalue() for name, file in memory.items()}


def assert_nothing_secret(ear: Ear, files: dict[str, bytes]) -> None:
    wrong = [(found_in(text), text[:300]) for text in ear.heard if found_in(text)]
    assert wrong == []
    assert {name: found_in(data) for name, data in files.items() if found_in(data)} == {}
    assert [name for name in files if found_in(name)] == []


def test_what_works(tmp_path: Path, ear: Ear, memory: dict[str, Any], figure: Callable[[str, int], None]) -> None:
    """All flows with secrets in storage options, in the URL and in the environment: none of it is anywhere."""
    url = f"memory://me:{quote(SECRETS['password'], safe='')}@host/team"
    asked = {"remote": url, "storage_options": OPTIONS, "push": "manual"}
    with ear.listening():
        with EmbeddingCache(tmp_path / "one", **asked) as cache:
            cache.encode(TEXTS[:40], SPEC, embed)
            ear.tell(cache, cache.push(), cache.stats, cache.mirror, cache.repository, cache.repository.storage)
            cache.encode(TEXTS[:80], SPEC, embed)
            ear.tell(cache.push(), cache, cache.mirror.repository_url)
        with EmbeddingCache(tmp_path / "two", lazy=True, **asked) as cache:
            cache.encode(TEXTS[:50], SPEC, embed)
            ear.tell(cache, cache.pull(), cache.stats)
            ear.tell(compact(cache.repository, at_least=2), check(cache.repository, read_data=True))
        with CachedEmbeddingWrapper(HashEncoder(), tmp_path / "two", **asked) as model:
            ear.tell(model, model.stats)
        options = [f"--storage-option={name}={value}" for name, value in OPTIONS.items() if isinstance(value, str)]
        for loud in ("-vv", "--json"):
            place = [str(tmp_path / "one"), "--remote", url, *options, loud]
            commands(*([name, *place] for name in ("status", "pull", "push", "sync")))
            commands(["ls", str(tmp_path / "one"), "--repository", "--remote", url, *options, loud])
            commands(["check", "--remote", url, "--read-data", *options, loud])
            commands(["prune", "--remote", url, "--dry-run", *options, loud])
            commands(["doctor", url, *options, loud], ["info", "--settings", loud])
    files = files_of(tmp_path, memory)
    assert len([name for name in files if name.startswith("memory:")]) > 10
    assert any("namespaces" in name for name in files)
    assert_nothing_secret(ear, files)
    figure("files searched for secrets", len(files))


@pytest.mark.verify
def test_what_fails(tmp_path: Path, ear: Ear, memory: dict[str, Any], figure: Callable[[str, int], None]) -> None:
    """A service that refuses and quotes what it was told, and arguments that are wrong: errors, logs and tracebacks."""
    told = f" key {SECRETS['secret']} token {SECRETS['token']} id {KEY_ID} url https://h/x?{SECRETS['sas']}"
    assert found_in(error_document("SignatureDoesNotMatch", told))
    s3 = {name: OPTIONS[name] for name in ("key", "secret", "token")}
    for code in ("SignatureDoesNotMatch", "AccessDenied", "NoSuchBucket"):
        with refusing(code, told.replace("&", "&amp;")) as endpoint, ear.listening():
            options = {**s3, "endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}
            asked = {"remote": "s3://team/emb", "storage_options": options}
            with EmbeddingCache(tmp_path / code, **asked) as cache:
                cache.encode(TEXTS[:5], SPEC, embed)
                ear.tell(cache)
                for flow in (cache.pull, cache.push):
                    try:
                        flow()
                    except CasCacheError as err:
                        ear.tell(err)
            options_ = [f"--storage-option={name}={value}" for name, value in {**s3, "endpoint_url": endpoint}.items()]
            commands(["pull", str(tmp_path / code), "--remote", "s3://team/emb", *options_, "-vv"])
            commands(["doctor", "s3://team/emb", *options_, "-vv"])
            commands(["doctor", "s3://team/emb", *options_, "--json"])
    password = quote(SECRETS["password"], safe="")
    wrong = [
        f"s3://{KEY_ID}:{SECRETS['secret']}@team/emb",
        f"s3://team/emb?{SECRETS['sas']}",
        f"az://box/emb?{SECRETS['sas']}",
        f"https://me:{password}@127.0.0.1:1/x",
        f"simplecache::s3://{KEY_ID}:{SECRETS['secret']}@team/emb",
        f"nothing://me:{password}@host/x",
        f"s3:/{KEY_ID}:{SECRETS['secret']}@team/emb",
    ]
    for url in wrong:
        with ear.listening():
            EmbeddingCache(tmp_path / "wrong", remote=url, storage_options=OPTIONS).pull()
        with ear.listening():
            commands(["pull", str(tmp_path / "wrong"), "--remote", url, "-vv"])
    files = files_of(tmp_path, memory)
    assert_nothing_secret(ear, files)
    assert sum("***" in text for text in ear.heard) > 0
    figure("files searched for secrets", len(files))


def test_the_search_finds_what_it_looks_for(tmp_path: Path, ear: Ear) -> None:
    """Negative control: a secret in a log line, a warning, what is printed, a repr, a file or its name is found."""

    class Shown:
        def __repr__(self) -> str:
            return f"Shown({SECRETS['token']})"

    told: list[Callable[[], Any]] = [
        lambda: logging.getLogger("cas_cache.x").debug("it is %s", SECRETS["secret"]),
        lambda: warnings.warn(f"it is {SECRETS['token']}", UserWarning, stacklevel=1),
        lambda: print(f"?{quote(SECRETS['sas'])}"),
        lambda: ear.tell(Shown()),
    ]
    for it in told:
        ear.heard.clear()
        with ear.listening():
            it()
        with pytest.raises(AssertionError):
            assert_nothing_secret(ear, {})
    ear.heard.clear()
    for files in ({"x": SECRETS["secret"].encode()}, {f"memory:{SECRETS['token']}": b""}):
        with pytest.raises(AssertionError):
            assert_nothing_secret(ear, files)
    assert_nothing_secret(ear, {"x": b"nothing"})
