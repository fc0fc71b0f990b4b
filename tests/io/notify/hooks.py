"""Webhooks of the tests' own, on loopback: with and without TLS, by an authority of ours."""

from __future__ import annotations

import ipaddress
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fibflow.io.notify.line import Line, Lines


class Request(NamedTuple):
    """What came."""

    path: str
    headers: dict[str, str]
    body: bytes
    sni: str | None

    @property
    def id(self) -> str:
        return json.loads(self.body)["id"]


class Answer(NamedTuple):
    """What is answered: a body that is as long as it says, or one that just ends."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"ok"


class Hooks(ThreadingHTTPServer):
    """A server of webhooks. ``answer`` says what to answer; None: nothing, until it is ``released``."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.tls, self.server_name = tls, host
        self.answer: Callable[[Request], Answer | None] = lambda _: Answer()
        self.requests: list[Request] = []
        self.connections = 0
        self.held = threading.Semaphore(0)
        self.released = threading.Event()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"{'https' if self.tls else 'http'}://{host or self.server_name}:{self.port}{path}"

    @property
    def ids(self) -> Counter[str]:
        """How often each event came."""
        with self._lock:
            return Counter(each.id for each in self.requests)

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: Hooks
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sni = getattr(self.connection, "named", None)
        request = Request(self.path, dict(self.headers), body, sni)
        self.server.note(request)
        answer = self.server.answer(request)
        if answer is None:
            self.server.held.release()
            self.server.released.wait()
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def hooks(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Hooks]:
    """Serve webhooks."""
    with Hooks(tls, host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


class Authority:
    """Signs certificates for names and addresses."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "authority.pem"
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        made = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str) -> ssl.SSLContext:
        """The context of a server of these names. What a client named lies in ``named`` of its socket."""
        key = ec.generate_private_key(ec.SECP256R1())
        known = x509.SubjectAlternativeName([_general(name) for name in names])
        made = self._signed(x509.Name([]), key, known)
        file = self._folder / f"{names[0].strip('*:')}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + made.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.sni_callback = _remember
        return context

    def client(self) -> ssl.SSLContext:
        """The context of a client that believes in us."""
        return ssl.create_default_context(cafile=str(self.file))

    def _signed(self, name: x509.Name, key: Any, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.now(UTC)
        is_own = key is self._key
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if not is_own:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            made = made.add_extension(issuer, critical=False)
        return made.sign(self._key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _remember(sock: Any, name: str | None, context: ssl.SSLContext) -> None:
    sock.named = name


class Routed(Lines):
    """Reaches addresses of the internet on this machine, and keeps which were asked for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[list[str]] = []

    def connect(self, place: Any, addresses: Any, until: float) -> Line:
        self.asked.append(list(addresses))
        return super().connect(place, ["127.0.0.1"], until)
