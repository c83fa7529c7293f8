"""Let atheris write inputs for as long as it is told, each target in a process of its own.

    python tests/verification/fuzz/run.py [--target NAME]... [--seconds 60] [--corpus FOLDER] [--list]
    python tests/verification/fuzz/run.py --target NAME --replay FILE

Prints executions for each target and in all. A finding is written to a file that ``--replay`` runs again, and ends the
target; the exit code is 1 if there was any. Inputs that reached new code are kept with ``--corpus``, for the next run.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "support")]

MEGABYTES = 2048
"""A process may have that much; importing mteb's neighbours takes about 500."""

SECONDS_FOR_ONE = 25
"""An input that takes longer is a finding."""


def main() -> int:
    """Run the targets asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", action="append", metavar="NAME", help="This one; may be repeated. Default: all.")
    parser.add_argument("--seconds", type=int, default=60, help="For each target.")
    parser.add_argument("--corpus", type=Path, help="Where inputs are kept, a folder for each target.")
    parser.add_argument("--replay", type=Path, help="Run one input, with what it raises.")
    parser.add_argument("--list", action="store_true", help="Print the names of the targets.")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.update(CAS_CACHE_SELF_CHECK="0", HF_HUB_OFFLINE="1")
    from fuzz.targets import TARGETS

    names = asked.target or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if asked.list:
        print("\n".join(TARGETS))
        return 0
    if asked.replay is not None or asked.inside is not None:
        if len(names) != 1:
            parser.error("name one --target")
        return _replay(names[0], asked.replay) if asked.inside is None else _fuzz(names[0], asked.inside, asked.seconds)
    total, findings = 0, 0
    for name in names:
        executions, found = _in_a_process(name, asked.seconds, asked.corpus)
        total, findings = total + executions, findings + found
        print(f"{executions:>12,}  {name}{'  FOUND SOMETHING' if found else ''}", flush=True)
    print(f"{total:>12,}  fuzz executions (atheris), {len(names)} targets, {findings} findings")
    return 1 if findings else 0


def _in_a_process(name: str, seconds: int, corpus: Path | None) -> tuple[int, bool]:
    """Run a target in a process of its own; return its executions, and whether there is a finding."""
    kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{name.replace(' ', '-')}-"))
    place = kept if corpus is None else corpus / name.replace(" ", "-")
    (place / "corpus").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--target", name, "--inside", str(place), "--seconds", str(seconds)]
    with (kept / "log").open("w+") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=seconds + 600, check=False)
        log.seek(0)
        said = log.read()
    executions = max(
        map(int, re.findall(r"^(?:stat::number_of_executed_units: |#)(\d+)", said, re.MULTILINE)), default=0
    )
    found = done.returncode != 0
    if found:
        print("\n".join(said.splitlines()[-45:]))
        print(f"Log: {kept / 'log'}")
        for crash in sorted(place.glob("*-*")):
            if crash.is_file() and crash.stat().st_mtime >= time.time() - seconds - 600:
                print(f"Replay: python tests/verification/fuzz/run.py --target {name!r} --replay {crash}")
    return executions, found


def _fuzz(name: str, place: Path, seconds: int) -> int:
    """Run a target here, until the time is over or something is found."""
    import atheris

    # What a target runs counts as reached; what is only imported by the tests does not.
    with atheris.instrument_imports(include=["cas_cache"]):
        for module in [name for name in sys.modules if name.partition(".")[0] in ("cas_cache", "fuzz", "repository")]:
            del sys.modules[module]
        from fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name](Path(folder))
        for number, seed in enumerate(target.seeds):
            (place / "corpus" / f"seed-{number}").write_bytes(seed)
        atheris.Setup(
            [
                sys.argv[0],
                f"-max_total_time={seconds}",
                f"-timeout={SECONDS_FOR_ONE}",
                f"-rss_limit_mb={MEGABYTES}",
                "-max_len=4096",
                "-print_final_stats=1",
                f"-artifact_prefix={place}/",
                str(place / "corpus"),
            ],
            target.run,
        )
        atheris.Fuzz()
    return 0


def _replay(name: str, script: Path) -> int:
    """Run one input."""
    from fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        TARGETS[name](Path(folder)).run(script.read_bytes())
    print("Nothing was found.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
