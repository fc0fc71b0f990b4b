"""A vendor's WebSocket that says what a test tells it to, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed


def status(kind: str, message: str) -> str:
    return json.dumps([{"ev": "status", "status": kind, "message": message}])


class FeedServer:
    """Knows one key, answers as the vendor does, and sends what it is given to who is subscribed.

    Attributes:
        key: the only one that is known.
        entitled: topics that may be had; None for all.
        crowded: says that there are too many connections.
        mute: does not answer pings.
        subscribed: the topics of each connection so far.
    """

    def __init__(self, key: str = "secret-key") -> None:
        self.key, self.entitled, self.crowded = key, None, False
        self.subscribed: list[list[str]] = []
        self.port = 0
        self._clients: list[ServerConnection] = []
        self._loop = asyncio.new_event_loop()
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.changed = threading.Condition()

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/stocks"

    def listen(self) -> None:
        """Listen, on the same port as before."""

        async def begin() -> None:
            self._server = await serve(
                self._serve, "127.0.0.1", self.port, compression=None, ping_interval=None
            )
            self.port = next(iter(self._server.sockets)).getsockname()[1]

        self._do(begin())

    def leave(self) -> None:
        """Cut all connections, and let nobody in."""

        async def end() -> None:
            if self._server is not None:
                self._server.close(close_connections=False)
                self._cut()
                self._server = None

        self._do(end())

    def cut(self) -> None:
        """Cut all connections without a word."""

        async def cut() -> None:
            self._cut()

        self._do(cut())

    def close(self, code: int, reason: str = "") -> None:
        """Close all connections in order."""

        async def close() -> None:
            for client in list(self._clients):
                await client.close(code, reason)

        self._do(close())

    def send(self, *frames: str | Sequence[dict[str, Any]]) -> None:
        """Send frames, in order, to all who are subscribed."""

        async def send() -> None:
            for client in list(self._clients):
                for frame in frames:
                    await client.send(frame if isinstance(frame, str) else json.dumps(frame))

        self._do(send())

    def wait_for(self, connections: int) -> None:
        """Wait until so many connections have been subscribed, all in all."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.subscribed) >= connections, 20)

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def _cut(self) -> None:
        for client in self._clients:
            client.transport.abort()
        self._clients.clear()

    async def _serve(self, client: ServerConnection) -> None:
        try:
            await client.send(status("connected", "Connected Successfully"))
            asked = json.loads(await client.recv())
            if asked != {"action": "auth", "params": self.key}:
                await client.send(status("auth_failed", f"authentication failed: {asked.get('params')}"))
                return
            await client.send(status("auth_success", "authenticated"))
            while True:
                asked = json.loads(await client.recv())
                if self.crowded:
                    await client.send(status("max_connections", "Maximum number of websocket connections"))
                    await client.close(1008)
                    return
                await self._subscribe(client, asked["params"].split(","))
        except ConnectionClosed:
            pass
        finally:
            if client in self._clients:
                self._clients.remove(client)

    async def _subscribe(self, client: ServerConnection, topics: list[str]) -> None:
        for topic in topics:
            if self.entitled is None or topic in self.entitled:
                await client.send(status("success", f"subscribed to: {topic}"))
            else:
                await client.send(status("error", f"not entitled: {topic}"))
        self._clients.append(client)
        with self.changed:
            self.subscribed.append(topics)
            self.changed.notify_all()
