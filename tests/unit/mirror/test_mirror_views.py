"""Views: the ordered rows that a task requested."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.errors import ConfigurationError, DamagedMirror, MirrorError, MirrorWriteError
from cas_cache.mirror import Mirror, View, Views, ids_in, keys_in, views_in
from cas_cache.mirror.views import folder_name
from mirror_rows import SPEC, keys_for

VIEW = View(
    task="NFCorpus",
    namespace=SPEC.namespace,
    model="org/model",
    revision="a1b2c3d",
    role="document",
    subset="default",
    split="test",
)
ODD = ["a/b", "a", "b", "..", ".", "", "namespaces", "Ünï", "%2E%2E", "a%2Fb", ".hidden", "x" * 300, "ü" * 200, "a\\b"]
ODD += [
    "cas-cache-mirror.json",
    ".lock",
    "%namespaces",
    "a b",
    " a",
    "\U0001f9ea",
    "a\nb",
    "a\0b",
    "-rf",
    "~",
    "x" * 299,
]


@pytest.fixture
def views(tmp_path: Path) -> Views:
    """Return the views of a new mirror."""
    return Mirror(tmp_path).views


def noted(views: Views, view: View = VIEW) -> Any:
    """Return a view's keys."""
    return keys_in(views.folder(view.task), view)[0]


def test_the_id_of_a_view_is_fixed() -> None:
    """The folder's name is part of the format."""
    assert VIEW.id == "e6974bab437cb281"


def test_keeps_the_order_of_calls(views: Views) -> None:
    """Batches follow each other, including repeats within and across batches."""
    batches = [keys_for([3, 1, 2, 1]), keys_for([9]), keys_for([1, 9])]
    for batch in batches:
        views.record(VIEW, batch, batch)
    assert np.array_equal(noted(views), np.concatenate(batches))
    assert views.of("NFCorpus") == [VIEW]
    assert np.array_equal(np.load(views.folder("NFCorpus") / VIEW.id / "keys.npy"), np.concatenate(batches))


def test_a_batch_is_noted_once(views: Views) -> None:
    """A second evaluation requests the same batches, in any order, and changes nothing."""
    batches = [keys_for(range(start, start + 5)) for start in range(0, 20, 5)]
    for batch in batches:
        views.record(VIEW, batch, None)
    path = views.folder("NFCorpus") / VIEW.id / "view.json"
    before, stamp = path.read_bytes(), path.stat()
    for batch in batches[::-1] + batches:
        views.record(VIEW, batch, None)
    assert path.read_bytes() == before
    assert path.stat() == stamp
    assert len(noted(views)) == 20


def test_a_task_that_grows(views: Views, tmp_path: Path) -> None:
    """New batches are appended, also by another process's handle."""
    views.record(VIEW, keys_for([1, 2]), None)
    Mirror(tmp_path).views.record(VIEW, keys_for([3]), None)
    views.record(VIEW, keys_for([4, 5]), None)
    assert np.array_equal(noted(views), keys_for([1, 2, 3, 4, 5]))


def test_views_of_a_task_are_apart(views: Views) -> None:
    """Each role, subset, split and namespace has its own rows, listed in the order of first use."""
    others = [
        VIEW,
        replace(VIEW, role="query"),
        replace(VIEW, role=None),
        replace(VIEW, subset="de"),
        replace(VIEW, split="train"),
        replace(VIEW, namespace="0" * 32),
        replace(VIEW, revision="else"),
    ]
    for item, view in enumerate(others):
        views.record(view, keys_for([item]), None)
    views.record(VIEW, keys_for([99]), None)
    assert len({view.id for view in others}) == len(others)
    assert views.of("NFCorpus") == others
    assert np.array_equal(noted(views, others[3]), keys_for([3]))
    assert np.array_equal(noted(views), keys_for([0, 99]))


def test_texts_stand_beside_their_rows(views: Views) -> None:
    """Rows of more than text also have the keys of their texts alone."""
    views.record(VIEW, keys_for([1, 2]), keys_for([101, 102]))
    views.record(VIEW, keys_for([3]), keys_for([103]))
    keys, texts = keys_in(views.folder("NFCorpus"), VIEW)
    assert np.array_equal(keys, keys_for([1, 2, 3]))
    assert texts is not None
    assert np.array_equal(texts, keys_for([101, 102, 103]))
    silent = replace(VIEW, role="query")
    views.record(silent, keys_for([1]), None)
    assert keys_in(views.folder("NFCorpus"), silent)[1] is None


@pytest.mark.parametrize("first_has_text", [True, False])
def test_batches_with_and_without_texts(views: Views, first_has_text: bool) -> None:
    """Texts stay with their own rows; a row without one has a key that no text has."""
    batches = [(keys_for([1, 2]), keys_for([101, 102])), (keys_for([3]), None), (keys_for([4]), keys_for([104]))]
    for keys, texts in batches if first_has_text else [batches[1], batches[0], batches[2]]:
        views.record(VIEW, keys, texts)
    keys, texts = keys_in(views.folder("NFCorpus"), VIEW)
    assert texts is not None
    expected = {keys_for([i]).tobytes(): keys_for([100 + i]).tobytes() for i in (1, 2, 4)}
    expected[keys_for([3]).tobytes()] = bytes(32)
    assert {key.tobytes(): text.tobytes() for key, text in zip(keys, texts, strict=True)} == expected


def test_an_empty_batch(views: Views) -> None:
    """An empty request is recorded without rows."""
    views.record(VIEW, keys_for([]), None)
    views.record(VIEW, keys_for([1]), None)
    assert np.array_equal(noted(views), keys_for([1]))


def test_a_task_nobody_asked_for(views: Views) -> None:
    """An unknown task has no folder and no views."""
    assert views.of("never") == []
    assert views_in(views.folder("never")) == []


@pytest.mark.parametrize("task", ODD, ids=ascii)
def test_odd_names_stay_inside_the_directory(views: Views, tmp_path: Path, task: str) -> None:
    """Whatever a task is called, its folder is one plain folder in the mirror, and not one of ours."""
    view = replace(VIEW, task=task)
    views.record(view, keys_for([1]), None)
    assert views.of(task) == [view]
    folder = views.folder(task)
    assert folder.parent == tmp_path
    assert folder.is_dir()
    assert folder.name not in {"namespaces", "cas-cache-mirror.json", ".lock"}
    assert not folder.name.startswith(".")
    assert Mirror(tmp_path, create=False).namespaces() == []


def test_odd_names_do_not_meet(views: Views) -> None:
    """No two tasks share a folder."""
    assert len({views.folder(task) for task in ODD}) == len(ODD)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), unique=True, min_size=2, max_size=8))
def test_no_two_names_meet(tasks: list[str]) -> None:
    """Folder names are plain, short, and one to one."""
    names = [folder_name(task) for task in tasks]
    assert len(set(names)) == len(names)
    for name in names:
        assert 0 < len(name.encode()) <= 255
        assert "/" not in name
        assert "\0" not in name
        assert not name.startswith(".")


@pytest.mark.parametrize("task", ["NFCorpus", "MTEB(eng, v2)", "Banking77Classification.v2", "STS17 (en-de)"])
def test_plain_names_are_themselves(task: str) -> None:
    """A task's folder has the task's name if that is a plain name."""
    assert folder_name(task) == task


def test_what_a_crash_left_is_written_over(views: Views) -> None:
    """Keys beyond the number in view.json do not exist."""
    views.record(VIEW, keys_for([1, 2]), keys_for([1, 2]))
    place = views.folder("NFCorpus") / VIEW.id
    before = (place / "view.json").read_bytes()
    views.record(VIEW, keys_for([7, 8, 9]), keys_for([7, 8, 9]))
    (place / "view.json").write_bytes(before)
    assert np.array_equal(noted(views), keys_for([1, 2]))
    views.record(VIEW, keys_for([3]), keys_for([3]))
    assert np.array_equal(noted(views), keys_for([1, 2, 3]))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"rows": "2"},
        {"rows": None},
        {"view": {}},
        {"view": None},
        {"batches": None},
        {"created": "now"},
    ],
    ids=repr,
)
def test_a_damaged_view(views: Views, change: dict[str, Any]) -> None:
    """An inconsistent view is an error that says what to delete."""
    views.record(VIEW, keys_for([1, 2]), None)
    path = views.folder("NFCorpus") / VIEW.id / "view.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    for call in (lambda: noted(views), lambda: views.of("NFCorpus"), lambda: views.record(VIEW, keys_for([3]), None)):
        with pytest.raises(DamagedMirror, match="Delete its folder"):
            call()


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff"], ids=repr)
def test_a_garbage_view(views: Views, content: bytes) -> None:
    """Any bytes raise one of cas_cache's errors."""
    views.record(VIEW, keys_for([1, 2]), None)
    (views.folder("NFCorpus") / VIEW.id / "view.json").write_bytes(content)
    with pytest.raises(DamagedMirror):
        views.of("NFCorpus")


def test_a_cut_view(views: Views) -> None:
    """Missing keys are damage."""
    views.record(VIEW, keys_for([1, 2]), None)
    path = views.folder("NFCorpus") / VIEW.id / "keys.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedMirror):
        noted(views)


def test_a_disk_that_refuses(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that cannot be written raises one of cas_cache's errors, and recorded batches stay."""
    views.record(VIEW, keys_for([1, 2]), None)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("cas_cache.files.disk.os.fsync", refuse)
        with pytest.raises(MirrorWriteError, match="No space"):
            views.record(VIEW, keys_for([3]), None)
    assert np.array_equal(noted(views), keys_for([1, 2]))
    views.record(VIEW, keys_for([3]), None)
    assert np.array_equal(noted(views), keys_for([1, 2, 3]))


def test_foreign_folders_are_passed_over(views: Views) -> None:
    """Other files and folders are not views."""
    views.record(VIEW, keys_for([1]), None)
    folder = views.folder("NFCorpus")
    (folder / "notes.txt").write_text("x")
    (folder / "plots").mkdir()
    assert views.of("NFCorpus") == [VIEW]


class TestIds:
    """Ids are stored beside the keys, in the requested order."""

    def ids(self, views: Views, view: View = VIEW) -> Any:
        return ids_in(Views(views._directory).folder(view.task), view)

    def test_ids_of_calls_are_joined(self, views: Views) -> None:
        """Repeats are included; a batch that is recorded already adds nothing."""
        views.record(VIEW, keys_for(range(3)), None, ["a", "b", "a"])
        views.record(VIEW, keys_for(range(3, 5)), None, ["c", "\n\u2028\U0001f600'\""])
        views.record(VIEW, keys_for(range(3)), None, ["x", "y", "z"])
        assert self.ids(views) == ["a", "b", "a", "c", "\n\u2028\U0001f600'\""]

    def test_calls_without_ids(self, views: Views) -> None:
        """Their rows have no ids, before and after calls that have."""
        views.record(VIEW, keys_for(range(2)), None)
        assert self.ids(views) is None
        views.record(VIEW, keys_for(range(2, 4)), None, ["c", "d"])
        views.record(VIEW, keys_for(range(4, 5)), None)
        assert self.ids(views) == [None, None, "c", "d", None]

    def test_what_a_crash_left_is_written_over(self, views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ids beyond the committed ones do not exist."""
        views.record(VIEW, keys_for(range(2)), None, ["a", "b"])

        def crash(*_: Any, **__: Any) -> None:
            raise OSError("crash")

        with monkeypatch.context() as patch:
            patch.setattr("cas_cache.mirror.views.write_atomically", crash)
            with pytest.raises(MirrorWriteError):
                views.record(VIEW, keys_for(range(2, 4)), None, ["long " * 100, "d"])
        assert self.ids(views) == ["a", "b"]
        views.record(VIEW, keys_for(range(4, 5)), None, ["e"])
        assert self.ids(views) == ["a", "b", "e"]

    @pytest.mark.parametrize("damage", [b"", b'"a"\n', b'"a"\nx"b"\n', b'"a"\n"b'])
    def test_damage_is_told(self, views: Views, damage: bytes) -> None:
        """Ids that are too few, truncated, or not JSON are reported."""
        views.record(VIEW, keys_for(range(2)), None, ["a", "b"])
        (views.folder(VIEW.task) / VIEW.id / "ids.jsonl").write_bytes(damage)
        with pytest.raises(DamagedMirror, match=r"ids\.jsonl"):
            self.ids(views)


class TestViewRows:
    """`Mirror.view`: keys, vectors and ids that a task requested."""

    @pytest.fixture
    def mirror(self, tmp_path: Path) -> Mirror:
        """Return a mirror with four documents, one requested twice and one never stored, and two queries."""
        mirror = Mirror(tmp_path)
        mirror.namespace(SPEC).append(keys_for(range(6)), np.arange(12, dtype=np.float32).reshape(6, 2))
        documents = keys_for(range(4))[[0, 1, 2, 3, 1]]
        mirror.views.record(VIEW, np.concatenate([documents, keys_for(range(90, 91))]), None, list("abcdef"))
        mirror.views.record(replace(VIEW, role="query"), keys_for(range(4, 6)), None)
        return mirror

    def test_rows_in_order(self, mirror: Mirror) -> None:
        """Repeats stay, each with its own id; missing rows are skipped and counted."""
        found = Mirror(mirror.directory).view("NFCorpus", role="document")
        assert (found.ids, found.missing, found.view) == (list("abcde"), 1, VIEW)
        assert found.vectors.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [2, 3]]
        assert np.array_equal(found.keys, keys_for(range(4))[[0, 1, 2, 3, 1]])
        queries = mirror.view("NFCorpus", role="query", model="org/model@a1b2c3d", subset="default", split="test")
        assert (queries.ids, queries.vectors.tolist()) == (None, [[8, 9], [10, 11]])

    def test_one_view_must_be_named(self, mirror: Mirror) -> None:
        """Several views, none, or no such task: each error lists the existing ones."""
        with pytest.raises(ConfigurationError, match=r"2 views: role='document'.*role='query'"):
            mirror.view("NFCorpus")
        with pytest.raises(MirrorError, match=r"no such view. It has: role='document'"):
            mirror.view("NFCorpus", role="query", split="dev")
        with pytest.raises(MirrorError, match=r"no view of SciFact. The mirror has the tasks NFCorpus"):
            mirror.view("SciFact")

    def test_a_namespace_that_has_gone(self, mirror: Mirror) -> None:
        """The error reports it, in place of an empty answer."""
        shutil.rmtree(mirror.directory / "namespaces")
        with pytest.raises(MirrorError, match="not in the mirror"):
            Mirror(mirror.directory).view("NFCorpus", role="query")
