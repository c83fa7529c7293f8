"""What is published: one version, a README whose links work anywhere, an sdist from which the tests run."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from email import message_from_bytes
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import cas_cache
from paths import ROOT

REPOSITORY = "https://github.com/cas-cache/cas-cache"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

needs_hatchling = pytest.mark.skipif(
    not (find_spec("hatchling") and find_spec("hatch_fancy_pypi_readme")), reason="hatchling is not installed"
)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def test_the_version_has_one_home() -> None:
    """It is `cas_cache.__version__`: the project's metadata is read from there."""
    assert "version" in PROJECT["dynamic"]
    assert version("cas-cache") == cas_cache.__version__
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))


@pytest.mark.verify
@needs_hatchling
def test_tests_run_from_the_sdist(sdist: Path) -> None:
    """With the sdist's own package; those that read files of the project find them."""
    code = (
        "import sys, pytest, cas_cache\n"
        "assert cas_cache.__file__.startswith(sys.argv[1]), cas_cache.__file__\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[2:]]))\n"
    )
    tests = (
        "tests/unit/identity/test_text_keys.py",
        "tests/docs/test_makefile.py",
        "tests/docs/test_docs_links.py",
    )
    path = os.pathsep.join([str(sdist / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", code, str(sdist), *tests]
    done = subprocess.run(
        command, cwd=sdist, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_hatchling
def test_links_of_the_package_page_lead_to_files_of_the_release(sdist: Path) -> None:
    """There is no relative link, and each that leads to the repository names a file that exists."""
    page = str(message_from_bytes((sdist / "PKG-INFO").read_bytes()).get_payload())
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert not [link for link in links if not re.match(r"https?://", link)]
    released = (
        rf"(?:{REPOSITORY}/blob|https://raw\.githubusercontent\.com/cas-cache/cas-cache)/v{cas_cache.__version__}/"
    )
    found = [match[1] for link in links if (match := re.match(released + r"([^#]+)", link))]
    relative = re.findall(r"\]\((?!https?:)([^)#\s]+)", (ROOT / "README.md").read_text("utf-8"))
    assert sorted(found) == sorted(relative)
    assert all((ROOT / path).exists() for path in found)


def test_urls_are_the_repositorys() -> None:
    """One repository is named wherever one is."""
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= set(PROJECT["urls"])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert PROJECT["urls"]["Source"] == citation["repository-code"] == REPOSITORY
    assert PROJECT["urls"]["Documentation"] == citation["url"]


def test_no_message_installs_this_package_by_its_name() -> None:
    """It is not on PyPI; a message names the package that is missing, which is."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"pip install ['\"]?cas[_-]cache", path.read_text("utf-8")), path
    extras = " ".join(requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra)
    for path in (ROOT / "src").rglob("*.py"):
        for package in re.findall(r'of_package\([^)]*, "([\w-]+)"\)', path.read_text("utf-8")):
            assert re.search(rf"\b{package}\b", extras), (path, package)
