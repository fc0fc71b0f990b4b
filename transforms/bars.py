"""From rows to bars of every timeframe: the plain functions that ``AggregateBars`` wraps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms import accumulators as acc
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.partials import (
    Partials,
    Rows,
    Runs,
    as_arrow,
    encode_symbols,
    finish,
    fold,
    merge,
    run_starts,
)
from fibflow.transforms.timeframe import (
    MINUTE_US,
    Anchor,
    IntradayAnchor,
    SessionWindows,
    Timeframe,
    intraday_windows,
)

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class BarSpec:
    """What to make of rows.

    Attributes:
        timeframes: all in sessions for daily rows, all intraday for minute rows.
        calendar: must reach past the last window.
        as_of: UTC microseconds. Rows of sessions that end later are not used; windows that end later are not
            complete. None: the end of the newest session of the rows given.
        anchor: of ``<N>d``.
        intraday_anchor: of minutes and hours.
        complete_only: leave out windows that have not ended.
        start, end: write the bars whose ``ts`` is in ``[start, end)``, UTC microseconds; never moves a
            window.
        changed_from: write the bars whose ``end`` is later, UTC microseconds: those that a change at or after
            it can touch.
        bases: for the anchors ``listing`` and ``rows``, where a symbol's rows begin later than its history:
            the position of its first session, or the number of its rows before these. Symbols that are absent
            begin here. Windows of ``rows`` that begin before these rows are left out.
    """

    timeframes: tuple[Timeframe, ...]
    calendar: TradingCalendar
    as_of: int | None = None
    anchor: Anchor = Anchor.EXCHANGE
    intraday_anchor: IntradayAnchor = IntradayAnchor.MIDNIGHT
    complete_only: bool = False
    start: int | None = None
    end: int | None = None
    changed_from: int | None = None
    bases: dict[str, int] = field(default_factory=dict)


def daily_bars(rows: pa.Table, spec: BarSpec) -> Iterator[pa.Table]:
    """Yield the bars of each timeframe: ended windows, then open ones, each by symbol and ts.

    Args:
        rows: DAILY_ROWS of whole symbols, sorted by symbol and session, each once (``duplicates.resolve``).
            ``vwap`` and ``trade_count`` may be missing.
        spec: what to make.
    """
    if not len(rows):
        return
    calendar = spec.calendar
    days = rows["session"].combine_chunks().view(pa.int32()).to_numpy()
    positions = calendar.positions(days)
    newest = int(positions.max())
    as_of = int(calendar.day_ends[newest]) if spec.as_of is None else spec.as_of
    # A session that the calendar has lost since the row was landed is no session.
    known = (positions != NO_SESSION) & (
        positions <= np.searchsorted(calendar.day_ends, as_of, side="right") - 1
    )
    if not known.all():
        rows, positions = rows.filter(pa.array(known)), positions[known]
        if not len(rows):
            return
    values = _rows(rows)
    counted, base = _counted(values, positions, spec)
    for timeframe in spec.timeframes:
        windows = SessionWindows(calendar, timeframe.sessions)
        numbers = windows.exchange_numbers(positions) if base is None else windows.numbers(counted, base)
        starts = run_starts(values.symbol, numbers)
        last = np.append(starts[1:], len(values)) - 1
        sessions = (last - starts + 1).astype(np.int32)
        first_session, last_session = positions[starts], positions[last]
        keep = np.ones(len(starts), np.bool_)
        if spec.anchor is Anchor.ROWS:
            ts, end = calendar.day_starts[first_session], calendar.day_ends[last_session]
            complete = sessions == timeframe.sessions
            if spec.bases:
                keep = counted[starts] == numbers[starts] * timeframe.sessions
        else:
            ts, end = windows.bounds(numbers[starts], calendar.origin if base is None else base[starts])
            complete = end <= as_of
        chosen = _choose(keep, ts, end, complete, spec)
        runs = Runs(
            starts=starts,
            chosen=chosen,
            ts=ts[chosen],
            end=end[chosen],
            begins=calendar.day_starts[first_session[chosen]],
            finishes=calendar.day_ends[last_session[chosen]] - 1,
            sessions=sessions[chosen],
        )
        if len(chosen):
            yield finish(fold(values, runs), timeframe.name, complete[chosen])


def _counted(rows: Rows, positions: Int32, spec: BarSpec) -> tuple[Int32, Int32 | None]:
    """Return what the anchor counts, and from where for each row: None under ``exchange``."""
    if spec.anchor is Anchor.EXCHANGE:
        return positions, None
    first = run_starts(rows.symbol, np.zeros(len(rows), np.int8))
    lengths = np.diff(first, append=len(rows))
    own = positions[first] if spec.anchor is Anchor.LISTING else np.zeros(len(first), np.int32)
    if spec.bases:
        names: list[Any] = rows.symbols.take(as_arrow(rows.symbol[first])).to_pylist()
        known = [spec.bases.get(name, base) for name, base in zip(names, own.tolist(), strict=True)]
        own = np.array(known, np.int32)
    if spec.anchor is Anchor.LISTING:
        return positions, np.repeat(own, lengths)
    numbers = np.arange(len(rows), dtype=np.int32) + np.repeat(own - first.astype(np.int32), lengths)
    return numbers, np.zeros(len(rows), np.int32)


def minute_bars(rows: pa.Table, spec: BarSpec) -> Iterator[pa.Table]:
    """Yield the bars of each intraday timeframe: ended windows, then open ones, each by symbol and ts.

    Args:
        rows: MINUTE_ROWS of whole sessions, sorted by symbol and ts, each once. ``vwap`` and ``trade_count``
            may be missing.
        spec: what to make.
    """
    if not len(rows):
        return
    ts = _micros(rows)
    positions = spec.calendar.positions_at(ts)
    day_ends = np.where(positions == NO_SESSION, np.int64(0), spec.calendar.day_ends[positions])
    as_of = int(day_ends.max()) if spec.as_of is None else spec.as_of
    known = (positions != NO_SESSION) & (day_ends <= as_of)
    if not known.all():
        rows = rows.filter(pa.array(known))
        ts = ts[known]
        if not len(rows):
            return
    values = _rows(rows)
    made: dict[int, Partials] = {}
    for timeframe in spec.timeframes:
        finer = [minutes for minutes in made if timeframe.minutes % minutes == 0]
        if finer:
            source = made[max(finer)]
            start, end = _windows(source.ts, timeframe, spec)
            partials = merge(replace(source, ts=start, end=end))
        else:
            start, end = _windows(ts, timeframe, spec)
            starts = run_starts(values.symbol, start)
            last = np.append(starts[1:], len(values)) - 1
            one = np.ones(len(starts), np.int32)
            runs = Runs(starts, None, start[starts], end[starts], ts[starts], ts[last] + MINUTE_US - 1, one)
            partials = fold(values, runs)
        made[timeframe.minutes] = partials
        complete = partials.end <= as_of
        chosen = _choose(np.ones(len(partials), np.bool_), partials.ts, partials.end, complete, spec)
        if len(chosen):
            yield finish(partials.take(chosen), timeframe.name, complete[chosen])


def _windows(ts: Int64, timeframe: Timeframe, spec: BarSpec) -> tuple[Int64, Int64]:
    """Return the windows of instants by a table over their distinct minutes: few, where symbols are many."""
    low = int(ts.min())
    minute = np.floor_divide(ts - low, MINUTE_US)
    present = np.zeros(int(minute.max()) + 1, np.bool_)
    present[minute] = True
    grid = np.flatnonzero(present)
    start, end = intraday_windows(grid * MINUTE_US + low, timeframe, spec.calendar, spec.intraday_anchor)
    starts, ends = np.zeros(len(present), np.int64), np.zeros(len(present), np.int64)
    starts[grid], ends[grid] = start, end
    return starts[minute], ends[minute]


def _choose(keep: Bool, ts: Int64, end: Int64, complete: Bool, spec: BarSpec) -> Index:
    """Return which windows to write: those that have ended first, then the open ones."""
    if spec.start is not None:
        keep &= ts >= spec.start
    if spec.end is not None:
        keep &= ts < spec.end
    if spec.changed_from is not None:
        keep &= end > spec.changed_from
    ended = np.flatnonzero(keep & complete)
    return ended if spec.complete_only else np.concatenate((ended, np.flatnonzero(keep & ~complete)))


def _micros(rows: pa.Table) -> Int64:
    return rows["ts"].combine_chunks().view(pa.int64()).to_numpy(zero_copy_only=False)


def _rows(table: pa.Table) -> Rows:
    """Return the kernel's arrays of a sorted table."""
    symbols, codes = encode_symbols(table["symbol"])

    def optional(name: str, missing: Any) -> npt.NDArray[Any] | None:
        if name not in table.column_names or table[name].null_count == len(table):
            return None
        return pc.fill_null(table[name], missing).to_numpy()

    return Rows(
        symbols=symbols,
        symbol=codes,
        open=table["open"].to_numpy(),
        high=table["high"].to_numpy(),
        low=table["low"].to_numpy(),
        close=table["close"].to_numpy(),
        volume=acc.to_micro(table["volume"].to_numpy()),
        vwap=optional("vwap", float("nan")),
        trade_count=optional("trade_count", -1),
    )
