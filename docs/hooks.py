"""Put the changelog and the page for contributors, which are at the root of the repository, on the site.

MkDocs calls `on_files` before it reads the pages. Relative links are rewritten: to pages of the site where the target
is one, to the repository's own pages for everything else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site that are made of files at the root."""

LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=with_site_links(text, config.repo_url)))
    return files


def with_site_links(text: str, repository: str) -> str:
    """Return a page of the root with links that work on the site."""
    roots = {source: page for page, source in PAGES.items()}

    def target(link: re.Match[str]) -> str:
        path, _, anchor = link[1].partition("#")
        page = roots.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        found = page or f"{repository}/blob/main/{path}"
        return f"]({found}{f'#{anchor}' if anchor else ''})"

    return LINK.sub(target, text)
