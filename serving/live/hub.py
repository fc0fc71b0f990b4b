"""One follower of the live store a process, and its clients: who follows what, and what is handed to whom.

What the store tells is made JSON once, in the follower's thread. The loop only deals the texts out: by symbol
to those who follow some, as whole frames to those who follow all.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.livefollow import Position, position
from fibflow.io.livestore import LiveStore
from fibflow.serving.live.circuit import StoreDown
from fibflow.serving.live.follower import Follower, Interest, Part, Room, last_closed
from fibflow.serving.live.fragments import BAR_MEMBERS, PRICE_MEMBERS, frames, objects
from fibflow.serving.live.news import NewsFollower
from fibflow.serving.live.outbox import Outbox
from fibflow.serving.live.store import Live
from fibflow.serving.live.topics import CLOSED, EVERY, LAST, OPEN, OWN, Topic
from fibflow.serving.settings import Settings

# How many deliveries may wait for the loop; then the follower waits, and Redis keeps the rest.
_AHEAD = 16
_LOOK_S = 0.2
#: A client waits no longer than this for the follower, to begin or to come to where the store is.
_WAIT_S = 2.0

_log = logging.getLogger(__name__)


def status(kind: str, message: str) -> str:
    """Return a status as every client reads it: one object, without the array around it."""
    return orjson.dumps({"ev": "status", "status": kind, "message": message}).decode()


@dataclass
class _Members:
    """Who is in a room: those who follow every symbol, and by symbol the others."""

    every: set[Outbox] = field(default_factory=set)
    some: dict[str, set[Outbox]] = field(default_factory=dict)
    interest: Interest | None = None

    def add(self, topic: Topic, client: Outbox) -> None:
        if topic.is_wild:
            self.every.add(client)
        else:
            self.some.setdefault(topic.symbol, set()).add(client)
        self.interest = None

    def remove(self, topic: Topic, client: Outbox) -> None:
        if topic.is_wild:
            self.every.discard(client)
        elif (members := self.some.get(topic.symbol)) is not None:
            members.discard(client)
            if not members:
                del self.some[topic.symbol]
        self.interest = None

    def follow(self) -> Interest:
        if self.interest is None:
            self.interest = Interest(bool(self.every), pa.array(list(self.some), pa.string()))
        return self.interest

    def deal(self, part: Part) -> None:
        every, some = self.every, self.some
        for client in every:
            for frame in part.frames:
                client.put(frame)
        if not some:
            return
        for symbol, text in zip(part.symbols, part.texts, strict=True):
            for client in some.get(symbol, ()):
                if client not in every:
                    client.add(text)


class Hub:
    """Follows the live store, and hands what it tells to clients.

    Its methods are for the loop in which ``start`` was called, but for ``wrong`` and ``snapshot``.

    Args:
        settings: say where the live store is.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.redis is None:
            raise ValueError("a hub needs a live store")
        self._live = Live(settings.redis, settings.prefix, settings.buckets)
        self._rooms: dict[Room, _Members] = {}
        self._clients: dict[Outbox, set[Topic]] = {}
        # Of rooms: the follower reads what they follow.
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_AHEAD)
        self._follower: Follower | None = None
        self._news: NewsFollower | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = asyncio.Event()
        self._wrong: str | None = None
        self._reads = _Shared()
        self._here: Position | None = None
        self._waiting: dict[asyncio.Future[None], Position] = {}

    @property
    def wrong(self) -> str | None:
        """One line of what is wrong with the live store; None: it is followed."""
        return self._wrong

    @property
    def topics(self) -> int:
        """How many topics are followed, by all clients together."""
        return sum(map(len, self._clients.values()))

    def start(self) -> None:
        """Begin to follow; once more changes nothing."""
        if self._follower is not None:
            return
        self._loop = asyncio.get_running_loop()
        follower = Follower(
            self._live, self._interests, self._take, self._come_to, self._missed, self._changed
        )
        self._follower = follower
        follower.start()
        self._news = NewsFollower(self._live, self._interests, self._take)
        self._news.start()

    async def stop(self) -> None:
        """End the followers."""
        followers = self._follower, self._news
        self._follower = self._news = None
        for follower in followers:
            if follower is not None:
                await asyncio.to_thread(follower.stop)
        self._live.close()

    async def caught_up(self, run: Callable[..., Any]) -> None:
        """Wait until clients have been told what the store held at this call, or it is known to be away.

        Who subscribes then is told nothing of before.

        Args:
            run: awaits something that blocks, in a thread.
        """
        with suppress(TimeoutError, StoreDown):
            async with asyncio.timeout(_WAIT_S):
                await self._begun.wait()
                if self._wrong is None:
                    await self._until(await self._reads.ask("end", partial(run, self._live.ask, position)))

    async def _until(self, end: Position) -> None:
        if _is_behind(self._here, end):
            reached = asyncio.get_running_loop().create_future()
            self._waiting[reached] = end
            try:
                await reached
            finally:
                del self._waiting[reached]

    # Clients.

    def subscribe(self, client: Outbox, topics: Iterable[Topic]) -> None:
        """Let a client follow topics."""
        known = self._clients.setdefault(client, set())
        with self._lock:
            for topic in topics:
                known.add(topic)
                self._rooms.setdefault(topic.room, _Members()).add(topic, client)

    def unsubscribe(self, client: Outbox, topics: Iterable[Topic]) -> None:
        """Let a client follow topics no longer."""
        known = self._clients.get(client, set())
        with self._lock:
            for topic in topics:
                known.discard(topic)
                if (members := self._rooms.get(topic.room)) is not None:
                    members.remove(topic, client)
                    if not members.every and not members.some:
                        del self._rooms[topic.room]

    def leave(self, client: Outbox) -> None:
        """Forget a client."""
        self.unsubscribe(client, list(self._clients.get(client, ())))
        self._clients.pop(client, None)

    def count(self, client: Outbox) -> int:
        """Return how many topics a client follows."""
        return len(self._clients.get(client, ()))

    # What the follower calls, from its thread.

    def _interests(self) -> dict[Room, Interest]:
        with self._lock:
            return {room: members.follow() for room, members in self._rooms.items()}

    def _take(self, parts: Sequence[Part]) -> None:
        follower = self._follower
        while not self._slots.acquire(timeout=_LOOK_S):
            if follower is None or follower.is_stopping:
                return
        self._soon(self._deal, parts)

    def _come_to(self, here: Position) -> None:
        self._soon(self._take_position, here)

    def _missed(self) -> None:
        self._soon(self._tell_all, "reset", "updates were missed: read history anew, open bars follow")

    def _changed(self, wrong: str | None) -> None:
        self._soon(self._take_state, wrong)

    def _soon(self, call: Callable[..., object], *arguments: Any) -> None:
        assert self._loop is not None
        # The loop has closed: there is nobody to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    # What these leave to the loop.

    def _deal(self, parts: Sequence[Part]) -> None:
        self._slots.release()
        for part in parts:
            if (members := self._rooms.get(part.room)) is not None:
                members.deal(part)

    def _take_position(self, here: Position) -> None:
        self._here = here
        for reached, end in self._waiting.items():
            if not _is_behind(here, end) and not reached.done():
                reached.set_result(None)

    def _take_state(self, wrong: str | None) -> None:
        before, self._wrong = self._wrong, wrong
        if wrong is not None:
            _log.warning("the live store is not followed: %s", wrong)
            if before is None:
                self._tell_all(
                    "stale", "the live store does not answer: what you see is old until it is back"
                )
        elif before is not None:
            _log.info("the live store is followed again")
            self._tell_all("live", "the live store answers again")
        self._begun.set()

    def _tell_all(self, kind: str, message: str) -> None:
        frame = f"[{status(kind, message)}]"
        for client, topics in self._clients.items():
            if topics:
                client.put(frame)

    # What is there when a client comes.

    async def snapshot(self, topics: Sequence[Topic], run: Callable[..., Any]) -> list[str]:
        """Return what is there of topics of our own channels, as frames: subscribe first, then ask.

        Of ``B`` the last closed bar, of ``O`` the open ones, of ``P`` the last price.

        Args:
            topics: any.
            run: awaits something that blocks, in a thread.

        Raises:
            StoreDown: the live store does not answer.
        """
        own = [topic for topic in topics if topic.channel in OWN]
        made: list[str] = []
        for topic in own:
            if topic.is_wild:
                made += await self._reads.ask(topic.room, partial(run, self._read, [topic]))
        some = [topic for topic in own if not topic.is_wild]
        if some:
            made += await run(self._read, some)
        return made

    def _read(self, topics: Sequence[Topic]) -> list[str]:
        """Return ``snapshot`` of topics, of one room where they are of every symbol; blocks."""
        rooms: dict[Room, list[str]] = {}
        for topic in topics:
            rooms.setdefault(topic.room, []).append(topic.symbol)
        return [
            frame
            for channel in OWN
            for (of, timeframe), symbols in rooms.items()
            if of == channel
            for frame in frames(self._live.ask(_there(channel, timeframe, symbols)))
        ]


def _is_behind(here: Position | None, end: Position) -> bool:
    """Return whether a follower has not come to a position; one of another store cannot be waited for."""
    return here is not None and here.generation == end.generation and here.number < end.number


def _there(channel: str, timeframe: str, symbols: Sequence[str]) -> Callable[[LiveStore], Any]:
    """Return the question for what is there of a room, which gives objects."""
    wanted = None if EVERY in symbols else list(symbols)

    def question(store: LiveStore) -> Any:
        if channel == LAST:
            return objects(store.last_prices(wanted), PRICE_MEMBERS, LAST)
        if channel == OPEN:
            return objects(store.open_bars(wanted, [timeframe]), BAR_MEMBERS, OPEN)
        names = _known(store) if wanted is None else wanted
        return objects(last_closed(store, [(name, timeframe) for name in names]), BAR_MEMBERS, CLOSED)

    return question


def _known(store: LiveStore) -> list[str]:
    """Return the symbols that the live store has something of."""
    both: list[Any] = [store.last_prices()["symbol"], store.open_bars()["symbol"]]
    names: Any = pc.unique(
        pa.chunked_array([chunk for column in both for chunk in column.chunks], pa.string())
    )
    found: list[str] = names.to_pylist()
    return found


class _Shared:
    """One read for all who wait for the same: who comes while it runs gets the next one's answer."""

    def __init__(self) -> None:
        self._running: dict[Any, asyncio.Task[Any]] = {}
        self._next: dict[Any, asyncio.Task[Any]] = {}

    async def ask(self, key: Any, question: Callable[[], Any]) -> Any:
        """Return the answer to a question that was asked after this call."""
        waiting = self._next.get(key)
        if waiting is None:
            waiting = asyncio.create_task(self._after(key, question))
            self._next[key] = waiting
        return await asyncio.shield(waiting)

    async def _after(self, key: Any, question: Callable[[], Any]) -> Any:
        while (running := self._running.get(key)) is not None:
            with suppress(Exception):
                await asyncio.shield(running)
        task = self._next.pop(key)
        self._running[key] = task
        try:
            return await question()
        finally:
            if self._running.get(key) is task:
                del self._running[key]
