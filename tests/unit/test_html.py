"""Reprs, in notebooks and in text: small, escaped, without requests, secrets or contents."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.display import MAX_CHARACTERS, MAX_ROWS, Displayable, facts, grid, listing
from cas_cache.doctor import DoctorReport, Status
from cas_cache.errors import DamagedPack
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import MirrorCheckReport, MirrorFinding
from cas_cache.mirror.evict import Candidate, EvictReport
from cas_cache.mirror.overview import count_namespaces, lines_of
from cas_cache.mirror.views import View
from cas_cache.repository import Repository
from cas_cache.repository.check_report import CheckFinding, CheckReport, Severity
from cas_cache.repository.compacting import CompactReport, Merge
from cas_cache.repository.dropping import DropReport
from cas_cache.repository.pruning import Deletion, PruneReport
from cas_cache.stats import Stats
from cas_cache.sync import SyncReport, SyncStatus
from storages import SPEC, Counting, Encoder, Memory, texts

EVIL = "<script>alert('x')</script>&\"\u202e"
HOSTILE = EncoderSpec(model=EVIL, revision=EVIL, prompt=f"{EVIL} prompt", role=EVIL, params={"key": "hunter2"})

ALLOWED = {"pre", "span"}
"""Nothing that runs, loads or leads anywhere."""

BORDERS = re.compile(r"[\s┏┳┓┃┡╇┩│└┴┘━─]+")


class Strict(HTMLParser):
    """Reads what a browser would, and refuses what does not close, or is not allowed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        assert {name for name, _ in attrs} <= {"style"}, attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(source: str) -> str:
    """The text of a piece of HTML that keeps the rules."""
    parser = Strict()
    parser.feed(source)
    parser.close()
    assert parser.open == []
    assert not re.search(r"url\(|https?://|#[0-9a-f]{3,6}\b|background|color:", re.sub(r">[^<]*<", "><", source))
    assert "\u202e" not in source, "a character that turns the line round is shown as its code"
    return words("".join(parser.text))


def words(table: str) -> str:
    """Return the text of a table without its borders, with single spaces."""
    return BORDERS.sub(" ", table).strip()


@pytest.fixture(scope="module")
def displayed() -> Iterator[Callable[[Any], dict[str, str]]]:
    """What a notebook's cell shows of an object, by MIME type."""
    shell = InteractiveShell.instance()

    def show(it: Any) -> dict[str, str]:
        data, _ = shell.display_formatter.format(it)
        return data

    yield show
    InteractiveShell.clear_instance()


def reports() -> list[Any]:
    problem = DamagedPack(f"{EVIL} is damaged", pack=EVIL)
    stats = Stats(hits=5, misses=2, checked=1)
    stats.add_look_up("n", 10, 0, 160)
    stats.add_encoded("n", 100, 2.0)
    doctor = DoctorReport(secrets=("hunter2",))
    doctor.add("get", Status.FAIL, f"{EVIL} hunter2", "", EVIL)
    return [
        stats,
        SyncReport(1, 2, 3, [problem], [EVIL]),
        SyncStatus("n" * 32, HOSTILE, local_rows=7),
        SyncStatus(EVIL, None),
        CompactReport([Merge(EVIL, (EVIL, "b"), 3, 4)], [EVIL], 3, 1, [problem]),
        DropReport(EVIL, [EVIL], [EVIL], EVIL, [EVIL] * 1000, 99),
        PruneReport([Deletion("orphan", "", EVIL, (EVIL,) * 1000, 9, 8.0)], 1, 2),
        CheckReport(1, 2, 3, 4),
        CheckReport(
            findings=[
                CheckFinding(
                    kind=EVIL, severity=Severity.NOTE, path=EVIL, namespace=EVIL, pack=EVIL, rows=1, what=EVIL,
                    cost=EVIL, repair=EVIL,
                )
            ] * 30
        ),
        EvictReport([Candidate(EVIL, EVIL, 1, 2, 3.0)] * 1000, 5, 4, 3, [EVIL]),
        MirrorCheckReport(1, 2),
        MirrorCheckReport(1, 2, [MirrorFinding(EVIL, EVIL, 3, EVIL)]),
        doctor,
    ]  # fmt: skip


def filled(tmp_path: Path, counting: Counting | None = None) -> EmbeddingCache:
    """A cache of two namespaces, one with a hostile name."""
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repo"), push="manual")
    if counting is not None:
        cache.repository = Repository(counting)
    cache.encode(texts(40), SPEC, Encoder())
    cache.encode(texts(3), HOSTILE, Encoder())
    return cache


@pytest.mark.parametrize("it", reports(), ids=lambda it: type(it).__name__)
def test_reports_in_a_cell(it: Any, displayed: Callable[[Any], dict[str, str]]) -> None:
    """IPython takes them for HTML and for text; names of others are text in both, and nothing is long."""
    data = displayed(it)
    assert set(data) == {"text/html", "text/plain"}
    shown = read(data["text/html"])
    assert len(data["text/html"]) < 30_000
    assert "hunter2" not in shown + data["text/plain"]
    assert data["text/plain"].replace("\n", "").isprintable()
    assert all(len(line) <= 80 for line in data["text/plain"].splitlines())
    if isinstance(it, DropReport | PruneReport | EvictReport):
        assert len(repr(it)) < 500, "counts, not lists"


def test_a_cache_in_a_cell(tmp_path: Path, displayed: Callable[[Any], dict[str, str]]) -> None:
    """Where it is, what is in it, what it did: escaped, and not one request."""
    counting = Counting(Memory())
    cache = filled(tmp_path, counting)
    before = list(counting.calls)
    for it in (cache, cache.mirror, cache.mirror.namespace(HOSTILE), cache.mirror.namespace(SPEC), cache.repository):
        shown = read(displayed(it)["text/html"])
        assert "hunter2" not in shown
    assert counting.calls == before
    shown = read(displayed(cache)["text/html"])
    assert "2 namespaces" in shown
    assert str(tmp_path / "m") in shown
    assert "<script>" in shown, "as text"
    assert "float32[4]" in shown
    assert "query 40 40 float32[4] 640 B" in shown


def test_nothing_of_the_contents_in_text(tmp_path: Path) -> None:
    """Text reprs name places and counts: no vector, no key, no id of a document."""
    cache = filled(tmp_path)
    keys = np.array(cache.mirror.namespace(SPEC).keys[:3])
    view = View("Task", SPEC.namespace, SPEC.model, SPEC.revision, SPEC.role, "default", "test")
    cache.mirror.views.record(view, keys, keys, ["secret-document", "b", "c"])
    found = cache.mirror.view("Task")
    assert "secret-document" not in repr(found)
    assert "array" not in repr(found)
    assert "rows=3, vectors=float32[3, 4]" in repr(found)
    assert repr(cache.mirror.namespace(SPEC)) == f"Namespace({SPEC.namespace}, rows=40)"


def test_secrets_of_a_remote(tmp_path: Path, displayed: Callable[[Any], dict[str, str]]) -> None:
    """Neither a password in a URL nor a storage option is in any of it."""
    cache = EmbeddingCache(
        tmp_path / "m", remote="memory://user:hunter2@host/x", storage_options={"secret": "hunter3"}, push="manual"
    )
    for it in (cache, cache.repository, cache.mirror, cache.repository.storage):
        shown = "".join(displayed(it).values())
        assert "hunter" not in shown


def test_a_mirror_that_is_damaged_gone_or_busy(tmp_path: Path, displayed: Callable[[Any], dict[str, str]]) -> None:
    """A cell never raises, waits for a lock or mends anything: what cannot be read is shown as damaged."""
    cache = filled(tmp_path)
    one, two = (ns.folder for ns in cache.mirror.namespaces())
    (one / "state.json").write_bytes(b"{")
    (two / "spec.json").write_bytes(SPEC.canonical() + b" ")
    mirror = Mirror(tmp_path / "m")
    assert read(displayed(mirror)["text/html"]).count("(damaged)") == 2
    (two / "spec.json").unlink()
    (two / "spec.json").mkdir()
    assert read(displayed(mirror)["text/html"]).count("(damaged)") == 2
    (two / "spec.json").rmdir()
    (tmp_path / "m").rename(tmp_path / "elsewhere")
    assert "no namespaces" in read(displayed(mirror)["text/html"])
    assert (count_namespaces(mirror), list(lines_of(mirror, 3))) == (0, [])


def test_folders_that_were_swapped_are_not_shown_under_the_wrong_name(tmp_path: Path) -> None:
    """A folder says whose it is; one that holds another's spec or state is damaged."""
    cache = filled(tmp_path)
    one, two = (ns.folder for ns in cache.mirror.namespaces())
    (one / "state.json").write_bytes((two / "state.json").read_bytes())
    assert [line.spec is None for line in lines_of(cache.mirror, 9)] == [True, False]


def test_many_namespaces_are_cut_short(tmp_path: Path) -> None:
    """Twenty lines, and how many more there are: a mirror of thousands does not fill a notebook, or read for long."""
    mirror = Mirror(tmp_path)
    for n in range(MAX_ROWS + 5):
        mirror.namespace(EncoderSpec(model="org/m", revision=f"r{n}"))
    for shown in mirror._repr_mimebundle_().values():
        assert shown.count("org/m") == MAX_ROWS
        assert re.search(r"and 5 more\s*(</pre>)?$", shown)


class Shown(Displayable):
    """Display a table in a cell."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __rich__(self) -> Any:
        return self.table


def plain(table: Any) -> str:
    return words(Shown(table)._repr_mimebundle_()["text/plain"])


def test_cells() -> None:
    """None is left out or empty, numbers have separators, long texts are cut, what does not print is shown as code."""
    table = facts("t", {"a": None, "b": 1234567, "c": True, "d": "x" * 1000, "e": "a\nb\x00", "f": 1.5, "none": []})
    shown = plain(table)
    assert shown.startswith("t b 1,234,567 c True d x")
    assert shown.replace(" ", "").count("x") == MAX_CHARACTERS + 1, "and the x of an escape"
    assert shown.endswith("… e a\\nb\\x00 f 1.50")
    assert plain(facts("some", {"a": ["b"] * 25})) == "some a" + " b" * MAX_ROWS + " and 5 more"
    assert plain(grid("g", ["n"], [[None], [7]], total=9)) == "g n 7 and 7 more"


def test_markup_is_text() -> None:
    """Brackets and colons are no markup or emoji to rich, and a URL is not a link."""
    evil = "[bold]x[/bold] [link=https://evil.example]y[/link] :smile: \x1b[2J"
    for table in (facts(evil, {evil: evil}), grid(evil, [evil], [[evil]]), listing([evil], [(evil, [evil, [evil]])])):
        bundle = Shown(table)._repr_mimebundle_()
        escaped = evil.replace("\x1b", "\\x1b")
        assert escaped.replace(" ", "") in words(bundle["text/plain"]).replace(" ", "")
        assert "\x1b" not in bundle["text/plain"]
        read(bundle["text/html"])
