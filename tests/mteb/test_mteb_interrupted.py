"""An evaluation that is interrupted keeps what it committed; running it again encodes the rest, to the same end."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import mteb_tasks as tasks
from cas_cache.errors import DataWarning, InvalidEncoderOutput, ShapeMismatch
from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_encoders import HashEncoder
from mteb_fidelity_encoders import MediaEncoder
from mteb_fidelity_runs import all_scores
from paths import SUPPORT
from tiers import sampled

CHUNK = 4
BEFORE = 7
"""Chunks that are encoded and committed before the one that is interrupted; the queries take six."""

TASKS = {make.__name__: make for make in (tasks.misleading_titles, tasks.two_languages)}

RUN = """
import sys
from cas_cache.mteb import CachedEmbeddingWrapper
import mteb_tasks as tasks
from mteb_fidelity_encoders import MediaEncoder
from mteb_fidelity_runs import all_scores

class Waits(MediaEncoder):
    calls = 0

    def encode(self, inputs, **kwargs):
        answer = super().encode(inputs, **kwargs)
        if self.calls == int(sys.argv[4]):
            print("ready", flush=True)
            sys.stdin.read()  # until the parent has sent its signal, whenever that arrives
        self.calls += 1
        return answer

Waits.__module__, Waits.__qualname__ = MediaEncoder.__module__, "MediaEncoder"
task = getattr(tasks, sys.argv[1])()
with CachedEmbeddingWrapper(Waits(), sys.argv[2], remote=sys.argv[3], chunk_items=4) as cached:
    all_scores(cached, task)
"""


def check_resumed(encoder, make, place, committed):
    """Run again: the plain run's scores, what was committed not encoded again, and what was not, once."""
    plain = all_scores(encoder, make())
    every = set(encoder.forget())
    with CachedEmbeddingWrapper(encoder, place / "mirror", remote=str(place / "remote"), chunk_items=CHUNK) as cached:
        before = sum(ns.rows for ns in cached.cache.mirror.namespaces())
        assert before == committed
        assert all_scores(cached, make()) == plain
    rest = encoder.forget()
    assert len(rest) == len(set(rest)) == len(every) - committed
    assert set(rest) < every
    with CachedEmbeddingWrapper(encoder, place / "new", remote=str(place / "remote"), only_cached=True) as elsewhere:
        assert all_scores(elsewhere, make()) == plain


@pytest.mark.verify
@pytest.mark.parametrize(
    ("number", "name"),
    sampled(
        [
            (signal.SIGINT, "misleading_titles"),
            (signal.SIGTERM, "misleading_titles"),
            (signal.SIGKILL, "misleading_titles"),
            (signal.SIGKILL, "two_languages"),
        ],
        keep={(signal.SIGKILL, "misleading_titles")},
    ),
)
def test_a_signal_in_the_middle(number, name, tmp_path):
    """Ctrl-C, SIGTERM and SIGKILL during a chunk lose this chunk, and no chunk that was committed before."""
    arguments = [name, str(tmp_path / "mirror"), str(tmp_path / "remote"), str(BEFORE)]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    assert run.returncode not in (0, None)
    assert number is not signal.SIGINT or "KeyboardInterrupt" in errors
    # Which chunks are full depends on the task: count them, and compare with what is there.
    check_resumed(MediaEncoder(), TASKS[name], tmp_path, committed=chunks_of(TASKS[name], tmp_path / "whole", BEFORE))


def chunks_of(make, place, count):
    """How many items the first chunks of an evaluation hold."""
    sizes = []

    class Counts(MediaEncoder):
        def encode(self, inputs, **kwargs):
            sizes.append(len(inputs.dataset))
            return super().encode(inputs, **kwargs)

    all_scores(CachedEmbeddingWrapper(Counts(), place, chunk_items=CHUNK), make())
    assert len(sizes) > count
    return sum(sizes[:count])


class Fails(HashEncoder):
    """Fails once, after some calls, as told."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls = how, 0

    def encode(self, inputs, **kwargs):
        vectors = super().encode(inputs, **kwargs)
        self.calls += 1
        if self.calls != BEFORE + 1:
            return vectors
        del self.seen[-len(vectors) :]
        return self.how(vectors)


Fails.__module__, Fails.__qualname__ = HashEncoder.__module__, "HashEncoder"


def out_of_memory(_):
    raise RuntimeError("out of memory")


def interrupted(_):
    raise KeyboardInterrupt


WRONG = {
    "raises": (out_of_memory, RuntimeError),
    "is interrupted": (interrupted, KeyboardInterrupt),
    "one too few": (lambda vectors: vectors[:-1], InvalidEncoderOutput),
    "one too many": (lambda vectors: np.concatenate([vectors, vectors[:1]]), InvalidEncoderOutput),
    "other width": (lambda vectors: vectors[:, :7], ShapeMismatch),
    "other dtype": (lambda vectors: vectors.astype(np.float64), ShapeMismatch),
    "one dimension": (lambda vectors: vectors.sum(axis=1), InvalidEncoderOutput),
    "all in one": (lambda vectors: vectors.reshape(1, -1), InvalidEncoderOutput),
    "nothing": (lambda _: None, InvalidEncoderOutput),
    "strings": (lambda vectors: [["a"]] * len(vectors), InvalidEncoderOutput),
}


@pytest.mark.parametrize("name", sampled(WRONG, keep={"raises"}))
def test_an_encoder_that_fails(name, tmp_path):
    """An encoder that raises, or returns another number, shape or type, is a typed error; committed chunks stay."""
    how, error = WRONG[name]
    encoder = Fails(how)
    with (
        pytest.raises(error),
        CachedEmbeddingWrapper(encoder, tmp_path / "mirror", remote=str(tmp_path / "remote"), chunk_items=CHUNK) as run,
    ):
        all_scores(run, tasks.misleading_titles())
    assert run.stats.encoded >= BEFORE * CHUNK
    encoder.forget()
    check_resumed(HashEncoder(), tasks.misleading_titles, tmp_path, committed=BEFORE * CHUNK)


def test_a_vector_that_is_not_finite(tmp_path):
    """NaN is returned with a warning and not stored; the next run encodes only this item again."""

    def not_a_number(vectors):
        vectors[1] = np.nan
        return vectors

    remote, task = str(tmp_path / "remote"), tasks.misleading_titles
    texts = [f"topic{i}" for i in range(40)]
    encoder, call = Fails(not_a_number), {"task_metadata": task().metadata, "hf_split": "test", "hf_subset": "default"}
    with (
        pytest.warns(DataWarning, match="1 vectors"),
        CachedEmbeddingWrapper(encoder, tmp_path / "mirror", remote=remote, chunk_items=CHUNK) as run,
    ):
        found = run.encode(tasks.loader(texts), **call)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [BEFORE * CHUNK + 1]
    encoder = HashEncoder()
    plain = encoder.encode(tasks.loader(texts), **call)
    encoder.forget()
    with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", remote=remote) as run:
        np.testing.assert_array_equal(run.encode(tasks.loader(texts), **call), plain)
    assert [item for *_, item in encoder.forget()] == [repr({"text": texts[BEFORE * CHUNK + 1]})]
