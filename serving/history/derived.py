"""Bars that the lake does not have, made for a question by the pipeline's own kernels.

Bars of days are made of official rows, and after their last session of the ``1d`` bars of the stream; those
of minutes of minute rows, and after their last session of ``1m`` bars where these tell all that a minute row
does. Only the rows of the windows that are asked for are read. Where the stream has bars of the timeframe
itself, these count after the last session of history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.serving.history.adjust import Factors
from fibflow.serving.history.lakestate import Tables
from fibflow.serving.history.sources import (
    NEVER,
    column_max,
    names_in,
    of_timeframe,
    order_of,
    ranks_of,
    session_before,
    sorted_bars,
    timeframes_in,
)
from fibflow.serving.problems import bad_request
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import DAY_US, CalendarError, TradingCalendar
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Timeframe

Int64 = npt.NDArray[np.int64]
Kernel = Callable[[pa.Table, BarSpec], Iterator[pa.Table]]

VALUES = ["open", "high", "low", "close", "volume", "vwap", "trade_count"]
TICKS = ["symbol", "ts", *VALUES, "final"]
_FAR = 2**62


@dataclass(frozen=True)
class Derived(ABC):
    """Bars of one timeframe that are computed; ``Source`` says what its methods give.

    Attributes:
        found: the tables.
        timeframe: of the bars.
        calendar: of the rows.
        complete_only: without windows that have not ended.
        factors: scale rows by splits first; None for not.
    """

    found: Tables
    timeframe: Timeframe
    calendar: TradingCalendar
    complete_only: bool = False
    factors: Factors | None = None
    stored: bool = False

    # What it is made of ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def history(self) -> Any:
        """The snapshot of official rows; None for none."""

    @property
    @abstractmethod
    def finer(self) -> str:
        """The timeframe of the stream whose bars stand for rows after history."""

    @property
    @abstractmethod
    def last_session(self) -> int:
        """The position of the last session of official rows; -1 where there are none."""

    @property
    @abstractmethod
    def first_session(self) -> int:
        """The position of the first session of any rows."""

    @abstractmethod
    def official(self, symbols: Collection[str] | None, first: int, last: int) -> pa.Table:
        """Return official rows of sessions by position, both included, in any order."""

    @abstractmethod
    def make(
        self, rows: pa.Table, as_of: int, start: int | None, end: int | None, symbols: Collection[str] | None
    ) -> pa.Table:
        """Return the bars of sorted rows whose ``ts`` lies in ``[start, end)``, unsorted."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """How many sessions a window may go on after the one in which it begins."""

    @abstractmethod
    def sessions_for(self, bars: int) -> int:
        """Return how many sessions have about so many bars."""

    @cached_property
    def as_of(self) -> int:
        """The end of official history, UTC microseconds."""
        return int(self.calendar.day_ends[self.last_session]) if self.last_session >= 0 else NEVER

    @cached_property
    def own(self) -> bool:
        """Whether the stream has bars of the timeframe itself, with the anchors that are asked for."""
        return False

    @cached_property
    def streams(self) -> bool:
        """Whether bars of the stream stand for rows after history."""
        return any(self.finer in timeframes_in(table) for table in self.found.view.tables)

    @cached_property
    def streamed_until(self) -> int:
        """The end of the newest bar of the stream, of those that are used here."""
        names = [self.finer, *([self.timeframe.name] if self.own else [])]
        ends = [
            column_max(table, "end", of_timeframe(table, name))
            for table in self.found.view.tables
            for name in names
            if name in timeframes_in(table)
        ]
        return max((end for end in ends if end is not None), default=NEVER)

    @cached_property
    def known_until(self) -> int:
        """The as-of of the data."""
        return max(self.as_of, self.streamed_until)

    @cached_property
    def newest(self) -> int:
        """The position of the last session of any rows."""
        until = self.known_until
        return max(self.last_session, int(np.searchsorted(self.calendar.day_starts, until)) - 1)

    # Reading -----------------------------------------------------------------------------------------------

    def rows(self, symbols: Collection[str] | None, first: int, last: int) -> tuple[pa.Table, pa.Table]:
        """Return sorted rows of sessions by position, both included; and the bars of them that may change."""
        parts = [self.official(symbols, first, min(last, self.last_session))]
        moving = self._ticks(symbols, max(first, self.last_session + 1), last)
        if len(moving):
            parts.append(self.rows_of(moving, parts[0].schema))
        rows = pa.concat_tables(parts)
        rows = rows.take(self._order(rows)) if len(rows) else rows
        if self.factors and len(rows):
            rows = self.factors.scaled(rows, self.days_of(rows))
        final: Any = moving["final"]
        return rows, moving.filter(pc.invert(final))

    def _ticks(self, symbols: Collection[str] | None, first: int, last: int) -> pa.Table:
        if not self.streams or first > last:
            return BARS.empty_table().select(TICKS)
        bounds = int(self.calendar.day_starts[first]), int(self.calendar.day_ends[last])
        return self.found.view.read(TICKS, symbols, self.finer, *bounds)

    @abstractmethod
    def rows_of(self, bars: pa.Table, schema: pa.Schema) -> pa.Table:
        """Return finer bars as rows."""

    @abstractmethod
    def days_of(self, rows: pa.Table) -> Int64:
        """Return the session of each row, days since 1970."""

    @abstractmethod
    def _order(self, rows: pa.Table) -> Any:
        """Return the order of rows by symbol and time."""

    def _bars(
        self, symbols: Collection[str] | None, first: int, last: int, start: int | None, end: int | None
    ) -> pa.Table:
        """Sorted bars with ``ts`` in ``[start, end)``, of rows of sessions by position, both included."""
        first, last = max(first, self.first_session, 0), min(last, self.newest)
        if first > last:
            return BARS.empty_table()
        rows, moving = self.rows(symbols, first, last)
        return self._of_rows(rows, moving, symbols, last, start, end)

    def _of_rows(
        self,
        rows: pa.Table,
        moving: pa.Table,
        symbols: Collection[str] | None,
        last: int,
        start: int | None,
        end: int | None,
    ) -> pa.Table:
        """``_bars`` of sorted rows, scaled already; ``moving``: the stream's bars of them that may change."""
        try:
            # No row is left out for its session: what has ended is told afterwards.
            as_of = max(self.known_until, int(self.calendar.day_ends[last]))
            made = self.make(rows, as_of, start, end, symbols)
        except CalendarError as error:
            raise bad_request(f"{self.timeframe} cannot be computed: {error}", "calendar_too_short") from None
        made = self._flagged(made, moving)
        if self.own:
            made = self._overlaid(made, symbols, start, end, last)
        if self.complete_only:
            made = made.filter(made["complete"])
        # Kernels write ended windows before open ones: of one symbol that is their order.
        is_sorted = symbols is not None and len(symbols) == 1 and not self.own
        return made if is_sorted else sorted_bars(made)

    def _flagged(self, bars: pa.Table, moving: pa.Table) -> pa.Table:
        """Say which windows have ended, and which of them history or the stream may still change."""
        ends = ints(bars["end"])
        complete = ends <= self.known_until
        final = complete.copy()
        late = ends > self.as_of
        if late.any() and len(moving):
            # All bars of the stream from the first that may change on may change the windows that hold them.
            oldest = moving.group_by("symbol").aggregate([("ts", "min")])
            place: Any = pc.index_in(bars["symbol"], value_set=oldest["symbol"].combine_chunks())
            since: Any = oldest["ts_min"].cast(pa.int64()).combine_chunks().take(place.combine_chunks())
            final &= ~late | (ends <= np.asarray(pc.fill_null(since, _FAR).to_numpy(zero_copy_only=False)))
        for name, values in (("complete", complete), ("final", final)):
            index = bars.schema.get_field_index(name)
            bars = bars.set_column(index, bars.schema.field(index), as_arrow(values))
        return bars

    def _overlaid(
        self,
        bars: pa.Table,
        symbols: Collection[str] | None,
        start: int | None,
        end: int | None,
        last: int,
    ) -> pa.Table:
        """Bars, with those that the stream has of windows after history in their place."""
        stop = int(self.calendar.day_ends[last])
        since = self.as_of - (self.reach + 10) * 4 * DAY_US
        since = since if start is None else max(start, since)
        stored = self.found.view.read(
            BARS.names, symbols, self.timeframe.name, since, stop if end is None else min(end, stop)
        )
        stored = stored.filter(as_arrow(ints(stored["end"]) > self.as_of))
        if not len(stored):
            return bars
        if self.factors:
            days = self.calendar.days[self.calendar.positions_at(ints(stored["ts"]))]
            stored = self.factors.scaled(stored, days.astype(np.int64))
        both = pa.concat_tables([bars, stored])
        order = order_of(both, False)
        both, theirs = both.take(order), np.arange(len(both)) >= len(bars)
        theirs = theirs[ints(order)]
        same = _same_as_next(both) | np.append(False, _same_as_next(both)[:-1])
        return both.filter(as_arrow(~same | theirs))

    def between(self, symbols: Collection[str] | None, start: int | None, end: int | None) -> pa.Table:
        """Return the bars of a range."""
        first, last = self._sessions(start, end)
        return self._bars(symbols, first, last, start, end)

    def ends(self, symbol: str, start: int | None, end: int | None, n: int, first: bool) -> pa.Table:
        """Return the bars at an end of a range; see ``Source``."""
        low, high = self._sessions(start, end)
        span = self.sessions_for(n + 1)
        while True:
            if first:
                stop = min(low + span, high)
                bars = self._bars([symbol], low, stop, start, end)
                if stop < high:
                    # The last window may go on.
                    bars = bars.filter(as_arrow(ints(bars["end"]) <= int(self.calendar.day_ends[stop])))
                done = stop >= high
            else:
                begin = max(high - span, low)
                done = begin <= low
                # Windows that begin before what is read are not whole.
                since = start if done else max(int(self.calendar.day_starts[begin]), start or -_FAR)
                bars = self._bars([symbol], begin, high, since, end)
            if done or len(bars) >= n:
                return bars.slice(0, n) if first else bars.slice(max(0, len(bars) - n))
            span *= 3

    def _sessions(self, start: int | None, end: int | None) -> tuple[int, int]:
        """The sessions, by position, that hold the windows of a range."""
        starts, stops = self.calendar.day_starts, self.calendar.day_ends
        # A window begins in the session that holds its start.
        first = 0 if start is None else int(np.searchsorted(stops, start, side="right"))
        last = self.newest if end is None else int(np.searchsorted(starts, end)) - 1 + self.reach
        return max(first, self.first_session), min(last, self.newest)

    def held(self, symbols: Collection[str]) -> set[str]:
        """Return which symbols have rows."""
        found = set() if self.history is None else names_in(self.history, symbols, None)
        missing = set(symbols) - found
        if missing and self.streams:
            for table in self.found.view.tables:
                found |= names_in(table, missing, self.finer)
        return found

    def symbols(self) -> list[str]:
        """Return all symbols."""
        found = set() if self.history is None else names_in(self.history, None, None)
        if self.streams:
            found = found.union(*(names_in(table, None, self.finer) for table in self.found.view.tables))
        return sorted(found)

    def settled_until(self, start: int | None) -> int:
        """Return the end of official history without its newest session."""
        return NEVER if self.factors is not None else session_before(self.calendar, self.as_of)


def table_of(made: Iterator[pa.Table]) -> pa.Table:
    """Return the bars that a kernel yields."""
    parts = list(made)
    return pa.concat_tables(parts).cast(BARS) if parts else BARS.empty_table()


def by_symbol_and(rows: pa.Table, time: str) -> Any:
    """Return the order of rows by symbol and time."""
    kind = pa.int32() if pa.types.is_date32(rows.schema.field(time).type) else pa.int64()
    keys = pa.table({"symbol": ranks_of(rows["symbol"]), "time": rows[time].cast(kind)})
    return pc.sort_indices(keys, sort_keys=[("symbol", "ascending"), ("time", "ascending")])


def _same_as_next(bars: pa.Table) -> npt.NDArray[np.bool_]:
    """Which sorted bars have the key of the next one."""
    count = len(bars)
    if count < 2:
        return np.zeros(count, np.bool_)
    ts = ints(bars["ts"])
    symbols: Any = bars["symbol"].combine_chunks()
    same: Any = pc.equal(symbols.slice(0, count - 1), symbols.slice(1))
    return np.append((ts[1:] == ts[:-1]) & np.asarray(same.to_numpy(zero_copy_only=False)), False)


def ints(column: Any) -> npt.NDArray[Any]:
    """A column without nulls as integers."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    elif pa.types.is_date32(array.type):
        array = array.cast(pa.int32())
    return np.asarray(array.to_numpy(zero_copy_only=False))
