"""The minimal permissions of each role, in the terms of each storage.

They follow from the requests of cas_cache: GET, LIST and DELETE of objects and single PUTs, because no object is larger
than 48 MiB. It uses no multipart uploads and does not access the settings of a bucket. On S3, s3fs sends a HEAD for a
folder whose listing is empty, including the root itself, so the policy has that name with and without what is below it.
"""

from __future__ import annotations

import getpass
import json
import re
import stat
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

from cas_cache.config.urls import EXTRAS
from cas_cache.storage.codes import PERMISSIONS


class Role(StrEnum):
    """Role of a person or program that uses a repository."""

    READER = "reader"
    """Only pulls."""
    WRITER = "writer"
    """Pulls and pushes."""
    MAINTAINER = "maintainer"
    """Also deletes: prune, drop, and compact when two compactions collide."""


_EVERY_FOLDER = "write and execute on every folder"
_PERMISSIONS = {
    **{service: {**names, "missing": names["list"]} for service, names in PERMISSIONS.items()},
    "local": {
        "list": "read and execute on every folder",
        "get": "read on the files and execute on their folders",
        "missing": "execute on every folder",
        "put": _EVERY_FOLDER,
        "overwrite": _EVERY_FOLDER,
        "delete": _EVERY_FOLDER,
    },
}


def permission(url: str, verb: str) -> str:
    """Return the name of the permission for a verb at the storage of a URL; empty if unknown."""
    return _PERMISSIONS.get(_service_of(url), {}).get(verb, "")


def grant(url: str, role: Role) -> str:
    """Return the permissions to grant for a role, as text for the administrator of the storage.

    Args:
        url: The repository's URL, without credentials.
        role: The role.

    Returns:
        Several lines; empty if unknown.
    """
    service = _service_of(url)
    if service == "s3":
        return json.dumps(s3_policy(url, role), indent=2)
    if service == "gcs":
        return _google(url, role)
    if service == "azure":
        return _azure(url, role)
    return _local(url, role) if service == "local" else ""


def removal(url: str) -> str:
    """Return a command that deletes all objects below a URL."""
    service, (bucket, prefix) = _service_of(url), _bucket_and_prefix(url)
    return {
        "s3": f"aws s3 rm --recursive s3://{bucket}/{prefix}/",
        "gcs": f"gcloud storage rm --recursive gs://{bucket}/{prefix}/",
        "azure": f"az storage blob delete-batch --source {bucket.partition('@')[0]} --pattern '{prefix}/*'",
        "local": f"rm -r '{url}'",
    }.get(service, f"delete every object below {url}")


def s3_policy(url: str, role: Role) -> dict[str, Any]:
    """Return an IAM policy for a role that covers only the bucket's prefix.

    The policies are the files ``iam-<role>.json``, for s3://team/emb, which docs/how-to/ci.md quotes.
    """
    bucket, prefix = _bucket_and_prefix(url)
    values = {"team": json.dumps(bucket)[1:-1], "emb": json.dumps(prefix)[1:-1]}
    text = resources.files("cas_cache.doctor").joinpath(f"iam-{role}.json").read_text("utf-8")
    policy: dict[str, Any] = json.loads(re.sub(r"\b(team|emb)\b", lambda match: values[match[0]], text))
    if not prefix:  # a whole bucket needs no condition
        for statement in policy["Statement"]:
            of_objects = statement.pop("Condition", None) is None
            statement["Resource"] = [f"arn:aws:s3:::{bucket}{'/*' if of_objects else ''}"]
    return policy


def _google(url: str, role: Role) -> str:
    bucket, _ = _bucket_and_prefix(url)
    name = "roles/storage.objectViewer" if role == Role.READER else "roles/storage.objectUser"
    lines = [f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=user:EMAIL --role={name}"]
    if role == Role.WRITER:
        lines.append(
            "roles/storage.objectCreator is not enough: writing over an object needs storage.objects.delete as well."
        )
    return "\n".join(lines)


def _azure(url: str, role: Role) -> str:
    bucket, _ = _bucket_and_prefix(url)
    container, _, host = bucket.partition("@")
    account = host.partition(".")[0] or "ACCOUNT"
    name = "Storage Blob Data Reader" if role == Role.READER else "Storage Blob Data Contributor"
    signature = {Role.READER: "rl", Role.WRITER: "rwl", Role.MAINTAINER: "rwdl"}[role]
    scope = (
        "/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Storage/storageAccounts/"
        f"{account}/blobServices/default/containers/{container}"
    )
    lines = [f'az role assignment create --assignee EMAIL --role "{name}" --scope {scope}']
    if role == Role.WRITER:
        lines.append("That role may delete as well; no built-in role writes and does not.")
    return "\n".join([*lines, f"or a shared access signature of the container with the permissions {signature}"])


def _local(directory: str, role: Role) -> str:
    """Describe the permissions along the path of a directory, and how to give a group access."""
    path = Path(directory)
    lines = [line for folder in (*reversed(path.parents), path) if (line := _mode(folder))]
    if role == Role.READER:
        repair = [f"chgrp -R GROUP '{path}'", f"chmod -R g+rX '{path}'"]
    else:
        repair = [
            f"chgrp -R GROUP '{path}'",
            f"chmod -R g+rwX '{path}'",
            f"find '{path}' -type d -exec chmod g+s {{}} +",
        ]
    who = f"You are {_user()}. Every folder above needs execute (x) for you; then, as the owner, for a group:"
    return "\n".join([*lines[-4:], who, *repair])


def _mode(path: Path) -> str:
    try:
        status = path.stat()
        return f"{stat.filemode(status.st_mode)} {path.owner()}:{path.group()} {path}"
    except (OSError, KeyError, NotImplementedError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "a user without a name"


def _service_of(url: str) -> str:
    protocol, separator, _ = url.partition("://")
    if separator:
        return EXTRAS.get(protocol.lower(), "")
    return "local" if url.startswith("/") else ""


def _bucket_and_prefix(url: str) -> tuple[str, str]:
    bucket, _, prefix = url.partition("://")[2].partition("/")
    return bucket, prefix.strip("/")
