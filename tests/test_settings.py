"""Settings: the environment is read when asked, and a switch that is neither on nor off is an error."""

from pathlib import Path

import platformdirs
import pytest

from cas_cache.errors import ConfigurationError
from cas_cache.settings import Settings


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAS_CACHE_SELF_CHECK")


def test_defaults() -> None:
    """Without any variable: the user's cache directory, no remote, everything off, the terminal decides on bars."""
    settings = Settings.read()
    assert settings == Settings(
        directory=Path(platformdirs.user_cache_dir("cas_cache")),
        remote=None,
        offline=False,
        read_only=False,
        self_check=None,
        progress=None,
    )


def test_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is taken; ~ is the home directory."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("CAS_CACHE_DIR", "~/emb")
    monkeypatch.setenv("CAS_CACHE_REMOTE", "s3://team/emb")
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    monkeypatch.setenv("CAS_CACHE_READ_ONLY", "on")
    monkeypatch.setenv("CAS_CACHE_SELF_CHECK", " 3 ")
    monkeypatch.setenv("CAS_CACHE_PROGRESS", "0")
    assert Settings.read() == Settings(Path("/home/someone/emb"), "s3://team/emb", True, True, 3, False)


def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CAS_CACHE_REMOTE= command` means no remote, as a shell user expects."""
    for name in ("CAS_CACHE_DIR", "CAS_CACHE_REMOTE", "CAS_CACHE_OFFLINE"):
        monkeypatch.setenv(name, "")
    settings = Settings.read()
    assert (settings.remote, settings.offline) == (None, False)
    assert settings.directory == Path(platformdirs.user_cache_dir("cas_cache"))


@pytest.mark.parametrize("name", ["CAS_CACHE_OFFLINE", "CAS_CACHE_READ_ONLY", "CAS_CACHE_PROGRESS"])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("true", True),
        (" YES ", True),
        ("On", True),
        ("0", False),
        ("False", False),
        ("no", False),
        ("off", False),
    ],
)
def test_switches(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: bool) -> None:
    """On and off have the spellings that people use."""
    monkeypatch.setenv(name, text)
    assert getattr(Settings.read(), name.removeprefix("CAS_CACHE_").lower()) is value


@pytest.mark.parametrize("text", ["2", "maybe", "ture", "-"])
def test_other_spellings_are_errors(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A typo in CAS_CACHE_OFFLINE must not mean "online"."""
    monkeypatch.setenv("CAS_CACHE_OFFLINE", text)
    with pytest.raises(ConfigurationError, match="CAS_CACHE_OFFLINE="):
        Settings.read()
