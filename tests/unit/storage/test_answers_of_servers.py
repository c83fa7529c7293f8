"""Answers of servers other than Amazon's are understood, or reported with the setting that helps.

The servers of this file answer as the named ones do. Where a real one runs locally (rclone), another test uses it.
"""

import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import AccessDenied, BucketNotFound, ConfigurationError, RemoteUnavailable
from cas_cache.repository import Repository
from cas_cache.storage import Storage, open_storage
from cas_cache.storage.failures import error_of
from fault_server import Answer, Server, refusing, serving
from tiers import sampled

KEYS = {"key": "AKIAEXAMPLEEXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
REMOTE = "s3://team/emb"


def error(status: int, code: str, message: str = "refused", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    return status, headers, body.encode()


def at(endpoint: str, **options: Any) -> Storage:
    return open_storage(REMOTE, {**KEYS, "endpoint_url": endpoint, **options})


# Create-only and delete ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    sampled(
        [(412, "PreconditionFailed"), (412, ""), (409, "OperationAborted"), (409, "ConditionalRequestConflict")], keep=2
    ),
)
def test_the_loser_of_a_first_push_goes_on(status: int, code: str) -> None:
    """SeaweedFS and others say PreconditionFailed without the detail that s3fs looks for: another writer was first."""
    objects: dict[str, bytes] = {}
    listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"

    def answer(method: str, path: str, headers: Any, body: bytes) -> Answer:
        if "list-type" in path:
            return 200, {"Content-Type": "application/xml"}, listing
        if method == "PUT" and headers.get("If-None-Match"):
            objects[path.partition("?")[0]] = winner
            return error(status, code)
        found = objects.get(path.partition("?")[0])
        return (
            error(404, "NoSuchKey") if found is None else (206, {"ETag": '"e"', "Content-Range": "bytes 0-1/2"}, found)
        )

    from cas_cache.format.marker import new_marker

    winner = new_marker("0" * 32)
    with serving(answer) as endpoint:
        repository = Repository(at(endpoint))
        repository.create()
        assert repository.id == "0" * 32


@pytest.mark.parametrize(
    ("status", "headers", "body", "deleted"),
    [
        (204, {}, b"", True),
        (200, {"Content-Length": "0"}, b"", True),
        (200, {}, b"<html>Sign in</html>", False),
    ],
)
def test_an_empty_answer_to_a_delete_is_no_page(
    status: int, headers: dict[str, str], body: bytes, *, deleted: bool
) -> None:
    """Moto declares HTML and sends 204 without a body; a login page has a body."""
    with serving(lambda *_: (status, {"Content-Type": "text/html; charset=utf-8", **headers}, body)) as endpoint:
        storage = at(endpoint)
        if deleted:
            storage.delete("packs/a")
        else:
            with pytest.raises(RemoteUnavailable, match="proxy or a login page"):
                storage.delete("packs/a")


# Checksums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "message"),
    sampled(
        [
            (411, "MissingContentLength", "MissingContentLength"),
            (501, "NotImplemented", "STREAMING-UNSIGNED-PAYLOAD-TRAILER not implemented"),
            (400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm' received for this API call."),
            (400, "InvalidArgument", "x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value."),
            (400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match."),
        ],
        keep=5,
    ),
)
def test_a_server_that_refuses_checksums_names_the_setting(status: int, code: str, message: str) -> None:
    """The messages of rclone, Cloudflare, Backblaze, Ceph and MinIO are recognised."""
    with serving(lambda *_: error(status, code, message)) as endpoint:
        storage = at(endpoint)
        for create_only in (False, True):
            with pytest.raises(RemoteUnavailable, match="set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
                storage.put("packs/a", b"1", create_only=create_only)


def test_a_wrong_checksum_of_an_answer_names_the_setting() -> None:
    """The setting is named if the checksum of the whole object comes with a part of it."""
    headers = {"ETag": '"e"', "x-amz-checksum-crc32": "AAAAAA==", "Content-Range": "bytes 0-3/9"}
    with serving(lambda *_: (206, headers, b"part")) as endpoint:
        with pytest.raises(RemoteUnavailable, match="set AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"):
            at(endpoint).get("packs/a", 0, 4)
        fewer = {"response_checksum_validation": "when_required"}
        assert at(endpoint, config_kwargs=fewer).get("packs/a", 0, 4) == b"part"


# TLS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a self-signed certificate and its key."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM) + secret)
    return file


@pytest.fixture
def over_tls(certificate: Path) -> Iterator[str]:
    """Run a server with that certificate, on which no bucket exists."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = error(404, "NoSuchBucket")[2]
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_certificate_that_is_not_trusted(over_tls: str, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the TLS library is kept, and the variable is named; with it the service is reached."""
    with pytest.raises(RemoteUnavailable, match=r"\(self-signed certificate\).*AWS_CA_BUNDLE"):
        at(over_tls).get("x", 0, 1)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with pytest.raises(BucketNotFound):
        at(over_tls).get("x", 0, 1)


def test_a_missing_file_of_authorities_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file in the variable, the options or the AWS configuration is an error when the remote is opened."""
    missing, empty = tmp_path / "ca.pem", tmp_path / "empty.pem"
    empty.write_text("")
    for file in (missing, empty):
        with pytest.raises(ConfigurationError, match=rf"{file.name} cannot be used.*AWS_CA_BUNDLE"):
            open_storage(REMOTE, {**KEYS, "client_kwargs": {"verify": str(file)}})
        monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
        with pytest.raises(ConfigurationError, match="cannot be used"):
            open_storage(REMOTE, KEYS)
    monkeypatch.delenv("AWS_CA_BUNDLE")
    (tmp_path / "config").write_text(f"[default]\nca_bundle = {missing}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(ConfigurationError, match="cannot be used"):
        open_storage(REMOTE, KEYS)
    assert open_storage(REMOTE, {**KEYS, "client_kwargs": {"verify": False}})


def test_errors_of_tls_of_other_services() -> None:
    """TLS errors of aiohttp are ValueErrors, but they do not mean a mistake in the URL."""
    import aiohttp
    from aiohttp.client_reqrep import ConnectionKey

    key = ConnectionKey(
        "storage.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )
    err = aiohttp.ClientConnectorCertificateError(key, ssl.SSLCertVerificationError("hostname mismatch"))
    told = error_of(err, (), url="gs://team/emb", path="x", doing="read", service="gcs")
    assert isinstance(told, RemoteUnavailable)
    assert "SSL_CERT_FILE" in str(told)


def test_a_missing_file_of_this_machine_is_no_missing_object(tmp_path: Path) -> None:
    """A missing token file must not look like a missing repository."""
    err = FileNotFoundError(2, "No such file or directory", str(tmp_path / "token"))
    told = error_of(err, (), url=REMOTE, path="cas-cache.json", doing="read", service="s3")
    assert isinstance(told, RemoteUnavailable)
    assert "a file of this machine is missing" in str(told)


# Clock ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ahead", "said"),
    sampled(
        [("SignatureDoesNotMatch", -3600, "behind"), ("AccessDenied", -3600, "behind"), ("", 3600, "ahead of")], keep=3
    ),
)
def test_a_wrong_clock_is_told_as_a_clock(code: str, ahead: int, said: str) -> None:
    """Whatever code the service uses, the service's own time is in its answer."""
    told = rf"because of the time.*Set this machine's clock: it is 3,\d+ s {said}"
    with (
        serving(lambda *_: error(403, code), date=time.time() - ahead) as endpoint,
        pytest.raises(AccessDenied, match=told),
    ):
        at(endpoint).get("x", 0, 1)
    with refusing("SignatureDoesNotMatch") as endpoint, pytest.raises(AccessDenied, match="does not accept the cred"):
        at(endpoint).get("x", 0, 1)
