"""The WebSocket ``/stocks``: the vendor's protocol, and channels of our own on the same connection."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from fibflow.serving.access import OPEN, Principal, Scope
from fibflow.serving.alerts.desk import NO_STORE
from fibflow.serving.alerts.following import stale as following_stale
from fibflow.serving.live.circuit import StoreDown
from fibflow.serving.live.fragments import frames_of
from fibflow.serving.live.hub import Hub, status
from fibflow.serving.live.outbox import Outbox
from fibflow.serving.live.topics import ALERTS, OWN, Topic, TopicError, parse, shown, split
from fibflow.serving.problems import Problem
from fibflow.serving.services import Services, services_of_socket

#: How long a client may take to say who it is, and to read its last message, seconds.
AUTH_S = 10.0
LAST_S = 5.0
#: The longest message of a client, bytes, and how many topics it may follow.
LONGEST = 64 << 10
MOST_TOPICS = 50_000
#: Messages of a client, a kilobyte counting as one more: so many at once, and so many a second.
BURST, A_SECOND = 400, 40
#: Connections of one key at a time; open access has no bound.
MOST_OF_A_KEY = 100

#: How often it is looked whether keys still hold, seconds.
LOOK_S = 30.0

_POLICY, _RESTART, _LATER = 1008, 1012, 1013
_NO_HUB = "there is no live store here: start the server with --redis"
_EXAMPLE = '{"action":"subscribe","params":"AM.AAPL"}'


@dataclass
class Sockets:
    """The connections of a process. Only for the loop's thread.

    Attributes:
        sessions: all that are open.
        of_key: how many each key's id has, those that have said who they are.
    """

    sessions: set[Session] = field(default_factory=set)
    of_key: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.sessions)

    def restart(self, code: int = _RESTART) -> None:
        """Tell all that the server ends: close code 1012, at which clients come again, or another."""
        for session in list(self.sessions):
            session.restart(code)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    sockets = app.state.sockets = Sockets()
    if services.hub is not None:
        services.hub.start()

    watchers = [asyncio.create_task(_at_end(services, sockets)), asyncio.create_task(_at_times(sockets))]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        sockets.restart()
        if services.hub is not None:
            await services.hub.stop()


async def _at_end(services: Services, sockets: Sockets) -> None:
    await services.closing.wait()
    sockets.restart()


async def _at_times(sockets: Sockets) -> None:
    """Send clients away whose keys are not what they were."""
    while True:
        await asyncio.sleep(LOOK_S)
        for session in list(sockets.sessions):
            await session.look()


router = APIRouter(lifespan=_lifespan)


@router.websocket("/stocks")
async def stocks(socket: WebSocket) -> None:
    """Serve one client; refusals are messages, as the vendor's clients retry a refused handshake for ever."""
    await Session(socket, services_of_socket(socket), socket.app.state.sockets).run()


class _Ended(Exception):
    """The connection is at its end; its last message is queued."""


class Session:
    """One connection."""

    def __init__(
        self,
        socket: WebSocket,
        services: Services,
        sockets: Sockets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = socket
        self._services = services
        self._hub = services.hub
        self._sockets = sockets
        self._outbox = Outbox(services.settings.queue, self._too_slow)
        self._code = _POLICY
        self._principal: Principal | None = None
        self._clock = clock
        self._allowance, self._counted = float(BURST), clock()
        self._writer: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the client until it goes, or is sent away."""
        await self._socket.accept()
        self._sockets.sessions.add(self)
        self._say("connected", "Connected Successfully")
        self._writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait({self._writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not reader.cancelled() and isinstance(reader.exception(), _Ended):
                await asyncio.wait({self._writer}, timeout=LAST_S)
        finally:
            self._leave()
            for task in (reader, self._writer):
                task.cancel()
            await asyncio.gather(reader, self._writer, return_exceptions=True)
        for task in (reader, self._writer):
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, (_Ended, WebSocketDisconnect)):
                raise error

    def restart(self, code: int = _RESTART) -> None:
        """Close with 1012, or another code, without what waits."""
        self._code = code
        self._outbox.end()

    async def look(self) -> None:
        """Send the client away where its key has been revoked, or has expired."""
        if self._principal is not None and not await self._services.gate.holds(self._principal):
            self._end("force_disconnect", "this key is not valid any more")

    def _leave(self) -> None:
        self._sockets.sessions.discard(self)
        if self._hub is not None:
            self._hub.leave(self._outbox)
        if self._services.alerts.following is not None:
            self._services.alerts.following.leave(self._outbox)
        if self._principal is not None:
            self._sockets.of_key[self._principal.id] -= 1
            self._sockets.of_key += Counter()

    # Sending.

    async def _write(self) -> None:
        while (frame := await self._outbox.next()) is not None:
            await self._send(frame)
        if self._outbox.slow:
            await self._send(
                f"[{status('slow_consumer', 'you read too slowly: follow less, or read faster')}]"
            )
        if self._socket.application_state is WebSocketState.CONNECTED:
            await self._socket.close(self._code)

    async def _send(self, frame: str) -> None:
        await self._socket.send({"type": "websocket.send", "text": frame})

    def _too_slow(self) -> None:
        # A client that reads nothing at all is not waited for.
        writer = self._writer
        if writer is not None:
            asyncio.get_running_loop().call_later(LAST_S, writer.cancel)

    def _say(self, kind: str, message: str) -> None:
        self._outbox.put(f"[{status(kind, message)}]")

    def _end(self, kind: str, message: str) -> _Ended:
        self._outbox.finish(f"[{status(kind, message)}]")
        return _Ended()

    # Receiving.

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(AUTH_S):
                while self._principal is None:
                    await self._before_auth(await self._next())
        except TimeoutError:
            raise self._end("auth_timeout", "No authentication request received.") from None
        while True:
            await self._act(*await self._next())

    async def _next(self) -> tuple[str, str]:
        """Return the next message that can be read: its action and its params."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            found: str | bytes = message.get("text") or message.get("bytes") or b""
            self._count(len(found))
            read = _action(found)
            if read is not None:
                return read
            self._say("error", f"this cannot be read: send {_EXAMPLE}, of {LONGEST >> 10} kB at most")

    def _count(self, size: int) -> None:
        now = self._clock()
        self._allowance = min(BURST, self._allowance + (now - self._counted) * A_SECOND) - 1 - (size >> 10)
        self._counted = now
        if self._allowance < 0:
            raise self._end("error", "too many messages: name several topics in one, and wait")

    async def _before_auth(self, message: tuple[str, str]) -> None:
        action, key = message
        if action != "auth":
            self._say("error", 'first say who you are: send {"action":"auth","params":"KEY"}')
            return
        try:
            principal = await self._services.gate.admit(key or None, Scope.LIVE)
        except Problem as problem:
            if problem.status in (401, 403):
                raise self._end("auth_failed", problem.detail) from None
            # Not the key's fault for good: the client is to come again.
            self._code = _LATER
            raise self._end("error", problem.detail) from None
        self._say("auth_success", "authenticated")
        if principal != OPEN and self._sockets.of_key[principal.id] >= MOST_OF_A_KEY:
            raise self._end("max_connections", f"this key has {MOST_OF_A_KEY} connections: close one first")
        self._principal = principal
        self._sockets.of_key[principal.id] += 1

    async def _act(self, action: str, params: str) -> None:
        if action == "subscribe":
            await self._subscribe(params)
        elif action == "unsubscribe":
            self._unsubscribe(params)
        elif action == "auth":
            self._say("auth_success", "authenticated")
        else:
            self._say("error", f"unknown action: send {_EXAMPLE}")

    async def _subscribe(self, params: str) -> None:
        topics, told = _topics(params, "subscribed to", self._refusal)
        if self._count_topics() + len(topics) > MOST_TOPICS:
            told = [status("error", f"more than {MOST_TOPICS:,} topics: subscribe to * instead")]
            topics = []
        if not topics:
            self._tell(told or [status("error", f"no topic: send {_EXAMPLE}")])
            return
        following = self._services.alerts.following
        own = [topic for topic in topics if topic.channel == ALERTS]
        if own and following is not None and self._principal is not None:
            await following.subscribe(self._outbox, self._principal.owner, own)
        others = [topic for topic in topics if topic.channel != ALERTS]
        if others and self._hub is not None:
            await self._hub.caught_up(self._services.run)
        self._tell(told)
        if own and following is not None and following.wrong is not None:
            self._tell([following_stale()])
        if others and self._hub is not None:
            await self._follow(self._hub, others)

    async def _follow(self, hub: Hub, topics: list[Topic]) -> None:
        if all(topic.channel not in OWN for topic in topics):
            hub.subscribe(self._outbox, topics)
            self._warn(hub.wrong)
            return
        # First what is there, then what came meanwhile: nothing is missed, and the last is the newest.
        self._outbox.hold()
        there: list[str] = []
        try:
            hub.subscribe(self._outbox, topics)
            there = await hub.snapshot(topics, self._services.run)
        except StoreDown as error:
            there = [f"[{_stale(str(error))}]"]
        finally:
            self._outbox.release(there)

    def _refusal(self, topic: Topic) -> str | None:
        """Return why a topic cannot be followed here, or with this key; None where it can."""
        if topic.channel != ALERTS:
            return _NO_HUB if self._hub is None else None
        if self._services.alerts.following is None:
            return NO_STORE
        if self._principal is None or Scope.ALERTS not in self._principal.scopes:
            return f"this API key lacks the scope {Scope.ALERTS}: ask for one that has it"
        return None

    def _count_topics(self) -> int:
        following = self._services.alerts.following
        found = 0 if self._hub is None else self._hub.count(self._outbox)
        return found + (0 if following is None else following.count(self._outbox))

    def _warn(self, wrong: str | None) -> None:
        if wrong is not None:
            self._tell([_stale(wrong)])

    def _unsubscribe(self, params: str) -> None:
        topics, told = _topics(params, "unsubscribed to")
        if self._hub is not None:
            self._hub.unsubscribe(self._outbox, [topic for topic in topics if topic.channel != ALERTS])
        if self._services.alerts.following is not None:
            own = [topic for topic in topics if topic.channel == ALERTS]
            self._services.alerts.following.unsubscribe(self._outbox, own)
        self._tell(told or [status("error", f"no topic: send {_EXAMPLE}")])

    def _tell(self, told: list[str]) -> None:
        for frame in frames_of(told):
            self._outbox.put(frame)


def _stale(reason: str) -> str:
    return status("stale", f"the live store is away, updates come when it is back: {reason}")


def _action(text: str | bytes) -> tuple[str, str] | None:
    """Return the action and the params of a message; None where it is none."""
    if len(text) > LONGEST:
        return None
    try:
        found: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    action, params = found.get("action"), found.get("params", "")
    return (action, params) if isinstance(action, str) and isinstance(params, str) else None


def _topics(
    params: str, done: str, refusal: Callable[[Topic], str | None] = lambda topic: None
) -> tuple[list[Topic], list[str]]:
    """Return the topics of a list that are not refused, and a status for each of its texts."""
    topics: list[Topic] = []
    told: list[str] = []
    for text in split(params):
        try:
            topic = parse(text)
            if (reason := refusal(topic)) is not None:
                raise TopicError(reason)
            topics.append(topic)
            told.append(status("success", f"{done}: {text}"))
        except TopicError as error:
            told.append(status("error", f"{shown(text)}: {error}"))
    return topics, told
