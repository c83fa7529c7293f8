"""TextVectorMap: mteb 1.x's map over the views that an evaluation left."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from mteb.types import PromptType

import mteb_tasks as tasks
from cas_cache import EncoderSpec
from cas_cache.errors import ConfigurationError, InvalidEncoderOutput, MirrorError, ShapeMismatch
from cas_cache.mteb import CachedEmbeddingWrapper, TextVectorMap
from mteb_encoders import HashEncoder, TitleBodyEncoder
from mteb_tasks import loader, metadata
from paths import ROOT

TEXTS = ["one", "two", "one", "", "\U0001f600", "three"]
DISTINCT = ["one", "two", "", "\U0001f600", "three"]
SPEC = EncoderSpec(model="m", revision="1")
SOURCE = str(ROOT / "src")

WITHOUT_MTEB = """
import sys
from cas_cache.mteb import TextVectorMap
print(TextVectorMap(sys.argv[1]).get_vector("three").tolist())
print([name for name in ("mteb", "torch", "datasets", "sentence_transformers") if name in sys.modules])
"""


def encode(directory, texts=TEXTS, encoder=None, role=None, task="T", **kwargs):
    """Encode texts for a task through a cache; return the wrapper's answer."""
    call = {"task_metadata": metadata(task), "hf_split": "test", "hf_subset": "default", "prompt_type": role, **kwargs}
    return CachedEmbeddingWrapper(encoder or HashEncoder(), directory).encode(loader(texts), **call)


def test_the_old_snippet(tmp_path):
    """Code for mteb 1.x runs unchanged: open, load by name, take the vectors that are not zero."""
    encode(tmp_path)
    task = "T"
    vector_map = TextVectorMap(tmp_path / task)
    vector_map.load(name=task)
    vectors = np.asarray(vector_map.vectors)
    zero_mask = (vectors == 0).all(axis=1)
    vectors = vectors[~zero_mask]
    assert vectors.shape == (len(DISTINCT), 64)


def test_vectors_are_the_encoders_in_order(tmp_path):
    """The map has one row per distinct text, in the order of the requests, by position, by text and by hash."""
    answer = encode(tmp_path)
    found = TextVectorMap(tmp_path / "T")
    np.testing.assert_array_equal(found.vectors, answer[[0, 1, 3, 4, 5]])
    assert found.vectors.dtype == answer.dtype
    assert found.vector_dim == 64
    assert list(found.hash_to_index) == [hashlib.sha256(text.encode()).hexdigest() for text in DISTINCT]
    assert list(found.hash_to_index.values()) == list(range(len(DISTINCT)))
    for text, vector in zip(TEXTS, answer, strict=True):
        assert text in found
        np.testing.assert_array_equal(found.get_vector(text), vector)
    assert "four" not in found
    assert found.get_vector("four") is None


@pytest.mark.parametrize("encoder", [HashEncoder, TitleBodyEncoder])
def test_what_an_evaluation_leaves(encoder, tmp_path):
    """After mteb.evaluate, a task's queries and documents are found by role and by the text that mteb prepared."""
    task, model = tasks.misleading_titles("Left"), encoder()
    tasks.scores(CachedEmbeddingWrapper(model, tmp_path), task)
    queries, documents = (TextVectorMap(tmp_path / "Left", role=role) for role in ("query", "document"))
    both = TextVectorMap(tmp_path / "Left")
    assert len(both.vectors) == len(queries.vectors) + len(documents.vectors) == 2 * tasks.TOPICS
    # `show_progress_bar` and `batch_size` apart, this is how mteb asks.
    call = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    texts = [f"topic{i}" for i in range(tasks.TOPICS)]
    expected = model.encode(loader(texts, query=texts), **call, prompt_type=PromptType.query)
    np.testing.assert_array_equal(queries.vectors, expected)
    np.testing.assert_array_equal([both.get_vector(text) for text in texts], expected)
    assert f"topic1 topic1  {'topic0 ' * 3}".strip() in documents
    assert "topic0 topic0 topic0" not in documents


def test_a_text_in_both_roles_asks_for_the_role(tmp_path):
    """A text with two vectors is an error that asks for the role."""
    vectors = {role.value: encode(tmp_path, role=role) for role in (PromptType.query, PromptType.document)}
    assert not np.array_equal(vectors["query"], vectors["document"])
    with pytest.raises(ConfigurationError, match="role='query'"):
        TextVectorMap(tmp_path / "T").get_vector("one")
    for role, expected in vectors.items():
        np.testing.assert_array_equal(TextVectorMap(tmp_path / "T", role=role).get_vector("one"), expected[0])
    with pytest.raises(MirrorError, match=r"T has no such view\. It has: role='query'"):
        TextVectorMap(tmp_path / "T", role="passage")


def test_several_models_in_a_folder_ask_for_one(tmp_path):
    """Several models or revisions are an error that names them, and each is found by its name."""
    made = [("test/one", "1"), ("test/one", "2"), ("test/two", "1")]
    vectors = {f"{n}@{r}": encode(tmp_path, encoder=HashEncoder(n, r)) for n, r in made}
    with pytest.raises(ConfigurationError, match=r"test/one@1, test/one@2, test/two@1.*model="):
        TextVectorMap(tmp_path / "T")
    with pytest.raises(ConfigurationError, match="several models"):
        TextVectorMap(tmp_path / "T", model="test/one")
    for name, expected in vectors.items():
        np.testing.assert_array_equal(TextVectorMap(tmp_path / "T", model=name).get_vector("two"), expected[1])
    np.testing.assert_array_equal(
        TextVectorMap(tmp_path / "T", model="test/two").get_vector("two"), vectors["test/two@1"][1]
    )
    with pytest.raises(MirrorError, match=r"no such view\. It has: .*model='test/one@1'"):
        TextVectorMap(tmp_path / "T", model="test/three")


def test_two_settings_of_one_model_are_refused(tmp_path):
    """Two namespaces of one model, role and split are an error; spec= selects one."""
    encode(tmp_path)
    encode(tmp_path, anything=1)
    with pytest.raises(ConfigurationError, match="spec="):
        TextVectorMap(tmp_path / "T")


def test_two_settings_in_two_splits_are_refused(tmp_path):
    """A second setting is an error even if it was used only for another split."""
    encode(tmp_path)
    encode(tmp_path, anything=1, hf_split="dev")
    with pytest.raises(ConfigurationError, match="spec="):
        TextVectorMap(tmp_path / "T")


def test_added_vectors_are_there_after_save(tmp_path):
    """Added vectors have the same bits after saving, in this process and another; a known text keeps its vector."""
    with TextVectorMap(tmp_path / "Mine", spec=SPEC) as found:
        assert found.vector_dim is None
        found.add("one", np.arange(4, dtype=np.float16))
        assert "one" in found
        assert found.vector_dim == 4
        np.testing.assert_array_equal(found.get_vector("one"), np.arange(4))
        found.save()
        found.add("two", np.ones(4, np.float16))
        found.add("one", np.zeros(4, np.float16))
    again = TextVectorMap(tmp_path / "Mine")
    np.testing.assert_array_equal(again.vectors, np.array([[0, 1, 2, 3], [1, 1, 1, 1]], np.float16))
    assert again.vectors.dtype == np.float16
    again.add("three", np.full(4, 3, np.float16))
    again.close()
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_MTEB,
            str(tmp_path / "Mine"),
        ],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == ["[3.0, 3.0, 3.0, 3.0]", "[]"]


def test_adding_to_two_roles_is_refused(tmp_path):
    """Adding to a folder with both roles is refused, because it does not determine the encoder."""
    for role in (PromptType.query, PromptType.document):
        encode(tmp_path, role=role)
    with pytest.raises(ConfigurationError, match="role='query'"):
        TextVectorMap(tmp_path / "T").add("new", np.zeros(64, np.float32))


def test_added_vectors_are_served_by_the_cache(tmp_path):
    """EmbeddingCache returns the vectors that were added under the same spec."""
    from cas_cache import EmbeddingCache

    with TextVectorMap(tmp_path / "Mine", spec=SPEC) as found:
        found.add("one", [1.0, 2.0])
    vectors, there = EmbeddingCache(tmp_path).get(["one", "two"], SPEC)
    assert there.tolist() == [True, False]
    np.testing.assert_array_equal(vectors[0], [1, 2])


def test_a_folder_that_is_no_task(tmp_path):
    """A folder that is not a mirror, and a task that was never run, are errors, and nothing is created."""
    with pytest.raises(MirrorError, match="no cas_cache mirror"):
        TextVectorMap(tmp_path / "nowhere" / "T")
    assert list(tmp_path.iterdir()) == []
    encode(tmp_path)
    with pytest.raises(MirrorError, match=r"no view of U\. The mirror has the tasks T"):
        TextVectorMap(tmp_path / "U")
    with pytest.raises(ConfigurationError, match="not the folder of U"):
        TextVectorMap(tmp_path / "T").load(name="U")


class ByTextAlone(HashEncoder):
    """The same vectors for every task, role and split."""

    def encode(self, inputs, **_):
        return super().encode(inputs, task_metadata=metadata("T"), hf_split="test", hf_subset="default")


@pytest.mark.verify
def test_subsets_and_splits_of_one_task(tmp_path):
    """Views of several subsets and splits are joined; a text in two of them has one row if its vectors are equal."""
    for encoder, directory in ((HashEncoder(), tmp_path / "a"), (ByTextAlone(), tmp_path / "b")):
        for subset, split, texts in (("eng", "test", ["a"]), ("fra", "test", ["b"]), ("fra", "dev", ["a", "c", "c"])):
            encode(directory, texts, encoder, hf_subset=subset, hf_split=split)
        assert len(TextVectorMap(directory / "T").vectors) == 4
    np.testing.assert_array_equal(
        TextVectorMap(tmp_path / "b" / "T").get_vector("a"), encode(tmp_path / "b", ["a"], ByTextAlone())[0]
    )
    with pytest.raises(ConfigurationError, match="2 different vectors"):
        TextVectorMap(tmp_path / "a" / "T").get_vector("a")


def test_an_added_row_is_in_vectors_at_once(tmp_path):
    """Added vectors are found before `save`, as in mteb 1.x, also after another `load`."""
    encode(tmp_path)
    found = TextVectorMap(tmp_path / "T")
    found.add("new", np.ones(64, np.float32))
    for _ in range(2):
        digest = hashlib.sha256(b"new").hexdigest()
        assert found.hash_to_index[digest] == len(DISTINCT)
        np.testing.assert_array_equal(found.vectors[found.hash_to_index[digest]], np.ones(64))
        assert found.vectors.shape == (len(DISTINCT) + 1, 64)
        found.load(name="T")
    found.close()
    again = TextVectorMap(tmp_path / "T")
    assert again.hash_to_index[digest] == len(DISTINCT)
    assert again.vectors.shape == (len(DISTINCT) + 1, 64)


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.zeros(3, np.float32), ShapeMismatch),
        (np.zeros(1, np.float32), ShapeMismatch),
        (np.zeros(4, np.float64), ShapeMismatch),
        (np.zeros((1, 4), np.float32), InvalidEncoderOutput),
        (np.float32(1), InvalidEncoderOutput),
        (np.zeros(0, np.float32), InvalidEncoderOutput),
        (np.array([0, 1, np.nan, 0], np.float32), InvalidEncoderOutput),
        (np.array([0, 1, np.inf, 0], np.float32), InvalidEncoderOutput),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_a_vector_that_does_not_fit_is_refused_at_once(tmp_path, vector, error, stored):
    """A vector of another dtype or length is refused at `add`; the valid row is stored."""
    found = TextVectorMap(tmp_path / "Mine", spec=SPEC)
    found.add("good", np.arange(4, dtype=np.float32))
    if stored:
        found.close()
        found = TextVectorMap(tmp_path / "Mine")
    for text in ("bad", "good"):
        with pytest.raises(error):
            found.add(text, vector)
    assert "bad" not in found
    assert len(found.vectors) == len(found.hash_to_index) == 1
    found.close()
    again = TextVectorMap(tmp_path / "Mine")
    np.testing.assert_array_equal(again.vectors, [[0, 1, 2, 3]])


def test_a_namespace_where_the_prompt_was_changed(tmp_path):
    """The vectors of both prompts are found by id or its prefix; the error lists ids with prompts."""
    vectors = {}
    for prompt in ("find: ", "search: "):
        spec = EncoderSpec(model="m", revision="1", prompt=prompt, role="query")
        with TextVectorMap(tmp_path / "T", spec=spec) as made:
            made.add("one", np.full(4, len(prompt), np.float32))
            made.save()
            vectors[spec.namespace] = made.get_vector("one")
    first, second = vectors
    with pytest.raises(ConfigurationError, match=r"(?=.*'find: ')(?=.*'search: ').*namespace="):
        TextVectorMap(tmp_path / "T")
    for namespace, expected in vectors.items():
        for name in (namespace, namespace[:12]):
            found = TextVectorMap(tmp_path / "T", namespace=name)
            found.load(name="T")
            np.testing.assert_array_equal(found.get_vector("one"), expected)
    with pytest.raises(ConfigurationError, match=rf"no namespace begins with 'nothing'(?=.*{first})(?=.*{second})"):
        TextVectorMap(tmp_path / "T", namespace="nothing")
    with pytest.raises(ConfigurationError, match="2 namespaces begin with"):
        TextVectorMap(tmp_path / "T", namespace="")
    with pytest.raises(ConfigurationError, match="Pass one of them"):
        TextVectorMap(tmp_path / "T", namespace=first, spec=SPEC)


def test_adding_to_a_named_namespace(tmp_path):
    """A row that is added to one namespace of a folder is only in this one."""
    specs = [EncoderSpec(model="m", revision="1", prompt=prompt) for prompt in ("a", "b")]
    for spec in specs:
        with TextVectorMap(tmp_path / "T", spec=spec) as made:
            made.add("one", np.ones(4, np.float32))
    with TextVectorMap(tmp_path / "T", namespace=specs[0].namespace) as found:
        found.add("two", np.ones(4, np.float32))
    assert ["two" in TextVectorMap(tmp_path / "T", namespace=spec.namespace) for spec in specs] == [True, False]
