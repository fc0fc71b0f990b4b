"""The feed: one playing of a script to all who follow, at a pace, with faults at places of it.

It takes the place of the live store's hub behind the server's own WebSocket. Who comes late or is away
misses what goes out meanwhile, as with the vendor: REST has it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.serving.live.fragments import FRAME_ROWS
from fibflow.serving.live.outbox import Outbox
from fibflow.serving.live.topics import Topic
from fibflow.serving.standin.following import Follower, Part
from fibflow.serving.standin.paces import FeedFault, FeedKind, Pace, Seconds
from fibflow.serving.standin.script import Script

_LOG = logging.getLogger("fibflow.serving")

#: How often messages that are due go out.
STEP_S = 0.01
#: So many frames may wait for a client that sets the pace.
_AHEAD = 8
_POLL_S = 0.002
#: For clients to read what they have, before they are cut off.
_DRAIN_S = 5.0
#: Faults that let nobody in.
_SHUT = (FeedKind.CUT, FeedKind.CLOSE)


class Feed:
    """Plays scripts. Its methods are for the loop of the server, but for ``told``.

    Args:
        clock: seconds that only grow.
        sleep: waits so many seconds.
    """

    #: As the hub of a live store has it: nothing is wrong with this one.
    wrong: str | None = None

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._followers: dict[Outbox, Follower] = {}
        self._aborts: set[Callable[[], object]] = set()
        self._close: Callable[[int], object] = lambda code: None
        self._playing: asyncio.Task[None] | None = None
        self._came = asyncio.Event()
        self._faults: list[FeedFault] = []
        self._position = 0
        self._total = 0
        self._state = "idle"
        self._connections = 0
        self._sent = 0
        # Faults that last, with the times that end them.
        self._lasting: list[tuple[FeedFault, float]] = []

    # What the server's WebSocket asks of a hub.

    def start(self) -> None:
        """There is nothing to begin until something is played."""

    async def stop(self) -> None:
        """End what is played."""
        await self.end()

    async def caught_up(self, run: Callable[..., Any]) -> None:
        """Nothing is behind."""

    async def snapshot(self, topics: Sequence[Topic], run: Callable[..., Any]) -> list[str]:
        """There is nothing of before."""
        return []

    def subscribe(self, client: Outbox, topics: Iterable[Topic]) -> None:
        """Let a client follow topics."""
        self._followers.setdefault(client, Follower()).change(topics, add=True)
        self._came.set()

    def unsubscribe(self, client: Outbox, topics: Iterable[Topic]) -> None:
        """Let a client follow topics no longer."""
        follower = self._followers.get(client)
        if follower is not None:
            follower.change(topics, add=False)
            if not follower.topics():
                del self._followers[client]

    def leave(self, client: Outbox) -> None:
        """Forget a client."""
        self._followers.pop(client, None)

    def count(self, client: Outbox) -> int:
        """Return how many topics a client follows."""
        follower = self._followers.get(client)
        return 0 if follower is None else follower.topics()

    @property
    def topics(self) -> int:
        """How many topics are followed, by all clients together."""
        return sum(follower.topics() for follower in self._followers.values())

    # What the application tells.

    def on_close(self, close: Callable[[int], object]) -> None:
        """Take what closes all connections with a code."""
        self._close = close

    def connected(self, abort: Callable[[], object]) -> bool:
        """Take what breaks a new connection; return whether it is let in."""
        if self._lasts(*_SHUT):
            return False
        self._aborts.add(abort)
        self._connections += 1
        return True

    def disconnected(self, abort: Callable[[], object]) -> None:
        """Forget a connection."""
        self._aborts.discard(abort)

    def told(self) -> dict[str, Any]:
        """Return how far it is."""
        return {
            "state": self._state,
            "position": self._position,
            "total": self._total,
            "sent": self._sent,
            "followers": len(self._followers),
            "behind": max(map(len, self._followers), default=0),
            "topics": self.topics,
            "connections": self._connections,
        }

    # Playing.

    def order(self, *faults: FeedFault) -> None:
        """Order faults of what is played now or next."""
        self._faults = sorted([*self._faults, *faults], key=lambda fault: fault.at)

    def clear(self) -> None:
        """Let all go well from now on."""
        self._faults.clear()
        self._lasting.clear()

    async def play(self, script: Script, pace: Pace, followers: int = 1) -> None:
        """Begin to play a script, from its beginning, once so many follow. What was played ends."""
        await self.end()
        total = await asyncio.to_thread(lambda: script.total)
        self._position, self._total, self._sent, self._state = 0, total, 0, "waiting"
        self._playing = asyncio.create_task(self._play(script, pace, followers))

    async def end(self) -> None:
        """End what is played, and what goes wrong with it."""
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
        self._lasting.clear()
        self._state = "idle"

    async def _play(self, script: Script, pace: Pace, followers: int) -> None:
        try:
            await self._wait_for(followers)
            self._state = "playing"
            began, last, before = self._clock(), 0.0, script.start
            async for part in _ahead(script.parts()):
                sent = part["sent"].combine_chunks().view(pa.int64()).to_numpy()
                due = pace.due(sent, before, self._position, last)
                await self._play_part(Part(part), due, began, pace)
                before, last = int(sent[-1]), float(due[-1])
            self._state = "played"
        except Exception as error:
            _LOG.exception("the feed cannot be played")
            self._state = f"failed: {error}"

    async def _play_part(self, part: Part, due: Seconds, began: float, pace: Pace) -> None:
        at = 0
        while at < len(due):
            await self._begin_and_end_faults(pace)
            ready = len(due)
            if not pace.waits:
                now = self._clock() - began
                ready = int(np.searchsorted(due, now, side="right"))
                if ready <= at:
                    await self._sleep(max(float(due[at]) - now, STEP_S))
                    continue
            until = min(ready, at + FRAME_ROWS, at + self._next_fault())
            rate = min(
                (fault.rate for fault, _ in self._lasting if fault.kind is FeedKind.SLOW), default=None
            )
            if rate is not None:
                until = min(until, at + max(1, int(rate * STEP_S)))
            self._send(part, at, until)
            self._position += until - at
            if rate is not None:
                await self._sleep((until - at) / rate)
            elif pace.waits:
                await self._wait_for_room()
            else:
                # What is due in the meantime goes out in one frame.
                await self._sleep(STEP_S if until == ready else 0)
            at = until

    def _next_fault(self) -> int:
        """Return how many messages there are until a fault begins or ends."""
        places = [fault.at for fault in self._faults]
        places += [fault.at + fault.length for fault, _ in self._lasting]
        return min((place - self._position for place in places if place > self._position), default=1 << 60)

    def _lasts(self, *kinds: FeedKind) -> bool:
        return any(fault.kind in kinds for fault, _ in self._lasting)

    async def _begin_and_end_faults(self, pace: Pace) -> None:
        while self._faults and self._faults[0].at <= self._position:
            fault = self._faults.pop(0)
            if fault.kind in _SHUT:
                await self._break(fault)
            self._lasting.append((fault, self._clock() + fault.seconds))
        for lasting in list(self._lasting):
            fault, until = lasting
            if self._position < fault.at + fault.length:
                continue
            if pace.waits and fault.kind is not FeedKind.SLOW:
                # Nothing is due: the script waits until the time is over.
                await self._sleep(max(0.0, until - self._clock()))
            elif self._clock() < until:
                continue
            if lasting in self._lasting:
                self._lasting.remove(lasting)
        if pace.waits and not self._lasts(*_SHUT):
            await self._wait_for(1)

    async def _break(self, fault: FeedFault) -> None:
        # Who is cut off has what was played before.
        waits_until = self._clock() + _DRAIN_S
        while any(map(len, self._followers)) and self._clock() < waits_until:
            await self._sleep(_POLL_S)
        if fault.kind is FeedKind.CLOSE:
            self._close(fault.code)
        else:
            for abort in list(self._aborts):
                abort()
        self._followers.clear()

    async def _wait_for(self, followers: int) -> None:
        while len(self._followers) < followers:
            self._came.clear()
            await self._came.wait()

    async def _wait_for_room(self) -> None:
        await asyncio.sleep(0)
        while any(len(client) >= _AHEAD for client in self._followers):
            await asyncio.sleep(_POLL_S)

    def _send(self, part: Part, at: int, until: int) -> None:
        if self._lasts(FeedKind.SILENCE) or until <= at:
            return
        made: dict[Any, tuple[list[str], int]] = {}
        for client, follower in list(self._followers.items()):
            key = follower.key
            if key not in made:
                made[key] = part.frames(follower, at, until)
            frames, count = made[key]
            for frame in frames:
                client.put(frame)
            self._sent += count


async def _ahead(parts: Iterator[pa.Table]) -> Any:
    """Yield parts, each made in a thread while the one before is played."""

    def following() -> pa.Table | None:
        return next(parts, None)

    waiting = asyncio.ensure_future(asyncio.to_thread(following))
    try:
        while (part := await waiting) is not None:
            waiting = asyncio.ensure_future(asyncio.to_thread(following))
            yield part
    finally:
        waiting.cancel()
