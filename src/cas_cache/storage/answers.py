"""Check that an answer really comes from S3 and is complete.

Adds to the SDK, which accepts any answer with status 200 as a success. A login page in answer to a PUT would confirm a
write that never happened, and in answer to a listing it would be an empty listing. A page of a listing that does not
name the next page, although there is one, would end the listing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_answers(session: Any) -> None:
    """Make a session of botocore check the answers of S3.

    A wrong answer raises botocore's `ResponseParserError`, like an answer that cannot be parsed, so that s3fs retries.
    """
    for operation, wrong in _WRONG.items():
        session.register(f"after-call.s3.{operation}", _checker(wrong))


def _checker(wrong: Any) -> Any:
    def check(http_response: Any, parsed: Mapping[str, Any], **_: Any) -> None:
        if http_response.status_code < 300 and (problem := wrong(parsed, http_response)):
            from botocore.parsers import ResponseParserError

            if (body := parsed.get("Body")) is not None:
                body.close()  # it is not read, and its connection stays in use until it is closed
            raise ResponseParserError(problem)

    return check


def _wrong_listing(parsed: Mapping[str, Any], _response: Any) -> str:
    if "IsTruncated" not in parsed:
        return "the answer to a listing is not a listing"
    if parsed["IsTruncated"] and not parsed.get("NextContinuationToken"):
        return "a page of a listing says that there are more and does not name the next"
    return ""


def _wrong_read(parsed: Mapping[str, Any], _response: Any) -> str:
    return "" if parsed.get("ETag") else "the answer to a read has no ETag"


def _wrong_write(parsed: Mapping[str, Any], _response: Any) -> str:
    return "" if parsed.get("ETag") else "the answer to a write does not confirm it with an ETag"


def _wrong_delete(_parsed: Mapping[str, Any], response: Any) -> str:
    # Such an answer has no body and few headers. Some servers (moto) declare HTML and send nothing, with status 204.
    is_html = "html" in str(response.headers.get("content-type", "")).lower()
    is_empty = response.status_code == 204 or str(response.headers.get("content-length", "")) == "0"
    return "the answer to a delete is a page" if is_html and not is_empty else ""


_WRONG = {
    "ListObjectsV2": _wrong_listing,
    "GetObject": _wrong_read,
    "PutObject": _wrong_write,
    "DeleteObject": _wrong_delete,
}
"""Checks by operation. Each takes a parsed and a raw answer, and returns a problem or an empty text."""
