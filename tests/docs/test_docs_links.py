"""Every relative link and anchor of README, CONTRIBUTING and docs/ leads somewhere; every page is in the navigation."""

import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import yaml

from paths import ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "localstack" / "README.md", *ROOT.glob("docs/**/*.md")]
)
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!\\)!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@cache
def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub and Python-Markdown both make them of plain headings."""
    found = set()
    for heading in HEADING.findall(text_of(page)):
        plain = unicodedata.normalize("NFKD", re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-"))
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has; the site's pages do not leave docs/."""
    broken = []
    for target in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
        elif page.is_relative_to(ROOT / "docs") and not found.is_relative_to(ROOT / "docs"):
            broken.append(f"{target} (outside of docs/)")
    assert not broken


def test_every_page_is_in_the_navigation() -> None:
    """Once; and the navigation names no page that is not there."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed: list[str] = []

    def walk(entry: object) -> None:
        if isinstance(entry, str):
            listed.append(entry)
        elif isinstance(entry, dict):
            walk(list(entry.values()))
        elif isinstance(entry, list):
            for one in entry:
                walk(one)

    walk(yaml.safe_load(text)["nav"])
    pages = [str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")]
    assert sorted(listed) == sorted([*pages, "changelog.md", "contributing.md"])  # docs/hooks.py makes these two


def test_every_page_can_be_reached_from_the_start() -> None:
    """index.md is the map by need: from there, or from a page it names, a reader gets to every page."""
    start = ROOT / "docs" / "index.md"
    met, todo = {start}, [start]
    while todo:
        page = todo.pop()
        for target in LINK.findall(text_of(page)):
            found = (page.parent / target.partition("#")[0]).resolve()
            if found.suffix == ".md" and found.exists() and found not in met:
                met.add(found)
                todo.append(found)
    assert set(ROOT.glob("docs/**/*.md")) <= met
