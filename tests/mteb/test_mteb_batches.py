"""A loader's dataset as a batch: one hash over its Arrow buffers stands for its rows, and only for them."""

import errno
import functools
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader

from cas_cache.errors import DataWarning, MirrorWriteError
from cas_cache.identity import keys_of_rows
from cas_cache.mteb import CachedEmbeddingWrapper, dataset_adapter
from mteb_encoders import TitleBodyEncoder
from mteb_tasks import metadata
from tiers import sampled

META = metadata("A")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_adapter, "MIN_ITEMS", 0)


def digest(dataset: Dataset, fields: tuple[str, ...] = ("text",)) -> bytes | None:
    return dataset_adapter.batch_of_dataset(dataset, fields).digest


def of(*texts: str, **columns: Any) -> Dataset:
    return Dataset.from_dict({"text": list(texts), **columns})


def test_the_digest_does_not_depend_on_how_the_table_lies() -> None:
    """The same rows in other chunks, slices and copies have the same batch digest."""
    whole = of("a", "bc", "", "é", "a")
    pieces = concatenate_datasets([of("a", "bc"), of(""), of("é", "a")])
    assert len(pieces.data.column("text").chunks) == 3
    slice_ = of("x", "a", "bc", "", "é", "a", "y").select(range(1, 6))
    assert digest(whole) is not None
    assert digest(whole) == digest(pieces) == digest(slice_)
    assert digest(whole, ("text", "title")) == digest(whole)


def test_other_rows_are_another_batch() -> None:
    """Order, boundaries, fields and columns change the digest of a batch."""
    batches = [
        of("ab", "c"), of("a", "bc"), of("c", "ab"), of("ab"), of("ab", "c", ""), of("", "ab", "c"),
        of("ab", "c", title=["", ""]), of("", "", title=["ab", "c"]), of("ab", "c", title=["x", ""]),
        of("a", "b", title=["c", ""]), of("a", "b", title=["", "c"]),
    ]  # fmt: skip
    digests = [digest(batch, ("text", "title")) for batch in batches]
    assert None not in digests
    assert len(set(digests)) == len(batches)
    assert digest(of("ab", "c", title=["x", ""])) == digest(of("ab", "c"))


def test_what_is_not_plain_strings_in_a_plain_table_has_no_digest() -> None:
    """Missing values, other types, selected or formatted rows and other datasets have no digest, only keys."""
    assert digest(of("a", None)) is None  # type: ignore[arg-type]
    assert digest(Dataset.from_dict({"text": [1, 2]})) is None
    assert digest(of("a", "b", "c").select([2, 0])) is None
    assert digest(of("a", "b").with_format("numpy")) is None
    assert digest(of("a").with_transform(lambda rows: {"text": [t.upper() for t in rows["text"]]})) is None
    assert digest(of("a"), ("image",)) is None
    assert dataset_adapter.batch_of_dataset([{"text": "a"}], ("text",)).digest is None


def test_few_rows_have_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches have no digest, because hashing them costs more than it saves."""
    monkeypatch.setattr(dataset_adapter, "MIN_ITEMS", 3)
    assert digest(of("a", "b")) is None
    assert digest(of("a", "b", "c")) is not None


@pytest.mark.parametrize("seed", sampled(range(20), keep=5))
def test_equal_digests_have_equal_keys(seed: int) -> None:
    """For random columns in random chunks, digests are equal exactly if the keys are."""
    random = np.random.default_rng(seed)

    def column(n: int) -> list[str]:
        return ["".join(random.choice(list("ab"), random.integers(0, 3))) for _ in range(n)]

    batches = [of(*column(3), title=column(3)) for _ in range(12)]
    fields = ("text", "title")
    for one, other in itertools.combinations(batches, 2):
        keys = [keys_of_rows({f: b[f][:] for f in fields}, fields) for b in (one, other)]
        assert (digest(one, fields) == digest(other, fields)) == np.array_equal(*keys)


def test_the_wrapper_answers_a_batch_it_knows_from_the_memo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated batch needs no keys, in the same object and a new one; its view is recorded once."""
    titles = [f"title {i}" for i in range(50)]
    rows = {"text": [f"{t} body" for t in titles], "title": titles, "id": [str(i) for i in range(50)]}

    def ask(wrapper: CachedEmbeddingWrapper, rows: dict[str, list[str]]) -> Any:
        loader = DataLoader(Dataset.from_dict(rows), batch_size=7)
        return wrapper.encode(loader, task_metadata=META, hf_split="test", hf_subset="default")

    wrapper = CachedEmbeddingWrapper(TitleBodyEncoder(), tmp_path / "cache")
    first = ask(wrapper, rows)
    backwards = {name: values[::-1] for name, values in rows.items()}
    np.testing.assert_array_equal(ask(wrapper, backwards), first[::-1])
    with monkeypatch.context() as patch:
        patch.setattr(dataset_adapter, "_keys_of_dataset", lambda *_: pytest.fail("keys were made"))
        np.testing.assert_array_equal(ask(wrapper, rows), first)
        np.testing.assert_array_equal(ask(wrapper, backwards), first[::-1])
    again = CachedEmbeddingWrapper(TitleBodyEncoder(), tmp_path / "cache")
    np.testing.assert_array_equal(ask(again, rows), first)
    assert again.stats.encoded == 0
    other = {**rows, "title": ["another", *titles[1:]]}
    assert not np.array_equal(ask(again, other), first)
    (view,) = again.cache.mirror.views.of(META.name)
    found = again.cache.mirror.view(META.name)
    assert found.view == view
    assert found.ids == [*rows["id"], *rows["id"][::-1], *rows["id"]]


def test_chunks_are_selected_without_a_hash_of_their_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consecutive rows are a slice of the table; other rows are selected by position."""
    calls = []
    select = Dataset.select

    @functools.wraps(select)
    def noted(self: Dataset, indices: Any, **named: Any) -> Dataset:
        calls.append((indices, named.get("new_fingerprint")))
        return select(self, indices, **named)

    monkeypatch.setattr(Dataset, "select", noted)
    wrapper = CachedEmbeddingWrapper(TitleBodyEncoder(), tmp_path / "cache", chunk_items=4)
    texts = [f"t{i}" for i in range(12)]
    for some in (texts[2:4], texts):
        loader = DataLoader(Dataset.from_dict({"text": some, "title": some}), batch_size=3)
        wrapper.encode(loader, task_metadata=META, hf_split="test", hf_subset="default")
    assert [indices for indices, _ in calls] == [range(2), [0, 1, 4, 5], range(6, 10), range(10, 12)]
    assert None not in {fingerprint for _, fingerprint in calls}


def test_a_mirror_that_may_not_be_written_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that cannot be recorded is a warning; a full disk is an error."""
    rows = Dataset.from_dict({"text": ["a", "b"]})

    def ask() -> Any:
        wrapper = CachedEmbeddingWrapper(TitleBodyEncoder(), tmp_path / "cache")
        return wrapper.encode(DataLoader(rows), task_metadata=META, hf_split="test", hf_subset="other")

    first = ask()
    (tmp_path / "cache" / META.name).rename(tmp_path / "away")

    def refuses(number: int) -> Any:
        def mkdir(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        return mkdir

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuses(errno.EROFS))
        with pytest.warns(DataWarning, match="are not recorded"):
            np.testing.assert_array_equal(ask(), first)
        patch.setattr(Path, "mkdir", refuses(errno.ENOSPC))
        with pytest.raises(MirrorWriteError):
            ask()
