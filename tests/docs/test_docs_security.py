"""explanation/threat-model.md: what it says that keys, trust, umask and a reader's guess do, they do."""

import stat
from importlib.util import find_spec
from pathlib import Path

import pytest

from page_runner import a_users, play
from paths import ROOT

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"


@pytest.mark.skipif(find_spec("cryptography") is None, reason="cryptography is not installed")
@pytest.mark.verify
def test_the_page_is_what_happens(tmp_path: Path) -> None:
    """Every block runs, and prints what the page shows; the shared mirror has the mode that it is given."""
    page = PAGE.read_text("utf-8")
    environment = {**a_users(tmp_path), "CAS_CACHE_SELF_CHECK": "0"}
    (tmp_path / "page").mkdir()
    assert play(page, tmp_path / "page", environment, prose=False) == page
    assert stat.S_IMODE((tmp_path / "page" / "mirror-of-all").stat().st_mode) == 0o2770
    assert stat.S_IMODE((tmp_path / "page" / "alices").stat().st_mode) == 0o700


def test_security_names_the_threat_model() -> None:
    """SECURITY.md says how to report, and leads to the page."""
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "Report a vulnerability" in text
    assert "docs/explanation/threat-model.md" in text
