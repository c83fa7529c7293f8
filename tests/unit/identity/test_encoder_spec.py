"""EncoderSpec: equal specs share vectors, specs that differ in anything never do."""

import copy
import dataclasses
import hashlib
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from cas_cache.errors import CredentialInSpec, IdentityError, UnpinnedModel
from cas_cache.identity import EncoderSpec
from naming import named

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
PLAIN = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS, v, max_size=3), max_leaves=6)
MAPPINGS = st.dictionaries(TEXTS, PLAIN, max_size=3)


def made(**values: Any) -> EncoderSpec:
    """Return a spec, unless hypothesis, which also tries words of the sources, has named a credential."""
    try:
        return EncoderSpec(**values)
    except CredentialInSpec:
        reject()


SPECS = st.builds(
    made,
    model=TEXTS.map(lambda t: f"org/{t}"),
    revision=TEXTS.map(lambda t: f"v{t}"),
    prompt=TEXTS,
    role=st.sampled_from([None, "query", "document"]),
    params=MAPPINGS,
    scope=MAPPINGS,
    fields=st.lists(TEXTS.filter(bool), min_size=1, max_size=3, unique=True).map(tuple),
)

VECTORS = [
    (
        {
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "revision": "8b3219a92973c328a8e22fadcfa821b5dc75636a",
        },
        (
            '{"fields":["text"],"model":"sentence-transformers/all-MiniLM-L6-v2","params":{},"prompt":"",'
            '"revision":"8b3219a92973c328a8e22fadcfa821b5dc75636a","role":null,"scope":{}}'
        ),
        "74f2a9e9dcc8db80556a080170666d86",
    ),
    (
        {
            "model": "org/Modèle \U0001f9ea",
            "revision": "v1.2",
            "prompt": 'query: "é"\n',
            "role": "query",
            "params": {
                "truncate_dim": 256,
                "normalize": True,
                "temperature": 0.5,
                "nested": {"b": [1, None, 2.0], "a": ""},
            },
            "scope": {"task": "NFCorpus"},
            "fields": ("title", "text"),
        },
        (
            '{"fields":["title","text"],"model":"org/Modèle \U0001f9ea","params":{"nested":{"a":"","b":[1,null,2]},'
            '"normalize":true,"temperature":0.5,"truncate_dim":256},"prompt":"query: \\"é\\"\\n","revision":"v1.2",'
            '"role":"query","scope":{"task":"NFCorpus"}}'
        ),
        "372783056e081000147ba96abd33ac3e",
    ),
    (
        {"model": "m", "revision": "r", "role": "document", "fields": ("image",)},
        '{"fields":["image"],"model":"m","params":{},"prompt":"","revision":"r","role":"document","scope":{}}',
        "75dee42a9aa77babe2f98f113313f7fc",
    ),
]

BASE = {
    "model": "org/model",
    "revision": "a1b2c3d",
    "prompt": "query: ",
    "role": "query",
    "params": {"dim": 8},
    "scope": {"task": "T"},
    "fields": ("title", "text"),
}

CHANGES = [
    {"model": "org/Model"},
    {"model": "org/model "},
    {"revision": "a1b2c3e"},
    {"prompt": "query:"},
    {"prompt": ""},
    {"role": "document"},
    {"role": None},
    {"role": ""},
    {"params": {}},
    {"params": {"dim": 9}},
    {"params": {"dim": "8"}},
    {"params": {"dim": 8.5}},
    {"params": {"dim": True}},
    {"params": {"dim": 1}},
    {"params": {"dim": None}},
    {"params": {"dim": [8]}},
    {"params": {"dim": 8, "x": None}},
    {"scope": {}},
    {"scope": {"task": "U"}},
    {"params": {"task": "T"}, "scope": {"dim": 8}},
    {"fields": ("text", "title")},
    {"fields": ("text",)},
    {"fields": ("title", "text", "image")},
]


@pytest.mark.parametrize(("arguments", "canonical", "namespace"), VECTORS, ids=["plain", "everything", "image"])
def test_namespace_ids_are_fixed(arguments: dict[str, Any], canonical: str, namespace: str) -> None:
    """These ids are in people's buckets: a change here orphans every vector there."""
    spec = EncoderSpec(**arguments)
    assert spec.canonical() == canonical.encode()
    assert spec.namespace == namespace == hashlib.sha256(canonical.encode()).hexdigest()[:32]


@given(SPECS)
def test_round_trip(spec: EncoderSpec) -> None:
    """A spec read back from its canonical form is the same spec with the same name."""
    again = EncoderSpec.from_canonical(spec.canonical())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.namespace == spec.namespace
    assert again.canonical() == spec.canonical()


@given(SPECS)
def test_copies_are_equal(spec: EncoderSpec) -> None:
    """Copying, deep copying and rebuilding from `__reduce__` keep the identity."""
    function, arguments = spec.__reduce__()
    for other in (copy.copy(spec), copy.deepcopy(spec), function(*arguments), dataclasses.replace(spec)):
        assert other == spec
        assert hash(other) == hash(spec)


@given(SPECS, SPECS)
def test_equality_is_equality_of_names(one: EncoderSpec, other: EncoderSpec) -> None:
    """Two specs are equal exactly if their vectors live in one place."""
    assert (one == other) == (one.canonical() == other.canonical()) == (one.namespace == other.namespace)


def test_each_single_change_is_another_namespace() -> None:
    """Whatever differs, down to a space, a type or an order, no vector is shared."""
    specs = [EncoderSpec(**{**BASE, **change}) for change in [{}, *CHANGES]]
    assert len({spec.namespace for spec in specs}) == len(specs)
    assert not any(one == other for one, other in itertools.combinations(specs, 2))


def test_same_setting_written_otherwise_is_the_same_spec() -> None:
    """Order of parameters, tuple or list, 1 or 1.0 make no difference."""
    one = EncoderSpec(model="m", revision="r", params={"a": 1, "b": (1, 2)}, fields=("text",))
    other = EncoderSpec(model="m", revision="r", params={"b": [1.0, 2], "a": 1}, fields=["text"])  # type: ignore[arg-type]
    assert one == other
    assert {one: "found"}[other] == "found"


def test_is_not_equal_to_what_it_is_made_of() -> None:
    """A spec equals specs only."""
    spec = EncoderSpec(**BASE)
    assert spec != spec.document()
    assert spec != spec.canonical()
    assert spec != spec.namespace


@pytest.mark.parametrize("model", [None, "", " ", "no_model_name/available", 7, b"org/model"], ids=named)
def test_model_without_a_name_is_refused(model: object) -> None:
    """The message says how to name the model."""
    with pytest.raises(UnpinnedModel, match=r"model_id="):
        EncoderSpec(model=model, revision="r")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "revision",
    [None, "", " ", "no_revision_available", "main", "Main", " main ", "master", "HEAD", "latest", 3],
    ids=named,
)
def test_revision_that_pins_nothing_is_refused(revision: object) -> None:
    """The message says how to pin the weights."""
    with pytest.raises(UnpinnedModel, match=r"revision="):
        EncoderSpec(model="org/model", revision=revision)  # type: ignore[arg-type]


class Texty(str):
    """A string that is not plain."""

    __slots__ = ()


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"a": math.nan}},
        {"params": {"a": math.inf}},
        {"params": {"a": object()}},
        {"params": {"a": b"x"}},
        {"params": {"a": {1}}},
        {"params": {1: "a"}},
        {"params": {"a": Texty("x")}},
        {"params": {"a": "\ud800"}},
        {"params": [("a", 1)]},
        {"params": None},
        {"scope": {"task": object()}},
        {"scope": "NFCorpus"},
        {"prompt": None},
        {"prompt": 3},
        {"prompt": "\ud800"},
        {"prompt": Texty("query: ")},
        {"role": 1},
        {"role": Texty("query")},
        {"model": Texty("org/model")},
        {"model": "org/\ud800"},
        {"revision": Texty("r")},
        {"fields": ()},
        {"fields": ("",)},
        {"fields": (1,)},
        {"fields": ("text", "text")},
        {"fields": "image"},
        {"fields": None},
        {"fields": ("\ud800",)},
    ],
    ids=named,
)
def test_what_json_cannot_hold_is_refused(change: dict[str, Any]) -> None:
    """Nothing doubtful becomes part of an identity, and the error is ours."""
    with pytest.raises(IdentityError):
        EncoderSpec(**{**BASE, **change})


def test_is_immutable() -> None:
    """No field, and nothing inside a field, can be changed after the name was given."""
    inner = {"list": [1, 2], "deep": {"x": 1}}
    spec = EncoderSpec(model="m", revision="r", params=inner)
    before = spec.namespace
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.model = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.params["new"] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        spec.params["deep"]["x"] = 2
    with pytest.raises(AttributeError):
        spec.params["list"].append(3)
    inner["list"].append(3)  # type: ignore[attr-defined]
    spec.document()["params"]["deep"]["x"] = 5
    assert spec.namespace == before


def _canonical(**change: str) -> bytes:
    parts = {
        "fields": '["text"]',
        "model": '"m"',
        "params": '{"a":1,"b":0.5}',
        "prompt": '"é"',
        "revision": '"r"',
        "role": "null",
        "scope": "{}",
        **change,
    }
    return ("{" + ",".join(f'"{name}":{value}' for name, value in parts.items()) + "}").encode()


def test_canonical_form_is_read() -> None:
    """The form that the refusals below start from is itself fine."""
    assert EncoderSpec.from_canonical(_canonical()).canonical() == _canonical()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"not json",
        b"\xff",
        b"[" * 100_000,
        _canonical() + b"\n",
        b" " + _canonical(),
        _canonical().replace(b":", b": "),
        _canonical(prompt='"\\u00e9"'),
        _canonical(params='{"b":0.5,"a":1}'),
        _canonical(params='{"a":1.0,"b":0.5}'),
        _canonical(params='{"a":1,"a":1,"b":0.5}'),
        _canonical(params='{"a":NaN}'),
        _canonical(params="[]"),
        _canonical(fields='"text"'),
        _canonical(fields="[]"),
        _canonical(fields="[[]]"),
        _canonical(model="null"),
        _canonical(revision='"main"'),
        _canonical(zzz="1"),
        _canonical().replace(b'"role":null,', b""),
        _canonical().replace(b'{"fields"', b'{"fields":["text"],"fields"'),
        b'{"model":"m","fields":["text"],' + _canonical()[len(b'{"fields":["text"],"model":"m",') :],
    ],
    ids=lambda data: repr(data[:40]),
)
def test_any_other_form_is_refused(data: bytes) -> None:
    """What does not hash to its own name is not a spec."""
    with pytest.raises(IdentityError):
        EncoderSpec.from_canonical(data)
