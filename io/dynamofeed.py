"""Prices on their way to DynamoDB, in a thread of their own: whoever offers them waits for nothing. No Beam.

Of each symbol the newest price waits, so that memory has a bound whatever DynamoDB does, and a turn a second
takes those that waited longest, as many as the rate allows. A DynamoDB that is away is asked again and again,
with growing pauses; what waits meanwhile gives way to what is newer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io.dynamodb import DynamoError, DynamoRefused, PriceTable, TickTable
from fibflow.io.lastprices import newest
from fibflow.io.liverecords import PRICES
from fibflow.transforms.partials import as_arrow

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_LOG = logging.getLogger(__name__)
#: Items a second that a job writes, of both tables together.
RATE = 200.0
#: What is offered beyond so many rows is reduced to one a symbol at once.
_MOST_OFFERED = 50_000
_LONGEST_PAUSE_S = 30.0
_MOST_DOUBLED = 5
_STOPS_WITHIN_S = 5.0
_LAST_ROWS = 500


@dataclass(frozen=True)
class Told:
    """What happened since it was last asked.

    Attributes:
        prices: last prices that were newer than what was there.
        ticks: items of the table of ticks.
        errors: turns that failed.
        refused: prices that DynamoDB takes no item of, and that were left out.
        waiting_s: how long the price that waits longest has waited, seconds; 0 where none does.
    """

    prices: int = 0
    ticks: int = 0
    errors: int = 0
    refused: int = 0
    waiting_s: float = 0.0


@dataclass
class PriceFeed:
    """Writes offered prices. Safe to use from several threads; pickle it before it is started.

    Attributes:
        prices: the table of last prices.
        ticks: the table of the last day's prices: each price that is written; None for none.
        rate: items a second, of both tables together.
        every_s: from one turn to the next, seconds: a symbol is written once a turn at most.
        clock: seconds that only grow.
    """

    prices: PriceTable
    ticks: TickTable | None = None
    rate: float = RATE
    every_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

    def open(self) -> None:
        """Begin to take what is offered; ``turn`` writes it."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._offered: list[pa.Table] = []
        self._offered_rows = 0
        self._waiting = PRICES.empty_table()
        self._since: npt.NDArray[np.float64] = np.empty(0)
        self._told = Told()
        self._failed = 0

    def start(self) -> None:
        """Begin to write what is offered."""
        self.open()
        self._thread = threading.Thread(target=self._run, name="dynamodb-feed", daemon=True)
        self._thread.start()

    def offer(self, prices: pa.Table) -> None:
        """Take prices (``liverecords.PRICES``, each symbol once) to write; returns at once."""
        with self._lock:
            self._offered.append(prices)
            self._offered_rows += len(prices)
            if self._offered_rows > _MOST_OFFERED:
                self._offered = [newest(self._offered)]
                self._offered_rows = len(self._offered[0])

    def told(self) -> Told:
        """Return what happened since the last call."""
        with self._lock:
            found, self._told = self._told, Told()
            oldest = float(self._since.min()) if len(self._since) else None
        return found if oldest is None else replace(found, waiting_s=max(0.0, self.clock() - oldest))

    def stop(self, within_s: float = _STOPS_WITHIN_S) -> None:
        """Write what waits, for so many seconds at most, and end."""
        if self._thread is None:
            return
        self._ends = self.clock() + within_s
        self._stopping.set()
        self._thread.join(within_s + 2 * self.prices.timeout_s * self.prices.attempts)
        self._thread = None

    def _run(self) -> None:
        pause = self.every_s
        while not self._stopping.wait(pause):
            self._guarded_turn()
            pause = self._pause()
        while not self._failed and self.clock() < self._ends and self._guarded_turn(_LAST_ROWS):
            pass

    def _guarded_turn(self, rows: int | None = None) -> bool:
        try:
            return self.turn(rows)
        except Exception as error:  # a thread that ended would say nothing, and write nothing any more
            self._fail(error)
            return True

    def _pause(self) -> float:
        if not self._failed:
            return self.every_s
        return min(_LONGEST_PAUSE_S, 2.0 ** min(self._failed - 1, _MOST_DOUBLED))

    def turn(self, rows: int | None = None) -> bool:
        """Write prices that waited longest, and return whether others wait still.

        Args:
            rows: so many at most; what the rate allows by default.
        """
        items = self.rate * self.every_s / (1 if self.ticks is None else 2)
        # A DynamoDB that was away is tried with one.
        count = 1 if self._failed else rows or max(1, int(items))
        order = self._take_offered()
        chosen, left = order[:count], np.sort(order[count:])
        if not len(chosen):
            return False
        batch = self._waiting.take(as_arrow(chosen))
        try:
            written, ticks, refused = self._write(batch)
        except DynamoError as error:
            self._fail(error)
            return True
        if self._failed:
            _LOG.warning("DynamoDB answers again: last prices go on")
        self._failed = 0
        with self._lock:
            self._waiting, self._since = self._waiting.take(as_arrow(left)), self._since[left]
            before = self._told
            self._told = replace(
                before,
                prices=before.prices + written,
                ticks=before.ticks + ticks,
                refused=before.refused + refused,
            )
        return len(left) > 0 or bool(self._offered)

    def _write(self, batch: pa.Table) -> tuple[int, int, int]:
        """Write prices, and return how many were newer, how many ticks, and how many were refused.

        Raises:
            DynamoError: DynamoDB is away, or refuses all of it.
        """
        try:
            return *self._put(batch), 0
        except DynamoRefused:
            pass
        # Which one it takes none of only one at a time tells.
        written, ticks, refused, why = 0, 0, [], ""
        for at in range(len(batch)):
            row = batch.slice(at, 1)
            try:
                more, more_ticks = self._put(row)
            except DynamoRefused as error:
                refused.append(row["symbol"][0].as_py())
                why = str(error)
            else:
                written, ticks = written + more, ticks + more_ticks
        _LOG.warning(
            "DynamoDB refuses %d of %d last prices, such as %r's: they are left out: %s",
            len(refused),
            len(batch),
            refused[0] if refused else "",
            why,
        )
        return written, ticks, len(refused)

    def _put(self, batch: pa.Table) -> tuple[int, int]:
        written = self.prices.write(batch)
        return written, 0 if self.ticks is None else self.ticks.write(batch)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            known = isinstance(error, DynamoError)
            why = str(error) if known else f"{type(error).__name__}: {error}"
            _LOG.warning("last prices do not reach DynamoDB, and wait: %s", why, exc_info=not known)
        self._failed += 1
        with self._lock:
            self._told = replace(self._told, errors=self._told.errors + 1)

    def _take_offered(self) -> npt.NDArray[np.int64]:
        """Put what was offered to what waits, and return the order of waiting, longest first."""
        with self._lock:
            offered, self._offered, self._offered_rows = self._offered, [], 0
        if offered:
            merged = newest([self._waiting, *offered]) if len(self._waiting) else newest(offered)
            at: Any = pc.index_in(merged["symbol"], value_set=self._waiting["symbol"].combine_chunks())
            known = np.asarray(at.is_valid())
            since = np.full(len(merged), self.clock())
            since[known] = self._since[np.asarray(at.drop_null())]
            with self._lock:
                self._waiting, self._since = merged.combine_chunks(), since
        return np.argsort(self._since, kind="stable")


_feeds: dict[tuple[Any, ...], tuple[PriceFeed, int]] = {}
_feeds_lock = threading.Lock()


def _key(feed: PriceFeed) -> tuple[Any, ...]:
    ticks = None if feed.ticks is None else feed.ticks.name
    aws = feed.prices.aws
    return feed.prices.name, ticks, aws.region, aws.endpoint_for("dynamodb")


def shared(feed: PriceFeed) -> PriceFeed:
    """Return the feed of this process to the same tables, started by whoever asks first: it has one rate."""
    with _feeds_lock:
        found, users = _feeds.get(_key(feed), (None, 0))
        if found is None:
            found = replace(feed)
            found.start()
        _feeds[_key(feed)] = found, users + 1
        return found


def release(feed: PriceFeed) -> None:
    """Give a shared feed back; it stops with its last user."""
    with _feeds_lock:
        found, users = _feeds.get(_key(feed), (None, 0))
        if found is None:
            return
        if users > 1:
            _feeds[_key(feed)] = found, users - 1
            return
        del _feeds[_key(feed)]
    found.stop()
