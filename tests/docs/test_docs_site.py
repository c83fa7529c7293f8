"""The documentation builds as a site, and nothing of it is left untested."""

import html
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from page_runner import settled
from paths import ROOT

DOCS = ROOT / "docs"
RUN = re.compile(r"^```(python|sh|console)$", re.MULTILINE)

PLAYED = {
    "index.md": "docs/test_docs_install.py",
    "install.md": "docs/test_docs_install.py",
    "how-to/encoders.md": "docs/test_docs_pages.py",
    "tutorial.md": "docs/test_docs_tutorial.py",
    "explanation/self-check.md": "docs/test_docs_pages.py",
    "explanation/identity.md": "docs/test_docs_pages.py",
    "explanation/misses.md": "docs/test_docs_pages.py",
    "explanation/threat-model.md": "docs/test_docs_security.py",
    "explanation/derived.md": "docs/test_docs_pages.py",
    "how-to/mteb.md": "docs/test_docs_mteb.py",
    "how-to/search.md": "docs/test_search_docs.py",
    "how-to/maintenance.md": "docs/test_docs_maintenance.py",
    "how-to/old-caches.md": "docs/test_docs_pages.py",
    "how-to/share.md": "docs/test_docs_how_to.py",
    "how-to/sign.md": "docs/test_docs_how_to.py",
    "how-to/ci.md": "docs/test_ci_recipes.py",
    "how-to/s3-compatible.md": "docs/test_docs_s3_compatible.py",
    "how-to/laptop.md": "docs/test_docs_how_to.py",
    "how-to/localstack.md": "docs/test_docs_how_to.py",
    "how-to/notebooks-and-logs.md": "docs/test_docs_notebooks.py",
    "how-to/zarr-and-dask.md": "docs/test_docs_pages.py",
    "how-to/several-machines.md": "docs/test_docs_how_to.py",
    "how-to/test-with-faults.md": "docs/test_faults_page.py",
}
"""For each page with blocks of Python or shell, the test that runs them."""


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
@pytest.mark.verify
def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a broken link, a missing anchor, a page that is not in the navigation is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # about versions of MkDocs to come
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "explanation" / "architecture" / "index.html").is_file()
    assert not list((tmp_path / "site").rglob("*.py"))
    page = (tmp_path / "site" / "how-to" / "encoders" / "index.html").read_text("utf-8")
    assert 'class="md-footer__link md-footer__link--prev"' in page
    assert 'class="md-footer__link md-footer__link--next"' in page
    assert 'href="https://github.com/cas-cache/cas-cache"' in page
    assert 'data-md-component="source"' not in page, "the theme would ask the host for the number of stars"
    changelog = (tmp_path / "site" / "changelog" / "index.html").read_text("utf-8")
    assert "<h1" in changelog
    assert "Contributing" in (tmp_path / "site" / "contributing" / "index.html").read_text("utf-8")


def test_links_have_names() -> None:
    """No link of the documentation is called by the name of a file."""
    for page in DOCS.rglob("*.md"):
        assert not re.search(r"\[[^\]]*\.md[^\]]*\]\(", page.read_text("utf-8")), page


def test_every_page_with_blocks_is_run_by_a_test() -> None:
    """The test is there, and names the page; a page without blocks is not said to have any."""
    with_blocks = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if RUN.search(page.read_text("utf-8"))}
    assert with_blocks == set(PLAYED)
    for page, test in PLAYED.items():
        text = (ROOT / "tests" / test).read_text("utf-8")
        assert Path(page).name in text or f"docs/{page.removesuffix('.md')}:" in text, f"{test} does not name {page}"


@pytest.mark.verify
def test_pictures_show_what_is_printed_now() -> None:
    """If this fails: `python docs/pictures/make.py`, and look at them. The demo's picture has README's table."""
    script = "import json, sys; sys.path.insert(0, 'docs/pictures'); import make; print(json.dumps(make.pictures()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    for name, svg in json.loads(done.stdout).items():
        assert shown(svg) == shown((DOCS / "pictures" / f"{name}.svg").read_text("utf-8")), name


def shown(svg: str) -> str:
    """The words of a picture of a terminal, less those of its title."""
    words = re.findall(r'<text class="[^"]*-r\d+"[^>]*>(.*?)</text>', svg, re.DOTALL)
    return settled(html.unescape("".join(words)).replace("\xa0", " "))


def test_every_picture_is_on_a_page() -> None:
    """And has a description where it is."""
    pages = "\n".join(page.read_text("utf-8") for page in DOCS.rglob("*.md"))
    for picture in DOCS.glob("pictures/*.svg"):
        assert re.search(rf"!\[[^\]]+\]\((\.\./)?pictures/{picture.name}\)", pages), picture.name
