"""What a page tells to install: this package by a requirement that resolves, with extras that it has."""

import re
import tomllib

from paths import ROOT

OURS = re.compile(r"(?:\.\.?|cas[-_]cache)(?:\[([\w,]+)\])?(?: @ git\+(https://\S+))?")


def assert_installs(words: list[str]) -> None:
    """Check the words after `pip install`: a clone or the repository's address, extras that exist, known packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = set(project["project"]["optional-dependencies"])
    tested = (one for one in project["dependency-groups"]["test"] if isinstance(one, str))
    known = {"torch", *(re.split(r"[^\w-]", one)[0] for one in tested)}
    while words:
        word = words.pop(0)
        ours = OURS.fullmatch(word)
        if ours is None:
            assert word in known, word
            continue
        assert set((ours[1] or "").split(",")) - {""} <= extras, word
        if not word.startswith("."):
            assert ours[2] == "https://github.com/cas-cache/cas-cache", f"{word}: there is no such package on an index"
