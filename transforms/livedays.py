"""Windows of several sessions, live: the days that they are made of, and which windows there are.

A window is the fold of its sessions' days, and a day is the row of official history where there is one, else
what ``1d`` says that ticks made. Days lie in a ring of their own (``livestate.DAYS``), keyed by date and by
which of the two they are. The days of sessions that still take ticks come from the bucket's minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms import accumulators as acc
from fibflow.transforms import tickrows
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.livecells import StateError
from fibflow.transforms.livestate import (
    CLOSE,
    COUNT,
    HIGH,
    LOW,
    N0,
    N1,
    N2,
    NO_COUNT,
    NO_PRICES,
    NO_VWAP,
    OPEN,
    VOLUME,
    Entries,
    Ring,
    add_up,
    notional,
)
from fibflow.transforms.partials import numbers
from fibflow.transforms.timeframe import SessionWindows, Timeframe

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: What made a day; the greater one counts.
FROM_TICKS, OFFICIAL = range(2)
#: Sets of sessions whose windows are remembered.
_REMEMBERED = 1 << 10
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def key_of(day: int, kind: int) -> int:
    """Return the key of a day in the ring: a date (days since 1970), and what made it."""
    return 2 * day + kind


@dataclass(frozen=True)
class DayWindow:
    """One window of one timeframe of several sessions.

    Attributes:
        number: the timeframe's place among all that are asked for.
        start, end: UTC microseconds.
        first, stop: positions of its sessions in the calendar.
    """

    number: int
    start: int
    end: int
    first: int
    stop: int


class DayGrid:
    """Which windows of several sessions hold a session; counted as the anchor ``exchange`` says."""

    def __init__(self, timeframes: Sequence[Timeframe], number: int, calendar: TradingCalendar) -> None:
        """Take the timeframes, of which the first has this number among all that are asked for."""
        self.timeframes = tuple(timeframes)
        self.calendar = calendar
        self._numbered = list(enumerate((timeframe.sessions for timeframe in timeframes), number))
        self._known: dict[bytes, list[DayWindow]] = {}

    def windows(self, positions: Int64) -> list[DayWindow]:
        """Return the windows that hold any of some sessions, each once.

        Raises:
            CalendarError: where one ends after the calendar.
        """
        name = positions.tobytes()
        if name not in self._known:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            self._known[name] = self._windows(positions)
        return self._known[name]

    def _windows(self, positions: Int64) -> list[DayWindow]:
        found = []
        for number, sessions in self._numbered if len(positions) else ():
            of_calendar = SessionWindows(self.calendar, sessions)
            origin = self.calendar.origin
            own = np.unique(of_calendar.numbers((positions - origin).astype(np.int32))).astype(np.int32)
            starts, ends = of_calendar.bounds(own, origin)
            for place, start, end in zip(own.tolist(), starts.tolist(), ends.tolist(), strict=True):
                first = place * sessions + origin
                found.append(DayWindow(number, start, end, first, first + sessions))
        return found

    def last_position(self, position: int) -> int:
        """Return the last session of the windows that hold a session."""
        origin = self.calendar.origin
        return max((position - origin) // n * n + origin + n - 1 for _, n in self._numbered)

    def first_position(self, position: int) -> int:
        """Return the first session of the windows that hold a session."""
        origin = self.calendar.origin
        return max(0, min((position - origin) // n * n + origin for _, n in self._numbered))


# --- days ---------------------------------------------------------------------------------------------------


def day_of_ticks(prices: Float64, sums: Int64) -> tuple[Float64, Int64]:
    """Return what ``1d`` bars say, of what a session's minutes add up to; shapes (4, n) and (7, n).

    A day without a price of regular hours is none, and adds nothing. The notional is that of the bar's vwap,
    as with official rows: who has the days has the window.
    """
    has = ~np.isnan(prices[OPEN])
    made = np.where(has, prices, NO_PRICES)
    made[HIGH] = np.where(has, np.maximum(made[HIGH], np.maximum(made[OPEN], made[CLOSE])), made[HIGH])
    made[LOW] = np.where(has, np.minimum(made[LOW], np.minimum(made[OPEN], made[CLOSE])), made[LOW])
    vwap = np.where(sums[NO_VWAP] == 0, acc.vwap(*notional(sums), sums[VOLUME]), np.nan)
    count = np.where(sums[NO_COUNT] == 0, sums[COUNT], -1)
    return made, np.where(has, _sums(sums[VOLUME] / np.float64(acc.MICRO), vwap, count), 0)


def _sums(volume: Float64, vwap: Float64, count: Int64) -> Int64:
    """Return a day's sums, shape (7, n): ``vwap`` is NaN, and ``count`` -1, where it is not known."""
    known = np.isfinite(vwap)
    shares = acc.to_micro(volume)
    hi, lo = acc.multiply(acc.to_micro(np.where(known, vwap, 0.0)), shares)
    made = np.zeros((7, len(volume)), np.int64)
    made[VOLUME], made[N2] = shares, hi
    made[N1], made[N0] = (lo >> _32).astype(np.int64), (lo & _LOW).astype(np.int64)
    made[COUNT], made[NO_VWAP], made[NO_COUNT] = np.maximum(count, 0), ~known, count < 0
    return made


def days_of_rows(rows: pa.Table, symbol: Int64, kind: int, version: int) -> list[Entries]:
    """Return rows of history as entries of the ring, by date.

    Args:
        rows: DAILY_ROWS, a (symbol, session) once.
        symbol: each row's place in the bucket.
        kind: what made them.
        version: of the history.
    """
    column: Any = rows["session"].combine_chunks()
    days = column.view(pa.int32()).to_numpy().astype(np.int64)
    prices = np.stack([numbers(rows, name) for name in ("open", "high", "low", "close")])
    vwap, count = tickrows.optional(rows, "vwap", float("nan")), tickrows.optional(rows, "trade_count", -1)
    sums = _sums(numbers(rows, "volume"), vwap, count)
    everything = Entries(0, symbol, prices, sums, np.full((1, len(rows)), version, np.int64))
    made = []
    for day in np.unique(days).tolist():
        own = everything.pick(days == day)
        made.append(Entries(key_of(day, kind), own.index, own.prices, own.sums, own.extra))
    return made


def frozen_day(day: int, prices: Float64, sums: Int64) -> Entries:
    """Return the day that a session's ticks made, shapes (4, s) and (7, s), as an entry of the ring."""
    index = np.flatnonzero(~np.isnan(prices[OPEN]))
    version = np.zeros((1, len(index)), np.int64)
    return Entries(key_of(day, FROM_TICKS), index, prices[:, index], sums[:, index], version)


@dataclass(frozen=True)
class Chosen:
    """One day a session and symbol: official where there is one.

    Attributes:
        positions: of the sessions in the calendar, in order, shape (k,).
        prices, sums: shapes (k, 4, s), (k, 7, s).
    """

    positions: Int64
    prices: Float64
    sums: Int64

    @classmethod
    def of(cls, ring: Ring, calendar: TradingCalendar) -> Chosen:
        """Choose.

        Raises:
            StateError: where a session has been taken out of the calendar.
        """
        days, place = np.unique(ring.minutes // 2, return_inverse=True)
        positions = calendar.positions(days).astype(np.int64)
        if (positions == NO_SESSION).any():
            gone = np.datetime64(int(days[positions == NO_SESSION][0]), "D")
            raise StateError(
                f"{gone} is no session of calendar {calendar.name} any more, and open bars hold it: start "
                "without state, under another name that replaces this job"
            )
        prices = np.empty((len(days), 4, ring.width))
        prices[:] = NO_PRICES
        sums = np.zeros((len(days), 7, ring.width), np.int64)
        # In order of keys: what is official comes second.
        for row, to in enumerate(place.tolist()):
            has = ~np.isnan(ring.prices[row, OPEN])
            prices[to], sums[to] = (
                np.where(has, ring.prices[row], prices[to]),
                np.where(has, ring.sums[row], sums[to]),
            )
        return cls(positions, prices, sums)


@dataclass(frozen=True)
class Fold:
    """What some sessions of a window add up to; shapes (4, n), (7, n), (n,), or of more windows in front.

    Attributes:
        prices, sums: as ``livestate`` has them.
        sessions: how many of the sessions have a day.
    """

    prices: Float64
    sums: Int64
    sessions: Int32

    def take(self, index: Int64 | None) -> Fold:
        """Return the columns of some symbols; None for all."""
        if index is None:
            return self
        return Fold(
            self.prices.take(index, axis=-1),
            self.sums.take(index, axis=-1),
            self.sessions.take(index, axis=-1),
        )

    def then(self, prices: Float64, sums: Int64) -> Fold:
        """Return the fold with one more day after all of its own, shapes (4, n) and (7, n)."""
        own, has = self.prices, ~np.isnan(prices[OPEN])
        made = np.empty(own.shape)
        made[..., OPEN, :] = np.where(np.isnan(own[..., OPEN, :]), prices[OPEN], own[..., OPEN, :])
        made[..., CLOSE, :] = np.where(has, prices[CLOSE], own[..., CLOSE, :])
        np.maximum(own[..., HIGH, :], prices[HIGH], out=made[..., HIGH, :])
        np.minimum(own[..., LOW, :], prices[LOW], out=made[..., LOW, :])
        total = self.sums + sums
        if (total[..., VOLUME, :] < 0).any():
            raise OverflowError("a window's volume reaches 9.2e12 shares, the most that a bar can hold")
        return Fold(made, total, self.sessions + has.astype(np.int32))


def fold_days(prices: Float64, sums: Int64) -> Fold:
    """Add up days in order of time, shapes (k, 4, n) and (k, 7, n), at least one."""
    found, total = add_up(prices, sums)
    return Fold(found, total, np.count_nonzero(~np.isnan(prices[:, OPEN]), axis=0).astype(np.int32))


@dataclass
class DayMemo:
    """What is worked out of the days of a bucket, until they change.

    Attributes:
        chosen: the days.
        folds: of a window's first and last session, what the days in it add up to.
        stacks: the same of several windows at once, by all of their sessions.
        of_ticks: the sessions that take ticks, and what that was worked out from.
    """

    chosen: Chosen | None = None
    folds: dict[tuple[int, int], Fold | None] = field(default_factory=dict)
    stacks: dict[tuple[tuple[int, int], ...], Fold] = field(default_factory=dict)
    of_ticks: tuple[Any, Int64] | None = None

    def forget(self) -> None:
        """The days have changed."""
        self.chosen = None
        self.folds.clear()
        self.stacks.clear()


#: The days of sessions that still take ticks: by position, prices (4, n) and sums (7, n) of some symbols.
LiveDays = dict[int, tuple[Float64, Int64]]


def fold_window(first: int, stop: int, memo: DayMemo, live: LiveDays, index: Int64 | None) -> Fold | None:
    """Return what the sessions of a window add up to; None where none of them has a day.

    Args:
        first: position of its first session.
        stop: position after its last session, or after the last one that is looked at.
        memo: with ``chosen``.
        live: of the same symbols as ``index``.
        index: symbols to look at; None for all.
    """
    chosen = memo.chosen
    assert chosen is not None
    own = [position for position in live if first <= position < stop]
    until = min(own, default=stop)
    past = _fold_past(first, until, memo)
    parts = [] if past is None else [past.take(index)]
    for position in range(until, stop) if own else ():
        at = int(np.searchsorted(chosen.positions, position))
        held = at < len(chosen.positions) and chosen.positions[at] == position
        if not held and position not in live:
            continue
        if held:
            prices, sums = chosen.prices[at], chosen.sums[at]
            if index is not None:
                prices, sums = prices[:, index], sums[:, index]
        if position in live:
            of_ticks = live[position]
            if held:
                has = ~np.isnan(prices[OPEN])
                of_ticks = np.where(has, prices, of_ticks[0]), np.where(has, sums, of_ticks[1])
            prices, sums = of_ticks
        parts.append(fold_days(prices[None], sums[None]))
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    found, total = add_up(np.stack([part.prices for part in parts]), np.stack([part.sums for part in parts]))
    return Fold(found, total, np.sum([part.sessions for part in parts], axis=0, dtype=np.int32))


def fold_windows(
    spans: tuple[tuple[int, int], ...], memo: DayMemo, live: LiveDays, index: Int64 | None
) -> Fold | None:
    """Return what several windows hold at once, shapes (windows, 4, n) and so on; None where it cannot be.

    It can where one session takes ticks, all windows hold it, and it is the last one looked at.

    Args:
        spans: first session of each window, and the one after the last that is looked at.
        memo: with ``chosen``.
        live: of the same symbols as ``index``.
        index: symbols to look at; None for all.
    """
    chosen = memo.chosen
    assert chosen is not None
    if len(live) != 1:
        return None
    ((position, (prices, sums)),) = live.items()
    if any(not first <= position < stop for first, stop in spans):
        return None
    last = max(stop for _, stop in spans)
    at, after = np.searchsorted(chosen.positions, (position, position + 1)).tolist()
    if after < len(chosen.positions) and chosen.positions[after] < last:
        return None
    past = tuple((first, position) for first, _ in spans)
    if past not in memo.stacks:
        memo.stacks[past] = _stacked([_fold_past(*span, memo) for span in past], chosen.prices.shape[2])
    if after > at:
        official = chosen.prices[at], chosen.sums[at]
        if index is not None:
            official = official[0].take(index, axis=1), official[1].take(index, axis=1)
        has = ~np.isnan(official[0][OPEN])
        prices, sums = np.where(has, official[0], prices), np.where(has, official[1], sums)
    return memo.stacks[past].take(index).then(prices, sums)


def _stacked(folds: Sequence[Fold | None], width: int) -> Fold:
    prices = np.empty((len(folds), 4, width))
    prices[:] = NO_PRICES
    sums = np.zeros((len(folds), 7, width), np.int64)
    sessions = np.zeros((len(folds), width), np.int32)
    for place, fold in enumerate(folds):
        if fold is not None:
            prices[place], sums[place], sessions[place] = fold.prices, fold.sums, fold.sessions
    return Fold(prices, sums, sessions)


def _fold_past(first: int, stop: int, memo: DayMemo) -> Fold | None:
    if (first, stop) not in memo.folds:
        chosen = memo.chosen
        assert chosen is not None
        low, high = np.searchsorted(chosen.positions, (first, stop)).tolist()
        memo.folds[first, stop] = (
            fold_days(chosen.prices[low:high], chosen.sums[low:high]) if high > low else None
        )
    return memo.folds[first, stop]
