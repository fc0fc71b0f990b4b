"""An HTTP server between a client and the service: it can say 503 for a while, or be gone."""

from __future__ import annotations

import enum
import http.client
import socket
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_HOST = "127.0.0.1"
_TIMEOUT_S = 60.0
#: What S3 says when it is overloaded; other services' clients go by the status.
_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
)
#: They are about one connection, and each side has its own.
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"})


class Mode(enum.Enum):
    """What comes of a request."""

    PASSES = "passes"
    REFUSED = "refused"  # 503
    GONE = "gone"  # nobody listens


class Proxy:
    """Passes requests on to a service, on a loopback port of its own that stays the same.

    Args:
        upstream: the service's URL.

    Attributes:
        answered: how many requests were answered with 503.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = str(urlsplit(upstream).netloc)
        self.answered = 0
        self.mode = Mode.PASSES
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{_HOST}:{self._port}"

    def set(self, mode: Mode) -> None:
        """Go on like this, from the next request on; GONE ends those that are under way."""
        self.mode = mode
        if mode is Mode.GONE:
            self._leave()
        elif self._server is None:
            self._listen()

    def refuse(self) -> bool:
        """Whether a request gets 503; counts it."""
        with self._lock:
            self.answered += self.mode is Mode.REFUSED
        return self.mode is Mode.REFUSED

    def _listen(self) -> None:
        self._server = _Server(self, self._port)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _leave(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A thread may hang on a client that is kept alive: nobody waits for it.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: Proxy, port: int) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        super().__init__((_HOST, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End all connections."""
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that went away, or were cut off."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=_TIMEOUT_S)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def _pass_on(self) -> None:
        # Read to its end also where it is refused: the next one follows on the same connection.
        body = self._body()
        if self.server.proxy.refuse():
            self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        headers |= {"Content-Length": str(len(body))} if body or self.command in ("POST", "PUT") else {}
        headers.pop("Expect", None)
        try:
            self._upstream.request(self.command, self.path, body or None, headers)
            response = self._upstream.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self._upstream.close()
            self.close_connection = True
            return
        kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP]
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(response.status, kept, content, length)

    def _body(self) -> bytes:
        if "chunked" in (self.headers["Transfer-Encoding"] or ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""
