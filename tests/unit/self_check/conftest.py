"""Turn the self-check on, as it is for users; the other tests run without it."""

import pytest


@pytest.fixture(autouse=True)
def _on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAS_CACHE_SELF_CHECK")
