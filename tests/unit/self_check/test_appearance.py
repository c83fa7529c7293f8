"""An encoder that does not look like the one that made the rows is compared before it is served them."""

import functools
import random
import threading
import time
from collections import OrderedDict
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import SelfCheckFailed
from cas_cache.identity import batch_of_texts
from cas_cache.models import appearance_of
from storages import SPEC, texts


class Own:
    """An encoder of one's own: what it makes depends on its attributes, and some of them change while it works."""

    def __init__(self, **attributes: Any) -> None:
        self.prefix = ""
        self.salt = 1.0
        self.calls = 0
        self.seen: list[str] = []
        self.last_call = 0.0
        self.cache: dict[str, int] = {}
        self.recent: OrderedDict[str, Any] = OrderedDict()
        self.generator = np.random.default_rng()
        self.dice = random.Random()
        self.lock = threading.Lock()
        self.dimension: int | None = None
        vars(self).update(attributes)

    def __call__(self, batch: list[str]) -> Any:
        self.calls += 1
        self.seen += batch
        self.last_call = time.time()
        self.generator.random()
        self.dice.random()
        self.dimension = 2
        for text in batch:
            self.cache[text] = self.recent[text] = len(text)
        return self.embed(batch)

    def embed(self, batch: list[str]) -> Any:
        """Return the vectors."""
        return np.array([[len(self.prefix + text), self.salt] for text in batch], np.float32)


class Asked:
    """Ask one mirror for texts with one encoder after the other, each time as a new process would."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = options

    def __call__(self, encoder: Any, count: int = 5, start: int = 0) -> tuple[int, int]:
        """Return how many texts were encoded, and how many rows compared."""
        with EmbeddingCache(self.folder, push="manual", **self.options) as cache:
            asked = texts(count, start=start)
            cache.encode_items(
                batch_of_texts(asked),
                SPEC,
                lambda at: encoder([asked[i] for i in at]),
                appearance=partial(appearance_of, encoder),
            )
            return cache.stats.encoded, cache.stats.checked


@pytest.fixture
def ask(tmp_path: Path) -> Asked:
    """Return a function that asks one mirror."""
    return Asked(tmp_path / "mirror")


def test_another_attribute_is_found_and_named(ask: Asked) -> None:
    """The second encoder is told which attribute differs and how to tell the two apart; the first goes on as before."""
    assert ask(Own(prefix="query: ")) == (5, 0)
    for _ in range(2):
        with pytest.raises(
            SelfCheckFailed, match=r"prefix was 'query: ', is ''.*model_id=, revision=, or params="
        ) as failed:
            ask(Own())
        assert failed.value.attributes == ("prefix",)
    assert ask(Own(prefix="query: ")) == (0, 0)


def test_counters_timers_and_caches_cost_nothing(ask: Asked) -> None:
    """They change while the encoder works, so they say nothing: not to the same object, and not to a new one."""
    encoder = Own()
    assert [ask(encoder, count) for count in (5, 5, 9, 9)] == [(5, 0), (0, 0), (4, 0), (0, 0)]
    assert ask(Own(), 9) == (0, 0)
    assert ask(Own(calls=57, seen=["x"], cache={"y": 1}), 9) == (0, 0)


def test_a_value_that_differs_each_time_is_ignored_after_three(ask: Asked) -> None:
    """A time of creation that never mattered costs three comparisons in all; what matters is still found."""
    assert ask(Own(created=0.0)) == (5, 0)
    assert [ask(Own(created=float(at))) for at in range(1, 7)] == [(0, 5), (0, 5), (0, 5), (0, 0), (0, 0), (0, 0)]
    with pytest.raises(SelfCheckFailed) as failed:
        ask(Own(created=99.0, salt=2.0))
    assert failed.value.attributes == ("salt",)


def test_an_appearance_that_was_compared_is_good_for_ever(ask: Asked) -> None:
    """Two encoders with equal vectors are compared once, in both directions."""
    ask(Own(name="a"))
    assert ask(Own(name="b")) == (0, 5)
    assert [ask(Own(name=name)) for name in "abab"] == [(0, 0)] * 4


class Suffix:
    """An object whose method an encoder calls."""

    def __init__(self, end: str) -> None:
        self.end = end

    def add(self, text: str) -> str:
        return text + self.end


def _suffixed(settings: dict[str, str]) -> Any:
    return lambda text: text + settings["end"]


def _vectors(of_500: float) -> dict[str, list[float]]:
    return {str(word): [of_500 if word == 500 else 0.0, 1.0] for word in range(1000)}


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a number": ({"max_tokens": 512}, {"max_tokens": 8}),
    "a list": ({"stops": ["a", "b"]}, {"stops": ["a", "c"]}),
    "a long list": ({"words": ["w"] * 5000}, {"words": ["w"] * 5001}),
    "a set": ({"words": {"a", "b"}}, {"words": {"a", "c"}}),
    "a dict": ({"config": {"pool": {"kind": "mean"}}}, {"config": {"pool": {"kind": "cls"}}}),
    "a plain object": ({"config": SimpleNamespace(dim=3)}, {"config": SimpleNamespace(dim=4)}),
    "a client": (
        {"client": SimpleNamespace(http=SimpleNamespace(base_url="http://a/v1"))},
        {"client": SimpleNamespace(http=SimpleNamespace(base_url="http://b/v1"))},
    ),
    "an array": ({"projection": np.arange(6.0)}, {"projection": np.arange(6.0)[::-1].copy()}),
    "a large array": ({"table": np.zeros((600, 600))}, {"table": np.ones((600, 600))}),
    "a function": ({"clean": str.lower}, {"clean": str.upper}),
    "code": ({"clean": lambda text: text + "a"}, {"clean": lambda text: text + "b"}),
    "a partial": ({"clean": partial(str.replace, "a")}, {"clean": partial(str.replace, "b")}),
    "a cached function": ({"clean": lru_cache(lambda text: text + "a")}, {"clean": lru_cache(lambda text: text + "b")}),
    "a class": ({"kind": dict}, {"kind": list}),
    "the middle of a long list": ({"words": ["w"] * 5000}, {"words": ["w"] * 2500 + ["v"] + ["w"] * 2499}),
    "a word of a large set": ({"words": {*map(str, range(999)), "a"}}, {"words": {*map(str, range(999)), "b"}}),
    "a vector in a large dict": ({"table": _vectors(1.0)}, {"table": _vectors(2.0)}),
    "an array of words": ({"words": np.array(["a", "b"], object)}, {"words": np.array(["a", "c"], object)}),
    "a closure over a dict": ({"clean": _suffixed({"end": "a"})}, {"clean": _suffixed({"end": "b"})}),
    "a method of an object": ({"clean": Suffix("a").add}, {"clean": Suffix("b").add}),
    "a partial over an object": ({"clean": partial(str, Suffix("a"))}, {"clean": partial(str, Suffix("b"))}),
    "a class of one's own": ({"kind": type("Kind", (), {"dim": 2})}, {"kind": type("Kind", (), {"dim": 3})}),
    "the code of an object's class": (
        {"clean": type("Clean", (), {"__call__": lambda self, text: text + "a"})()},
        {"clean": type("Clean", (), {"__call__": lambda self, text: text + "b"})()},
    ),
    "not set": ({"prompt": None}, {"prompt": "p"}),
    "not there": ({}, {"prompt": "p"}),
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_kind_of_attribute_is_seen(kind: str) -> None:
    """Two encoders that differ in one attribute look different; two that are made alike look alike."""
    one, other = VARIANTS[kind]
    fixed = {"generator": None, "dice": None}
    assert appearance_of(Own(**fixed, **one)) == appearance_of(Own(**fixed, **one))
    assert appearance_of(Own(**fixed, **one)) != appearance_of(Own(**fixed, **other))


def test_code_class_attributes_and_globals_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that was edited, or that reads a global value, looks different."""
    fixed = {"generator": None, "dice": None}
    before = appearance_of(Own(**fixed))
    monkeypatch.setattr(Own, "embed", lambda self, batch: batch)
    edited = appearance_of(Own(**fixed))
    assert {path for path in before if before[path] != edited.get(path)} == {"embed()"}
    monkeypatch.setattr(Own, "limit", 5, raising=False)
    assert appearance_of(Own(**fixed)).keys() - edited.keys() == {"Own.limit"}


CODE = """
PREFIX = {"query": "a"}
MODES = ["a"]
def marked(text, mark="a"):
    return PREFIX["query"] + text + mark + MODES[0]
def make(kind):
    class Encoder:
        def embed(self, batch, *, end="a"):
            return [marked(text) + kind["end"] + end for text in batch]
        @functools.cached_property
        def start(self):
            return "a"
        @functools.lru_cache
        def cached(self):
            return "a"
    return Encoder
encoder = make({"end": "a"})()
"""


@pytest.mark.parametrize("place", range(CODE.count('"a"')))
def test_code_is_followed_wherever_it_leads(place: int) -> None:
    """Globals, helper functions, defaults, closures, cached properties: each literal of this module is seen."""

    def looks(code: str) -> dict[str, str]:
        names: dict[str, Any] = {"__name__": "module_of_a_user", "functools": functools}
        exec(code, names)
        return appearance_of(names["encoder"])

    parts = CODE.split('"a"')
    edited = '"a"'.join(parts[: place + 1]) + '"b"' + '"a"'.join(parts[place + 1 :])
    assert looks(CODE) == looks(CODE)
    assert looks(CODE) != looks(edited)


def test_tables_are_seen() -> None:
    """A table of pandas hides its values from Python's own means."""
    pandas = pytest.importorskip("pandas")
    fixed = {"generator": None, "dice": None}
    one, other = (Own(table=pandas.DataFrame({"w": [1.0, last]}), **fixed) for last in (2.0, 3.0))
    assert appearance_of(one) != appearance_of(other)


def test_nothing_of_a_credential_is_kept(ask: Asked) -> None:
    """Not by name, not by shape, in no depth; and a new key is no other encoder."""
    key, other = "sk-" + "a1B2c3D4" * 5, "sk-" + "e5F6g7H8" * 5

    def with_key(key: str) -> Own:
        client = SimpleNamespace(
            api_key=key, headers={"Authorization": f"Bearer {key}"}, url=f"https://u:{key}@host/v1"
        )
        return Own(token=key, client=client, config={"password": key, "nested": [key]}, note=key)

    assert key not in str(appearance_of(with_key(key)))
    ask(with_key(key))
    assert ask(with_key(other)) == (0, 0)
    assert not [path for path in ask.folder.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_texts_that_an_encoder_has_seen_are_not_kept(ask: Asked) -> None:
    """What changes while it works is ignored, and not written down either."""
    ask(Own())
    (path,) = ask.folder.rglob("appearances.json")
    assert "text 1" not in path.read_text()


def test_recursion_and_odd_objects_end(tmp_path: Path) -> None:
    """Cycles, deep nesting, thousands of attributes, locks, generators and modules are no trouble."""
    encoder = Own(module=np, iterator=iter([1]), lock=threading.Lock(), path=tmp_path)
    encoder.me = encoder  # type: ignore[attr-defined]
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    encoder.deep = deep  # type: ignore[attr-defined]
    encoder.many = [SimpleNamespace(a=i) for i in range(5000)]  # type: ignore[attr-defined]
    assert len(appearance_of(encoder)) < 2100


@pytest.mark.parametrize("missing", ["appearances.json", "vouched.json"])
def test_a_lost_note_costs_one_comparison(missing: str, ask: Asked) -> None:
    """And never a wrong vector: an encoder that makes other ones is refused as before."""
    ask(Own(prefix="a"))
    for path in ask.folder.rglob(missing):
        path.unlink()
    with pytest.raises(SelfCheckFailed):
        ask(Own(prefix="bbb"))
    encoded, compared = ask(Own(prefix="a"))
    assert encoded == 0
    assert compared <= 5
    assert ask(Own(prefix="a")) == (0, 0)


def test_rows_of_an_unknown_maker_are_compared_once(ask: Asked) -> None:
    """What was put, or made by an older version, has no appearance."""
    with EmbeddingCache(ask.folder) as cache:
        cache.put(texts(5), Own().embed(texts(5)), SPEC)
    assert ask(Own()) == (0, 5)
    assert ask(Own()) == (0, 0)
    with pytest.raises(SelfCheckFailed, match="was not recorded"):
        ask(Own(salt=2.0))


def test_rows_of_two_encoders_are_told_apart(ask: Asked) -> None:
    """Each is served its own rows, and compared before it is served the other's."""
    ask(Own(prefix="a"), 3)
    assert ask(Own(prefix="bbb"), 2, start=10) == (2, 0)
    assert ask(Own(prefix="a"), 3) == (0, 0)
    assert ask(Own(prefix="bbb"), 2, start=10) == (0, 0)
    with pytest.raises(SelfCheckFailed):
        ask(Own(prefix="a"), 2, start=10)


def test_off_and_only_cached_keep_their_meaning(tmp_path: Path) -> None:
    """Neither encodes for a comparison."""
    Asked(tmp_path)(Own(prefix="a"))
    assert Asked(tmp_path, self_check=0)(Own(prefix="bbb")) == (0, 0)
    assert Asked(tmp_path, only_cached=True)(Own(prefix="bbb")) == (0, 0)


def test_a_verified_pack_is_compared_again_with_another_encoder(tmp_path: Path) -> None:
    """What was verified with one encoder says nothing about one that looks otherwise; pushes say who made a pack."""
    remote = tmp_path / "remote"
    theirs = Asked(tmp_path / "theirs", remote=remote)
    theirs(Own(prefix="a"))
    with EmbeddingCache(tmp_path / "theirs", remote=remote) as cache:
        cache.push()
    (path,) = (remote / "manifests" / SPEC.namespace).iterdir()
    assert b'"appearance":"' in path.read_bytes()
    mine = Asked(tmp_path / "mine", remote=remote)
    assert mine(Own(prefix="a")) == (0, 5)
    assert mine(Own(prefix="a")) == (0, 0)
    with pytest.raises(SelfCheckFailed) as failed:
        mine(Own(prefix="bbb"))
    assert failed.value.attributes == ("prefix",)
    assert mine(Own(prefix="a", name="new")) == (0, 5)


def test_describing_is_cheap() -> None:
    """A large cache is described by its size and its ends: as few parts as a small one."""
    encoder = Own(cache={f"text {i}": i for i in range(200_000)})
    assert sum(path.startswith("cache") for path in appearance_of(encoder)) == 1
