"""Servers whose answers a test chooses: the same error document of S3 for every request, or what a function says."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXTS = {
    "AccessDenied": (403, "Access Denied"),
    "ExpiredToken": (400, "The provided token has expired."),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist in our records."),
    "SignatureDoesNotMatch": (403, "The request signature we calculated does not match the signature you provided."),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "AuthorizationHeaderMalformed": (400, "The region 'us-east-1' is wrong; expecting 'eu-west-1'"),
    "PermanentRedirect": (301, "The bucket must be addressed using the specified endpoint."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
}
"""What S3 says, by error code: status and message."""

LOGIN = "<html><head><title>Welcome</title></head><body>Sign in to the hotel's network</body></html>"


class Server(ThreadingHTTPServer):
    """A server whose clients may hang up in the middle of an answer, as a client does that wants no HTML."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


Answer = tuple[int, dict[str, str], bytes]
Answerer = Callable[[str, str, Any, bytes], Answer]


@contextmanager
def serving(answer: Answerer, *, date: float | None = None) -> Iterator[str]:
    """Yield the endpoint of a server that answers as a function says: given method, path, headers and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = answer(self.command, self.path, self.headers, body)
            self.send_response_only(status)
            self.send_header("Date", formatdate(date, usegmt=True))
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204 and "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = respond  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def answering(status: int, body: str, kind: str = "application/xml") -> AbstractContextManager[str]:
    """Return what yields the endpoint of a server that gives one answer to everything, whatever is asked."""
    return serving(lambda *_: (status, {"Content-Type": kind}, body.encode()))


def error_document(code: str, more: str = "") -> str:
    """Return what S3 sends with an error."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{TEXTS[code][1]}{more}</Message>'
        "<RequestId>4442587FB7D0A2F9</RequestId></Error>"
    )


@contextmanager
def refusing(code: str, more: str = "") -> Iterator[str]:
    """Yield the endpoint of a server that refuses everything with an error code of S3."""
    with answering(TEXTS[code][0], error_document(code, more)) as endpoint:
        yield endpoint
