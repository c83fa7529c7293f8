"""Turn each protection off, in a process of its own, and run the tests that should notice.

`python tests/verification/controls/run.py` prints a line for each; with names, only for those; `--all` runs every test
of the files and names those that fail, to choose from. `--json` prints what `test_controls.py` reads.
"""

import argparse
import gc
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "verification")]


MAX_SECONDS = 600
"""A test that never ends without the protection is one that notices nothing."""


class Outcome(NamedTuple):
    """How tests ended.

    Attributes:
        code: pytest's.
        passed: How many did.
        failed: Ids of those that failed, not those that broke before or after.
        errors: Ids of those whose set-up, clean-up or collection broke.
        seconds: Of the processor.
        told: What pytest printed, its end.
    """

    code: int
    passed: int
    failed: list[str]
    errors: list[str]
    seconds: float
    told: str


class Noted:
    """A plugin of pytest that notes outcomes."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.passed += report.passed and report.when == "call"
        if report.failed:
            (self.failed if report.when == "call" else self.errors).append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.errors.append(report.nodeid)


def ran(tests: Iterable[str], off: Callable[[], None] | None, *, every: bool = False) -> Outcome:
    """Run tests in a child of this process, up to the first that fails unless `every`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        told, noted = io.StringIO(), Noted()
        began = time.process_time()
        code = 99
        signal.alarm(MAX_SECONDS)
        try:
            with redirect_stdout(told), redirect_stderr(told):
                if off is not None:
                    off()
                options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", "-m", "not verify"]
                code = int(pytest.main([*options, *([] if every else ["-x"]), *tests], plugins=[noted]))
        except BaseException as err:  # noqa: BLE001 - whatever it is, the parent tells it
            told.write(repr(err))
        seconds = time.process_time() - began
        outcome = Outcome(code, noted.passed, noted.failed, noted.errors, seconds, told.getvalue()[-3000:])
        with os.fdopen(writing, "w") as pipe:
            json.dump(outcome, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return Outcome(*json.loads(answer)) if answer else Outcome(98, 0, [], [], 0.0, "the process died")


def main() -> int:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="protections; all by default")
    parser.add_argument("--all", action="store_true", help="do not stop at the first test that fails")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    from controls.switches import CONTROLS

    gc.freeze()  # children do not copy what they would only look at
    chosen = {name: CONTROLS[name] for name in arguments.names or CONTROLS}
    on = (
        Outcome(0, 0, [], [], 0.0, "")
        if arguments.all
        else ran(sorted({test for control in chosen.values() for test in control.tests}), None)
    )
    outcomes = {"": on}
    for name in ["", *chosen]:
        if name:
            outcomes[name] = ran(chosen[name].tests, chosen[name].off, every=arguments.all)
        outcome = outcomes[name]
        if arguments.json:
            continue
        seen = f"{len(outcome.failed)} failed, {outcome.passed} passed, code {outcome.code}"
        print(f"{outcome.seconds:6.1f} s  {name or 'everything on'}: {seen}", *outcome.failed, sep="\n            ")
        if outcome.errors or outcome.code not in (0, 1) or bool(name) != bool(outcome.failed):
            print(*outcome.errors, outcome.told, sep="\n            ")
        sys.stdout.flush()
    if arguments.json:
        print(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
