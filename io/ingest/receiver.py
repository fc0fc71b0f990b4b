"""From the vendor to the spool: connect, read, and when the connection breaks, again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fibflow.io.ingest.entries import Entry, Kind, frames_entry
from fibflow.io.ingest.eventtime import SECOND_US, FeedTime, newest_of
from fibflow.io.ingest.feed import Connection, Feed, FeedLost, FeedRefused, statuses_of
from fibflow.io.ingest.holes import Hole
from fibflow.io.ingest.spool import Spool
from fibflow.io.ingest.status import NEAR, Status
from fibflow.io.kinesis.errors import Backoff, Random

# Frames are written together: once they have so many bytes, or are so old.
_BATCH_BYTES = 256 << 10
_BATCH_S = 0.02
_MARKS = b'"ev":'
#: Seconds without data after which a hole is taken to end now: each minute has a message in a session.
_QUIET_S = 75.0
#: Seconds that a session's data may have been away unseen when the session ended.
_STALL_S = 150.0
#: How long after its minute the vendor sends one again at the most.
_RESENT_US = 900 * SECOND_US
#: A connection that was there for so long was a good one, seconds.
_LIVED_S = 10.0
#: So many refusals of the key in a row are believed; the first one at once where it was never taken.
_REFUSALS = 5
# How often to look whether there is room again.
_ROOM_S = 0.1


@dataclass(frozen=True)
class ReceiveOptions:
    """How to receive.

    Attributes:
        heartbeat: seconds between heartbeats.
        grace: seconds that heartbeats stay behind the feed's time, besides what the stream allows for.
        ping, pong: seconds between asking the vendor for a sign of life, and those that it may take.
        silence: seconds without data, within ``in_session``, after which the connection is taken for dead.
        longest: seconds of a hole at most; what is longer is for a backfill.
        backoff: between connections.
    """

    heartbeat: float = 1.0
    grace: float = 0.0
    ping: float = 2.0
    pong: float = 10.0
    silence: float = 120.0
    longest: float = 86_400.0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 15.0))


class Receiver:
    """Reads the feed into the spool. Runs in an event loop.

    Args:
        feed: is connected to.
        spool: is appended to.
        status: is told.
        say: is told what a person should read, a line each.
        clock: seconds that only grow.
        now: UTC microseconds.
        random: for backing off.
        in_session: whether the market is open at a time of the feed, UTC microseconds.
        options: how to receive.
    """

    def __init__(
        self,
        feed: Feed,
        spool: Spool,
        status: Status,
        say: Callable[[str], None],
        clock: Callable[[], float],
        now: Callable[[], int],
        random: Random,
        in_session: Callable[[int], bool],
        options: ReceiveOptions,
    ) -> None:
        self._feed, self._spool, self._status, self._say = feed, spool, status, say
        self._clock, self._now, self._random = clock, now, random
        self._in_session, self._options = in_session, options
        before = spool.before
        self._time = FeedTime(before.event, before.received)
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        #: Where the hole before the next data begins; None where there is none.
        self._missed_from = self._begin_of_hole(before.event, max(before.event, before.beat))
        #: A hole that is to be written before what comes next.
        self._hole: Hole | None = None
        self._subscribed_at = self._data_at = 0.0
        self._beat = before.beat
        self._stop = asyncio.Event()
        self._warned = False

    def stop(self) -> None:
        """Have ``run`` end: no more is read than what has come."""
        self._stop.set()

    async def run(self) -> None:
        """Receive until ``stop``.

        Raises:
            FeedRefused: the vendor refuses the key, or what it is asked for.
        """
        failures = refusals = 0
        while not self._stop.is_set():
            await self._wait_for_room()
            try:
                async with self._feed.connected(self._say) as connection:
                    refusals = 0
                    await self._read(connection)
                # One that is cut off as soon as it is there is not made anew at once.
                failures = 0 if self._clock() - self._subscribed_at >= _LIVED_S else failures + 1
            except FeedLost as error:
                failures += 1
                self._lost(str(error))
            except FeedRefused as error:
                refusals += 1
                self._lost(str(error))
                if refusals >= _REFUSALS or not self._status.counts.connections:
                    raise
                failures += 1
            if failures:
                await self._pause(self._options.backoff.delay(failures, self._random))
        self._flush()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def _lost(self, why: str) -> None:
        if self._stop.is_set():
            return
        if self._status.feed_down_since is None:
            self._status.counts.cuts += 1
            why = f"the feed is lost: {why}"
        if why != self._status.feed_why:
            self._say(why)
        self._status.feed_lost(why)

    async def _read(self, connection: Connection) -> None:
        """Read a connection to its end."""
        self._status.feed_up()
        self._say(f"the feed is connected: {self._feed.url}, {len(self._feed.topics)} topics")
        self._subscribed_at = self._data_at = self._clock()
        work = (self._watch(connection), self._beats(), self._close_at_stop(connection))
        tasks = [asyncio.create_task(each) for each in work]
        for task in tasks:
            task.add_done_callback(lambda task: connection.cut() if _failed(task) else None)
        try:
            await self._frames(connection)
        except FeedLost as error:
            self._lost(str(error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._flush()
            if self._missed_from is None:
                self._missed_from = self._begin_of_hole(self._time.newest, self._time.estimate())
        for task in tasks:
            if failure := _failed(task):
                raise failure

    async def _frames(self, connection: Connection) -> None:
        while True:
            if self._spool.is_full or self._status.disk_why:
                await self._wait_for_room()
            frame = await connection.frame()
            statuses, alone = statuses_of(frame)
            for status in statuses:
                if said := self._feed.passing(status):
                    self._say(said)
            if alone:
                continue
            self._data_at = self._clock()
            if self._missed_from is not None:
                self._hear_again(self._missed_from, newest_of(frame, self._now()))
            self._batch.append(frame)
            self._batch_bytes += len(frame)
            if self._batch_bytes >= _BATCH_BYTES:
                self._flush()
                # The other tasks' turn: where frames wait, taking one does not let them.
                await asyncio.sleep(0)
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_BATCH_S, self._flush)

    # To the spool -----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what came; what the disk refuses is kept, and nothing more is read until it does not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._now()
        if self._hole is not None:
            if not self._append(Entry(Kind.HOLE, self._hole.to_bytes(), 0, 0, now)):
                return
            self._hole = None
        if not self._batch:
            return
        newest = newest_of(self._batch[-1], now)
        if self._append(frames_entry(self._batch, newest, now)):
            counts = self._status.counts
            counts.frames += len(self._batch)
            counts.received += sum(frame.count(_MARKS) for frame in self._batch)
            counts.received_bytes += self._batch_bytes
            self._batch, self._batch_bytes = [], 0
            self._time.heard(newest, now)
            self._status.event = self._time.newest

    @property
    def _is_written(self) -> bool:
        """Whether everything that came is in the spool."""
        return not self._batch and self._hole is None

    def _append(self, entry: Entry) -> bool:
        try:
            self._spool.append(entry)
        except OSError as error:
            why = error.strerror or type(error).__name__
            if not self._status.disk_why:
                self._say(
                    f"the spool {self._spool.folder} cannot be written: {why}: nothing is read from the feed "
                    "until it can: free some space"
                )
            self._status.disk_why = why
            return False
        self._status.disk_why = ""
        self._status.waiting = self._spool.waiting
        self._warn()
        return True

    def _warn(self) -> None:
        near = self._spool.waiting >= NEAR * self._spool.limit
        if near and not self._warned:
            self._say(
                f"the spool {self._spool.folder} is {self._spool.waiting / self._spool.limit:.0%} full "
                f"({self._spool.limit / 1e6:,.0f} MB): at its limit nothing more is read from the feed"
            )
        if near or self._spool.waiting < NEAR / 2 * self._spool.limit:
            self._warned = near

    async def _wait_for_room(self) -> None:
        """Wait while nothing more can be spooled: what comes stays in the socket, and then at the vendor."""
        if not self._spool.is_full and not self._status.disk_why:
            return
        self._flush()
        if self._spool.is_full:
            self._say(
                f"the spool {self._spool.folder} is full: nothing is read from the feed until there is room"
            )
        self._status.paused = True
        while (self._spool.is_full or self._status.disk_why) and not self._stop.is_set():
            await asyncio.sleep(_ROOM_S)
            if self._status.disk_why:
                self._flush()
                if self._is_written:
                    self._status.disk_why = ""
        self._status.paused = False
        if not self._stop.is_set():
            self._say("there is room in the spool: the feed is read again")

    # Time and holes ---------------------------------------------------------------------------------------

    def _hear_again(self, begin: int, newest: int) -> None:
        """Take in the first data after a hole: it ends there, where the data is not older."""
        if newest >= begin:
            self._write_hole(begin, newest)
        elif 0 < newest < begin - _RESENT_US:
            self._say("the feed's time went back: nothing is taken to be missing")
            self._missed_from = None

    def _write_hole(self, begin: int, end: int) -> None:
        """Write what was missed, before the data that comes now."""
        hole = Hole(begin, end)
        if end - begin > self._options.longest * SECOND_US:
            self._say(f"{hole} is too long to be filled here: pipelines.backfill fetches its minutes")
            self._status.counts.holes += 1
            self._status.counts.holes_unfilled += 1
            self._missed_from = None
            return
        self._flush()
        if self._hole is not None:  # the disk refuses
            hole = Hole(min(begin, self._hole.begin), max(end, self._hole.end))
        self._hole, self._missed_from = hole, None
        self._flush()

    def _begin_of_hole(self, newest: int, alive: int) -> int | None:
        """Return where a hole begins; None where nothing has come yet.

        After the newest data; or, where there was none for long and none was to be expected, after the last
        sign of life. In a session a connection may have stalled before it broke, whatever life it showed.
        """
        if not newest:
            return None
        quiet = (alive - newest) / SECOND_US
        if quiet > min(_STALL_S, self._options.longest):
            stalled = quiet <= self._options.longest and self._in_session(alive)
        else:
            stalled = quiet <= _QUIET_S or self._in_session(newest)
        return newest if stalled else alive

    async def _watch(self, connection: Connection) -> None:
        """End a connection that gives no sign of life, or no data when there should be some."""
        while True:
            await asyncio.sleep(self._options.ping)
            asked, paused = self._now(), self._status.paused
            try:
                alive = await connection.alive(self._options.pong)
            except FeedLost:
                return
            if paused or self._status.paused:
                continue
            if alive:
                self._time.lives(asked)
            quiet = self._clock() - self._data_at
            silent = quiet > self._options.silence and self._in_session(self._time.estimate())
            if silent and self._missed_from is None:
                # It gave signs of life: since when something is missing only the data says.
                self._missed_from = self._time.newest or None
            if not alive or silent:
                self._say(f"the feed says nothing{f' for {quiet:.0f} s' if silent else ''}: connecting anew")
                connection.cut()
                return

    async def _beats(self) -> None:
        """Write heartbeats: never past what may have been missed."""
        while True:
            await asyncio.sleep(self._options.heartbeat)
            if self._missed_from is not None and self._clock() - self._subscribed_at > _QUIET_S:
                self._write_hole(self._missed_from, max(self._missed_from, self._time.estimate(self._now())))
            if self._missed_from is not None or self._status.paused:
                continue
            self._flush()
            if not self._is_written:
                continue
            time = self._time.estimate() - round(self._options.grace * SECOND_US)
            if time > self._beat and self._append(Entry(Kind.BEAT, b"", 0, time, self._now())):
                self._beat = time

    async def _close_at_stop(self, connection: Connection) -> None:
        await self._stop.wait()
        await connection.close()


def _failed(task: asyncio.Task[None]) -> BaseException | None:
    return None if not task.done() or task.cancelled() else task.exception()
