"""The part of HTTP/1.1 that a proxy of an S3 server needs: reading and writing complete requests and responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from asyncio import StreamReader

MAX_LINE = 1 << 16
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(slots=True)
class Message:
    """A request or a response.

    Attributes:
        first: The first line, split at its first two spaces: method, target, version, or version, status, reason.
        headers: (name, value) pairs in their order.
        body: The complete body, without chunked encoding.
    """

    first: list[str]
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return the value of a header; empty if it is absent."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def set(self, name: str, value: str | None) -> None:
        """Replace a header, or remove it."""
        self.headers = [header for header in self.headers if header[0].lower() != name]
        if value is not None:
            self.headers.append((name, value))

    @property
    def status(self) -> int:
        """The status code of a response."""
        return int(self.first[1])

    @property
    def verb(self) -> str:
        """The verb of a storage that a request to S3 stands for."""
        method = self.first[0]
        if method in {"GET", "HEAD"}:
            return "list" if "list-type" in self.query or not self._key else "get"
        return "delete" if method == "DELETE" or "delete" in self.query else "put"

    @property
    def path(self) -> str:
        """The object of a request, or the folder that it lists: ``/bucket/key``."""
        path = unquote(urlsplit(self.first[1]).path)
        return path.rstrip("/") + "/" + self.query.get("prefix", [""])[0] if self.verb == "list" else path

    @property
    def query(self) -> dict[str, list[str]]:
        """The query of a request."""
        return parse_qs(urlsplit(self.first[1]).query, keep_blank_values=True)

    def ask(self, **values: str) -> None:
        """Change the query of a request."""
        parts = urlsplit(self.first[1])
        query = {**{key: parsed[0] for key, parsed in self.query.items()}, **values}
        self.first[1] = parts._replace(query=urlencode(query)).geturl()

    @property
    def _key(self) -> str:
        return urlsplit(self.first[1]).path.strip("/").partition("/")[2]

    def head(self, length: int | None = None) -> bytes:
        """Return first line and headers as bytes to send, with `length` as Content-Length if it is given."""
        headers = [header for header in self.headers if header[0].lower() not in {*_OF_A_CONNECTION, "content-length"}]
        # A response to HEAD keeps its Content-Length: the length of a body that is not sent.
        length_text = str(length) if length is not None else (self.header("content-length") if not self.body else "")
        headers.append(("Content-Length", length_text or str(len(self.body))))
        lines = [" ".join(self.first), *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


async def read_head(reader: StreamReader) -> Message | None:
    """Read a first line and headers; None at the end of the connection."""
    line = (await reader.readline()).decode("latin-1").rstrip("\r\n")
    if not line:
        return None
    message = Message(line.split(" ", 2))
    while header := (await reader.readline()).decode("latin-1").rstrip("\r\n"):
        name, _, value = header.partition(":")
        message.headers.append((name.strip(), value.strip()))
    return message


async def read_body(reader: StreamReader, message: Message) -> None:
    """Read the body of a message whose head was read."""
    if "chunked" in message.header("transfer-encoding").lower():
        parts = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        while (await reader.readline()).strip():
            pass
        message.body = b"".join(parts)
        message.set("content-length", None)
    elif length := message.header("content-length"):
        message.body = await reader.readexactly(int(length))
