"""Rows where a symbol has no bar: one for each window of the calendar, from its first bar on.

Windows of minutes and hours are those that overlap a regular session; bars of extended hours stay as they
are, and nothing is made beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.serving.history.query import Fill
from fibflow.serving.history.sources import Source
from fibflow.serving.problems import bad_request
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import BARS, TIMESTAMP
from fibflow.transforms.timeframe import MINUTE_US, Anchor, IntradayAnchor, Timeframe, intraday_windows

Int64 = npt.NDArray[np.int64]

_PRICES = ("open", "high", "low", "close")
_FAR = 2**62


@dataclass(frozen=True)
class Grid:
    """The windows of a timeframe.

    Attributes:
        calendar, timeframe, anchor, intraday_anchor: of the windows.
        base: position of the session that windows of days are counted from.
    """

    calendar: TradingCalendar
    timeframe: Timeframe
    anchor: Anchor = Anchor.EXCHANGE
    intraday_anchor: IntradayAnchor = IntradayAnchor.MIDNIGHT
    base: int = 0

    def after(self, start: int, n: int, until: int) -> tuple[Int64, Int64]:
        """Return starts and ends of the first ``n`` windows with ``start <= ts < until``."""
        first = int(np.searchsorted(self.calendar.day_ends, start, side="right"))
        # A window may begin in the session before.
        ts, end = self._windows(first, first + self._span(n))
        kept = np.flatnonzero((ts >= start) & (ts < until))[:n]
        return ts[kept], end[kept]

    def before(self, start: int, n: int, until: int) -> tuple[Int64, Int64]:
        """Return starts and ends of the last ``n`` windows with ``start <= ts < until``, oldest first."""
        last = int(np.searchsorted(self.calendar.day_starts, until)) - 1
        ts, end = self._windows(last - self._span(n), last)
        found = np.flatnonzero((ts >= start) & (ts < until))
        kept = found[max(0, len(found) - n) :]
        return ts[kept], end[kept]

    def _span(self, n: int) -> int:
        """How many sessions hold ``n`` windows, and more."""
        if not self.timeframe.is_intraday:
            return (n + 2) * self.timeframe.sessions
        shortest = int((self.calendar.closes - self.calendar.opens).min())
        return 2 + n // max(1, shortest // (self.timeframe.minutes * MINUTE_US))

    def _windows(self, first: int, last: int) -> tuple[Int64, Int64]:
        """All windows that begin in sessions by position, both included."""
        calendar = self.calendar
        first, last = max(first, 0), min(last, len(calendar) - 1)
        if first > last:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        if self.timeframe.is_intraday:
            return self._intraday(first, last)
        length = self.timeframe.sessions
        starts: Int64 = np.arange(self.base + -(-(first - self.base) // length) * length, last + 1, length)
        starts = starts[(starts + length - 1) < len(calendar)]
        return calendar.day_starts[starts], calendar.day_ends[starts + length - 1]

    def _intraday(self, first: int, last: int) -> tuple[Int64, Int64]:
        calendar, length = self.calendar, self.timeframe.minutes * MINUTE_US
        opens, closes = calendar.opens[first : last + 1], calendar.closes[first : last + 1]
        counts = -(-(closes - opens) // length)
        place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        changes = calendar.transitions
        changes = changes[(changes > opens[0]) & (changes < closes[-1])]
        # Windows are as long as the steps, but where a session ends or the clock changes.
        at = np.concatenate((np.repeat(opens, counts) + place * length, closes - 1, changes - 1, changes))
        session = np.searchsorted(opens, at, side="right") - 1
        at = np.unique(at[(session >= 0) & (at < closes[np.maximum(session, 0)])])
        ts, end = intraday_windows(at, self.timeframe, calendar, self.intraday_anchor)
        ts, index = np.unique(ts, return_index=True)
        return ts, end[index]


def filled(
    source: Source,
    grid: Callable[[], Grid],
    symbol: str,
    start: int | None,
    end: int | None,
    n: int,
    first: bool,
    fill: Fill,
    complete_only: bool = False,
) -> pa.Table:
    """Return rows at an end of a range, with those that are made: the first ``n``, or the last, oldest first.

    Args:
        source: of the bars.
        grid: of the windows; asked where the symbol has bars.
        symbol: whose.
        start: the least ``ts``, UTC microseconds; None for any.
        end: ``ts`` is before.
        n: how many rows at most.
        first: those at the start; else at the end.
        fill: what is made.
        complete_only: make no row of a window that has not ended.

    Returns:
        Columns of ``schemas.BARS`` and ``filled``.
    """
    until = min(_FAR if end is None else end, source.known_until)
    none = BARS.empty_table()
    if first:
        before = none if start is None else source.ends(symbol, None, start, 1, False)
        if len(before):
            since = start or 0
        else:
            # There is nothing before the first bar.
            head = source.ends(symbol, start, end, 1, True)
            if not len(head):
                return with_filled(head, np.zeros(0, np.bool_))
            since = int(_ints(head["ts"])[0])
        ts, ends = grid().after(since, n, until)
        bars = source.ends(symbol, since, int(ts[-1]) + 1 if len(ts) >= n else end, n, True)
    else:
        ts, ends = grid().before(-_FAR if start is None else start, n, until)
        low = int(ts[0]) if len(ts) >= n else start
        bars = source.ends(symbol, low, end, n, False)
        before = none if low is None else source.ends(symbol, None, low, 1, False)
        if not len(before):
            kept = ts >= (int(_ints(bars["ts"])[0]) if len(bars) else _FAR)
            ts, ends = ts[kept], ends[kept]
    missing = ~np.isin(ts, _ints(bars["ts"]))
    if complete_only:
        missing &= ends <= source.known_until
    rows = _merged(bars, ts[missing], ends[missing], symbol, before, fill, source)
    return rows.slice(0, n) if first else rows.slice(max(0, len(rows) - n))


def _merged(
    bars: pa.Table, ts: Int64, end: Int64, symbol: str, before: pa.Table, fill: Fill, source: Source
) -> pa.Table:
    """Bars and made rows of one symbol, by ts."""
    count, made = len(bars), len(ts)
    if not made:
        return with_filled(bars, np.zeros(count, np.bool_))
    name = before["timeframe"][0] if len(before) else bars["timeframe"][0]
    ended = end <= source.known_until
    columns: dict[str, Any] = {
        "symbol": pa.repeat(symbol, made),
        "timeframe": pa.repeat(name, made),
        "ts": as_arrow(ts).view(TIMESTAMP),
        "end": as_arrow(end).view(TIMESTAMP),
        "sessions": as_arrow(np.zeros(made, np.int32)),
        "complete": as_arrow(ended),
        "final": as_arrow(end <= source.settled_until(int(ts[0]))),
        "revision": as_arrow(np.zeros(made, np.int32)),
    }
    if fill is Fill.PREV:
        columns["volume"] = as_arrow(np.zeros(made))
        columns["trade_count"] = as_arrow(np.zeros(made, np.int64))
        closes = [*before["close"].to_pylist()[-1:], *bars["close"].to_pylist()]
        # How many bars lie before each made row.
        place = np.searchsorted(_ints(bars["ts"]), ts) + len(before[:1]) - 1
        previous = pa.array(closes, pa.float64()).take(as_arrow(place))
        columns |= dict.fromkeys(_PRICES, previous)
    arrays = [columns.get(field.name, pa.nulls(made, field.type)) for field in BARS]
    rows = pa.concat_tables([bars, pa.table(arrays, schema=BARS)])
    flags = np.arange(count + made) >= count
    order = np.argsort(_ints(rows["ts"]), kind="stable")
    return with_filled(rows.take(as_arrow(order)), flags[order])


def with_filled(bars: pa.Table, flags: npt.NDArray[np.bool_]) -> pa.Table:
    """Return bars with the column ``filled``."""
    return bars.append_column("filled", as_arrow(flags))


def check_fill(fill: Fill, symbols: object, anchor: Anchor) -> None:
    """Raise where a question cannot be filled.

    Raises:
        Problem: it names no symbols, or windows are counted in rows.
    """
    if fill is Fill.NONE:
        return
    if symbols is None:
        raise bad_request("fill needs symbols: name them", "bad_fill")
    if anchor is Anchor.ROWS:
        raise bad_request("windows counted in rows have no gaps: fill=none", "bad_fill")


def _ints(column: Any) -> npt.NDArray[Any]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array
    return np.asarray(array.to_numpy(zero_copy_only=False))
