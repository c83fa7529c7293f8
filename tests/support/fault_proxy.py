"""A proxy between a real S3 client and a real S3 server that injects faults into their HTTP.

It works with LocalStack, or with any server that does not check signatures of changed requests. It uses only the
standard library: asyncio, in a thread of its own, on a free port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, get_args
from urllib.parse import urlsplit

from cas_cache.testing.faults import KINDS, Fault, Schedule, flipped_bit
from cas_cache.testing.storages import Verb
from http_messages import MAX_LINE, Message, read_body, read_head
from listing_pages import CHANGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HOST = "127.0.0.1"
LONGEST = 60.0
"""Seconds of a timeout whose fault has no duration: longer than any client of a test waits."""

_REFUSED = {
    "error": (500, "Internal Server Error", "InternalError"),
    "error-after": (500, "Internal Server Error", "InternalError"),
    "failing-page": (500, "Internal Server Error", "InternalError"),
    "forbidden": (403, "Forbidden", "AccessDenied"),
    "not-found": (404, "Not Found", "NoSuchKey"),
    "conflict": (409, "Conflict", "OperationAborted"),
    "precondition-failed": (412, "Precondition Failed", "PreconditionFailed"),
    "too-many-requests": (429, "Too Many Requests", "TooManyRequests"),
    "slow-down": (503, "Slow Down", "SlowDown"),
    "redirect": (307, "Temporary Redirect", "TemporaryRedirect"),
    "not-modified": (304, "Not Modified", ""),
    "error-in-ok": (200, "OK", "InternalError"),
    "empty-ok": (200, "OK", ""),
}
_LOGIN = b"<html><head><title>Welcome</title></head><body>Sign in to the hotel's network</body></html>"


_BODIES: frozenset[Verb] = frozenset({"get", "list"})
_ANY: frozenset[Verb] = frozenset(get_args(Verb))

ONLY_ON_THE_WIRE: Mapping[str, frozenset[Verb]] = {
    **dict.fromkeys(("reset", "error-in-ok", "foreign", "redirect", "not-modified"), _ANY),
    # To a write, an empty 200 looks the same as success.
    **dict.fromkeys(("reset-in-body", "truncated", "empty-ok"), _BODIES),
    "lost-token": frozenset({"list"}),
}
"""Kinds of fault that can occur in HTTP only, with the calls in which each can occur.

- ``reset``: the connection is reset before the server sees the request
- ``reset-in-body``: half of a body, then a reset
- ``truncated``: half of a body, with the length of that half
- ``lost-token``: a page says that there are more, without the token of the next
- ``error-in-ok``: 200, and an error document
- ``empty-ok``: 200, and nothing
- ``foreign``: 200, and a login page
- ``redirect``: 307, without a target
- ``not-modified``: 304
"""

WIRE_KINDS = frozenset({*KINDS, *ONLY_ON_THE_WIRE}) - {"repeated", "no-space"}
"""Kinds of fault that can occur in HTTP."""


@dataclass(frozen=True, slots=True)
class WireFault(Fault):
    """A fault of any kind, also of those that can occur in HTTP only."""

    kinds: ClassVar[Mapping[str, frozenset[Verb]]] = {**KINDS, **ONLY_ON_THE_WIRE}


class _Reset(Exception):
    """The connection has to be reset."""


class FaultProxy:
    """An HTTP endpoint that forwards requests and injects faults. A context manager.

    Verbs are those of a storage: a GET or HEAD of an object is a get, a GET that lists is a list. `Fault.path` is
    matched with ``/bucket/key``, and for listings with ``/bucket/prefix``. The client's own retries count as requests:
    a fault with `times=1` tests them, one with `times=None` tests what happens after them.

    Args:
        endpoint: The server: ``http://host:port``.
        faults: The faults to inject.
        page: The maximum number of keys in a page of a listing, to get listings of several pages. Changes the query of
            requests.

    Attributes:
        url: The endpoint for clients.
        requests: (verb, path) of every request, in order of arrival.
    """

    def __init__(self, endpoint: str, faults: Iterable[Fault] = (), *, page: int | None = None) -> None:
        parts = urlsplit(endpoint)
        self.url = ""
        self.page = page
        self.requests: list[tuple[str, str]] = []
        self._to = (parts.hostname or HOST, parts.port or 80)
        self._schedule = Schedule(faults, WIRE_KINDS)
        self._listed: dict[str, str] = {}
        self._deleted: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._stopped: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._ready = threading.Event()

    def __repr__(self) -> str:
        return f"FaultProxy({self.url!r} -> {self._to[0]}:{self._to[1]})"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    @property
    def fired(self) -> list[tuple[Fault, str, str]]:
        """(fault, verb, path) of each fault injected since the last `inject`."""
        return list(self._schedule.fired)

    def inject(self, *faults: Fault) -> None:
        """Replace the faults with these, and start counting again."""
        self._schedule = Schedule(faults, WIRE_KINDS)

    def mend(self) -> None:
        """Inject no more faults."""
        self._schedule.mend()

    # In the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            with suppress(OSError, EOFError, asyncio.CancelledError, _Reset):
                await self._converse(reader, writer)
            writer.transport.abort()

        server = await asyncio.start_server(connected, HOST, 0, limit=MAX_LINE)
        self.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # one more cycle of the loop, in which transports close

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while (request := await read_head(reader)) is not None:
            if request.header("expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await read_body(reader, request)
            verb, path = request.verb, request.path
            self.requests.append((verb, path))
            if verb == "list" and self.page is not None:
                request.ask(**{"max-keys": str(self.page)})
            schedule = self._schedule
            due = schedule.due(verb, path)
            try:
                if not due:
                    answer = await self._passed_on(request)
                    writer.write(answer.head() + answer.body)
                else:
                    await self._faulty(due[0], request, schedule, writer)
            except _Reset:
                _break(writer)
                raise
            await writer.drain()

    async def _faulty(self, fault: Fault, request: Message, schedule: Schedule, writer: asyncio.StreamWriter) -> None:
        """Answer one request with a fault in it."""
        kind, event = fault.kind, (fault, request.verb, request.path)
        if kind in CHANGES or kind in {"short-body", "reset-in-body", "truncated", "flipped-bit"}:
            await self._changed(fault, request, schedule, writer)
            return
        if kind in {"range-ignored", "range-wrong"}:
            asked = request.header("range")
            request.set("range", None if kind == "range-ignored" else _moved(asked))
            answer = await self._passed_on(request)
            if asked and answer.status < 300 and answer.body:
                schedule.note(*event)
                if kind == "range-wrong":
                    # The response claims to be the requested range.
                    total = answer.header("content-range").partition("/")[2] or "*"
                    answer.set("content-range", f"{asked.replace('=', ' ')}/{total}")
            writer.write(answer.head() + answer.body)
            return
        schedule.note(*event)
        if kind == "reset":
            raise _Reset
        if kind == "stall":
            await asyncio.sleep(fault.seconds)
        refused = kind in _REFUSED or kind == "foreign"
        conditional = kind == "precondition-failed" and bool(request.header("if-none-match"))
        answer = _refusal(kind, request)
        if not refused or kind == "error-after" or conditional:
            passed = await self._passed_on(request)
            answer = answer if refused else passed
        if kind == "lost-answer":
            raise _Reset
        if kind == "timeout":
            await asyncio.sleep(fault.seconds or LONGEST)
            raise _Reset
        body = b"" if request.first[0] == "HEAD" else answer.body
        writer.write(answer.head() + body)

    async def _changed(self, fault: Fault, request: Message, schedule: Schedule, writer: asyncio.StreamWriter) -> None:
        """Forward a request and return a changed response."""
        answer = await self._passed_on(request)
        kind, length, body = fault.kind, len(answer.body), answer.body
        if answer.status >= 300 or not body:
            writer.write(answer.head() + body)
            return
        if kind in CHANGES:
            gone = {key: block for key, block in self._deleted.items() if f"/{key}".startswith(request.path)}
            answer.body = CHANGES[kind](fault, body.decode(), gone).encode()
        elif kind == "flipped-bit":
            answer.body = flipped_bit(fault, body)
        elif length > 1:
            answer.body = body[: length // 2]
        if answer.body != body:
            schedule.note(fault, request.verb, request.path)
        if kind in {"short-body", "reset-in-body"}:
            writer.write(answer.head(length) + answer.body)
            await writer.drain()
            if kind == "reset-in-body":
                await asyncio.sleep(0.01)  # let the sent bytes arrive first; a reset may overtake them
                raise _Reset
            writer.close()
            raise EOFError
        writer.write(answer.head() + answer.body)

    async def _passed_on(self, request: Message) -> Message:
        """Return the server's response to a request, which gets a connection of its own."""
        reader, writer = await asyncio.open_connection(*self._to, limit=MAX_LINE)
        try:
            request.set("connection", None)
            head = request.head().replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            writer.write(head + request.body)
            await writer.drain()
            answer = await read_head(reader)
            while answer is not None and answer.status == 100:
                answer = await read_head(reader)
            if answer is None:
                raise _Reset
            if request.first[0] != "HEAD" and answer.status not in {204, 304}:
                await read_body(reader, answer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        self._remember(request, answer)
        return answer

    def _remember(self, request: Message, answer: Message) -> None:
        """Remember entries that a stale listing may still show."""
        if answer.status >= 300:
            return
        if request.verb == "list":
            for block in re.findall(r"<Contents>.*?</Contents>", answer.body.decode(), re.DOTALL):
                if key := re.search(r"<Key>(.*?)</Key>", block):
                    self._listed[f"{request.path.split('/')[1]}/{key[1]}"] = block
        elif request.verb == "delete" and (gone := self._listed.get(request.path.lstrip("/"))):
            self._deleted[request.path.lstrip("/")] = gone


def _moved(asked: str) -> str:
    """Return a range of the same length that begins elsewhere."""
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
    if match is None:
        return asked
    start, stop = int(match[1]), int(match[2])
    by = -start if start else 1
    return f"bytes={start + by}-{stop + by}"


def _refusal(kind: str, request: Message) -> Message:
    """Return a response that did not come from the server."""
    status, reason, code = _REFUSED.get(kind, (200, "OK", ""))
    if kind == "conflict" and request.header("if-none-match"):
        code = "ConditionalRequestConflict"
    body = b""
    if kind == "foreign":
        body = _LOGIN
    elif code:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{reason} (injected)'
            "</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
        ).encode()
    kind_of_body = "text/html" if kind == "foreign" else "application/xml"
    return Message(["HTTP/1.1", str(status), reason], [("Content-Type", kind_of_body)], body)


def _break(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, so that the other side sees an error and not an orderly end."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
