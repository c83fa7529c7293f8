"""A server that answers every request with the same error document of S3, or with something else."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def answering(status: int, body: str, kind: str = "application/xml") -> Iterator[str]:
    """Yield the endpoint of a server that gives one answer to everything, whatever is asked."""
    content = body.encode()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
