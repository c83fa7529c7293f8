"""A server before an S3 server, which forwards only the requests that an IAM policy allows."""

import http.client
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Policy = dict[str, Any]


def allows(policy: Policy, action: str, resource: str, prefix: str | None = None) -> bool:
    """Return True if a policy allows an action, by the rules of IAM."""
    for statement in policy["Statement"]:
        condition = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if (
            action in statement["Action"]
            and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
            and (
                condition is None or (prefix is not None and any(fnmatchcase(prefix, pattern) for pattern in condition))
            )
        ):
            return True
    return False


class Gateway(ThreadingHTTPServer):
    """Forwards requests to an S3 server if a policy allows them.

    Attributes:
        policy: The policy; None allows everything.
        refused: (action, key or prefix) of each refused request.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.policy: Policy | None = None
        self.refused: list[tuple[str, str]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def log_message(self, *_: Any) -> None:
        pass

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = parse_qs(url.query, keep_blank_values=True)
        if not self._allowed(bucket, key, query):
            self._answer(403, [], b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            return
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data, headers = answer.read(), answer.getheaders()
        finally:
            connection.close()
        policy = self.server.policy
        # A client that may not list does not learn that a name is absent; S3 matches the name with s3:prefix.
        absent = answer.status == 404 and key and self.command in {"GET", "HEAD"}
        if absent and policy and not allows(policy, "s3:ListBucket", f"arn:aws:s3:::{bucket}", key):
            self.server.refused.append(("s3:ListBucket", key))
            self._answer(403, [], b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            return
        self._answer(answer.status, headers, data)

    def _allowed(self, bucket: str, key: str, query: dict[str, list[str]]) -> bool:
        policy = self.server.policy
        if policy is None:
            return True
        arn = f"arn:aws:s3:::{bucket}"
        if not key:
            prefix = query.get("prefix", [None])[0]
            action = "s3:ListBucket" if self.command in {"GET", "HEAD"} else "s3:Unheard"
            allowed = allows(policy, action, arn, prefix)
            asked = prefix or ""
        else:
            names = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
            action = names.get(self.command, "s3:Unheard")
            allowed = "uploadId" not in query and allows(policy, action, f"{arn}/{key}")
            asked = key
        if not allowed:
            self.server.refused.append((action, asked))
        return allowed

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        size = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                size = value  # the response to a HEAD has the object's size
            elif name.lower() not in {"transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _do  # noqa: N815 - names of http.server
