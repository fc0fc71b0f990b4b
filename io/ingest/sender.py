"""From the spool to Kinesis: in order, whatever Kinesis says, until it is told to give up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fibflow.io.ingest.entries import Entry, Kind, frames_of
from fibflow.io.ingest.holes import Filler, Filling, Hole
from fibflow.io.ingest.messages import ticks_of
from fibflow.io.ingest.spool import Spool
from fibflow.io.ingest.status import Status
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.kinesis.producer import PutTicks

_LOGGER = logging.getLogger(__name__)

#: Bytes of the spool that are sent at once, and how long to wait for some.
_BATCH = 4 << 20
_WAIT_S = 0.25
_NAMED = 5


class GaveUp(Exception):
    """It was told to end before everything was sent; what was not stays in the spool."""


@dataclass(frozen=True)
class SendOptions:
    """How to send.

    Attributes:
        linger: seconds between two batches, so that records are not too small for a shard's quota.
        fill_within: seconds for which everything waits for a hole to be filled.
        retry: seconds between attempts where Kinesis refuses outright, as for a stream that is gone.
    """

    linger: float = 0.1
    fill_within: float = 60.0
    retry: float = 2.0


class Sender:
    """Sends what lies in the spool, and what fills holes. Runs in a thread of its own.

    Args:
        spool: is read.
        producer: puts; its ``sleep`` should raise ``GaveUp`` when it is time to.
        filler: fills holes; None where nobody does.
        status: is told.
        say: is told what a person should read, a line each.
        wait: waits so many seconds, shorter where it is to end; raises ``GaveUp`` when it is time to.
        clock: seconds that only grow.
        now: UTC microseconds.
        options: how to send.
    """

    def __init__(
        self,
        spool: Spool,
        producer: PutTicks,
        filler: Filler | None,
        status: Status,
        say: Callable[[str], None],
        wait: Callable[[float], None],
        clock: Callable[[], float],
        now: Callable[[], int],
        options: SendOptions,
    ) -> None:
        self._spool, self._producer, self._filler = spool, producer, filler
        self._status, self._say, self._wait = status, say, wait
        self._clock, self._now, self._options = clock, now, options
        #: Those of an earlier process may be in the spool too.
        self._begun: set[Hole] = set()
        #: Since when entries are missing that could not be read: up to the next time that one tells.
        self._lost_from: int | None = None
        #: A hole was not filled because of the end: time stands still from there on.
        self._is_cut_short = False
        #: Set to end when everything that is in the spool by then was sent.
        self.drain = threading.Event()

    def run(self) -> None:
        """Send until ``drain`` is set and the spool is empty.

        Raises:
            GaveUp: it was told to end before.
        """
        if self._filler is not None:
            for hole in self._filler.left_open():
                self._fill(hole)
        while True:
            ends = self.drain.is_set()
            began = self._clock()
            event, skipped = self._spool.event, self._spool.skipped
            entries = self._spool.take(_BATCH, 0.0 if ends else _WAIT_S)
            passed_over = self._spool.skipped > skipped
            if passed_over and event and self._lost_from is None:
                self._lost_from = event
            self._send(entries)
            late = self._late()
            if entries or late or passed_over:
                self._flush()
                self._note()
            if ends and not entries:
                return
            if not ends and sum(entry.size for entry in entries) < _BATCH:
                self._wait(max(0.0, self._options.linger - (self._clock() - began)))

    def _send(self, entries: Sequence[Entry]) -> None:
        """Hand on entries in their order, frames that follow each other together."""
        at = 0
        while at < len(entries):
            if self._lost_from is not None and entries[at].event:
                begin, self._lost_from = self._lost_from, None
                self._fill(Hole(begin, max(begin, entries[at].event)))
            until = at
            while until < len(entries) and entries[until].kind is Kind.FRAMES:
                until += 1
            if until > at:
                self._put(*frames_of(entries[at:until]), entries[until - 1].event)
                at = until
                continue
            entry = entries[at]
            if entry.kind is Kind.BEAT:
                self._beat(entry.event)
            else:
                self._fill(Hole.of(entry.payload))
            at += 1

    def _put(self, data: bytes, lengths: Any, time: int) -> None:
        ticks = ticks_of(data, lengths, time)
        counts = self._status.counts
        counts.taken += ticks.table.num_rows
        counts.dropped_status += ticks.status
        counts.dropped_too_large += ticks.too_large
        if ticks.too_large:
            self._say(f"{ticks.too_large} messages are larger than a record may be: they were left out")
        if not ticks.table.num_rows:
            return
        if self._filler is not None:
            symbols: Any = ticks.table["symbol"]
            self._filler.saw(name for name in symbols.unique().to_pylist() if name)
        self._insist(lambda: self._producer.put(ticks.table), self._producer.flush)

    def _beat(self, time: int) -> None:
        if self._is_cut_short:
            return
        self._insist(lambda: self._producer.heartbeat(time))
        self._status.beat = max(self._status.beat, time)

    def _flush(self) -> None:
        self._insist(self._producer.flush)

    def _insist(self, call: Callable[[], None], again: Callable[[], None] | None = None) -> None:
        """Make a call of the producer until it is done; what it took in and could not send it keeps."""
        while True:
            try:
                call()
            except KinesisError as error:
                if self._status.kinesis_lost(str(error)):
                    self._say(f"{error}: what comes is spooled to {self._spool.folder}")
                self._counted()
                self._wait(self._options.retry)
                call = again or call
                continue
            self._counted()
            if self._status.kinesis_up():
                self._say(
                    f"Kinesis takes records again: {self._spool.waiting / 1e6:,.1f} MB wait in the spool"
                )
            return

    def _counted(self) -> None:
        done, counts = self._producer.counts, self._status.counts
        counts.sent, counts.records, counts.heartbeats = done.messages, done.records, done.heartbeats
        counts.throttled, counts.put_failures = done.throttled, done.failed
        self._status.waiting = self._spool.waiting

    def _note(self) -> None:
        if self._filler is not None and not self._filler.keeps_open():
            return  # the spool has them still
        try:
            self._spool.sent()
        except OSError as error:  # it is sent again after a restart, then; nothing is lost
            _LOGGER.warning("the spool's mark cannot be written: %s", error)
        self._status.waiting = self._spool.waiting

    # Holes ------------------------------------------------------------------------------------------------

    def _fill(self, hole: Hole) -> None:
        """Fill a hole before anything else is sent, for as long as that may take."""
        if hole in self._begun:
            return
        self._begun.add(hole)
        self._status.counts.holes += 1
        if self._filler is None:
            self._status.counts.holes_unfilled += 1
            self._say(f"{hole} is not filled: nobody is asked (see --no-fill); pipelines.backfill can")
            return
        filling = self._filler.start(hole)
        self._say(f"{hole}: asking for {filling.asked:,} symbols")
        self._status.open_holes = self._filler.open
        until = self._clock() + self._options.fill_within
        while not (filling.done.is_set() or self.drain.is_set()) and self._clock() < until:
            found = self._filler.had(0.1)
            began = self._clock()
            self._put_had(found)
            until += self._clock() - began  # the vendor has nothing to do with that
        if self.drain.is_set() and not filling.done.is_set():
            self._is_cut_short = True
        if not (filling.done.is_set() or self.drain.is_set()):
            self._say(
                f"{hole}: {filling.left:,} of {filling.asked:,} symbols are not there after "
                f"{self._options.fill_within:g} s: the feed goes on, and they come late"
            )
        self._late()
        # Keys do not wait for each other: what comes now would else be there before some of this.
        self._flush()

    def _late(self) -> bool:
        """Send what came of holes, and close those that nothing more comes of."""
        if self._filler is None or not self._filler.open:
            return False
        finished = self._filler.finished()
        found = self._filler.had(0.0)
        self._put_had(found)
        for filling in finished:
            self._flush()
            self._filler.forget(filling)
            self._report(filling)
        self._status.open_holes = self._filler.open
        return bool(found) or bool(finished)

    def _put_had(self, frames: Sequence[bytes]) -> None:
        if not frames:
            return
        lengths = [len(frame) for frame in frames]
        before = self._status.counts.taken
        self._put(b"".join(frames), np.array(lengths, np.int64), 0)
        self._status.counts.filled += self._status.counts.taken - before

    def _report(self, filling: Filling) -> None:
        filled = filling.asked - len(filling.unfilled)
        if not filling.asked:
            self._status.counts.holes_unfilled += 1
            self._say(
                f"{filling.hole} is not filled: no symbol is known, or what it is of cannot be asked for"
            )
        elif filling.unfilled:
            self._status.counts.holes_unfilled += 1
            named = ", ".join(sorted(filling.unfilled)[:_NAMED])
            more = " and more" if len(filling.unfilled) > _NAMED else ""
            self._say(
                f"{filling.hole} is filled for {filled:,} symbols, not for {named}{more}: {filling.why}: "
                "pipelines.backfill can fetch its minutes later"
            )
        else:
            self._say(f"{filling.hole} is filled: {filling.messages:,} messages of {filled:,} symbols")
