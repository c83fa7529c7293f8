"""What is told at the end of an evaluation, to whom, and that nothing of it, or of any log, is a text or a secret."""

import io
import logging
import os
import sys

import pytest
from mteb.models.cache_wrappers.cache_backends.numpy_cache import NumpyCache

import mteb_tasks as tasks
from cas_cache.cache import EmbeddingCache
from cas_cache.errors import RemoteWarning
from cas_cache.mteb import CachedEmbeddingWrapper
from cas_cache.stats import MIN_ITEMS
from mteb_calls import CALL, TEXTS
from mteb_encoders import HashEncoder
from mteb_tasks import loader

MANY = [f"text number {n}" for n in range(MIN_ITEMS)]


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


def evaluated(directory, monkeypatch, stderr, encode_kwargs=None, **options):
    """Encode through a wrapper, close it, and return what was written to stderr then."""
    monkeypatch.setattr(sys, "stderr", stderr)
    model = CachedEmbeddingWrapper(HashEncoder(), directory, **options)
    model.encode(loader(MANY), **CALL, **(encode_kwargs or {}))
    before = stderr.getvalue()
    model.close()
    told = stderr.getvalue()[len(before) :]
    model.close()
    assert stderr.getvalue() == before + told, "nothing was asked for since"
    return told


@pytest.mark.parametrize(
    ("stderr", "asked", "told"),
    [
        (Terminal, ({}, {}), True),
        (Terminal, ({"show_progress_bar": False}, {}), False),
        (Terminal, ({}, {"progress": False}), False),
        (io.StringIO, ({}, {}), False),
        (io.StringIO, ({}, {"progress": True}), True),
        (io.StringIO, ({"show_progress_bar": False}, {"progress": True}), False),
    ],
)
def test_the_summary_is_shown_where_bars_are(stderr, asked, told, tmp_path, monkeypatch, caplog):
    """The summary is shown on a terminal, unless progress is turned off, and logged as INFO."""
    with caplog.at_level(logging.INFO, "cas_cache"):
        shown = evaluated(tmp_path, monkeypatch, stderr(), asked[0], **asked[1])
    lines = [line for line in shown.splitlines() if line.startswith("cas_cache: ")]
    assert (len(lines) == 2) is told
    assert (f"0 of {MIN_ITEMS} items from the cache (0.0%), {MIN_ITEMS} encoded in" in shown) is told
    assert "items from the cache" in caplog.text


def test_quiet_by_default(tmp_path, capfd):
    """No run writes to stdout or stderr, and the library configures no log handlers."""
    for _ in range(2):
        with CachedEmbeddingWrapper(HashEncoder(), tmp_path / "m", remote=str(tmp_path / "repo")) as model:
            model.encode(loader(TEXTS), **CALL)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    handlers = logging.getLogger("cas_cache").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
    assert logging.getLogger("cas_cache").level == logging.NOTSET


@pytest.mark.parametrize("backend", [None, NumpyCache], ids=["mirror", "NumpyCache"])
def test_what_a_backend_saves(backend, tmp_path):
    """A custom backend is timed and counted like the mirror, and no saving is reported without a measurement."""
    encoder = HashEncoder()
    for run in range(2):
        with CachedEmbeddingWrapper(encoder, tmp_path, cache_backend=backend) as model:
            model.encode(loader(MANY), **CALL)
            model.encode(loader(MANY), **CALL)
        assert model.stats.hits == MIN_ITEMS * (1 + run)
        assert model.stats.bytes_served == model.stats.hits * 64 * 4
        assert (model.stats.encoder_seconds > 0) is (run == 0)
        assert (model.stats.seconds_saved is not None) is (run == 0)


def test_a_log_of_every_detail_holds_no_text_and_no_secret(tmp_path, caplog, monkeypatch):
    """The DEBUG log of whole evaluations, also with a failing remote, contains no item, prompt or secret."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    caplog.set_level(logging.DEBUG, "cas_cache")
    task = tasks.misleading_titles()
    encoder = HashEncoder(prompts={"query": "a secret prompt: "})
    for directory in ("one", "one", "two"):
        with CachedEmbeddingWrapper(encoder, tmp_path / directory, remote=str(tmp_path / "repo")) as model:
            tasks.scores(model, task)
    cache = EmbeddingCache(
        tmp_path / "three", remote="memory://user:hunter3@host/x", storage_options={"secret": "hunter4"}
    )
    cache.summary()
    monkeypatch.setattr(cache.repository, "open", lambda: cache.repository.storage.get("nowhere", 0, 1))
    with pytest.warns(RemoteWarning, match="Going on without"):
        cache.encode([text for text, *_ in encoder.seen[:3] if text], _spec(), lambda batch: [[1.0]] * len(batch))
    texts = {str(item) for seen in encoder.seen for item in seen if item and len(str(item)) > 12}
    assert len(texts) > 10
    log = "\n".join(
        f"{record.getMessage()} {record.args}" for record in caplog.records if record.name.startswith("cas_cache")
    )
    assert "pushed pack" in log
    assert "items from the cache" in log
    for secret in ("hunter", "a secret prompt", *texts):
        assert secret not in log
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hunter2"


def _spec():
    from cas_cache import EncoderSpec

    return EncoderSpec(model="org/m", revision="1")
