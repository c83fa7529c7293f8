"""Nothing that is read is run: no pickle, no eval, by what the sources name and by what happens while they run."""

import ast
import contextlib
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cas_cache
import hostile_mirrors as mirrors
from cas_cache.errors import CasCacheError
from paths import SUPPORT

SOURCES = Path(cas_cache.__file__).parent

BANNED_MODULES = {
    "pickle", "_pickle", "cPickle", "pickletools", "marshal", "shelve", "dbm", "dill", "cloudpickle", "joblib",
    "jsonpickle", "yaml", "ruamel", "code", "codeop", "runpy", "imp", "ctypes", "cffi", "copyreg", "xmlrpc",
}  # fmt: skip
"""What makes objects or code of bytes. (JSON, TOML, .npy without objects, and Zarr's bytes are what is read here.)"""

BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
"""Built-ins that run a text."""

BANNED_METHODS = {
    "read_pickle", "to_pickle", "mktemp", "system", "popen", "fromstring", "deserialize_index", "exec_module",
    "unpack_archive", "extractall", "load_module", "execv", "execve", "spawnv", "getoutput", "getstatusoutput",
}  # fmt: skip
"""``faiss.deserialize_index`` among them: it reads bytes that nobody has compared with a hash."""

LOADS = {"load", "loads", "fromfile", "genfromtxt", "loadtxt", "memmap", "open_memmap"}

PROCESSES = {"testing/processes.py"}
"""May use multiprocessing: functions and values of tests go to processes that the same test has started."""

OWN_NAMES = {f"{name}: imports what a value names" for name in ("__init__.py", "commands.py", "compat.py")} | {
    "functions.py: calls compile", "tokenizers.py: imports ctypes",
}  # fmt: skip
"""Public names, commands and parts of mteb are imported when they are asked for, from tables in these sources.

The source of a function that is loaded already is compiled, and never run, to see whether it is what was loaded. The
bytes of a Python object around a tokenizer's vocabulary are read with ctypes, which calls nothing, to see whether it is
the same vocabulary."""


def modules_of(tree: ast.AST) -> Iterator[str]:
    """The top-level modules that a file imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def keyword(call: ast.Call, name: str) -> Any:
    """A keyword of a call, if it is a constant."""
    for it in call.keywords:
        if it.arg == name:
            return it.value.value if isinstance(it.value, ast.Constant) else it.value
    return None


def wrong_numpy(name: str, call: ast.Call) -> str | None:
    """Why a call of NumPy may not be."""
    if name in ("load", "save") and keyword(call, "allow_pickle") is not False:
        return f"np.{name} without allow_pickle=False"
    return "maps objects" if name == "memmap" and "object" in ast.dump(call) else None


def wrong_call(call: ast.Call) -> str | None:
    """Why a call may not be; None if it may."""
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    owner = getattr(getattr(function, "value", None), "id", "")
    if isinstance(function, ast.Name) and name != "import_module":
        return f"calls {name}" if name in BANNED_CALLS else None
    if owner in ("np", "numpy"):
        return wrong_numpy(name, call)
    wrong = {
        f"calls {owner}.{name}": name in BANNED_METHODS or (owner == "os" and name.startswith(("exec", "spawn"))),
        "runs a shell": keyword(call, "shell") not in (None, False),
        "imports what a value names": name == "import_module" and not isinstance(call.args[0], ast.Constant),
        f"loads by {owner}.{name}": name in LOADS and owner not in ("json", "tomllib", "self", ""),
    }
    return next((why for why, it_is in wrong.items() if it_is), None)


def findings(path: Path) -> list[str]:
    """What is wrong with a source file."""
    tree = ast.parse(path.read_text("utf-8"))
    wrong = [f"imports {name}" for name in modules_of(tree) if name in BANNED_MODULES]
    wrong += [why for node in ast.walk(tree) if isinstance(node, ast.Call) and (why := wrong_call(node)) is not None]
    return [f"{path.name}: {it}" for it in wrong]


def test_the_sources_name_nothing_that_runs_data(figure: Callable[[str, int], None]) -> None:
    """Every file of the package: imports, calls of built-ins, of loaders without their safe argument, of shells."""
    files = sorted(SOURCES.rglob("*.py"))
    wrong = {it for path in files for it in findings(path)}
    assert wrong == OWN_NAMES
    assert len(files) > 100
    figure("source files without pickle or eval", len(files))


def test_processes_are_used_by_the_test_tools_alone() -> None:
    """Multiprocessing pickles what it hands over: only `cas_cache.testing` imports it, which a cache never does."""
    users = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if {"multiprocessing", "ProcessPoolExecutor"} & set(modules_of(ast.parse(path.read_text("utf-8"))))
        or "ProcessPoolExecutor" in path.read_text("utf-8")
    }
    assert users <= PROCESSES | {"demo.py"}, users
    assert "multiprocessing" not in set(modules_of(ast.parse((SOURCES / "demo.py").read_text("utf-8"))))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "import yaml\nyaml.load(x)",
        "eval(x)",
        "exec(x)",
        "compile(x, '', 'exec')",
        "__import__(x)",
        "importlib.import_module(x)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=allowed)",
        "np.save(path, x)",
        "np.memmap(path, object)",
        "torch.load(path)",
        "pd.read_pickle(path)",
        "tempfile.mktemp()",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=y)",
        "os.system(x)",
        "os.execvp(x, y)",
        "faiss.deserialize_index(x)",
        "shutil.unpack_archive(x)",
        "dill.loads(x)",
    ],
)
def test_the_walk_finds_what_it_looks_for(tmp_path: Path, code: str) -> None:
    """Negative control: a file that does it is found."""
    (tmp_path / "it.py").write_text(code)
    assert findings(tmp_path / "it.py")


# While it runs -------------------------------------------------------------------------------------------------------

WATCHED = '''
import os, sys, warnings

def calls():
    """Where the interpreter is, innermost first: file names."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append(frame.f_code.co_filename)
        frame = frame.f_back
    return found

seen, armed = {}, False

def watch(event, arguments):
    if not armed or event not in ("pickle.find_class", "marshal.loads", "exec", "compile"):
        return
    # Importing a module runs its code and may read it from a .pyc: that is the importing machinery's, not a datum.
    chain = calls()[1:]
    if any("importlib" in name for name in chain):
        return
    if event == "compile" and chain[0].endswith(("ast.py", "linecache.py")):
        return
    # Who asked: the innermost file that is no part of Python's library.
    culprit = next((name for name in chain if "/lib/python3" not in name or "site-packages" in name), chain[0])
    who = event, culprit.partition("site-packages/")[2].partition("/")[0] or culprit
    seen[who] = seen.get(who, 0) + 1

sys.addaudithook(watch)
'''


class Planted:
    """What makes a folder when it is unpickled."""

    def __init__(self, there: Path) -> None:
        self.there = there

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.there,)


def object_npy(there: Path) -> bytes:
    """A ``.npy`` file of objects, which makes a folder if it is unpickled."""
    array = np.empty(3, object)
    array[:] = [Planted(there)] * 3
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"
    padded = header.ljust(-(-(len(header) + 11) // 64) * 64 - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + pickle.dumps(array, 2)


def test_the_plant_works(tmp_path: Path) -> None:
    """Negative control: NumPy, if it is allowed to, runs what is planted."""
    (tmp_path / "x.npy").write_bytes(object_npy(tmp_path / "ran"))
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert (tmp_path / "ran").is_dir()


def played(place: Path, script: str) -> dict[str, int]:
    """Run a script in an interpreter of its own that watches for unpickling and for code that is made of data.

    Returns:
        How often each happened, and which package outside of Python's own library asked for it.
    """
    end = "\nimport json; armed = False\nprint(json.dumps([[*it, n] for it, n in seen.items()]))\n"
    (place / "script.py").write_text(WATCHED + script + end)
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(place), "PYTHONPATH": f"{SOURCES.parent}:{SUPPORT}",
        "CAS_CACHE_SELF_CHECK": "0", "HF_HUB_OFFLINE": "1", "AWS_EC2_METADATA_DISABLED": "true",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    call = [sys.executable, "-W", "ignore", str(place / "script.py")]
    done = subprocess.run(call, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {f"{event} by {who}": count for event, who, count in json.loads(done.stdout.splitlines()[-1])}


FLOWS = """
from pathlib import Path
import hostile_mirrors as mirrors
# What these do while they are imported is theirs.
import mteb, faiss, torch, pyarrow.parquet, safetensors.numpy
import mteb_tasks as tasks
from mteb_encoders import HashEncoder
from cas_cache.mteb import CachedEmbeddingWrapper
from cas_cache.cli import main

place = Path.cwd()
armed = True
mirrors.make(place)
mirrors.take_out(place / "mirror", place / "out")
assert mirrors.all_of_it(place / "mirror", place / "remote") == {}
mirrors.maintain(place / "remote")
assert mirrors.take_in(place / "mirror", mirrors.old_cache(place / "old" / "STS")).stored == 8
with CachedEmbeddingWrapper(HashEncoder(), place / "mirror") as model:
    tasks.scores(model, tasks.misleading_titles())
for words in ("ls mirror", "check --remote remote", "status mirror --remote remote", "info --settings"):
    sys.argv = ["cas-cache", *words.split()]
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, None), words
"""


@pytest.mark.verify
def test_nothing_is_unpickled_or_evaluated(tmp_path: Path) -> None:
    """Encode, push, lazy pull, compact, check, prune, export, import, search, an evaluation by mteb: by none of it.

    torch compiles a text of its own when it is first asked for a profile. Nobody unpickles, `datasets` neither.
    """
    seen = played(tmp_path, FLOWS)
    assert set(seen) <= {"compile by torch", "exec by torch"}, seen


@pytest.mark.parametrize("code", ["pickle.loads(pickle.dumps(Path('x')))", "eval('1 + 1')", "marshal.loads(b'N')"])
def test_the_watch_sees_what_it_looks_for(tmp_path: Path, code: str) -> None:
    """Negative control: a script that unpickles, or evaluates a text, is seen."""
    assert played(tmp_path, f"import marshal, pickle\nfrom pathlib import Path\narmed = True\n{code}\n")


@pytest.mark.verify
def test_objects_in_npy_files_of_a_mirror_are_never_made(place: Path, tmp_path: Path) -> None:
    """A mirror that somebody gave away, each of its .npy files in turn an array of objects that run code when made."""
    files = [path.relative_to(place / "mirror") for path in sorted((place / "mirror").rglob("*.npy"))]
    assert len(files) >= 8
    for number, name in enumerate(files):
        mirror = mirrors.copy(place / "mirror", tmp_path / str(number))
        (mirror / name).write_bytes(object_npy(tmp_path / "ran"))
        said = mirrors.all_of_it(mirror, mirrors.copy(place / "remote", tmp_path / f"{number}-remote"))
        assert not (tmp_path / "ran").exists(), name
        assert said or name.name.endswith(".keys.npy") or "catalogue" in name.parts


def test_objects_in_what_is_imported_are_never_made(tmp_path: Path, run: Any) -> None:
    """Old caches of mteb whose files are arrays of objects, and vectors to search for: refused, and nothing ran."""
    planted = object_npy(tmp_path / "ran")
    for number, name in enumerate(("vectors.npy", "index.json", "dimension", "vectors.faiss")):
        folder = mirrors.old_cache(tmp_path / f"old-{number}" / "STS")
        (folder / name).write_bytes(planted)
        try:
            report = mirrors.take_in(tmp_path / f"mirror-{number}", folder)
            assert report.stored == 0, name
        except CasCacheError:
            pass
        assert not (tmp_path / "ran").exists(), name
    (tmp_path / "queries.npy").write_bytes(planted)
    mirrors.make(tmp_path)
    done = run(
        "search", tmp_path / "mirror", "--namespace", mirrors.SPEC.namespace, "--vectors", tmp_path / "queries.npy"
    )
    assert done.code != 0
    assert not (tmp_path / "ran").exists()


def test_objects_in_a_repository_are_never_made(place: Path, tmp_path: Path) -> None:
    """Every object of a pack replaced by pickles: the pack is refused, and nothing ran."""
    remote = mirrors.copy(place / "remote", tmp_path / "remote")
    for path in remote.rglob("*"):
        if path.is_file() and path.name != "cas-cache.json":
            path.write_bytes(object_npy(tmp_path / "ran"))
    for flow in (mirrors.pull, mirrors.encode, lambda _, there: mirrors.maintain(there)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            with contextlib.suppress(CasCacheError):
                flow(tmp_path / "mirror", remote)
    assert not (tmp_path / "ran").exists()
