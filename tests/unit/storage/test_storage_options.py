"""Settings of a storage are used, or refused by name; none is ignored silently."""

import pickle
from pathlib import Path
from typing import Any

import fsspec.config
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import ConfigurationError, InvalidURL
from cas_cache.storage import open_storage

KEYS = {"key": "AKIAEXAMPLEEXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
REMOTE = "s3://team/emb"


class PathWithOptions:
    """A path like universal_pathlib's: its text is the URL, and its options are separate."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self.storage_options = options

    def __str__(self) -> str:
        return self._url


class PathWithClient:
    """A path like cloudpathlib's: its text is the URL, and a client has the settings to reach it."""

    def __str__(self) -> str:
        return REMOTE


def filesystem(cache: EmbeddingCache) -> Any:
    return cache.repository.storage._fs


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets fsspec's own configuration of s3, as its files and variables do."""

    def configure(**options: Any) -> None:
        monkeypatch.setitem(fsspec.config.conf, "s3", options)

    return configure


def test_config_kwargs_of_fsspec_are_merged(configure: Any) -> None:
    """Each name is merged: storage_options override fsspec's configuration, which overrides our defaults."""
    configure(endpoint_url="http://a", config_kwargs={"signature_version": "s3v4", "connect_timeout": 2})
    fs = open_storage(REMOTE, {**KEYS, "config_kwargs": {"connect_timeout": 9}})._fs
    expected = {"retries": {"mode": "standard"}, "signature_version": "s3v4", "connect_timeout": 9}
    assert (fs.endpoint_url, fs.config_kwargs) == ("http://a", expected)
    configure(config_kwargs={"retries": {"max_attempts": 7}})
    assert open_storage(REMOTE, KEYS)._fs.config_kwargs == {"retries": {"max_attempts": 7}}


def test_client_kwargs_are_merged_too(configure: Any) -> None:
    """A certificate authority in fsspec's configuration is kept beside a region in storage_options."""
    configure(client_kwargs={"verify": False})
    fs = open_storage(REMOTE, {**KEYS, "client_kwargs": {"region_name": "eu-west-1"}})._fs
    assert fs.client_kwargs == {"verify": False, "region_name": "eu-west-1"}


def test_listings_are_never_cached_whatever_fsspec_is_told(configure: Any) -> None:
    """Those settings apply to all programs of a user, so they are not an error."""
    configure(use_listings_cache=True, listings_expiry_time=60, skip_instance_cache=False)
    fs = open_storage(REMOTE, KEYS)._fs
    assert fs.dircache.use_listings_cache is False
    assert open_storage(REMOTE, KEYS)._fs is not fs


@pytest.mark.parametrize(
    "option",
    [
        {"asynchronous": True},
        {"loop": object()},
        {"use_listings_cache": True},
        {"listings_expiry_time": 60},
        {"skip_instance_cache": False},
        {"mode": "rb"},
        {"compression": "gzip"},
        {"config_kwargs": '{"connect_timeout": 1}'},
        {"client_kwargs": ["verify"]},
    ],
    ids=lambda option: next(iter(option)),
)
@pytest.mark.parametrize("offline", [False, True])
def test_an_option_that_cannot_work_is_named(tmp_path: Path, option: dict[str, Any], *, offline: bool) -> None:
    """It is an error when the cache is opened, and no mirror is made."""
    name = next(iter(option))
    with pytest.raises(ConfigurationError, match=name):
        EmbeddingCache(tmp_path / "m", remote=REMOTE, storage_options={**KEYS, **option}, offline=offline)
    assert not (tmp_path / "m").exists()


def test_a_misspelt_header_is_refused() -> None:
    """s3fs drops it, and pushed objects would not be encrypted."""
    with pytest.raises(ConfigurationError, match=r"'ServerSideEncrypton' in s3_additional_kwargs.*'ServerSideEncryp"):
        open_storage(REMOTE, {**KEYS, "s3_additional_kwargs": {"ServerSideEncrypton": "aws:kms"}})


def test_an_option_of_fsspec_that_cannot_work_names_where_it_is(configure: Any) -> None:
    """`asynchronous` breaks every request, wherever it is set."""
    configure(asynchronous=True)
    with pytest.raises(ConfigurationError, match=r"asynchronous.*FSSPEC_"):
        open_storage(REMOTE, KEYS)


def test_values_that_change_nothing_are_accepted() -> None:
    """Options that request the default behaviour are accepted."""
    options = {"asynchronous": False, "use_listings_cache": False, "skip_instance_cache": True, "config_kwargs": None}
    assert open_storage(REMOTE, {**KEYS, **options})._fs.asynchronous is False
    kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/team"}
    assert open_storage(REMOTE, {**KEYS, "s3_additional_kwargs": kms})._fs.s3_additional_kwargs == kms


def test_a_misspelt_option_of_google_is_refused() -> None:
    """Any name is accepted and ignored by gcsfs: requests would go to Google instead of the intended endpoint."""
    pytest.importorskip("gcsfs")
    with pytest.raises(ConfigurationError, match=r"'endpoint_ur'.*Did you mean 'endpoint_url'"):
        open_storage("gs://team/emb", {"token": "anon", "endpoint_ur": "http://127.0.0.1:1"})
    assert open_storage("gs://team/emb", {"token": "anon", "endpoint_url": "http://127.0.0.1:1"})


def test_two_names_for_one_option_are_refused() -> None:
    """s3fs raises a KeyError."""
    with pytest.raises(InvalidURL, match="key or username"):
        open_storage(REMOTE, {**KEYS, "username": "me"})


def test_a_secret_of_fsspecs_configuration_is_not_shown(configure: Any) -> None:
    """A secret in its files is a secret like any other."""
    configure(secret="hunter2hunter2", config_kwargs={"no_such_option": 1})
    storage = open_storage(REMOTE, {"key": "AKIAEXAMPLEEXAMPLE"})
    assert "hunter2hunter2" in storage._secrets


def test_options_of_a_directory_are_refused(tmp_path: Path) -> None:
    """A directory takes no options: they were meant for another remote."""
    for remote in (tmp_path / "r", f"file://{tmp_path}/r"):
        with pytest.raises(ConfigurationError, match="is a directory, which takes no storage_options: 'endpoint_url'"):
            EmbeddingCache(tmp_path / "m", remote=remote, storage_options={"endpoint_url": "http://127.0.0.1:1"})


def test_the_options_of_a_path_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used for `remote` and for `location`, together with storage_options, and again in a copy."""
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path / "mirrors"))
    path = PathWithOptions(REMOTE, endpoint_url="http://127.0.0.1:1", anon=True)
    for cache in (EmbeddingCache(tmp_path / "m", remote=path), EmbeddingCache(path)):  # type: ignore[arg-type]
        assert (filesystem(cache).endpoint_url, filesystem(cache).anon) == ("http://127.0.0.1:1", True)
        assert cache.repository.url == REMOTE
        assert filesystem(pickle.loads(pickle.dumps(cache))).endpoint_url == "http://127.0.0.1:1"
    options = {"anon": True, "use_ssl": False}
    cache = EmbeddingCache(tmp_path / "m", remote=path, storage_options=options)  # type: ignore[arg-type]
    assert (filesystem(cache).endpoint_url, filesystem(cache).use_ssl) == ("http://127.0.0.1:1", False)


def test_two_values_for_one_option_are_refused(tmp_path: Path) -> None:
    """Neither value silently overrides the other."""
    path: Any = PathWithOptions(REMOTE, endpoint_url="http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="endpoint_url: PathWithOptions and storage_options"):
        EmbeddingCache(tmp_path / "m", remote=path, storage_options={"endpoint_url": "http://127.0.0.1:2"})


def test_a_path_with_a_client_is_refused(tmp_path: Path) -> None:
    """Its text alone would mean a bucket of that name at Amazon."""
    remote: Any = PathWithClient()
    with pytest.raises(ConfigurationError, match="PathWithClient is a path with a client of its own"):
        EmbeddingCache(tmp_path / "m", remote=remote)
