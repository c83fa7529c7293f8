"""URLs of repositories: supported protocols, checks, and the form in which a URL may be shown. Pure."""

from __future__ import annotations

import re

from cas_cache.errors import InvalidURL

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
"""Extra of this package that installs a protocol's file system."""

PACKAGES = {"s3": "s3fs", "gcs": "gcsfs", "azure": "adlfs"}
"""Package that an extra installs."""

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::|://)")
_LOST_COLON = re.compile(r"(s3|gs|gcs|az|abfs|abfss)//")
LOCAL = re.compile(r"(file|local)://", re.IGNORECASE)

_ARN = re.compile(r"arn:[\w-]*:(?P<service>[\w-]*):(?P<region>[\w-]*):(?P<account>\w*):(?P<resource>.*)")

_PASSWORD = re.compile(r"(?<=://)[^@/?#]*:(?!\d+(?:/|$)).*@")
"""``user:password@``, up to the last @: AWS secrets hold slashes. Digits alone after the colon are a port."""


def is_url(location: str) -> bool:
    """Return True if a location is a URL, False if it is a path.

    Raises:
        InvalidURL: If it looks like a URL that lost a slash; as a path it would create a folder called ``s3:``.
    """
    if _PROTOCOL.match(location):
        return True
    arn = _ARN.fullmatch(location)
    if arn:
        raise InvalidURL(f"The location is an ARN, not a URL. {_instead_of_arn(arn)}")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/*", location) or _LOST_COLON.match(location)
    if scheme:
        # The part before an @ may be a secret.
        rest = location[scheme.end() :].rpartition("@")[2]
        meant = f"{scheme[1]}://{rest}"
        raise InvalidURL(f"The location is neither a URL nor a plain path. Did you mean {meant}?")
    return False


def _instead_of_arn(arn: re.Match[str]) -> str:
    """Return advice on what to write instead of an Amazon resource name."""
    if arn["service"] != "s3":
        return "Name the bucket and the prefix: s3://bucket/prefix."
    if arn["resource"].startswith("accesspoint"):
        return "Name the access point's alias, which stands for a bucket: s3://alias/prefix."
    # Resources in policies end with a star.
    return f"Did you mean s3://{arn['resource'].rstrip('*').rstrip('/')}?"


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query, which may be printed and stored. A path is returned unchanged."""
    if "://" not in url:
        return url
    shown = _PASSWORD.sub("", url)
    if EXTRAS.get(shown.partition("://")[0].lower()) != "azure":
        # In an Azure URL the user part is the container.
        shown = re.sub(r"(?<=://)[^@/?#]*@", "", shown)
    return shown.partition("?")[0]


def check_url(url: str, shown: str, protocol: str) -> None:
    """Raise an error for a URL that a file system would misinterpret."""
    if "?" in url or "#" in url:
        raise InvalidURL(
            f"{shown} has a query or fragment (? or #), which would become a part of every object's name. "
            "Put settings into storage_options=."
        )
    if "::" in url.partition("://")[0]:
        raise InvalidURL(
            "Chained URLs (with ::) are not for repositories: a cache in between would show what is no longer so. "
            f"Name {shown.rpartition('::')[2]} alone."
        )
    if protocol in EXTRAS and _PASSWORD.search(url):
        raise InvalidURL(
            f"There are credentials in the URL of {shown}. Pass them in storage_options=, "
            "or set AWS_ACCESS_KEY_ID and its like."
        )
    if protocol in EXTRAS and not shown.partition("://")[2].partition("/")[0]:
        raise InvalidURL(f"{shown} names no bucket. Write {protocol}://bucket/prefix.")
