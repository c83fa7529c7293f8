"""Wrappers, backends and maps in other processes: opened again at the same place, or refused with what to do."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from mteb.models.cache_wrappers.cache_backends import NumpyCache

from cas_cache import EncoderSpec
from cas_cache.errors import AlreadyClosed, ConfigurationError
from cas_cache.mteb import CachedEmbeddingWrapper, FaissCache, MirrorCache, TextVectorMap, backend
from mteb_encoders import HashEncoder
from mteb_tasks import loader, metadata

SPEC = EncoderSpec(model="m/m", revision="1")
TEXTS = ["one", "two", "three"]
BY_PICKLE = pytest.mark.parametrize("copied", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy])


def encode(wrapper, texts=TEXTS):
    """Encode texts for a task through a wrapper."""
    call = {"task_metadata": metadata("T"), "hf_split": "test", "hf_subset": "default", "prompt_type": None}
    return np.asarray(wrapper.encode(loader(texts), **call))


@BY_PICKLE
@pytest.mark.parametrize("cache_backend", [None, MirrorCache, FaissCache, NumpyCache])
@pytest.mark.filterwarnings("ignore:(Dimension file not found|No existing files found):UserWarning")
def test_a_wrapper_is_opened_again(tmp_path, cache_backend, copied):
    """A copy finds the stored vectors and encodes new texts; both are closed independently."""
    with CachedEmbeddingWrapper(HashEncoder(), tmp_path, cache_backend=cache_backend) as wrapper:
        answer = encode(wrapper)
        if wrapper._backends is not None:
            wrapper._backends.close()  # writes the files of mteb's own backend
        again = copied(wrapper)
        np.testing.assert_array_equal(encode(again), answer)
        assert again.stats.encoded == 0
        assert again.mteb_model_meta.name == wrapper.mteb_model_meta.name
        again.close()
        np.testing.assert_array_equal(encode(wrapper), answer)


@pytest.mark.verify
def test_a_wrapper_in_a_spawned_process(tmp_path):
    """Vectors that the process encodes are in the mirror after it has ended."""
    with CachedEmbeddingWrapper(HashEncoder(), tmp_path) as wrapper:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            answer = pool.apply_async(encode, (wrapper,)).get(timeout=120)
        np.testing.assert_array_equal(encode(wrapper), answer)
        assert wrapper.stats.encoded == 0


def test_a_closed_wrapper(tmp_path):
    """A closed wrapper cannot be pickled, so it is not opened again by accident."""
    wrapper = CachedEmbeddingWrapper(HashEncoder(), tmp_path)
    wrapper.close()
    with pytest.raises(AlreadyClosed):
        pickle.dumps(wrapper)


@pytest.mark.parametrize("cls", [MirrorCache, FaissCache])
@BY_PICKLE
def test_a_backend_is_opened_again(tmp_path, cls, copied):
    """A copy of a backend has the vectors that were added before, and makes its FAISS index again."""
    with_one = cls(tmp_path, spec=SPEC)
    with_one.add([{"text": "a"}], np.array([[1.0, 2.0]], np.float32))
    again = copied(with_one)
    np.testing.assert_array_equal(again.get_vector({"text": "a"}), [1.0, 2.0])
    again.add([{"text": "b"}], np.array([[3.0, 4.0]], np.float32))
    again.close()
    np.testing.assert_array_equal(with_one.get_vector({"text": "b"}), [3.0, 4.0])
    with_one.close()
    with pytest.raises(AlreadyClosed):
        pickle.dumps(with_one)


def test_the_maker_of_backends(tmp_path):
    """A pickled backend factory contains neither open caches nor credentials."""
    made = backend(HashEncoder(), revision="1", model_id="m/m")
    made(tmp_path / "T").add([{"text": "a"}], np.array([[1.0, 2.0]], np.float32))
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again(tmp_path / "T").get_vector({"text": "a"}), [1.0, 2.0])
    secret = backend(HashEncoder(), remote="s3://b/p", storage_options={"secret": "not-to-be-seen"})
    with pytest.raises(ConfigurationError, match="Open it in the worker"):
        pickle.dumps(secret)


@BY_PICKLE
def test_a_map_is_opened_again(tmp_path, copied):
    """A copy of a map has stored and unsaved vectors; saving both stores them once."""
    with CachedEmbeddingWrapper(HashEncoder(), tmp_path) as wrapper:
        answer = encode(wrapper)
    first = TextVectorMap(tmp_path / "T")
    first.add("added", answer[0])
    again = copied(first)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    np.testing.assert_array_equal(again.get_vector("added"), answer[0])
    again.close()
    np.testing.assert_array_equal(first.get_vector("two"), answer[1])
    first.close()
    assert len(TextVectorMap(tmp_path / "T").vectors) == 4
    with pytest.raises(AlreadyClosed):
        copied(first)
