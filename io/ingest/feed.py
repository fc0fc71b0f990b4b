"""The vendor's WebSocket: connected, authenticated, subscribed; then frames as bytes.

Over `websockets` and not the official client: that one decodes every frame to text and parses every message
in Python, ends for good after five reconnections of its life and silently where the server closes in order
(1000, 1001), and stops at frames of 1 MiB. Here a frame stays the bytes that it came as, and what a close
means is for us to say. What is said on the wire is the same, and so is who is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

#: The vendor's own feed.
OFFICIAL = "wss://socket.massive.com/stocks"
#: What is heard in status messages before the vendor closes.
PASSING = frozenset({"slow_consumer", "force_disconnect", "max_connections", "error"})

_REFUSED = frozenset({"auth_failed", "auth_timeout"})
# The vendor's own frames have some 100 kB; the official client's limit is 1 MiB.
_MOST_FRAME = 16 << 20
# Frames that wait to be taken: what comes then stays in the socket, and so at the vendor.
_FRAMES_AHEAD = 64
_TOPICS_A_MESSAGE = 500
_STATUS = b'"status"'
_STATUS_WITHIN = 40


class FeedLost(Exception):
    """The connection is gone, or did not come about; another one may be better. The message says why."""


class FeedRefused(Exception):
    """The vendor refuses the key or what it is asked for. One line that says what to do, without the key."""


class Feed:
    """Connects to the vendor.

    Args:
        url: of the WebSocket, ``wss://host/stocks``.
        key: the vendor's key; it is sent in a message, and shown nowhere.
        topics: ``AM.*``, ``T.AAPL`` and so on.
        timeout: seconds within which each step of connecting has to be done.
        compressed: ask for permessage-deflate: fewer bytes on the wire, more work for the processor.
    """

    def __init__(
        self, url: str, key: str, topics: Sequence[str], timeout: float = 20.0, compressed: bool = False
    ) -> None:
        self.url, self.topics = url, tuple(dict.fromkeys(topics))
        self._secret = key
        self._timeout, self._compressed = timeout, compressed

    def __repr__(self) -> str:
        return f"Feed({self.url!r}, {len(self.topics)} topics)"

    @asynccontextmanager
    async def connected(self, told: Callable[[str], None]) -> AsyncIterator[Connection]:
        """Yield a connection that is subscribed to all topics.

        Args:
            told: is told what the vendor refused of them.

        Raises:
            FeedLost: there is no connection, or it broke before it was subscribed.
            FeedRefused: the vendor refuses the key, or everything that it is asked for.
        """
        try:
            socket = await connect(
                self.url,
                compression="deflate" if self._compressed else None,
                open_timeout=self._timeout,
                ping_interval=None,
                close_timeout=2.0,
                max_size=_MOST_FRAME,
                max_queue=_FRAMES_AHEAD,
                user_agent_header="fibflow",
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            raise FeedLost(f"{self.url} cannot be reached: {_why(error)}") from None
        connection = Connection(socket, self._secret)
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._greeted(connection)
                    await self._subscribed(connection, told)
            except (ConnectionClosed, OSError) as error:
                raise FeedLost(f"{self.url} broke off: {_why(error, self._secret)}") from None
            except TimeoutError:
                raise FeedLost(f"{self.url} did not answer in {self._timeout:g} s") from None
            yield connection
        finally:
            with suppress(Exception):
                await socket.close()

    async def _greeted(self, connection: Connection) -> None:
        await connection.statuses()
        await connection.say("auth", self._secret)
        for status in await connection.statuses():
            kind = status.get("status")
            if kind in _REFUSED:
                raise FeedRefused(
                    f"{self.url} refuses the key{self._said(status)}: "
                    "set MASSIVE_API_KEY, POLYGON_API_KEY or --key-file to one that is valid"
                )
            if kind == "max_connections":
                raise FeedLost(self._crowded(status))

    async def _subscribed(self, connection: Connection, told: Callable[[str], None]) -> None:
        """Ask for the topics, and wait for as many answers, or for data; that is kept."""
        for at in range(0, len(self.topics), _TOPICS_A_MESSAGE):
            await connection.say("subscribe", ",".join(self.topics[at : at + _TOPICS_A_MESSAGE]))
        refused: list[str] = []
        answered = 0
        while answered < len(self.topics):
            for status in await connection.statuses():
                kind = status.get("status")
                if kind == "max_connections":
                    raise FeedLost(self._crowded(status))
                if kind in _REFUSED or kind == "error":
                    refused.append(self._said(status, "a topic"))
                answered += 1
            if connection.has_data and answered > len(refused):
                break
        if len(refused) == len(self.topics):
            raise FeedRefused(
                f"{self.url} gives none of {', '.join(self.topics[:5])}{refused[0]}: "
                "ask for less with --subscribe, or change the plan"
            )
        for line in refused:
            told(f"{self.url} refuses{line}")

    def _crowded(self, status: dict[str, Any]) -> str:
        return f"{self.url} has too many connections with this key{self._said(status)}: stop another one"

    def _said(self, status: dict[str, Any], otherwise: str = "") -> str:
        """Return what the vendor said, without the key."""
        said = " ".join(str(status.get("message") or otherwise).replace(self._secret, "***").split())
        return f" ({said})" if said else ""

    def passing(self, status: dict[str, Any]) -> str | None:
        """Return what a status in the middle of the data says of the connection; None for nothing."""
        kind = status.get("status")
        return f"the vendor says {kind}{self._said(status)}" if kind in PASSING else None


class Connection:
    """A connection to the vendor: whole frames, in order.

    Args:
        socket: is read by nobody else.
        key: what is not told, whatever the vendor says.
    """

    def __init__(self, socket: ClientConnection, key: str = "") -> None:
        self._socket = socket
        self._secret = key
        self._kept: list[bytes] = []

    @property
    def has_data(self) -> bool:
        """Whether data came among the answers."""
        return bool(self._kept)

    async def say(self, action: str, params: str) -> None:
        """Send a request."""
        await self._socket.send(orjson.dumps({"action": action, "params": params}).decode())

    async def frame(self) -> bytes:
        """Return the next frame, as bytes.

        Raises:
            FeedLost: there is none any more.
        """
        if self._kept:
            return self._kept.pop(0)
        return await self._frame()

    async def _frame(self) -> bytes:
        try:
            return await self._socket.recv(decode=False)
        except ConnectionClosed as error:
            raise FeedLost(_why(error, self._secret)) from None

    async def statuses(self) -> list[dict[str, Any]]:
        """Return the statuses of the next frame of them; frames that hold data are kept for ``frame``."""
        while True:
            data = await self._socket.recv(decode=False)
            found, alone = statuses_of(data)
            if not alone:
                self._kept.append(data)
            if found:
                return found

    async def alive(self, within: float) -> bool:
        """Ask for a sign of life and return whether it came in time.

        Raises:
            FeedLost: the connection is gone.
        """
        try:
            pong = await self._socket.ping()
            async with asyncio.timeout(within):
                await pong
        except TimeoutError:
            return False
        except ConnectionClosed as error:
            raise FeedLost(_why(error, self._secret)) from None
        return True

    def cut(self) -> None:
        """End it at once, without a word: the other side does not listen."""
        self._socket.transport.abort()

    async def close(self) -> None:
        """End it in order; what has come before is still to be had."""
        await self._socket.close()


def statuses_of(frame: bytes) -> tuple[list[dict[str, Any]], bool]:
    """Return a frame's status messages, where it begins with one; and whether it holds nothing else."""
    if _STATUS not in frame[:_STATUS_WITHIN]:
        return [], False
    try:
        found = orjson.loads(frame)
    except ValueError:
        return [], False
    items = found if isinstance(found, list) else [found]
    statuses = [item for item in items if isinstance(item, dict) and item.get("ev") == "status"]
    return statuses, len(statuses) == len(items)


def feed_url(given: str) -> str:
    """Return the address of a feed, with the market that the official clients add.

    Raises:
        ValueError: it is none.
    """
    url = given.strip()
    url = (url if "://" in url else f"ws://{url}").rstrip("/")
    parts = urlsplit(url)
    right = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.username is None
    if not right or parts.query or parts.fragment:
        raise ValueError(
            "the feed's address (--feed-url, or FIBFLOW_FEED_URL) has to read "
            "wss://host/stocks, or ws://host:port/stocks, with no name, password or query"
        )
    return url if parts.path else f"{url}/stocks"


def _why(error: BaseException, key: str = "") -> str:
    """Return why a connection failed, in a few words, without the key."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionClosed):
        close = error.rcvd
        if close is None:
            return "the connection was cut"
        said = " ".join((close.reason.replace(key, "***") if key else close.reason).split())
        return f"the vendor closed the connection ({close.code}{f' {said}' if said else ''})"
    text = " ".join(str(error).split())
    return text or type(error).__name__
