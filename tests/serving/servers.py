"""Real servers for tests: one in a thread of the test, one in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI

from fibflow.serving.server import Server, config_of
from fibflow.serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


class _Told(Server):
    """A server that says when it answers."""

    def __init__(self, app: FastAPI, port: int) -> None:
        super().__init__(config_of(app, Settings("", port=port, stop_s=5)))
        self.ready = threading.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def running(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Yield the base URL of a server that answers, on the loopback; port 0 takes a free one."""
    server = _Told(app, port)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.ready.wait(0.1) and thread.is_alive():
            pass
        if not server.servers:
            raise RuntimeError("the server did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


class Started:
    """A server in a process of its own, which ends with the block."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def said(self) -> str:
        """What it has written to standard error."""
        return self.log.read_text()


@contextmanager
def started(log: Path, *argv: str, env: Mapping[str, str] | None = None) -> Iterator[Started]:
    """Yield ``python -m serving`` on a free port, which answers. Its standard error goes to ``log``."""
    command = [sys.executable, "-P", "-m", "fibflow.serving", "--port", "0", *argv]
    own = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**own, **(env or {})}, cwd=ROOT
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {log.read_text()}")
        yield Started(process, json.loads(line)["url"], log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def raw(url: str, head: bytes) -> bytes:
    """What a server says to bytes that no client library would send."""
    at = urlsplit(url)
    told = b""
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        # A server that has heard enough need not listen to the end.
        with suppress(OSError):
            connection.sendall(head)
        with suppress(OSError):
            while piece := connection.recv(65_536):
                told += piece
    return told
