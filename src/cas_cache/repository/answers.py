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
        if http_response.status_code < 300 and (problem := wrong(parsed, http_response)):
            from botocore.parsers import ResponseParserError

            if (body := parsed.get("Body")) is not None:
                body.close()  # nobody reads it, and its connection waits for that
            raise ResponseParserError(problem)

    return check


def _wrong_listing(parsed: Mapping[str, Any], _response: Any) -> str:
    if "IsTruncated" not in parsed:
        return "the answer to a listing is no listing"
    if parsed["IsTruncated"] and not parsed.get("NextContinuationToken"):
        return "a page of a listing says that there are more and does not name the next"
    return ""


def _wrong_read(parsed: Mapping[str, Any], _response: Any) -> str:
    return "" if parsed.get("ETag") else "the answer to a read has no ETag"


def _wrong_write(parsed: Mapping[str, Any], _response: Any) -> str:
    return "" if parsed.get("ETag") else "the answer to a write does not confirm it with an ETag"


def _wrong_delete(_parsed: Mapping[str, Any], response: Any) -> str:
    # It has no body and few headers to know it by. Some servers (moto) declare HTML and send nothing, with status 204.
    is_html = "html" in str(response.headers.get("content-type", "")).lower()
    is_empty = response.status_code == 204 or str(response.headers.get("content-length", "")) == "0"
    return "the answer to a delete is a page" if is_html and not is_empty else ""


_WRONG = {
    "ListObjectsV2": _wrong_listing,
    "GetObject": _wrong_read,
    "PutObject": _wrong_write,
    "DeleteObject": _wrong_delete,
}
"""By operation: given an answer, parsed and as it came, what is wrong with it, or nothing."""
