"""Plays the workflows of docs/how-to/ci and of .github: shell steps run, what they use from elsewhere has a stand-in.

Adds: `Machine`, which runs one job as GitHub's machines do: a fresh checkout, one shell a step, what a step writes into
GITHUB_ENV in the environment of the next, the first step that fails ends the job; its `shell` runs GitLab's scripts.

Never: installs anything (`pip install` is a stand-in too), or lets a step see an environment but its own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paths import ROOT

FOLDER = ROOT / "docs" / "how-to" / "ci"
PAGE = FOLDER.with_suffix(".md")
PIP = '#!/bin/sh\n[ "$*" = "install -r requirements.txt" ] && test -f requirements.txt\n'
EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")

StandIn = Callable[[Path, Mapping[str, str]], Mapping[str, str]]
"""Given the working directory and what stands under ``with``; returns what the next steps find in their environment."""


def read(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Return a workflow. YAML takes ``on`` for true."""
    document = yaml.safe_load((folder / name).read_text("utf-8"))
    return {("on" if key is True else key): value for key, value in document.items()}


def project(directory: Path, texts: str) -> Path:
    """Make the page's little project; return its folder."""
    directory.mkdir(parents=True)
    for name in ("test_quality.py", "requirements.txt", ".gitignore"):
        source = re.search(
            rf"^```\w+\n# {re.escape(name)}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        assert source is not None
        (directory / name).write_text(source[1], "utf-8")
    (directory / "texts.txt").write_text(texts, "utf-8")
    (directory / "localstack").symlink_to(ROOT / "localstack")
    _git(directory, "init", "--quiet")
    _git(directory, "add", "--all")
    return directory


def untracked(directory: Path) -> list[str]:
    """Return what a job left in its checkout that is neither tracked nor ignored."""
    return _git(directory, "ls-files", "--others", "--exclude-standard").splitlines()


def _git(directory: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=directory, capture_output=True, text=True, check=True).stdout


@dataclass
class Ended:
    """How a job ended.

    Attributes:
        code: Of its last step.
        out: What all steps printed.
        steps: The names or commands of the steps that ran.
    """

    code: int = 0
    out: str = ""
    steps: list[str] = field(default_factory=list)


@dataclass
class Machine:
    """A machine on which one job runs.

    Attributes:
        home: Where it keeps things; new.
        source: The repository that is checked out.
        stand_ins: By what a step ``uses``, without the version.
        replaced: Texts of the workflow that stand for something here: a port, the bucket.
        expressions: What ``${{ }}`` stands for, and which ``if`` hold.
        always: What is in the environment of every step.
        given: What is put over the workflow's own variables.
        left_out: Beginnings of steps that are not run.
        workflows: The folder of the workflows.
        tools: The text of further commands on the path, by name.
    """

    home: Path
    source: Path
    stand_ins: Mapping[str, StandIn] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    expressions: Mapping[str, Any] = field(default_factory=dict)
    always: dict[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    workflows: Path = FOLDER
    tools: Mapping[str, str] = field(default_factory=lambda: {"pip": PIP})

    def run(self, name: str, job: str) -> Ended:
        """Run one job of a workflow; a job whose condition does not hold has no steps."""
        workflow = read(name, self.workflows)
        described = workflow["jobs"][job]
        ended = Ended()
        if "if" in described and not self.expressions[described["if"]]:
            return ended
        (self.home / "work").mkdir(parents=True)
        exported = self.home / "github-env"
        exported.touch()
        (self.home / "temp").mkdir()
        environment = {**workflow.get("env", {}), **described.get("env", {}), **self.given, "GITHUB_ENV": str(exported)}
        environment["RUNNER_TEMP"] = str(self.home / "temp")
        groups: list[int] = []
        try:
            for step in described["steps"]:
                ended.steps.append(step.get("name") or step.get("uses") or step["run"])
                if step.get("run", "-").startswith(self.left_out or ("no step",)):
                    continue
                if "uses" in step:
                    environment |= self._use(step["uses"], step.get("with", {}))
                    continue
                ended.code = self.shell(step["run"], {**environment, **step.get("env", {})}, ended, groups)
                if ended.code:
                    break
                environment |= dict(line.split("=", 1) for line in exported.read_text("utf-8").splitlines())
        finally:
            end(groups)
        return ended

    def shell(self, script: str, environment: Mapping[str, str], ended: Ended, groups: list[int]) -> int:
        """Run one step as GitHub does; what it leaves in the background goes on until the job ends."""
        assert "${{" not in script, "what an expression gives would be run: hand it over in the environment"
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self._here(script)]
        log = self.home / f"step-{len(groups)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.home / "work",
                env={
                    **self._bare(),
                    **{name: self._here(self._filled(str(value))) for name, value in environment.items()},
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            groups.append(process.pid)
            code = process.wait(timeout=240)
        ended.out += log.read_text("utf-8", errors="replace")
        return code

    def _bare(self) -> dict[str, str]:
        tools = self.home / "bin"
        tools.mkdir(exist_ok=True)
        for name, text in self.tools.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
        bare = {"PATH": path, "HOME": str(self.home), "CI": "true", "LANG": "C.UTF-8"}
        bare |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return {**bare, "AWS_EC2_METADATA_DISABLED": "true", **self.always}

    def _use(self, action: str, given: Mapping[str, str]) -> Mapping[str, str]:
        name = action.partition("@")[0]
        given = {key: self._filled(str(value)) for key, value in given.items()}
        if name == "actions/checkout":
            shutil.copytree(self.source, self.home / "work", symlinks=True, dirs_exist_ok=True)
            return {}
        if name == "actions/setup-python":
            return {}
        return self.stand_ins[name](self.home / "work", given)

    def _here(self, text: str) -> str:
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    def _filled(self, text: str) -> str:
        return EXPRESSION.sub(lambda found: str(self.expressions[found[1]]), text)


def end(groups: list[int]) -> None:
    """End what steps left in the background, a server for example."""
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
