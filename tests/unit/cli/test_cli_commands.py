"""What all commands have in common: names, help, options, and that each is imported only when it is called."""

import importlib
import re
from typing import Any

import click
import pytest

from cas_cache.cli import cli
from cas_cache.cli.commands import SECTIONS, SUMMARIES
from cli_fixtures import leaves
from paths import ROOT

FILES = ROOT / "src" / "cas_cache" / "cli"


def defined() -> set[str]:
    """The commands that the files of the package define, each in a file of its name."""
    found = set()
    for path in FILES.glob("*.py"):
        command = getattr(importlib.import_module(f"cas_cache.cli.{path.stem}"), path.stem, None)
        if isinstance(command, click.Command):
            found.add(path.stem.removesuffix("_"))
    return found


def test_every_command_is_listed(run: Any) -> None:
    """Once, by its name, with a line of its own that is not cut off; a command that is made is not forgotten."""
    assert set(SUMMARIES) == set(cli.commands) == defined()
    lines = run("--help").out.splitlines()
    for name, summary in SUMMARIES.items():
        assert f"  {name:<7}  {summary}" in lines
        assert cli.commands[name].name == name


@pytest.mark.parametrize("words", [(), ("import",), *(tuple(name.split()) for name in leaves(cli))], ids=" ".join)
def test_help_reads_well_at_80_columns(run: Any, words: tuple[str, ...]) -> None:
    """No line is longer, none is cut off, every option says what it is for."""
    text = run(*words, "--help").out
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert not re.search(r"[a-z]\.\.\.$", text, re.MULTILINE)
    command = cli if not words else leaves(cli).get(" ".join(words))
    for option in command.params if command else ():
        if isinstance(option, click.Option):
            assert option.help or isinstance(option.type, click.Choice), option.opts
    assert run(*words, "-h").out == text


@pytest.mark.parametrize("name", leaves(cli))
def test_every_command_has_the_same_options(name: str) -> None:
    """``--json``, ``-q``, ``-v``; and one name stands for one thing everywhere."""
    options = {opt for it in leaves(cli)[name].params for opt in it.opts}
    assert {"--json", "-q", "--quiet", "-v", "--verbose"} <= options


@pytest.mark.parametrize("name", leaves(cli))
def test_n_is_the_namespace_everywhere(name: str) -> None:
    """``-n`` and ``--namespace`` are one option with one placeholder, on every command that has either."""
    for option in leaves(cli)[name].params:
        if {"-n", "--namespace"} & set(option.opts):
            assert (option.opts, option.metavar) == (["-n", "--namespace"], "ID")


def test_commands_are_in_sections(run: Any) -> None:
    """Each command is in one section of the help, below its title."""
    text = run("--help").out
    for title, commands in SECTIONS.items():
        section = text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == list(commands)
    assert sum(map(len, SECTIONS.values())) == len(SUMMARIES)


def test_counts_are_formatted_in_one_place() -> None:
    """No command writes a noun after a number by itself: `counted` knows "1 row" and "200,000 rows"."""
    nouns = "pack|row|namespace|merge|finding|vector|view|text|object"
    for path in FILES.glob("*.py"):
        assert not re.search(rf"\{{[^{{}}]*\}} ({nouns})s?\b", path.read_text("utf-8")), path.name


def test_there_is_no_such_command(run: Any) -> None:
    """Usage; and the mapping has no other names."""
    assert run("nonsense").code == 2
    assert "nonsense" not in cli.commands
    with pytest.raises(KeyError):
        cli.commands["nonsense"]
    assert len(cli.commands) == len(list(cli.commands)) == len(SUMMARIES)
