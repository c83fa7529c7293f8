"""A bucket of the user's for the tests: CAS_CACHE_TEST_REMOTE=s3://bucket/prefix.

Adds: `UserRemote`, which gives each test a prefix of its own below that URL, and deletes it afterwards.

Never: makes or deletes a bucket, or touches a name that is not below a prefix that it gave away.

Credentials, region and endpoint are the user's own: the AWS_* variables, put back for the tests that use the bucket.
"""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VARIABLE = "CAS_CACHE_TEST_REMOTE"
MAX_DELETED = 1000  # S3's most a request


@dataclass(frozen=True)
class UserRemote:
    """A URL below which tests may write.

    Attributes:
        url: ``s3://bucket`` or ``s3://bucket/prefix``, without a slash at its end.
        environment: The user's AWS_* variables.
    """

    url: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> UserRemote | None:
        """Return what the environment names, or None.

        Raises:
            ValueError: If it is no ``s3://`` URL with a bucket.
        """
        url = environment.get(VARIABLE, "").strip().rstrip("/")
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or "//" in parts.path:
            raise ValueError(f"{VARIABLE}={url!r} is not like s3://bucket/prefix.")
        return cls(url, {name: value for name, value in environment.items() if name.startswith("AWS_")})

    @property
    def storage_options(self) -> dict[str, Any]:
        """Return the s3fs options: the endpoint, if it is not Amazon's. Credentials stay in the environment."""
        endpoint = self.environment.get("AWS_ENDPOINT_URL_S3") or self.environment.get("AWS_ENDPOINT_URL")
        return {"endpoint_url": endpoint} if endpoint else {}

    @contextmanager
    def prefix(self) -> Iterator[str]:
        """Yield a new URL below this one, and delete what is below it at the end."""
        url = f"{self.url}/test-{uuid.uuid4().hex}"
        try:
            yield url
        finally:
            with self.credentials():
                self._delete(url)

    @contextmanager
    def credentials(self) -> Iterator[None]:
        """Have the user's AWS_* variables in the environment, and no others."""
        before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name in self.environment:
                os.environ.pop(name, None)
            os.environ.update(before)

    def _delete(self, url: str) -> None:
        """Delete every object below a URL, but not those that only begin like it."""
        from botocore.session import get_session

        parts = urlsplit(url)
        below = parts.path.lstrip("/") + "/"
        client = get_session().create_client("s3", **self.storage_options)
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=below):
                keys = [found["Key"] for found in page.get("Contents", ())]
                if not all(key.startswith(below) for key in keys):
                    raise RuntimeError(f"{parts.netloc} listed what is not below {below}; nothing was deleted.")
                for start in range(0, len(keys), MAX_DELETED):
                    batch = [{"Key": key} for key in keys[start : start + MAX_DELETED]]
                    answer = client.delete_objects(Bucket=parts.netloc, Delete={"Objects": batch, "Quiet": True})
                    if answer.get("Errors"):
                        raise RuntimeError(f"Not everything below {url} could be deleted: {answer['Errors'][0]}")
        finally:
            client.close()
