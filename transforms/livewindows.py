"""From the minutes of a bucket to bars: which windows are asked for, and their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms import accumulators as acc
from fibflow.transforms.grid import Placed
from fibflow.transforms.livedays import DayWindow
from fibflow.transforms.livestate import (
    CLOSE,
    COUNT,
    HIGH,
    LOW,
    NO_COUNT,
    NO_PRICES,
    NO_VWAP,
    OPEN,
    VOLUME,
    Base,
    Ring,
    add_up,
    notional,
)
from fibflow.transforms.partials import BAR_BATCH, Partials, as_arrow, finish
from fibflow.transforms.timeframe import Timeframe

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """One window of one timeframe.

    Attributes:
        number: the timeframe's place among those asked for.
        start, end: UTC microseconds.
        first, stop: which minutes of the ring it holds.
    """

    number: int
    start: int
    end: int
    first: int
    stop: int


@dataclass(frozen=True)
class Bars:
    """Bars of windows, not yet a table; every array has shape (n,), or (rows, n).

    Attributes:
        window: of each bar, its place in the list of windows.
        symbol: its place in the bucket.
        prices, sums: as ``livestate`` has them.
        sessions: how many sessions gave input.
    """

    window: Int64
    symbol: Int64
    prices: Float64
    sums: Int64
    sessions: Int32

    def pick(self, which: npt.NDArray[Any]) -> Bars:
        """Return the bars at positions, or of a mask."""
        return Bars(
            self.window[which],
            self.symbol[which],
            self.prices[:, which],
            self.sums[:, which],
            self.sessions[which],
        )

    @classmethod
    def concat(cls, parts: Sequence[Bars]) -> Bars:
        """Return the bars of all."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, none, np.zeros((4, 0)), np.zeros((7, 0), np.int64), none.astype(np.int32))
        return cls(
            *(np.concatenate([getattr(part, each.name) for part in parts], axis=-1) for each in fields(cls))
        )


def windows_with(placed: Placed, rows: Int64) -> list[Window]:
    """Return the windows of all timeframes that hold any of some minutes.

    Args:
        placed: where the ring's minutes lie.
        rows: places of minutes in the ring, in order.
    """
    found = []
    for number, starts in enumerate(placed.starts):
        first = int(rows[0])
        own = starts[rows]
        distinct = own[:1] if own[0] == own[-1] else np.unique(own)
        firsts = np.searchsorted(starts, distinct)
        stops = np.searchsorted(starts, distinct, side="right")
        for start, first, stop in zip(distinct.tolist(), firsts.tolist(), stops.tolist(), strict=True):
            found.append(Window(number, start, int(placed.ends[number, first]), first, stop))
    return found


def windows_due(placed: Placed, base: Base, after: int, until: int, lateness: int) -> list[Window]:
    """Return the windows that end, or become final, in ``(after, until]``."""
    found = []
    for number in range(len(base.starts)):
        starts, ends = placed.starts[number], placed.ends[number]
        due = _within(ends, after, until) | _within(ends + lateness, after, until)
        for start in np.unique(starts[due]).tolist():
            first = int(np.searchsorted(starts, start))
            stop = int(np.searchsorted(starts, start, side="right"))
            found.append(Window(number, start, int(ends[first]), first, stop))
    for window in windows_left(placed, base):
        if after < window.end <= until or after < window.end + lateness <= until:
            found.append(window)
    return found


def windows_left(placed: Placed, base: Base) -> list[Window]:
    """Return the windows of which no minute is in the ring any more."""
    found = []
    for number, (start, end) in enumerate(zip(base.starts.tolist(), base.ends.tolist(), strict=True)):
        starts = placed.starts[number]
        if start and (not len(starts) or start != starts[0]):
            found.append(Window(number, start, end, 0, 0))
    return found


def _within(instants: Int64, after: int, until: int) -> Bool:
    return (instants > after) & (instants <= until)


def next_due(placed: Placed, minute_ends: Int64, base: Base, clock: int, lateness: int) -> int | None:
    """Return the first instant after ``clock`` at which a window ends or is final, or a minute is closed."""
    ends = np.concatenate((placed.ends.ravel(), base.ends[base.starts != 0]))
    instants = np.concatenate((ends, ends + lateness, minute_ends + lateness))
    ahead = instants[instants > clock]
    return int(ahead.min()) if len(ahead) else None


def collect(
    windows: list[Window],
    ring: Ring,
    base: Base,
    placed: Placed,
    timeframes: tuple[Timeframe, ...],
    index: Int64 | None,
    touched: Bool | None = None,
) -> Bars:
    """Return what windows hold, where it makes a bar.

    Args:
        windows: at least one.
        ring: the bucket's minutes.
        base: what left them.
        placed: where the ring's minutes lie.
        timeframes: that windows number.
        index: symbols to look at; None for all.
        touched: of each window and symbol of ``index``, whether it is wanted; None for all.
    """
    low, high = min(window.first for window in windows), max(window.stop for window in windows)
    prices, sums = ring.prices[low:high], ring.sums[low:high]
    symbols = np.arange(ring.width) if index is None else index
    if index is not None:
        prices, sums = prices.take(index, axis=2), sums.take(index, axis=2)
    day_prices = without_prices(prices, ~placed.regular[low:high])
    n = len(symbols)
    all_prices, all_sums = np.empty((4, len(windows), n)), np.empty((7, len(windows), n), np.int64)
    for place, window in enumerate(windows):
        number, rows = window.number, slice(window.first - low, window.stop - low)
        own_prices = (prices if timeframes[number].is_intraday else day_prices)[rows]
        own_sums = sums[rows]
        if base.starts[number] == window.start:
            past_prices, past_sums = base.prices[number], base.sums[number]
            if index is not None:
                past_prices, past_sums = past_prices.take(index, axis=1), past_sums.take(index, axis=1)
            own_prices = np.concatenate((past_prices[None], own_prices))
            own_sums = np.concatenate((past_sums[None], own_sums))
        all_prices[:, place], all_sums[:, place] = add_up(own_prices, own_sums)
    wanted = ~np.isnan(all_prices[OPEN])
    if touched is not None:
        wanted &= touched
    window_of, at = np.nonzero(wanted)
    found, total = all_prices[:, window_of, at], all_sums[:, window_of, at]
    found[HIGH] = np.maximum(found[HIGH], np.maximum(found[OPEN], found[CLOSE]))
    found[LOW] = np.minimum(found[LOW], np.minimum(found[OPEN], found[CLOSE]))
    return Bars(window_of, symbols[at], found, total, np.ones(len(at), np.int32))


def without_prices(prices: Float64, which: Bool) -> Float64:
    """Return prices, shape (m, 4, s), without those of some minutes."""
    if which.any():
        prices = prices.copy()
        prices[which] = NO_PRICES
    return prices


def table_of(
    bars: Bars,
    windows: Sequence[Window | DayWindow],
    symbols: Any,
    timeframes: tuple[Timeframe, ...],
    complete: bool,
    final: Bool | None = None,
    revision: Int32 | None = None,
) -> pa.Table:
    """Return bars as a table of ``partials.BAR_BATCH``.

    Args:
        bars: of the windows.
        windows: that ``bars.window`` points into.
        symbols: the bucket's words.
        timeframes: that windows number.
        complete: of all of them.
        final: of each window; None for none of them.
        revision: of each bar; None for 0.
    """
    n = len(bars.window)
    place = bars.window
    numbers, starts, ends = (
        np.array([getattr(window, name) for window in windows], np.int64)[place]
        for name in ("number", "start", "end")
    )
    s = bars.sums
    hi, lo = notional(s)
    zeros = np.zeros(n, np.int64)
    table = finish(
        Partials(
            symbols=symbols,
            symbol=bars.symbol.astype(np.int32),
            ts=starts,
            end=ends,
            open=bars.prices[OPEN],
            open_ts=zeros,
            open_seq=zeros,
            high=bars.prices[HIGH],
            low=bars.prices[LOW],
            close=bars.prices[CLOSE],
            close_ts=zeros,
            close_seq=zeros,
            volume=s[VOLUME],
            notional_hi=hi,
            notional_lo=lo,
            has_notional=s[NO_VWAP] == 0,
            trade_count=s[COUNT],
            has_trade_count=s[NO_COUNT] == 0,
            sessions=bars.sessions,
        ),
        "",
        np.full(n, complete),
    )
    columns: list[Any] = list(table.columns)
    names = pa.array([timeframe.name for timeframe in timeframes], pa.string())
    columns[1] = pa.DictionaryArray.from_arrays(as_arrow(numbers.astype(np.int32)), names)
    columns[-2] = as_arrow(np.zeros(n, np.bool_) if final is None else final[place])
    if revision is not None:
        columns[-1] = as_arrow(revision)
    return pa.Table.from_arrays(columns, schema=BAR_BATCH)


def same_content(before: Bars, after: Bars) -> tuple[Bool, Int64]:
    """Compare what two collections of the same windows publish.

    Returns:
        For each bar of ``after``: whether ``before`` has it with the same content, and its place there, -1
        where there is none.
    """
    width = 1 + max(int(bars.symbol.max(initial=0)) for bars in (before, after))
    key, other = after.window * width + after.symbol, before.window * width + before.symbol
    place = np.full(len(key), -1)
    _, of_after, of_before = np.intersect1d(key, other, assume_unique=True, return_indices=True)
    place[of_after] = of_before
    old, new = _content(before.pick(of_before)), _content(after.pick(of_after))
    same = np.zeros(len(key), np.bool_)
    same[of_after] = ((old == new) | (np.isnan(old) & np.isnan(new))).all(axis=0)
    return same, place


def _content(bars: Bars) -> Float64:
    """Return what is published of bars as doubles, NaN for null; shape (8, n)."""
    s = bars.sums
    vwap = np.where(s[NO_VWAP] == 0, acc.vwap(*notional(s), s[VOLUME]), np.nan)
    count = np.where(s[NO_COUNT] == 0, s[COUNT], np.nan)
    rest = [s[VOLUME] / np.float64(acc.MICRO), vwap, count, bars.sessions]
    return np.concatenate((bars.prices, rest))
