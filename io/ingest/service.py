"""An ingest as a whole: its threads, their end, and what is said meanwhile."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from fibflow.io.ingest.feed import Feed, FeedRefused
from fibflow.io.ingest.holes import Filler, Vendor
from fibflow.io.ingest.receiver import ReceiveOptions, Receiver
from fibflow.io.ingest.sender import GaveUp, Sender, SendOptions
from fibflow.io.ingest.spool import Spool, SpoolError
from fibflow.io.ingest.status import Status, minute_line
from fibflow.io.ingest.web import WebServer
from fibflow.io.kinesis.errors import Backoff
from fibflow.io.kinesis.producer import PutOptions, PutTicks

#: Kinds of messages that a hole can be filled with.
FILLABLE = ("AM", "T")
_TICK_S = 1.0
_LINE_S = 60.0
_CLOSES_S = 5.0


class NotListening(Exception):
    """Nobody can listen there. One line: where, and why."""


class Unsent(Exception):
    """It ended before everything was sent. One line: what is left, and what sends it."""


@dataclass(frozen=True)
class Settings:
    """What an ingest does.

    Attributes:
        spool: folder of the spool.
        limit: bytes that may wait in it.
        host, port: of ``/healthz`` and ``/metrics``; None for none.
        drain: seconds that are left to send what waits, once it is to end.
        aggregate: gather the records of a shard in one.
        codec: of payloads.
        receive, send: how.
        fill_threads: calls at a time that fill holes.
        fill_patience: seconds for which a vendor that is away is asked again.
    """

    spool: Path
    limit: int
    host: str = "127.0.0.1"
    port: int | None = None
    drain: float = 30.0
    aggregate: bool = True
    codec: str = "none"
    receive: ReceiveOptions = field(default_factory=ReceiveOptions)
    send: SendOptions = field(default_factory=SendOptions)
    fill_threads: int = 8
    fill_patience: float = 900.0


class Ingest:
    """One ingest, from the vendor to a stream.

    Args:
        feed: is received.
        client: boto3's client of Kinesis, or one like it.
        stream: its stream's name.
        vendor_of: makes what fills holes, given what waits (and raises when it is to end); None for nobody.
        in_session: whether the market is open at a time, UTC microseconds.
        settings: what to do.
        say: is told what a person should read, a line each.
        clock: seconds that only grow.
        wall: seconds since 1970.
        dice: for backing off.
    """

    def __init__(
        self,
        feed: Feed,
        client: Any,
        stream: str,
        vendor_of: Callable[[Callable[[float], None]], Vendor] | None,
        in_session: Callable[[int], bool],
        settings: Settings,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        dice: random.Random | None = None,
    ) -> None:
        self.status = Status(clock)
        self._settings, self._say, self._clock, self._wall = settings, say, clock, wall
        self._dice = dice or random.Random()
        self._ending = threading.Event()
        self._give_up_at: float | None = None
        self._feed, self._in_session = feed, in_session
        self._kinesis, self._vendor_of = (client, stream), vendor_of

    def run(self) -> None:
        """Receive and send until a signal says to end, or ``stop``.

        Raises:
            SpoolError: the spool cannot be used.
            NotListening: the port cannot be listened on.
            FeedRefused: the vendor refuses the key, or what it is asked for.
            Unsent: it was told to end, and could not send everything in time.
        """
        settings = self._settings
        with ExitStack() as stack:
            spool = Spool(settings.spool, settings.limit)
            stack.callback(spool.close)
            self._found(spool)
            if settings.port is not None:
                server = stack.enter_context(self._listening(settings.host, settings.port))
                self._say(f"http://{settings.host}:{server.server_port} has /healthz and /metrics")
            filler = self._filler()
            sender = self._sender(spool, filler)
            try:
                uvloop.run(self._main(spool, sender, filler))
            except OSError as error:
                why = error.strerror or error
                raise SpoolError(
                    f"the spool {spool.folder} cannot be used: {why}: mend the disk, and start again"
                ) from error

    def _listening(self, host: str, port: int) -> WebServer:
        try:
            return WebServer(self.status, host, port)
        except OSError as error:
            raise NotListening(f"{host}:{port} cannot be had: {error.strerror or error}") from error

    def stop(self) -> None:
        """End: no more is received, what waits is sent. From any thread."""
        self._ending.set()

    def _found(self, spool: Spool) -> None:
        status = self.status
        status.limit, status.waiting = spool.limit, spool.waiting
        status.counts.spool_torn_bytes = spool.torn
        if spool.torn:
            self._say(f"the spool's last {spool.torn:,} bytes were not written whole: they are missing")
        if spool.waiting:
            self._say(f"{spool.waiting / 1e6:,.1f} MB wait in the spool {spool.folder}: they are sent first")

    def _filler(self) -> Filler | None:
        if self._vendor_of is None:
            return None
        kinds, symbols = set(), set()
        for topic in self._feed.topics:
            kind, _, symbol = topic.partition(".")
            kinds.add(kind)
            symbols.add(symbol)
        if unfillable := kinds.difference(FILLABLE):
            self._say(f"of {', '.join(sorted(unfillable))} nothing is fetched when a connection breaks")
        vendor = self._vendor_of(self._wait)
        return Filler(
            vendor,
            self._settings.spool,
            [kind for kind in FILLABLE if kind in kinds and (kind != "T" or hasattr(vendor, "trades"))],
            None if "*" in symbols else sorted(symbols),
            self._settings.fill_threads,
            self._ending.wait,
            self._settings.fill_patience,
            self._clock,
        )

    def _sender(self, spool: Spool, filler: Filler | None) -> Sender:
        client, stream = self._kinesis
        options = PutOptions(
            codec=self._settings.codec,
            aggregate=self._settings.aggregate,
            # It comes back often, so that health is told; what it holds it keeps.
            patience=1.0,
            backoff=Backoff(0.25, 2.0),
        )
        producer = PutTicks(client, stream, self._wall, self._wait, self._dice.random, options)
        return Sender(
            spool,
            producer,
            filler,
            self.status,
            self._say,
            self._wait,
            self._clock,
            self._now,
            self._settings.send,
        )

    def _now(self) -> int:
        return round(self._wall() * 1e6)

    def _wait(self, seconds: float) -> None:
        """Wait, or raise where it is time to give up."""
        until = self._clock() + seconds
        while True:
            if self._give_up_at is not None and self._clock() >= self._give_up_at:
                raise GaveUp
            left = until - self._clock()
            if left <= 0:
                return
            if self._ending.is_set():
                time.sleep(min(left, 0.05))
            else:
                self._ending.wait(left)

    # The loop ---------------------------------------------------------------------------------------------

    async def _main(self, spool: Spool, sender: Sender, filler: Filler | None) -> None:
        loop = asyncio.get_running_loop()
        receiver = Receiver(
            self._feed,
            spool,
            self.status,
            self._say,
            self._clock,
            self._now,
            self._dice.random,
            self._in_session,
            self._settings.receive,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may.
            with suppress(ValueError, RuntimeError):
                loop.add_signal_handler(number, self.stop)
        threads = ThreadPoolExecutor(3, "ingest")
        receiving = loop.create_task(receiver.run())
        sending = loop.run_in_executor(threads, sender.run)
        ended = threading.Event()
        ticking = loop.run_in_executor(threads, self._tick, spool, filler, ended)
        stopping = loop.run_in_executor(threads, self._ending.wait)
        try:
            first: list[asyncio.Future[Any]] = [receiving, sending, ticking, stopping]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            self.status.stopping = True
            self._ending.set()
            receiver.stop()
            # It may be connecting, which takes its time.
            await asyncio.wait([receiving], timeout=_CLOSES_S)
            receiving.cancel()
            result = await asyncio.gather(receiving, return_exceptions=True)
            self._give_up_at = self._clock() + self._settings.drain
            sender.drain.set()
            spool.wake()
            try:
                await sending
            except GaveUp:
                self._say(f"{spool.waiting / 1e6:,.1f} MB were not sent in {self._settings.drain:g} s")
        finally:
            self._give_up_at = self._give_up_at or self._clock()
            self._ending.set()
            sender.drain.set()
            ended.set()
            if filler is not None:
                await loop.run_in_executor(None, filler.close)
            await asyncio.gather(ticking, stopping, return_exceptions=True)
            threads.shutdown()
        spool.sync(force=True)
        if isinstance(result[0], Exception):
            raise result[0]
        await ticking
        if spool.waiting:
            raise Unsent(
                f"{spool.waiting / 1e6:,.1f} MB wait in the spool {spool.folder}: the next start sends them"
            )

    def _tick(self, spool: Spool, filler: Filler | None, ended: threading.Event) -> None:
        """Every second, what has to be done now and then; every minute, a line."""
        counts, since = copy(self.status.counts), self._clock()
        while True:
            over = ended.wait(_TICK_S)
            self.status.waiting = spool.waiting
            oldest = spool.oldest
            self.status.behind = max(0.0, (self._now() - oldest) / 1e6) if oldest else 0.0
            self.status.counts.spool_skipped_bytes = spool.skipped
            try:
                spool.sync()
                if filler is not None:
                    filler.note_symbols()
            except OSError as error:
                self._say(f"the spool {spool.folder} cannot be written: {error.strerror or error}")
            now = self._clock()
            if over or now - since >= _LINE_S:
                after = copy(self.status.counts)
                self._say(minute_line(counts, after, now - since, self.status, memory()))
                counts, since = after, now
            if over:
                return


def memory() -> int:
    """Return the bytes of memory that this process holds."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["FeedRefused", "Ingest", "NotListening", "Settings", "Unsent", "memory"]
