"""The order in which an append reaches the disk; one append waits for another."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.table import Table
from storages import SPEC, texts, truth


def test_columns_are_durable_before_the_state_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each column is flushed after its last write and before `state.json` is renamed: no power failure loses a row."""
    ns = Mirror(tmp_path / "mirror").namespace(SPEC)
    ns.append(keys_of_texts(texts(2)), truth(texts(2)))
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        steps.append(f"{Path(target).name} is named")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    ns.append(keys_of_texts(texts(2, 2)), truth(texts(2, 2)))
    before = steps[: steps.index("state.json is named")]
    assert {"keys.npy", "vectors.npy", "digests.npy"} <= set(before)


def test_an_append_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's append in the middle of this one would overwrite its rows, so it comes after it."""
    mine, theirs = (Mirror(tmp_path / "mirror").namespace(SPEC) for _ in range(2))
    mine.append(keys_of_texts(texts(1)), truth(texts(1)))
    append, others = Table.append, threading.Thread(target=lambda: theirs.append(*rows_of(2, 10)), daemon=True)

    def interrupted(self: Table, *args: object) -> None:
        if self is mine.table:
            others.start()
            others.join(0.5)
        append(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "append", interrupted)
    mine.append(*rows_of(3, 20))
    others.join(60)
    found = Mirror(tmp_path / "mirror").get(SPEC.namespace)
    assert found is not None
    wanted = texts(1) + texts(2, 10) + texts(3, 20)
    np.testing.assert_array_equal(found.take(found.find(keys_of_texts(wanted))), truth(wanted))


def rows_of(count: int, start: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return keys_of_texts(texts(count, start)), truth(texts(count, start))
