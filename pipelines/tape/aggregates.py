"""A vendor's aggregates of the tape's trades: made after the window's end, and anew after late trades."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from fibflow.pipelines.tape.cells import MINUTE_US, SECOND_US, Bool, Float64, Int32, Int64
from fibflow.pipelines.tape.trades import HIGH_LOW, OPEN_CLOSE, VOLUME, Trades

#: How long after the window's end an aggregate goes out.
DELAY_US = 2 * SECOND_US
#: A window with late trades goes out anew at most this often.
_AGAIN_US = MINUTE_US


@dataclass(frozen=True, eq=False)
class Aggregates:
    """Aggregates of a minute or a second; all arrays have shape (aggregates,).

    Attributes:
        symbol: position among the tape's symbols.
        session: the session's date, days since 1970.
        start: UTC microseconds.
        open, high, low, close: in ``1 / PRICE_UNITS`` of the currency.
        volume: shares.
        notional: shares times price units.
        trades: how many trades count for the volume.
        day_volume, day_notional: of the session up to the window's end.
        official: the session's open, in price units; 0 before it.
        made: when the vendor made it, UTC microseconds: its version.
    """

    symbol: Int32
    session: Int32
    start: Int64
    open: Int64
    high: Int64
    low: Int64
    close: Int64
    volume: Int64
    notional: Int64
    trades: Int64
    day_volume: Int64
    day_notional: Int64
    official: Int64
    made: Int64

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: Int64 | Bool) -> Aggregates:
        """Return some rows, by mask or positions."""
        return Aggregates(*(getattr(self, item.name)[rows] for item in fields(self)))


def joined(*parts: Aggregates) -> Aggregates:
    """Return all rows, one part after the other."""
    return Aggregates(
        *(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Aggregates))
    )


_NO_ROWS: Any = np.zeros(0, np.int64)
_NONE = Aggregates(*(_NO_ROWS for _ in fields(Aggregates)))


@dataclass(frozen=True, eq=False)
class Vendor:
    """Makes aggregates of ``width`` microseconds of trades.

    Attributes:
        trades: all of them.
        official: by trade, the session's open that the vendor says with it; 0 before the open.
        width: MINUTE_US or SECOND_US.
    """

    trades: Trades
    official: Int64
    width: int

    def first(self, arrived: Int64) -> Aggregates:
        """Return what goes out first: windows of the trades that arrived in time, shape (trades,)."""
        rows = np.flatnonzero(arrived <= self._ends + DELAY_US)
        made = self._fold(rows)
        return _stamped(made, made.start + self.width + DELAY_US)

    def again(self, arrived: Int64, horizon: int) -> Aggregates:
        """Return what goes out once more: windows with trades that arrived late, but within the horizon.

        Args:
            arrived: when each trade came, UTC microseconds, shape (trades,).
            horizon: how long after its end a window is made anew, microseconds.
        """
        late = arrived > self._ends + DELAY_US
        turn = np.where(late, (arrived - self._ends) // _AGAIN_US + 1, 0)
        accepted = np.flatnonzero(late & (arrived <= self._ends + horizon))
        parts = [self._fold(accepted[:0])]
        windows = self._windows
        for number in np.unique(turn[accepted]).tolist():
            again = np.zeros(int(windows[-1]) + 1, np.bool_)
            again[windows[accepted[turn[accepted] == number]]] = True
            known = again[windows] & (turn <= number) & (arrived <= self._ends + horizon)
            made = self._fold(np.flatnonzero(known))
            parts.append(_stamped(made, made.start + self.width + min(number * _AGAIN_US, horizon)))
        return joined(*parts)

    def early(self, windows: Aggregates) -> Aggregates:
        """Return older versions of windows: of the trades of their first half. Some have none."""
        half = self.width // 2
        made = self._fold(np.flatnonzero(self.trades.ts % self.width < half))
        made = _stamped(made, made.start + half)
        return made.take(np.isin(_key(made.symbol, made.start), _key(windows.symbol, windows.start)))

    @cached_property
    def _ends(self) -> Int64:
        return self.trades.ts // self.width * self.width + self.width

    @cached_property
    def _windows(self) -> Int64:
        """The number of each trade's window, shape (trades,)."""
        return np.cumsum(_begins(self.trades.symbol, self._ends)) - 1

    @cached_property
    def _day_sums(self) -> tuple[Int64, Int64]:
        """Volume and notional of the session up to each trade, shape (trades,)."""
        trades = self.trades
        size = np.where(trades.counts_for & VOLUME, trades.size, 0)
        begins = np.flatnonzero(_begins(trades.symbol, trades.session))
        lengths = np.diff(np.append(begins, len(trades)))

        def since(values: Int64) -> Int64:
            total = np.cumsum(values)
            return total - np.repeat(total[begins] - values[begins], lengths)

        return since(size), since(size * trades.price)

    def _fold(self, rows: Int64) -> Aggregates:
        """Fold some trades, in order. A window without a trade that counts for open and close has none."""
        trades, counts = self.trades, self.trades.counts_for[rows]
        symbol, session, ts = trades.symbol[rows], trades.session[rows], trades.ts[rows]
        price, start = trades.price[rows], ts // self.width * self.width
        size = np.where(counts & VOLUME, trades.size[rows], 0)
        begins = np.flatnonzero(_begins(symbol, start))
        if not len(begins):
            return _NONE
        place = np.arange(len(rows))
        last_price, wide = counts & OPEN_CLOSE > 0, counts & (HIGH_LOW | OPEN_CLOSE) > 0
        first = np.minimum.reduceat(np.where(last_price, place, len(rows)), begins)
        last = np.maximum.reduceat(np.where(last_price, place, -1), begins)
        ends = np.append(begins[1:], len(rows)) - 1
        day_volume, day_notional = self._day_sums
        made = Aggregates(
            symbol[begins],
            session[begins],
            start[begins],
            price[np.minimum(first, len(rows) - 1)],
            np.maximum.reduceat(np.where(wide, price, 0), begins),
            np.minimum.reduceat(np.where(wide, price, np.iinfo(np.int64).max), begins),
            price[last],
            np.add.reduceat(size, begins),
            np.add.reduceat(size * price, begins),
            np.add.reduceat((counts & VOLUME > 0).astype(np.int64), begins),
            day_volume[rows][ends],
            day_notional[rows][ends],
            self.official[rows][ends],
            start[begins],
        )
        return made.take(last >= 0)


def vwap(notional: Int64, volume: Int64, unit: int) -> Float64:
    """Return the average price with the four decimals that the vendor gives it."""
    return np.round(notional / np.maximum(volume, 1) / unit, 4)


def _stamped(made: Aggregates, when: Int64) -> Aggregates:
    values = {item.name: getattr(made, item.name) for item in fields(made)}
    return Aggregates(**{**values, "made": when})


def _begins(*keys: Int64 | Int32) -> Bool:
    """Where any key differs from the one before, shape (rows,)."""
    begins = np.zeros(len(keys[0]), np.bool_)
    begins[:1] = True
    for key in keys:
        begins[1:] |= key[1:] != key[:-1]
    return begins


def _key(symbol: Int32, start: Int64) -> Int64:
    return symbol.astype(np.int64) << 36 | start // SECOND_US
