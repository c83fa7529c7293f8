"""Sizes, durations and counts as text for people. Programs read ``as_json``."""

from __future__ import annotations


def size(count: float) -> str:
    """Return a number of bytes as text: ``"1.2 GB"``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Return a duration as text: ``"0.35 s"``, ``"12 s"``, ``"3 min 5 s"``, ``"2 h 4 min"``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun: ``"1 row"``, ``"1,200 rows"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
