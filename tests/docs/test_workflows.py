""".github: the project's own workflows run as GitHub would run them, with make told to print what it would do."""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci_recipes import ROOT, Ended, Machine, read

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(path.name for path in FOLDER.iterdir())
NAMES_THE_VERSION = "Compare the tag with the version and the changelog"
PUBLISH = {"actions/deploy-pages", "pypa/gh-action-pypi-publish"}
MAKE = f'#!/bin/sh\nexec {shutil.which("make")} -n "$@"\n'


def jobs() -> list[tuple[str, str, str]]:
    """Every job of every workflow, for each of the Pythons of its matrix."""
    return [
        (name, job, python)
        for name in WORKFLOWS
        for job, described in read(name, FOLDER)["jobs"].items()
        for python in described.get("strategy", {}).get("matrix", {}).get("python", ["3.11"])
    ]


def run(
    folder: Path,
    name: str,
    job: str,
    python: str = "3.11",
    changes: str = "## [{version}] - 2030-01-01\n",
    **variables: str,
) -> Ended:
    """Run a job in a checkout of what its steps read, with the Python of the matrix and a changelog."""
    source = folder / "repository"
    for path in ("Makefile", "pyproject.toml", "constraints.txt", "src/cas_cache/__init__.py"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    version = re.search(
        r'^__version__ = "(.*)"$', (source / "src/cas_cache/__init__.py").read_text("utf-8"), re.MULTILINE
    )
    assert version is not None
    (source / "CHANGELOG.md").write_text(changes.format(version=version[1]), "utf-8")
    uses = {step["uses"].partition("@")[0] for step in read(name, FOLDER)["jobs"][job]["steps"] if "uses" in step}
    machine = Machine(
        home=folder / "machine",
        source=source,
        stand_ins=dict.fromkeys(uses, lambda work, given: {}),
        expressions={"matrix.python": python, "vars.TORCH_INDEX": "https://example.org/cpu"},
        always={"GITHUB_REF_NAME": f"v{version[1]}", **variables},
        workflows=FOLDER,
        tools={"make": MAKE, f"python{python}": "#!/bin/sh\nexit 0\n"},
    )
    return machine.run(name, job)


@pytest.mark.parametrize(("name", "job", "python"), jobs())
def test_every_job_passes(tmp_path: Path, name: str, job: str, python: str) -> None:
    """Its shell steps run, in order, and every target of make exists; environments get the Python of the matrix."""
    ended = run(tmp_path, name, job, python)
    assert ended.code == 0, ended.out
    assert ended.steps
    if "make test-core" in ended.steps:
        assert f"python{python} -m venv" in ended.out


@pytest.mark.parametrize("tag", ["v9.9.9", "main"])
def test_a_tag_of_another_version_is_not_released(tmp_path: Path, tag: str) -> None:
    """Nothing is built, and the sentence names both."""
    ended = run(tmp_path, "release.yml", "build", GITHUB_REF_NAME=tag)
    assert (ended.code, ended.steps[-1]) == (1, NAMES_THE_VERSION)
    assert f"The tag is {tag} and cas_cache.__version__ is " in ended.out


def test_a_version_without_a_changelog_is_not_released(tmp_path: Path) -> None:
    """The changelog must have a section of that name."""
    ended = run(tmp_path, "release.yml", "build", changes="## [Unreleased]\n")
    assert (ended.code, ended.steps[-1]) == (1, NAMES_THE_VERSION)
    assert "CHANGELOG.md has no section for" in ended.out


def test_the_matrix_is_what_the_package_supports() -> None:
    """CI, classifiers and the Makefile name the same Pythons; Read the Docs builds with one of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    supported = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert read("ci.yml", FOLDER)["jobs"]["core"]["strategy"]["matrix"]["python"] == supported
    assert project["requires-python"] == f">={supported[0]}"
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"PYTHON ?= {' '.join(f'python{version}' for version in supported)} python3\n" in makefile
    assert yaml.safe_load((ROOT / ".readthedocs.yaml").read_text("utf-8"))["build"]["tools"]["python"] in supported


@pytest.mark.parametrize("name", WORKFLOWS)
def test_only_the_jobs_that_publish_get_a_token(name: str) -> None:
    """They run nothing of this project; and no workflow hands its rights to a stranger's pull request."""
    workflow: dict[str, Any] = read(name, FOLDER)
    assert "pull_request_target" not in workflow["on"]
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        publishes = bool(PUBLISH & {step.get("uses", "").partition("@")[0] for step in job["steps"]})
        assert (job.get("permissions", {}).get("id-token") == "write") == publishes
        assert ("environment" in job) == publishes
        if publishes:
            assert "pull_request" not in workflow["on"]
            assert not [step for step in job["steps"] if "run" in step or "checkout" in step.get("uses", "")]


def test_templates_and_dependabot_are_yaml() -> None:
    """And every issue template has the two fields without which GitHub ignores it."""
    assert yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text("utf-8"))["version"] == 2
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"):
        head = yaml.safe_load(path.read_text("utf-8").split("---\n")[1])
        assert head["name"], path
        assert head["about"], path
