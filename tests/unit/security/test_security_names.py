"""No name that comes from elsewhere leads out of a directory: of packs, objects, namespaces, tasks, files."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile_mirrors as mirrors
import mteb_tasks as tasks
from cas_cache import EmbeddingCache, EncoderSpec, sync
from cas_cache.errors import CasCacheError, DamagedMirror
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror, View
from cas_cache.mirror.views import folder_name
from cas_cache.mteb import CachedEmbeddingWrapper
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.storage import open_storage
from cas_cache.testing import MemoryStorage
from folder_tree import tree
from hostile_mirrors import SPEC, TEXTS
from mteb_encoders import HashEncoder

HOSTILE = [
    "..", ".", "../../x", "../x", "a/../../x", "/x", "//x", "/etc/passwd", "a//b", "a/./b", "./x", "x/", "x/.", "x/..",
    "..\\x", "..\\..\\x", "\\x", "C:\\x", "C:x", "\\\\server\\share", "a\\b", "%2e%2e/x", "%2e%2e%2fx", "..%2fx",
    "%252e%252e%252fx", "\0", "x\0y", "../x\0", "x\n", "\n../x", "\r\n", "\x1b[2J", "\x7f", "\u202e", "\ufeff",
    "\u2215x", "\u2044x", "\uff0fx", "\uff0e\uff0e\uff0fx", "\u2024\u2024/x", "..\u2215x", "\u29f8x", "\ud800",
    "CON", "nul", "aux.txt", "COM1", "x.", "x ", " x", "x...", "-rf", "--help", "~", "~root", "$HOME", "`id`",
    "$(id)", ";id", "|id", "*", "?", "[a]", "{a,b}", "a:b", "a?b", "a#b", "x" * 255, "x" * 5000, "\u00e9" * 200,
    "../" * 60 + "etc/passwd", "",
]  # fmt: skip
"""Names that lead elsewhere where somebody believes them, or that some file system or terminal takes otherwise."""

ID = "0" * 32
PACK = "0" * 64
IDS = [
    *HOSTILE, ID.upper().replace("0", "A"), ID[:-1], ID + "0", ID + "\n", "\n" + ID, f"{ID}/..", f"../{ID}", f"{ID}\0",
    "\uff10" * 32, "\u0660" * 32, f" {ID}", PACK[:-1], PACK + "\n", "\uff10" * 64, "g" * 32,
]  # fmt: skip
NAMES = [
    *HOSTILE, "keys/../../x", "keys/c/0/..", "keys/c/00", "keys/c/-1", "keys/c/0\n", "keys/c/\uff10", "keys//c/0",
    "KEYS/c/0", "keys/c/0/", "/keys/c/0", "keys\\c\\0", "vectors/zarr.json\0", "keys/zarr.json/..", "other/zarr.json",
]  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory with things around it, in which the test works below ``a/b``."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"untouched")
    (tmp_path / "a" / "x").write_bytes(b"untouched")
    return tmp_path / "a" / "b"


def around(inner: Path) -> dict[str, Any]:
    """All that is around the directory, but not in it."""
    root = inner.parent.parent
    return {name: it for name, it in tree(root).items() if not f"{root / name}/".startswith(f"{inner}/")}


def test_paths_of_a_repository(figure: Callable[[str, int], None]) -> None:
    """No function that builds a path takes a hostile id or name, and none that parses one gives it back."""
    refused = 0
    for name in IDS:
        for build in (
            layout.spec_path, layout.manifests_prefix, layout.pack_prefix, layout.probe_path,
            lambda it: layout.manifest_path(it, PACK), lambda it: layout.manifest_path(ID, it),
            lambda it: layout.object_path(it, "zarr.json"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match="is not a "):
                build(name)
            refused += 1
        for path in (f"specs/{name}.json", f"manifests/{name}/{PACK}.json", f"manifests/{ID}/{name}.json"):
            assert layout.parse_spec_path(path) is None
            assert layout.parse_manifest_path(path) is None
        assert layout.parse_object_path(f"packs/{name}/zarr.json") is None
        assert not layout.is_probe_path(f"probes/{name}")
    for name in NAMES:
        with pytest.raises(ValueError, match="is not a valid object name"):
            layout.object_path(PACK, name)
        assert not layout.is_object_name(name)
        assert layout.parse_object_path(f"packs/{PACK}/{name}") is None
        refused += 1
    figure("hostile names refused", refused)


@given(st.text(st.characters() | st.sampled_from("./\\0ckeysvtor:%~\n\0"), max_size=80))
@settings(derandomize=True, database=None, max_examples=300, deadline=None)
def test_any_object_name_that_is_taken_stays_below_its_pack(name: str) -> None:
    """Whatever is taken has only these characters, no empty part, and no part of dots."""
    if layout.is_object_name(name):
        assert set(name) <= set(string.ascii_lowercase + string.digits + "/.")
        assert all(part.strip(".") for part in name.split("/"))


def test_names_in_manifests(place: Path, figure: Callable[[str, int], None]) -> None:
    """A manifest with a hostile name of an object, a namespace or a pack that it supersedes is refused whole."""
    path = min((place / "remote" / "manifests").rglob("*.json"))
    good, refused = json.loads(path.read_text()), 0
    assert Manifest.from_bytes(json.dumps(good).encode())
    record = good["objects"]["zarr.json"]
    changes = [{"objects": {**good["objects"], name: record}} for name in NAMES]
    changes += [{"chunk_rows": {**good["chunk_rows"], name: 1}} for name in HOSTILE]
    changes += [{"namespace": name} for name in IDS] + [{it: name} for it in ("nonce", "dtype") for name in HOSTILE]
    changes += [{"supersedes": [name]} for name in IDS]
    changes += [{"objects": {**good["objects"], "zarr.json": {**record, "sha256": name}}} for name in IDS]
    for change in changes:
        with pytest.raises((ValueError, CasCacheError)):
            Manifest.from_bytes(json.dumps({**good, **change}).encode())
        refused += 1
    figure("hostile names refused", refused)


@pytest.mark.filterwarnings("ignore::cas_cache.errors.RemoteWarning")
def test_names_in_listings(outside: Path, figure: Callable[[str, int], None]) -> None:
    """What a bucket lists under hostile names is skipped: the good packs are taken, nothing is written outside."""
    good = mirrors.copy(made_remote(outside / "made"), outside / "remote")
    storage = MemoryStorage()
    for path in sorted(good.rglob("*")):
        if path.is_file():
            storage.put(path.relative_to(good).as_posix(), path.read_bytes())
    planted = 0
    for name in HOSTILE:
        manifests = (f"manifests/{name}/{PACK}.json", f"manifests/{ID}/{name}")
        for path in (f"specs/{name}.json", *manifests, f"packs/{name}/c/0", f"packs/{PACK}/{name}"):
            storage.objects[path] = b'{"format": "cas-cache-pack"}'
            storage._modified[path] = 0.0
            planted += 1
    before = around(outside)
    mirror = Mirror(outside / "mirror")
    repository = Repository(storage)
    assert repository.open()
    sync.pull(mirror, repository)
    check(repository, read_data=True)
    compact(repository, at_least=2)
    assert around(outside) == before
    assert mirror.namespace(SPEC).rows == 30
    names = {path.name for path in (outside / "mirror" / "namespaces").iterdir()}
    assert names == {SPEC.namespace}
    figure("hostile names refused", planted)


def made_remote(place: Path) -> Path:
    with EmbeddingCache(place / "mirror", remote=place / "remote", push="manual") as cache:
        cache.encode(TEXTS[:30], SPEC, mirrors.embed)
        cache.push()
    return place / "remote"


def test_namespaces_of_a_mirror(outside: Path, figure: Callable[[str, int], None]) -> None:
    """A hostile id is an error before anything is looked up, whoever names it."""
    mirror = Mirror(outside / "mirror")
    before = around(outside)
    refused = 0
    for name in IDS:
        with pytest.raises((ValueError, CasCacheError)):
            mirror.get(name)
        refused += 1
    assert around(outside) == before
    figure("hostile names refused", refused)


# Tasks ---------------------------------------------------------------------------------------------------------------


def test_names_of_tasks(outside: Path, figure: Callable[[str, int], None]) -> None:
    """Each hostile name of a task gets a folder of its own, directly in the mirror, and is found again by its name."""
    mirror = Mirror(outside / "mirror")
    mirror.namespace(SPEC).append(keys_of_texts(TEXTS[:3]), mirrors.embed(TEXTS[:3]))
    before = around(outside)
    keys = keys_of_texts(TEXTS[:3])
    folders = set()
    ours = ["namespaces", "calibration", "faiss", "cas-cache-mirror.json"]
    names = [name for name in (*HOSTILE, *ours) if name != "\ud800"]
    for name in names:
        view = View(name, SPEC.namespace, SPEC.model, SPEC.revision, "query", "default", "test")
        mirror.views.record(view, keys, None)
        folder = mirror.views.folder(name)
        assert folder.parent == mirror.directory
        assert folder.resolve().parent == mirror.directory.resolve()
        assert (folder / view.id / "view.json").is_file()
        np.testing.assert_array_equal(Mirror(mirror.directory).view(name).keys, keys)
        folders.add(folder.name)
    assert len(folders) == len(names)
    assert folders.isdisjoint({"namespaces", "calibration", "faiss", "cas-cache-mirror.json", ".lock", ""})
    assert sorted(mirror.views.tasks()) == sorted(names)
    assert around(outside) == before
    figure("hostile names refused", len(names))


@given(st.text(max_size=300))
@settings(derandomize=True, database=None, max_examples=300, deadline=None)
def test_any_name_of_a_task(name: str) -> None:
    """Is one plain name of a file: not hidden, no path, of at most 255 bytes; what cannot be encoded is an error."""
    try:
        folder = folder_name(name)
    except UnicodeEncodeError:
        assert any("\ud800" <= character <= "\udfff" for character in name)
        return
    assert folder.isascii()
    assert folder.isprintable()
    assert 1 <= len(folder) <= 255
    assert not set(folder) & set('/\\:*?"<>|')
    assert not folder.startswith(".")


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "a/../../x", "namespaces", "x" * 300])
def test_tasks_of_mteb(outside: Path, name: str) -> None:
    """An evaluation of a task with such a name: the wrapper works, and nothing is written beside the mirror."""
    before = around(outside)
    metadata = tasks.metadata("Plain").model_copy(update={"name": name})
    with CachedEmbeddingWrapper(HashEncoder(), outside / "mirror") as model:
        call = {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default"}
        model.encode(tasks.loader(TEXTS[:5]), **call)
    assert around(outside) == before
    assert Mirror(outside / "mirror").views.tasks() == [name]
    assert len(Mirror(outside / "mirror").view(name).keys) == 5


@pytest.mark.parametrize("field", ["task", "namespace", "model", "role", "subset", "split"])
def test_names_in_a_view_that_was_given_away(place: Path, tmp_path: Path, field: str) -> None:
    """A ``view.json`` that names another namespace or task as a path: a typed error, or no such view."""
    for name in ("../../x", "/etc", "..", 7, None, ["a"]):
        mirror = mirrors.copy(place / "mirror", tmp_path / f"{field}-{name}".replace("/", "_"))
        (view,) = (mirror / "Task").glob("*/view.json")
        document = json.loads(view.read_text())
        document["view"][field] = name
        view.write_text(json.dumps(document))
        try:
            found = Mirror(mirror).view("Task")
        except CasCacheError:
            continue
        assert len(found.keys) in (0, 20)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absolute", "up", "nothing", "number", "other"])
def test_names_in_the_note_of_a_saved_index(place: Path, tmp_path: Path, kind: str) -> None:
    """The JSON beside an index names its file: a path is not followed, to read it or to delete it, but built anew."""
    mirror = mirrors.copy(place / "mirror", tmp_path / "mirror")
    (note,) = (mirror / "namespaces" / SPEC.namespace / "faiss").glob("*.json")
    document = json.loads(note.read_text())
    victim = tmp_path / document["file"]
    (note.parent / document["file"]).rename(victim)
    before = victim.read_bytes()
    stem = note.stem
    document["file"] = {
        "absolute": str(victim),
        "up": f"{stem}./../../../../../{victim.name}",
        "nothing": "",
        "number": 7,
        "other": f"../{victim.name}",
    }[kind]
    note.write_text(json.dumps(document))
    with mirrors.small_files():
        mirrors.search(mirror, tmp_path)
    assert victim.read_bytes() == before
    assert json.loads(note.read_text())["file"].startswith(f"{stem}.")


def test_names_in_a_catalogue(place: Path, tmp_path: Path) -> None:
    """A catalogue that names the folder of its columns as a path is forgotten; what the path leads to stays."""
    victim = tmp_path / "victim"
    (victim / "inner").mkdir(parents=True)
    (victim / "inner" / "file").write_bytes(b"untouched")
    before = tree(victim)
    for number, name in enumerate(("..", "../..", str(victim), "../../../../victim", ".", "", "a/b", "\uff0e\uff0e")):
        mirror = mirrors.copy(place / "mirror", tmp_path / str(number))
        note = mirror / "namespaces" / SPEC.namespace / "catalogue" / "catalogue.json"
        document = json.loads(note.read_text())
        document["folder"] = name
        document["packs"] = []  # nothing that would have to be there
        note.write_text(json.dumps(document))
        for flow in (mirrors.look_up, mirrors.encode, mirrors.pull, mirrors.rebind):
            flow(mirror, mirrors.copy(place / "remote", tmp_path / f"{number}-{flow.__name__}"))
        assert tree(victim) == before
        assert (mirror / "namespaces" / SPEC.namespace / "state.json").is_file()


def test_targets_of_an_export(place: Path, outside: Path, run: Any) -> None:
    """`cas-cache export` writes to the very name that the user gave, and over nothing that is there."""
    before = around(outside)
    mirror = mirrors.copy(place / "mirror", outside / "mirror")
    (outside / "link").symlink_to(outside.parent / "x")
    (outside / "loose").symlink_to(outside.parent / "new")
    for target in (outside.parent / "x", outside / "link", outside / "loose", outside, outside / ".." / "x"):
        done = run("export", mirror, target, "--namespace", SPEC.namespace, "--format", "npy")
        assert done.code != 0, target
    assert around(outside) == before
    for name in ("..x", "x\n", "-rf", "%2e%2e", "\u2215x", "x" * 200):
        done = run("export", mirror, outside / name, "--namespace", SPEC.namespace, "--format", "npy")
        assert done.code == 0, done.err
        assert {it.name for it in (outside / name).iterdir()} == {"vectors.npy", "keys.npy", "spec.json"}
    assert around(outside) == before


def test_folders_that_are_imported(outside: Path) -> None:
    """An old cache with links: those that lead out of the directory that was named are no part of it."""
    secret = outside.parent / "secret"
    secret.mkdir()
    numbers = (np.arange(32, dtype=np.float32) / 3).tobytes()
    (secret / "vectors.npy").write_bytes(numbers)
    folder = mirrors.old_cache(outside / "old" / "STS")
    (folder / "vectors.npy").unlink()
    (folder / "vectors.npy").symlink_to(secret / "vectors.npy")
    report = mirrors.take_in(outside / "mirror", outside / "old")
    assert report.stored == 0
    assert "symbolic link" in str(report.plan.folders[0].broken)
    (outside / "old" / "Other").symlink_to(secret)
    assert mirrors.take_in(outside / "mirror", outside / "old").stored == 0


def test_a_directory_that_is_imported_may_be_a_link(outside: Path) -> None:
    """The directory itself, and links that stay in it."""
    folder = mirrors.old_cache(outside / "old" / "STS")
    (folder / "vectors.npy").rename(outside / "old" / "moved.npy")
    (folder / "vectors.npy").symlink_to("../moved.npy")
    (outside / "link").symlink_to("old")
    assert mirrors.take_in(outside / "mirror", outside / "link").stored == 8


@pytest.mark.parametrize("verb", ["get", "put", "list", "delete"])
def test_paths_given_to_a_local_storage(outside: Path, verb: str) -> None:
    """A path that leads up or is absolute is refused: whoever calls has checked it, and yet."""
    storage = open_storage(str(outside / "repository"))
    (outside / "repository").mkdir()
    before = around(outside)
    calls: dict[str, Callable[[str], Any]] = {
        "get": lambda path: storage.get(path, 0, 9),
        "put": lambda path: storage.put(path, b"x"),
        "list": storage.list,
        "delete": storage.delete,
    }
    for path in ("..", "../x", "../../x", "a/../../../x", str(outside.parent / "x"), "/x", "a/..", "."):
        with pytest.raises((ValueError, CasCacheError)):
            calls[verb](path)
    assert around(outside) == before


def test_specs_that_name_paths(outside: Path) -> None:
    """Model, revision, role and prompt may be any text: only their hash becomes a name."""
    before = around(outside)
    with EmbeddingCache(outside / "mirror") as cache:
        for name in ("../../x", "/x", "a\0b", "x" * 5000):
            spec = EncoderSpec(model=name, revision=name, prompt=name, role=name)
            cache.encode(TEXTS[:2], spec, mirrors.embed)
            assert cache.mirror.namespace(spec).folder.parent == outside / "mirror" / "namespaces"
    assert around(outside) == before


def test_a_damaged_view_is_a_damaged_mirror(place: Path, tmp_path: Path) -> None:
    """The error of a view with a hostile namespace says which file."""
    mirror = mirrors.copy(place / "mirror", tmp_path / "mirror")
    (view,) = (mirror / "Task").glob("*/view.json")
    document = json.loads(view.read_text())
    document["view"]["namespace"] = "../../x"
    view.write_text(json.dumps(document))
    view.parent.rename(view.parent.with_name(View(**document["view"]).id))
    with pytest.raises(DamagedMirror, match=r"view\.json is damaged"):
        Mirror(mirror).view("Task")
