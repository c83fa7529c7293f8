"""Inject faults into pages of S3 listings."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from cas_cache.testing.faults import Fault, cut_listing, duplicate_entry, missing_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ENTRY = re.compile(r"<Contents>.*?</Contents>", re.DOTALL)
_TOKEN = re.compile(r"<NextContinuationToken>.*?</NextContinuationToken>", re.DOTALL)
_TIME = re.compile(r"(?<=<LastModified>)[^<]*(?=</LastModified>)")


def _with_entries(page: str, entries: list[str]) -> str:
    """Return a page with other entries, and their correct count."""
    matches = list(_ENTRY.finditer(page))
    if not matches:
        return page.replace("</ListBucketResult>", "".join(entries) + "</ListBucketResult>")
    page = page[: matches[0].start()] + "".join(entries) + _ENTRY.sub("", page[matches[0].start() :])
    return re.sub(r"(?<=<KeyCount>)\d+(?=</KeyCount>)", str(len(entries)), page)


def _stale(fault: Fault, page: str, gone: Mapping[str, str]) -> str:
    entries = _ENTRY.findall(page)
    missing = [block for _, block in sorted(gone.items()) if block not in entries]
    return _with_entries(page, [*entries, missing[fault.which % len(missing)]]) if missing else page


def _cut(fault: Fault, page: str, _gone: Mapping[str, str]) -> str:
    """Return a page with part of its entries that claims to be the last."""
    short = _with_entries(page, cut_listing(fault, _ENTRY.findall(page)))
    return _TOKEN.sub("", short).replace("<IsTruncated>true<", "<IsTruncated>false<")


def _lost_token(fault: Fault, page: str, _gone: Mapping[str, str]) -> str:
    """Return a page with part of its entries that claims that more follow, without the token to request them."""
    short = _with_entries(page, cut_listing(fault, _ENTRY.findall(page)))
    return _TOKEN.sub("", short).replace("<IsTruncated>false<", "<IsTruncated>true<")


def _skew(fault: Fault, page: str, _gone: Mapping[str, str]) -> str:
    def moved(match: re.Match[str]) -> str:
        time = dt.datetime.fromisoformat(match[0]) + dt.timedelta(seconds=fault.seconds)
        return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    return _TIME.sub(moved, page)


CHANGES: dict[str, Callable[[Fault, str, Mapping[str, str]], str]] = {
    "stale-entry": _stale,
    "missing-entry": lambda fault, page, _: _with_entries(page, missing_entry(fault, _ENTRY.findall(page))),
    "duplicate-entry": lambda fault, page, _: _with_entries(page, duplicate_entry(fault, _ENTRY.findall(page))),
    "cut-listing": _cut,
    "lost-token": _lost_token,
    "skew": _skew,
}
"""Functions by kind of fault that return the changed page, given a fault, a page and the entries of deleted objects."""
