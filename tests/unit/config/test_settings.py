"""Settings: environment and files are read when asked, and what is not a value of a setting is an error."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.config.settings import DEFAULT, Settings, user_file
from cas_cache.errors import ConfigurationError


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
        only_cached=False,
        lazy=False,
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
    monkeypatch.setenv("CAS_CACHE_ONLY_CACHED", "true")
    monkeypatch.setenv("CAS_CACHE_LAZY", "yes")
    monkeypatch.setenv("CAS_CACHE_SELF_CHECK", " 3 ")
    monkeypatch.setenv("CAS_CACHE_PUSH_SECONDS", "5")
    monkeypatch.setenv("CAS_CACHE_PROGRESS", "0")
    directory = Path("/home/someone/emb")
    assert Settings.read() == Settings(directory, "s3://team/emb", True, True, True, True, 3, False, push_seconds=5)


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


# Files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's file and the project's, not there yet; the working directory is two folders below the latter."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    working = tmp_path / "project" / "a" / "b"
    working.mkdir(parents=True)
    monkeypatch.chdir(working)
    user = user_file()
    user.parent.mkdir(parents=True)
    return user, tmp_path / "project" / "pyproject.toml"


def test_the_stronger_source_wins(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, then project, then user; each setting for itself, and where it is from is known."""
    user, project = files
    user.write_text(
        'directory = "~/all"\nremote = "team"\nself_check = 1\noffline = true\n[remotes]\nteam = "s3://t/1"\n'
    )
    project.write_text(
        '[tool.cas_cache]\nself_check = 2\nread_only = true\n[tool.cas_cache.remotes]\nlab = "gs://lab/e"\n'
    )
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "0")
    settings = Settings.read()
    assert settings.directory == Path("~/all").expanduser()
    assert (settings.remote, settings.offline, settings.read_only, settings.self_check) == ("team", False, True, 2)
    assert settings.remotes == {"team": "s3://t/1", "lab": "gs://lab/e"}
    assert settings.sources == {
        "directory": str(user),
        "remote": str(user),
        "offline": "CAS_CACHE_OFFLINE",
        "read_only": str(project),
        "only_cached": DEFAULT,
        "lazy": DEFAULT,
        "trust": DEFAULT,
        "signing_key": DEFAULT,
        "self_check": str(project),
        "max_self_check": "default",
        "push_seconds": DEFAULT,
        "progress": DEFAULT,
        "remotes.team": str(user),
        "remotes.lab": str(project),
    }


def test_the_nearest_project_counts(files: tuple[Path, Path]) -> None:
    """One without the table ends the search: it is the project."""
    _, project = files
    project.write_text("[tool.cas_cache]\nself_check = 2\n")
    assert Settings.read().self_check == 2
    (Path.cwd() / "pyproject.toml").write_text("[tool.ruff]\n")
    assert Settings.read().self_check is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("remotte = 's3://b'", "Did you mean remote?"),
        ("colour = 1", "There are directory, remote"),
        ("offline = 'yes'", "offline must be true or false"),
        ("self_check = true", "self_check must be a number, 0 or more"),
        ("self_check = -1", "self_check must be a number, 0 or more"),
        ("remote = 3", "remote must be a text in quotes"),
        ("remotes = 's3://b'", "remotes must be a table"),
        ("[remotes]\nteam = 3", "remotes must be a table"),
        ("not toml", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_an_error(files: tuple[Path, Path], text: str, said: str) -> None:
    """That names the file and what it should say."""
    user, _ = files
    user.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(said)) as error:
        Settings.read()
    assert str(user) in str(error.value)


def test_a_remote_can_be_named(files: tuple[Path, Path], tmp_path: Path, run: Any) -> None:
    """In an argument, in a setting, on the command line; a directory of that name is ./name."""
    user, _ = files
    user.write_text(f'[remotes]\nteam = "{tmp_path / "remote"}"\n')
    with EmbeddingCache(tmp_path / "mirror", remote="team") as cache:
        cache.put(["a"], np.ones((1, 2), np.float32), EncoderSpec(model="m/m", revision="1"))
    assert (tmp_path / "remote" / "cas-cache.json").exists()
    assert run("pull", tmp_path / "second", "--remote", "team").out.startswith("pulled 1 pack")
    user.write_text('remote = "team"\n' + user.read_text())
    assert EmbeddingCache(tmp_path / "third").pull().rows == 1
    assert "There is no repository at" in run("pull", tmp_path / "fourth", "--remote", "./team").err


@pytest.mark.parametrize("word", ["team", "team.emb", "x" * 300])
@pytest.mark.parametrize("given", ["argument", "variable", "file", "name"])
def test_a_bare_word_does_not_make_a_directory(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, word: str
) -> None:
    """A remote that is neither a name nor a directory stops the run before anything is made, wherever it is named."""
    monkeypatch.chdir(tmp_path)
    if given == "variable":
        monkeypatch.setenv("CAS_CACHE_REMOTE", word)
    elif given == "file":
        files[0].write_text(f'remote = "{word}"\n')
    elif given == "name":
        files[0].write_text(f'remote = "lab"\n[remotes]\nlab = "{word}"\n')
    with pytest.raises(ConfigurationError, match=rf"No remote is called '{word}'.*write \./{word}"):
        EmbeddingCache(tmp_path / "mirror", remote=word if given == "argument" else None)
    assert not (tmp_path / "mirror").exists()
    assert not (tmp_path / word[:200]).exists()


def test_a_bare_word_may_be_a_directory_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path needs no ./ then."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team").mkdir()
    assert EmbeddingCache("mirror", remote="team").repository.url == str(tmp_path / "team")
    assert EmbeddingCache("mirror2", remote="./lab").repository.url == str(tmp_path / "lab")


def test_a_path_is_a_directory_and_not_a_name(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `Path` has no ./ in its text, whatever it was made of."""
    monkeypatch.chdir(tmp_path)
    files[0].write_text('[remotes]\nteam = "s3://bucket/p"\n')
    assert EmbeddingCache("mirror", remote=Path("./team")).repository.url == str(tmp_path / "team")


def test_info_shows_what_is_in_force(files: tuple[Path, Path], run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whence; credentials in a URL are not printed."""
    user, _ = files
    user.write_text('remote = "team"\n[remotes]\nteam = "s3://AKIASECRET:hush@bucket/p"\n')
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    done = run("info", "--settings")
    assert (done.code, done.err) == (0, "")
    assert "hush" not in done.out
    lines = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()}
    assert lines["offline"] == ["True", "CAS_CACHE_OFFLINE"]
    assert lines["remote"] == ["team", str(user)]
    assert lines["remotes.team"] == ["s3://bucket/p", str(user)]
    assert lines["read_only"] == ["False", "default"]
    document = json.loads(run("info", "--settings", "--json").out)["settings"]
    assert document["self_check"] == {"value": None, "source": "default"}
    assert document["offline"] == {"value": True, "source": "CAS_CACHE_OFFLINE"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's home directory")
def test_the_home_directory_of_another_is_no_obstacle(tmp_path: Path) -> None:
    """A service that may not look into it has no settings there; nor has one whose working directory is gone."""
    home, gone = tmp_path / "home", tmp_path / "gone"
    (home / ".config" / "cas_cache").mkdir(parents=True)
    (home / ".config" / "cas_cache" / "config.toml").write_text("offline = true")
    gone.mkdir()
    script = f"""
import os, shutil
from cas_cache.config.settings import Settings
assert Settings.read().offline
os.chdir({str(gone)!r})
shutil.rmtree({str(gone)!r})
assert Settings.read().offline
os.setuid(65534)
print(Settings.read().offline)
"""
    home.chmod(0o700)
    environment = {**os.environ, "HOME": str(home)}
    del environment["XDG_CONFIG_HOME"]
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
