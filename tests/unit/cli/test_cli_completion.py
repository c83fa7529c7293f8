"""Shell completion: remotes, directories, namespaces, models, roles, tasks and commands. No remote is asked."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from cas_cache.cli import cli
from cas_cache.cli.commands import SUMMARIES
from cli_fixtures import DOCUMENTS, EMPTY, Places, made
from storages import OTHER_SPEC, SPEC
from tiers import sampled

HERE = {SPEC, OTHER_SPEC, EMPTY}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A mirror and a repository, and two remotes with names."""
    made_here = made(tmp_path)
    config = tmp_path / "config" / "cas_cache" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[remotes]\nteam = "s3://user:secret@team/emb"\nthere = "{made_here.remote}"\n', "utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return made_here


def offered(*words: object, incomplete: str = "") -> dict[str, str | None]:
    """Return what is offered after some words, each with its help."""
    found = ShellComplete(cli, {}, "cas-cache", "_CAS_CACHE_COMPLETE").get_completions([*map(str, words)], incomplete)
    return {item.value: item.help for item in found if item.type == "plain"}


@pytest.mark.parametrize("words", [("pull",), ("push", "--dry-run"), ("ls",), ("demo",)])
def test_remotes(places: Places, words: tuple[str, ...]) -> None:
    """By the names that the settings give them, without secrets; without a match the shell offers directories."""
    remotes = {"team": "s3://team/emb", "there": str(places.remote)}
    if words == ("demo",):
        assert "--keep" in offered(*words, incomplete="--k")
    assert offered(*words, "--remote") == remotes
    assert offered(*words, "--remote", incomplete="tea") == {"team": "s3://team/emb"}


@pytest.mark.parametrize("command", sampled(["info", "pull", "export", "search", "drop", "compact", "status"], keep=3))
def test_namespaces(places: Places, command: str) -> None:
    """Those of the mirror that was named before, with model and role; of a mirror that does not exist, none."""
    assert set(offered(command, places.mirror, "-n")) == {spec.namespace[:12] for spec in HERE}
    first = SPEC.namespace[:3]
    assert offered(command, places.mirror, "--namespace", incomplete=first) == {
        SPEC.namespace[:12]: f"{SPEC.model}@{SPEC.revision}, {SPEC.role}"
    }
    assert list(offered(command, places.mirror, "-n", incomplete=SPEC.namespace[:20])) == [SPEC.namespace]
    assert offered(command, places.mirror / "typo", "-n") == {}


def test_models_roles_and_tasks(places: Places) -> None:
    """The mirror's models and tasks; roles are the same everywhere."""
    assert set(offered("pull", places.mirror, "--model")) == {spec.model for spec in HERE}
    assert set(offered("pull", places.mirror, "--task")) == {"Task"}
    assert set(offered("export", places.mirror, "out", "--task")) == {"Task"}
    assert list(offered("pull", "--role")) == ["document", "none", "query"]


def test_no_remote_is_asked(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the repository has is not offered, and no storage is opened."""
    monkeypatch.setattr("cas_cache.storage.open_storage", lambda *_: pytest.fail("a storage was opened"))
    assert DOCUMENTS.namespace[:12] not in offered("drop", places.mirror, "--remote", places.remote, "-n")


def test_commands_are_completed_without_an_import() -> None:
    """Names and summaries come from the table; options of the group are completed too."""
    script = (
        "import sys; from click.shell_completion import ShellComplete; from cas_cache.cli import cli\n"
        "found = ShellComplete(cli, {}, 'cas-cache', '_').get_completions([], 'p')\n"
        "print(*[item.value for item in found]); print('cas_cache.cli.prune' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["pull push prune", "False"]
    assert set(offered()) == set(SUMMARIES)
    assert "--verbose" in offered(incomplete="--v")


def test_settings_that_cannot_be_read_offer_nothing(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself says what is wrong with them."""
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "maybe")
    assert offered("pull", "--remote") == {}
    assert offered("pull", places.mirror, "-n") == {}


def test_bash_asks_the_program(places: Places, run: Any) -> None:
    """What the script of bash calls prints the namespaces."""
    environment = {
        **os.environ,
        "_CAS_CACHE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"cas-cache info {places.mirror} -n ",
        "COMP_CWORD": "4",
    }
    command = [str(Path(sys.executable).with_name("cas-cache"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {f"plain,{spec.namespace[:12]}" for spec in HERE}
