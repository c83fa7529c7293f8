"""A long run: writers, readers and maintenance at one repository, killed, stopped and lied to by the network.

    python tests/verification/soak/soak.py --minutes 10 --remote localstack

Prints a table and ends with 0 if every vector was right, no acknowledged row was lost, no check gave a false alarm, and
every error was one of `cas_cache.errors`; else with 1, and leaves the folder with the journals. Ctrl-C ends the run
early, and it is judged all the same; a second one ends it at once.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The folder of this script is on the path first, where this file hides the package that it is in.
    sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "support")]

from cas_cache import EmbeddingCache
from cas_cache.errors import CasCacheError
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from cas_cache.storage import open_storage
from paths import ROOT
from soak.actions import Havoc, Plan
from soak.faulty import faulty_server
from soak.roles import merge, read, sweep, watch, write
from soak.verdict import Verdict, judge, turns_of
from soak.workers import SPECS, Post, texts_of, wrong_rows
from worker_processes import Crowd

RUN_SCRIPT = ROOT / "localstack" / "run.py"


@dataclass(frozen=True)
class Place:
    """Where the repository is.

    Attributes:
        url: Its URL.
        options: Of the file system, through the faults.
        direct: The same past them.
        counts: Returns how many faults were injected, by kind.
    """

    url: str
    options: dict[str, Any]
    direct: dict[str, Any]
    counts: Callable[[], Any]


def run(plan: Plan, folder: Path, say: Callable[[str], object] = print, server: Any = None) -> Verdict:
    """Do as planned in an empty folder, and judge.

    Args:
        plan: What is asked for.
        folder: Of mirrors, journals and, if it is local, the repository.
        say: Told how it goes.
        server: A LocalStack server that runs already; None starts one.
    """
    stopping: list[bool] = []

    def stop(*_: object) -> None:
        if stopping:
            raise KeyboardInterrupt
        stopping.append(True)

    before = signal.signal(signal.SIGINT, stop)
    try:
        with _place(plan, folder, server) as place, Crowd() as crowd:
            posts = _posts(plan, place, folder)
            havoc = Havoc(plan, crowd, posts)
            havoc.reign(lambda: bool(stopping), say)
            ended = time.monotonic()
            say(f"{(ended - havoc.began) / 60:.1f} minutes: everybody is told to stop")
            unwell = havoc.end(folder / "stop")
            verdict = judge([post for _, post in posts], havoc.began, ended)
            verdict.kills, verdict.stalls = havoc.kills, havoc.stalls
            verdict.faults.update(place.counts())
            verdict.failures += unwell
            _judge_what_is_left(verdict, plan, place, [post for _, post in posts], folder)
            return verdict
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _place(plan: Plan, folder: Path, server: Any) -> Iterator[Place]:
    """An empty place for a repository."""
    if plan.remote == "local":
        yield Place(str(folder / "repository"), {}, {}, Counter)
        return
    with ExitStack() as stack:
        server = server or stack.enter_context(_localstack().running(port=0, buckets=()))
        bucket = f"soak-{uuid.uuid4().hex}"
        server.create_bucket(bucket)
        url, counts = stack.enter_context(faulty_server(server.endpoint_url, plan.seed, harm=plan.faults))
        options = server.storage_options()
        yield Place(f"s3://{bucket}/emb", {**options, "endpoint_url": url}, options, counts)


def _localstack() -> Any:
    spec = importlib.util.spec_from_file_location("soak_localstack_run", RUN_SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _posts(plan: Plan, place: Place, folder: Path) -> list[tuple[Callable[[Post], None], Post]]:
    """Who does what. Some writers have a mirror in common, and so have two readers."""
    folder.mkdir(exist_ok=True)
    pause = min(1.0, plan.seconds / 60)

    def post(name: str, number: int, mirror: str, **more: Any) -> Post:
        given = {"day": plan.day, "grace": plan.grace, "direct": place.direct, "pause": pause}
        given |= {"faults": plan.faults and plan.remote == "local"} | more
        return Post(place.url, place.options, folder, name, number, mirror=mirror, **given)

    works: list[tuple[Callable[[Post], None], Post]] = []
    for number in range(plan.writers):
        mirror = f"mirror of writer {number // 2 * 2 if number < 4 else number}"
        lying = plan.sabotage if number == 1 and plan.sabotage == "lost" else ""
        works.append((write, post(f"writer {number}", number, mirror, sabotage=lying)))
    for number in range(plan.readers):
        mirror = f"mirror of reader {0 if number == 3 else number}"
        lying = plan.sabotage if number == 0 and plan.sabotage == "wrong" else ""
        works.append((read, post(f"reader {number}", number, mirror, sabotage=lying)))
    works += [(merge, post(f"merger {i}", i, "", at_least=(4, 8)[i], pause=3 * pause)) for i in range(2)]
    works.append((sweep, post("sweeper 0", 0, "", pause=4 * pause)))
    works.append((watch, post("watcher 0", 0, "", pause=3 * pause)))
    if plan.sabotage == "error":
        works.append((_fail, post("failure 0", 0, "")))
    return works


def _fail(post: Post) -> None:
    raise ZeroDivisionError(post.name)


# The end -------------------------------------------------------------------------------------------------------------


def _judge_what_is_left(verdict: Verdict, plan: Plan, place: Place, posts: list[Post], folder: Path) -> None:
    """A last sync of each mirror, then maintenance of a repository that nobody uses: all rows are there and right."""
    try:
        for mirror in sorted({post.mirror for post in posts if post.mirror}):
            with EmbeddingCache(
                folder / mirror, remote=place.url, storage_options=place.direct or None, push="manual", progress=False
            ) as cache:
                if problems := [it for report in cache.sync() for it in report.problems]:
                    verdict.fail(f"the last sync of the {mirror} met {problems}")
            alarms = check_mirror(Mirror(folder / mirror)).findings
            verdict.false_alarms += len(alarms)
            verdict.failures += [f"false alarm of the {mirror}: {it.what}" for it in alarms]
        _, committed = turns_of(posts)
        repository = Repository(open_storage(place.url, place.direct))
        _all_is_there(verdict, place, folder / "a new mirror before compaction", committed, range(plan.writers))
        compact(repository, at_least=2)
        prune(repository, grace=0, force=True)
        findings = check(repository, read_data=True).findings
        alarms = [it for it in findings if it.kind != "duplicate-keys"]
        verdict.false_alarms += len(alarms)
        verdict.failures += [f"the last check finds {it.kind} {it.path}: {it.what}" for it in alarms]
        _all_is_there(verdict, place, folder / "a new mirror after pruning", committed, range(plan.writers))
    except CasCacheError as err:
        verdict.fail(f"nobody was at work any more, and still: {type(err).__name__}: {err}")


def _all_is_there(verdict: Verdict, place: Place, mirror: Path, committed: dict[int, int], writers: range) -> None:
    """Pull into a new mirror: what was committed is there and right, and nothing is that nobody encoded."""
    cache = EmbeddingCache(
        mirror, remote=place.url, storage_options=place.direct or None, push="manual", progress=False
    )
    report = cache.pull()
    verdict.operations["last pull"] += 1
    verdict.failures += [f"the last pull met {type(it).__name__}: {it}" for it in report.problems]
    # A turn that was begun and not noted may be there as well.
    begun = {number: committed.get(number, -1) + 1 for number in writers}
    for which, spec in enumerate(SPECS):
        texts = texts_of(committed, which)
        vectors, found = cache.get(texts, spec)
        here = [text for text, there in zip(texts, found, strict=True) if there]
        wrong = wrong_rows(which, here, vectors[found]) if here else 0
        verdict.compared += len(here)
        verdict.wrong += wrong
        verdict.lost += len(texts) - len(here)
        if wrong or len(here) < len(texts):
            verdict.fail(f"of {len(texts)} rows {len(texts) - len(here)} are lost and {wrong} wrong in {mirror}")
        ns = cache.mirror.namespace(spec)
        everybodys = cache.get(texts_of(begun, which), spec)[1]
        if ns.rows != int(everybodys.sum()):
            verdict.fail(f"{ns.rows - int(everybodys.sum())} rows in {mirror} are nobody's")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--remote", choices=["local", "localstack"], default="localstack")
    parser.add_argument("--faults", choices=["on", "off"], default="on")
    parser.add_argument("--sabotage", choices=["", "wrong", "lost", "error"], default="", help=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    plan = Plan(**{**given, "faults": given["faults"] == "on"})
    for name in [name for name in os.environ if name.startswith(("CAS_CACHE_", "AWS_"))]:
        del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    folder = Path(tempfile.mkdtemp(prefix="cas-cache-soak-"))
    print(f"{plan}, a day of {plan.day:.0f} s, a grace of {plan.grace:.0f} s, in {folder}", flush=True)
    try:
        verdict = run(plan, folder, lambda line: print(line, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print(f"Stopped. The journals are in {folder}.", file=sys.stderr)
        return 130
    for line in verdict.lines():
        print(line)
    if verdict.failures:
        print(f"\nFAILED. The journals and mirrors are in {folder}.\n" + "\n".join(verdict.failures))
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
