"""An object larger than a server or a proxy accepts: the error states its size, and the limit if that is known.

The server is real as far as HTTP is concerned; its response to a PUT is the fault.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cas_cache.errors import RemoteUnavailable
from cas_cache.storage import open_storage
from cas_cache.storage.failures import put_object
from tiers import sampled

NGINX = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
AMAZON = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>EntityTooLarge</Code><Message>Your proposed upload exceeds "
    b"the maximum allowed size</Message><MaxSizeAllowed>25165824</MaxSizeAllowed></Error>"
)


@contextmanager
def answering(status: int, kind: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Serve one response to every PUT; without a status, the connection is closed in the middle of the body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_PUT(self) -> None:
            if not status:
                self.rfile.read(min(1000, int(self.headers["Content-Length"])))
                self.close_connection = True
                return
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"endpoint_url": f"http://127.0.0.1:{server.server_address[1]}", "key": "x", "secret": "y"}
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "count", "words"),
    sampled(
        [
            ((413, "text/html", NGINX), 8 << 20, "The object has 8.0 MiB, more .* it does not tell its limit"),
            ((400, "application/xml", AMAZON), 8 << 20, "The object has 8.0 MiB, more .* the limit is 24.0 MiB"),
            ((0, "", b""), 8 << 20, "The connection was closed while 8.0 MiB were sent"),
        ],
        keep=3,
    ),
)
def test_an_object_that_is_too_large(answer: tuple[int, str, bytes], count: int, words: str) -> None:
    """The error states the size, the limit, the object's name, and what to do."""
    with answering(*answer) as options:
        storage = open_storage("s3://team/emb", options)
        with pytest.raises(RemoteUnavailable, match=words) as caught:
            put_object(storage, "packs/p/vectors/c/0/0", bytes(count))
    assert "did not take packs/p/vectors/c/0/0" in str(caught.value)
    assert "client_max_body_size" in str(caught.value)
    assert "doctor --test-remote" in str(caught.value)


@pytest.mark.verify
def test_a_small_object_that_breaks_off_is_no_limit() -> None:
    """The size of a small object is not the reason, so the error is the storage's own."""
    with answering(0, "", b"") as options:
        storage = open_storage("s3://team/emb", options)
        with pytest.raises(RemoteUnavailable) as caught:
            put_object(storage, "packs/p/keys/c/0/0", b"small")
    assert "MiB" not in str(caught.value)
