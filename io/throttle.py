"""Letting open bars out at most so often, and again when what they were written to has lost them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam import coders
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.utils.timestamp import Timestamp

from fibflow.io.liverecords import merge_bars
from fibflow.transforms.coders import ArrowTableCoder
from fibflow.transforms.partials import BAR_BATCH

INTERVAL_S = 0.25
CHECK_S = 5.0

_MICROS = 1_000_000


class Marker(Protocol):
    """Tells whether what was written still is there: ``current`` changes when it may not be."""

    def open(self) -> None:
        """Make ready, in the worker."""

    def current(self) -> str:
        """Return the marker as of now, or of a second ago."""

    def close(self) -> None:
        """End."""


def still_open(bars: pa.Table) -> pa.Table:
    """Return the bars whose windows have not ended."""
    return bars.filter(~pc.field("complete"))


@beam.typehints.with_input_types(tuple[int, pa.Table])
@beam.typehints.with_output_types(tuple[int, int, bool, pa.Table])
class LatestEvery(beam.DoFn):
    """Lets the open bars of a bucket out that changed, the newest of each, at most once an interval.

    Input: (bucket, ``partials.BAR_BATCH``), open bars as they change *and* the bars of windows that have
    ended, in the order in which they are made. The latter end what is kept: without them it grows.
    Output: the fields of ``livestore.Flush``. The first change after a pause goes out at once, later ones
    when the interval is over; what is pending goes out when the input ends. Stamps of a bucket grow, over
    restores too as far as the workers' clocks agree.

    Once for each bucket and instance, and each time that the marker changes, all open bars of the bucket go
    out as a whole: what an abandoned history of the job left is replaced, an emptied store is full again.

    Args:
        interval_s: the shortest time between two flushes of a bucket.
        marker: of what the flushes are written to; None: nothing is sent again.
        check_s: how often a bucket without changes looks at the marker.
        clock: seconds since 1970.
    """

    #: Tables that came since the last flush, which clears it.
    PENDING = BagStateSpec("pending", ArrowTableCoder())
    #: What was let out, merged: the open bars, and of each (symbol, timeframe) the last one that has ended,
    #: so that an open one that comes late is not taken for new. Cleared when the input ends.
    HELD = ReadModifyWriteStateSpec("held", ArrowTableCoder())
    #: The last stamp, whether FLUSH is set, when CHECK is due; instants in microseconds. Cleared likewise.
    CLOCKS = ReadModifyWriteStateSpec("clocks", coders.TupleCoder([coders.VarIntCoder()] * 3))
    FLUSH = TimerSpec("flush", TimeDomain.REAL_TIME)
    CHECK = TimerSpec("check", TimeDomain.REAL_TIME)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    _PENDING, _HELD, _CLOCKS = map(beam.DoFn.StateParam, (PENDING, HELD, CLOCKS))
    _FLUSH, _CHECK, _END = map(beam.DoFn.TimerParam, (FLUSH, CHECK, END))

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        marker: Marker | None = None,
        check_s: float = CHECK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._interval = int(interval_s * _MICROS)
        self._check = int(check_s * _MICROS)
        self._marker = marker
        self._clock = clock
        self._told: dict[int, str] = {}

    def setup(self) -> None:
        """Open the marker; nothing was sent by this instance."""
        self._told = {}
        if self._marker is not None:
            self._marker.open()

    def teardown(self) -> None:
        """Close the marker."""
        if self._marker is not None:
            self._marker.close()

    def process(
        self,
        element: tuple[int, pa.Table],
        pending: Any = _PENDING,
        held: Any = _HELD,
        clocks: Any = _CLOCKS,
        flush: Any = _FLUSH,
        check: Any = _CHECK,
        end: Any = _END,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[tuple[int, int, bool, pa.Table]]:
        """Let the bars out where the interval is over, else keep them."""
        bucket, bars = element
        now = self._now()
        known = clocks.read()
        if known is None:
            known = (0, 0, now + self._check)
            clocks.write(known)
            end.set(window.max_timestamp())
            if self._marker is not None:
                check.set(_instant(now + self._check))
        stamp, is_set, checked = known
        # A stamp in the future is of a clock that was ahead of this one: it must not hold bars back.
        if not stamp <= now < stamp + self._interval:
            yield from self._let_out(bucket, [bars], pending, held, clocks)
            return
        pending.add(bars)
        if not is_set:
            flush.set(_instant(stamp + self._interval))
            clocks.write((stamp, 1, checked))

    @on_timer(FLUSH)
    def on_flush(
        self,
        bucket: Any = beam.DoFn.KeyParam,
        pending: Any = _PENDING,
        held: Any = _HELD,
        clocks: Any = _CLOCKS,
    ) -> Iterator[tuple[int, int, bool, pa.Table]]:
        """Let out what is pending."""
        if clocks.read() is not None:
            yield from self._let_out(bucket, [], pending, held, clocks)

    @on_timer(CHECK)
    def on_check(
        self,
        bucket: Any = beam.DoFn.KeyParam,
        pending: Any = _PENDING,
        held: Any = _HELD,
        clocks: Any = _CLOCKS,
        check: Any = _CHECK,
    ) -> Iterator[tuple[int, int, bool, pa.Table]]:
        """Let all open bars out where the marker has changed, and come again."""
        known, now = clocks.read(), self._now()
        # A runner that drains, or keeps no time, fires at once what it is given: it would go round for ever.
        if known is None or now < known[2] - self._check // 2:
            return
        if self._told.get(bucket) != self._current():
            yield from self._let_out(bucket, [], pending, held, clocks)
        stamp, is_set, _ = clocks.read()
        clocks.write((stamp, is_set, now + self._check))
        check.set(_instant(now + self._check))

    @on_timer(END)
    def on_end(
        self,
        bucket: Any = beam.DoFn.KeyParam,
        pending: Any = _PENDING,
        held: Any = _HELD,
        clocks: Any = _CLOCKS,
        flush: Any = _FLUSH,
        check: Any = _CHECK,
    ) -> Iterator[tuple[int, int, bool, pa.Table]]:
        """Let out what is pending, and forget the bucket."""
        yield from self._let_out(bucket, [], pending, held, clocks)
        for cell in (pending, held, clocks, flush, check):
            cell.clear()

    def _let_out(
        self, bucket: int, bars: list[pa.Table], pending: Any, held: Any, clocks: Any
    ) -> Iterator[tuple[int, int, bool, pa.Table]]:
        came, marker = [*pending.read(), *bars], self._current()
        whole = self._told.get(bucket) != marker
        before = held.read()
        merged, changed = merge_bars(BAR_BATCH.empty_table() if before is None else before, came)
        stamp, is_set, checked = clocks.read()
        if came:
            held.write(merged)
            pending.clear()
            is_set = 0
        if whole or len(changed):
            stamp = max(stamp + 1, self._now())
            self._told[bucket] = marker
            yield bucket, stamp, whole, still_open(merged) if whole else changed
        clocks.write((stamp, is_set, checked))

    def _current(self) -> str:
        return "" if self._marker is None else self._marker.current()

    def _now(self) -> int:
        return int(self._clock() * _MICROS)


def _instant(micros: int) -> Timestamp:
    return Timestamp(micros=micros)
