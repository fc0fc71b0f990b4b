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
    numbers,
    run_starts,
)
from fibflow.transforms.timeframe import (
    MINUTE_US,
    Anchor,
    IntradayAnchor,
    SessionWindows,
    Timeframe,
    count_from,
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
    positions: npt.NDArray[Any] = calendar.positions(days)
    as_of = int(calendar.day_ends[int(positions.max())]) if spec.as_of is None else spec.as_of
    # A session that the calendar has lost since the row was landed is no session.
    known = (positions != NO_SESSION) & (
        positions <= np.searchsorted(calendar.day_ends, as_of, side="right") - 1
    )
    if not known.all():
        rows, positions = rows.filter(pa.array(known)), positions[known]
        if not len(rows):
            return
    values = _rows(rows)
    # Platform integers: taking by anything smaller converts the index at each timeframe.
    positions = positions.astype(np.intp)
    is_new = np.ones(len(values), np.bool_)
    np.not_equal(values.symbol[1:], values.symbol[:-1], out=is_new[1:])
    heads = np.flatnonzero(is_new)
    base = _base(values, positions, heads, spec)
    counted = None if spec.anchor is Anchor.ROWS else count_from(positions, base)
    newest = int(np.searchsorted(calendar.day_ends, as_of, side="right")) - 1
    for timeframe in spec.timeframes:
        length = timeframe.sessions
        if counted is None:
            starts, keep = _row_runs(heads, len(values), base, length)
            complete = np.diff(starts, append=len(values)) == length
            chosen = _order(keep, complete, spec)
            first, last = _ends(starts, len(values), chosen)
            ts, end = calendar.day_starts[positions[first]], calendar.day_ends[positions[last]]
        else:
            windows = SessionWindows(calendar, length)
            numbered = windows.numbers(counted)
            changes = is_new.copy()
            changes[1:] |= numbered[1:] != numbered[:-1]
            starts = np.flatnonzero(changes)
            number = numbered.take(starts).astype(np.int32)
            origin: Any = base if isinstance(base, int) else base.take(starts)
            complete = number <= (newest - origin - length + 1) // length
            chosen = _order(np.ones(len(starts), np.bool_), complete, spec)
            first, last = _ends(starts, len(values), chosen)
            ts, end = windows.bounds(number[chosen], origin if isinstance(base, int) else origin[chosen])
        within = _within(ts, end, spec)
        if within is not None:
            chosen, first, last, ts, end = (part[within] for part in (chosen, first, last, ts, end))
        if not len(chosen):
            continue
        runs = Runs(
            starts=starts,
            chosen=chosen,
            first=first,
            last=last,
            ts=ts,
            end=end,
            begins=None,
            finishes=None,
            sessions=(last - first + 1).astype(np.int32),
        )
        yield finish(fold(values, runs), timeframe.name, complete[chosen])


def _base(rows: Rows, positions: Index, heads: Index, spec: BarSpec) -> Any:
    """Return what the anchor counts from; ``heads`` are the first rows of the symbols.

    Under ``exchange`` that is one position; under ``listing`` the position of each row's symbol's first
    session, shape (n,); under ``rows`` how many rows each symbol had before these, shape (symbols,).
    """
    if spec.anchor is Anchor.EXCHANGE:
        return spec.calendar.origin
    own = positions[heads] if spec.anchor is Anchor.LISTING else np.zeros(len(heads), np.intp)
    if spec.bases:
        names: list[Any] = rows.symbols.take(as_arrow(rows.symbol[heads])).to_pylist()
        known = [spec.bases.get(name, base) for name, base in zip(names, own.tolist(), strict=True)]
        own = np.array(known, np.intp)
    if spec.anchor is Anchor.LISTING:
        own = np.repeat(own, np.diff(heads, append=len(rows)))
    return own


def _row_runs(heads: Index, rows: int, before: Index, length: int) -> tuple[Index, Bool]:
    """Return where each window of ``length`` rows begins, and whether all its rows are there.

    Args:
        heads: first row of each symbol.
        rows: how many rows there are.
        before: how many rows each symbol had before these; its first window may have begun among them.
        length: rows a window.
    """
    missing = -before % length
    begun = missing > 0
    counts = -(-(np.diff(heads, append=rows) - missing).clip(0) // length) + begun
    place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(heads + (missing - length) * begun, counts) + place * length
    whole = ~np.repeat(begun, counts) | (place > 0)
    return np.maximum(starts, np.repeat(heads, counts)), whole


def minute_bars(rows: pa.Table, spec: BarSpec) -> Iterator[pa.Table]:
    """Yield the bars of each intraday timeframe: ended windows, then open ones, each by symbol and ts.

    Args:
        rows: MINUTE_ROWS of whole sessions, sorted by symbol and ts, each once. ``vwap`` and ``trade_count``
            may be missing.
        spec: what to make.
    """
    if not len(rows):
        return
    ts = numbers(rows, "ts")
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
            first, last = _ends(starts, len(values), None)
            runs = Runs(
                starts=starts,
                chosen=None,
                first=first,
                last=last,
                ts=start[first],
                end=end[first],
                begins=ts[first],
                finishes=ts[last] + MINUTE_US - 1,
                sessions=np.ones(len(starts), np.int32),
            )
            partials = fold(values, runs)
        made[timeframe.minutes] = partials
        complete = partials.end <= as_of
        chosen = _order(np.ones(len(partials), np.bool_), complete, spec)
        within = _within(partials.ts[chosen], partials.end[chosen], spec)
        if within is not None:
            chosen = chosen[within]
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


def _order(keep: Bool, complete: Bool, spec: BarSpec) -> Index:
    """Return which windows to write: those that have ended first, then the open ones."""
    ended = np.flatnonzero(keep & complete)
    return ended if spec.complete_only else np.concatenate((ended, np.flatnonzero(keep & ~complete)))


def _ends(starts: Index, rows: int, chosen: Index | None) -> tuple[Index, Index]:
    """Return the first and the last row of the chosen runs."""
    stops = np.append(starts[1:], rows)
    if chosen is None:
        return starts, stops - 1
    return starts.take(chosen), stops.take(chosen) - 1


def _within(ts: Int64, end: Int64, spec: BarSpec) -> Bool | None:
    """Return which windows are asked for; None for all."""
    if spec.start is None and spec.end is None and spec.changed_from is None:
        return None
    within = np.ones(len(ts), np.bool_)
    if spec.start is not None:
        within &= ts >= spec.start
    if spec.end is not None:
        within &= ts < spec.end
    if spec.changed_from is not None:
        within &= end > spec.changed_from
    return within


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
