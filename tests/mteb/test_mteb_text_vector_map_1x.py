"""Our `TextVectorMap` beside the class of mteb 1.39 itself: what is equal, and what differs on purpose."""

import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EncoderSpec
from cas_cache.errors import AlreadyClosed, MirrorError, ShapeMismatch
from cas_cache.mteb import TextVectorMap
from mteb_class_recipes import replaced

pytestmark = [pytest.mark.verify, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SPEC = EncoderSpec(model="m", revision="1")
TEXTS = ["one", "two", "", "e\u0301", "\u00e9", "\U0001f600", "a\0b"]
VECTORS = np.arange(28, dtype=np.float32).reshape(7, 4) + 1


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The class, from the wheel in the package registry; of the rest of mteb 1.39 only names are needed."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "mteb==1.39.7", "--no-deps", "--only-binary=:all:", "-d", place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mteb 1.39 cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        source = wheel.read("mteb/models/cache_wrapper.py").decode()
    module = types.ModuleType("mteb_1_39")
    names = {"mteb.encoder_interface": {"Encoder": object}, "mteb.models.wrapper": {"Wrapper": type("Wrapper", (), {})}}
    stubs = {}
    for name, contents in names.items():
        stubs[name] = types.ModuleType(name)
        vars(stubs[name]).update(contents)
    with replaced({**stubs, "mteb_1_39": module}):
        exec(compile(source, "mteb/models/cache_wrapper.py", "exec"), vars(module))
    return module.TextVectorMap


@pytest.fixture
def both(theirs: Any, tmp_path: Path) -> Any:
    """Both maps, with the same texts."""
    maps = theirs(tmp_path / "theirs", 16), TextVectorMap(tmp_path / "ours" / "T", 16, spec=SPEC)
    for found in maps:
        found.load(name="T")
        for text, vector in zip(TEXTS, VECTORS, strict=True):
            found.add(text, vector)
    return maps


def check_same(theirs: Any, ours: Any) -> None:
    """Compare all that both have."""
    assert ours.hash_to_index == theirs.hash_to_index
    assert ours.vector_dim == theirs.vector_dim == 4
    assert ours.directory.is_absolute()
    for text in [*TEXTS, "three"]:
        assert (text in ours) == (text in theirs)
        np.testing.assert_array_equal(ours.get_vector(text), theirs.get_vector(text))
    filled = np.asarray(theirs.vectors)[: len(theirs.hash_to_index)]
    np.testing.assert_array_equal(ours.vectors, filled)
    assert ours.vectors.dtype == filled.dtype


def test_what_was_added(both: Any) -> None:
    """Index, vectors, dimension and answers are equal before `save`, after it, and after `load`."""
    check_same(*both)
    for found in both:
        found.save()
    check_same(*both)
    for found in both:
        found.load(name="T")
    check_same(*both)


def test_opened_again(both: Any, theirs: Any) -> None:
    """New objects are equal after `save` and `close`."""
    for found in both:
        found.save()
        found.close()
    again = theirs(both[0].directory, 16), TextVectorMap(both[1].directory, 16)
    for found in again:
        found.load(name="T")
    check_same(*again)


def test_what_differs_on_purpose(both: Any, theirs: Any, tmp_path: Path) -> None:
    """The intended differences: padding, repeated texts, other dimensions, missing folders."""
    old, new = both
    assert (len(old.vectors), len(new.vectors)) == (16, len(TEXTS))
    for found in both:
        found.add("one", np.full(4, 9, np.float32))
    assert (old.get_vector("one")[0], new.get_vector("one")[0]) == (9, 1)
    with pytest.raises(ValueError, match="broadcast"):
        old.add("bad", np.ones(3, np.float32))
    with pytest.raises(ShapeMismatch):
        new.add("bad", np.ones(3, np.float32))
    assert ("bad" in old, "bad" in new) == (True, False)
    assert not old.get_vector("bad").any()
    old.add("single", np.ones(1, np.float32))
    with pytest.raises(ShapeMismatch):
        new.add("single", np.ones(1, np.float32))
    np.testing.assert_array_equal(old.get_vector("single"), np.ones(4))
    assert theirs(tmp_path / "nowhere" / "T").vectors is None
    with pytest.raises(MirrorError):
        TextVectorMap(tmp_path / "elsewhere" / "T")
    old.close()
    new.close()
    assert old.vectors is None
    with pytest.raises(AlreadyClosed):
        new.vectors  # noqa: B018 - a property
