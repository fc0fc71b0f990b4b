"""``/healthz`` and ``/metrics`` on a port of their own, whatever the feed and Kinesis are doing."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CONTENT_TYPE_LATEST

from fibflow.io.ingest.status import DOWN, STOPPING, Status


class WebServer(ThreadingHTTPServer):
    """Answers from threads of its own; nothing secret is told, and no key is asked.

    Args:
        status: is told.
        host: where to listen.
        port: likewise; 0 for any that is free.

    Raises:
        OSError: it cannot listen there.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, status: Status, host: str, port: int) -> None:
        self.told = status
        super().__init__((host, port), _Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True, name="web").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: WebServer
    timeout = 10.0

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            told = self.server.told.document()
            status = 503 if told["status"] in (DOWN, STOPPING) else 200
            self._answer(status, "application/json", json.dumps(told).encode())
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, self.server.told.metrics())
        else:
            self._answer(404, "text/plain", b"here are /healthz and /metrics\n")

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""
