"""The reference pages that are no command line: errors, glossary, the Python API, and what every page must name."""

import inspect
import re
import subprocess
import sys

import pytest

from cas_cache import errors
from cas_cache.cli import cli
from cas_cache.config.settings import VARIABLES
from paths import ROOT

DOCS = ROOT / "docs"
ERRORS = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, errors.CasCacheError)
}
WARNINGS = {
    name: found for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, UserWarning)
}
EVERY = (Exception, BaseException)
ROW = re.compile(r"^\| `(\w+)` \| ([^|]*)\| (.+) \|$", re.MULTILINE)


def text_of(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def tree(lines: str) -> dict[str, str | None]:
    """The parent of each class in a drawing of the tree."""
    parents: dict[str, str | None] = {}
    above: dict[int, str] = {}
    for line in lines.splitlines():
        found = re.match(r"^((?:[| ]  )*)(\|- |`- )?(\w+)", line)
        if not found:
            continue
        depth = len(found[1]) // 3 + (1 if found[2] else 0)
        above[depth] = found[3]
        parents[found[3]] = above[depth - 1] if depth else None
    return parents


def also(found: type) -> set[str]:
    """The built-in errors that callers may catch a class as, the most special ones; `Exception` is none."""
    built_in = [base for base in found.__mro__ if base.__module__ == "builtins" and base not in {object, *EVERY}]
    return {one.__name__ for one in built_in if not any(issubclass(o, one) and o is not one for o in built_in)}


@pytest.mark.parametrize("where", ["errors.md", "errors.py"])
def test_the_error_tree_is_whole(where: str) -> None:
    """The tree on the page, and the one in the module, have every class in its place, and no other."""
    drawing = (
        text_of("reference/errors.md").partition("```text\n")[2].partition("```")[0]
        if where == "errors.md"
        else inspect.cleandoc((errors.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0])
    )
    parents = {
        name: next((base.__name__ for base in found.__bases__ if base.__name__ in ERRORS), None)
        for name, found in ERRORS.items()
    }
    assert tree(drawing) == parents


def test_every_error_says_when_and_what_to_do() -> None:
    """Each class has one row, which names the built-in that it also is; the page has no other rows."""
    page, _, warnings = text_of("reference/errors.md").partition("## Warnings")
    rows = {name: set(re.findall(r"\w+", built_in)) for name, built_in, _ in ROW.findall(page)}
    assert set(rows) | {"CasCacheError"} == set(ERRORS)
    for name, built_in in rows.items():
        assert built_in == also(ERRORS[name]), name
    assert set(re.findall(r"^\| `(\w+)` \|", warnings, re.MULTILINE)) == set(WARNINGS)


def test_the_api_is_up_to_date() -> None:
    """If this fails: `python docs/reference/make_api.py`, and read what changed."""
    script = "import sys; sys.path.insert(0, 'docs/reference'); import make_api; print(make_api.page(), end='')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == text_of("reference/api.md")


def test_every_public_name_is_in_the_api() -> None:
    """Every name of `__all__` of the public packages is a heading, and has a docstring."""
    import cas_cache
    import cas_cache.doctor
    import cas_cache.models
    import cas_cache.mteb
    import cas_cache.search
    import cas_cache.testing

    page = text_of("reference/api.md")
    for module in (cas_cache, cas_cache.models, cas_cache.mteb, cas_cache.search, cas_cache.testing, cas_cache.doctor):
        assert f"\n## {module.__name__}\n" in page
        for name in module.__all__:
            assert f"\n### {name}\n" in page, name


def test_every_word_of_the_glossary_is_used() -> None:
    """In another page, and in the code or its messages; a word that nobody uses explains nothing."""
    words = re.findall(r"^\| ([a-z][a-z, -]*) \|", text_of("reference/glossary.md"), re.MULTILINE)
    assert words[0] == "word"
    pages = "\n".join(
        page.read_text("utf-8") for page in DOCS.rglob("*.md") if page.name not in {"glossary.md", "api.md", "cli.md"}
    ).lower()
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")).lower()
    for entry in words[1:]:
        for word in re.split(r", (?:or )?", entry):
            assert re.search(rf"\b{word}", pages), f"{word}: in no other page"
            assert re.search(rf"\b{word.replace(' ', r'[ _]?').replace('-', '[-_ ]')}", code), (
                f"{word}: not in the code"
            )


def test_every_command_error_and_setting_is_named() -> None:
    """Commands and settings in their reference and somewhere else too; errors in theirs."""
    cli_page, settings = text_of("reference/cli.md"), text_of("reference/settings.md")
    others = "\n".join(
        page.read_text("utf-8") for page in (*DOCS.rglob("*.md"), ROOT / "README.md") if page.name != "cli.md"
    )
    for name in cli.commands:
        assert f"\n## cas-cache {name}" in cli_page
        assert f"cas-cache {name}" in others, f"{name}: named by no page but the reference"
    for name, variable in VARIABLES.items():
        assert f"`{name}`" in settings
        assert f"`{variable}`" in settings
    page = text_of("reference/errors.md")
    assert all(f"`{name}`" in page for name in ERRORS | WARNINGS)
