"""What an answer of S3 always says: one that does not say it comes from somebody else, or is not whole.

Adds to the SDK: it takes any answer with status 200 for success. A login page in answer to a PUT would be an
acknowledgement of what was never written, and in answer to a listing an empty one; a page of a listing that names no
next one although there is more would be its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_answers(session: Any) -> None:
    """Let a session of botocore check what S3 answers.

    What is not S3's raises botocore's `ResponseParserError`, as answers do that cannot be parsed: s3fs asks again.
    """
    for operation, wrong in _WRONG.items():
        session.register(f"after-call.s3.{operation}", _checker(wrong))


def _checker(wrong: Any) -> Any:
    def check(http_response: Any, parsed: Mapping[str, Any], **_: Any) -> None:
        if http_response.status_code < 300 and (problem := wrong(parsed, http_response.headers)):
            from botocore.parsers import ResponseParserError

            if (body := parsed.get("Body")) is not None:
                body.close()  # nobody reads it, and its connection waits for that
            raise ResponseParserError(problem)

    return check


def _listing(parsed: Mapping[str, Any], _headers: Any) -> str:
    if "IsTruncated" not in parsed:
        return "the answer to a listing is no listing"
    if parsed["IsTruncated"] and not parsed.get("NextContinuationToken"):
        return "a page of a listing says that there are more and does not name the next"
    return ""


def _read(parsed: Mapping[str, Any], _headers: Any) -> str:
    return "" if parsed.get("ETag") else "the answer to a read has no ETag"


def _written(parsed: Mapping[str, Any], _headers: Any) -> str:
    return "" if parsed.get("ETag") else "the answer to a write does not confirm it with an ETag"


def _deleted(_parsed: Mapping[str, Any], headers: Any) -> str:
    # It has no body and few headers to know it by.
    return "the answer to a delete is a page" if "html" in str(headers.get("content-type", "")).lower() else ""


_WRONG = {"ListObjectsV2": _listing, "GetObject": _read, "PutObject": _written, "DeleteObject": _deleted}
"""By operation: given an answer and its headers, what is wrong with it, or nothing."""
