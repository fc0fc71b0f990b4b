"""A plain client of the WebSocket for tests: it says what a test says, and waits for what must come."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

#: What only a broken server reaches.
BOUND_S = 20.0
Message = dict[str, Any]


class Wire:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def frame(self) -> list[Message]:
        """The next frame."""
        text = self.socket.recv(timeout=BOUND_S)
        assert isinstance(text, str)
        found = json.loads(text)
        assert isinstance(found, list)
        return found

    def send(self, text: str | bytes) -> None:
        self.socket.send(text)

    def say(self, action: str, params: str) -> None:
        self.send(json.dumps({"action": action, "params": params}))

    def status(self) -> tuple[str, str]:
        """The next frame, which must be one status."""
        (found,) = self.frame()
        assert found["ev"] == "status", found
        return found["status"], found["message"]

    def auth(self, key: str = "any") -> tuple[str, str]:
        assert self.status() == ("connected", "Connected Successfully")
        self.say("auth", key)
        return self.status()

    def subscribe(self, *topics: str) -> list[str]:
        """Subscribe, and return what each topic is told."""
        self.say("subscribe", ",".join(topics))
        return [f"{told['status']}: {told['message']}" for told in self.statuses(len(topics))]

    def statuses(self, count: int) -> list[Message]:
        found: list[Message] = []
        while len(found) < count:
            found += self.frame()
        assert all(told["ev"] == "status" for told in found), found
        return found

    def until(self, enough: Callable[[list[Message]], bool]) -> list[Message]:
        """All objects up to the frame with which they are enough."""
        found: list[Message] = []
        while not enough(found):
            found += self.frame()
        return found

    def take(self, count: int) -> list[Message]:
        """So many objects, or the frame's more."""
        return self.until(lambda found: len(found) >= count)

    def closed(self) -> int:
        """Read until the server closes, and return the code."""
        with suppress(ConnectionClosed):
            while True:
                self.socket.recv(timeout=BOUND_S)
        assert self.socket.close_code is not None
        return self.socket.close_code


@contextmanager
def wire(url: str, **options: Any) -> Iterator[Wire]:
    """Yield a connection, which has said nothing yet."""
    with connect(stocks(url), **{"compression": None, "max_size": None, **options}) as connected:
        yield Wire(connected)


@contextmanager
def deaf(url: str, *topics: str) -> Iterator[Wire]:
    """Yield ``listening`` of one that takes a few kilobytes and then no more until it is read."""
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        narrow.connect((host, int(port)))
        with listening(url, *topics, sock=narrow, max_queue=1, close_timeout=0.1) as made:
            yield made


@contextmanager
def listening(url: str, *topics: str, key: str = "any", **options: Any) -> Iterator[Wire]:
    """Yield a connection that follows topics, which must all be taken."""
    with wire(url, **options) as made:
        assert made.auth(key) == ("auth_success", "authenticated")
        assert made.subscribe(*topics) == [f"success: subscribed to: {topic}" for topic in topics]
        yield made


def wait_for(true: Callable[[], bool], within: float = BOUND_S) -> None:
    """Wait until it is so; fail after a bound that only a broken server reaches."""
    until = time.monotonic() + within
    while not true():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.01)


def stocks(url: str) -> str:
    return url.replace("http", "ws", 1) + "/stocks"
