"""Cells: stretches of a symbol's time with the prices and the volume that its trades have to add up to.

A day of history is three cells, before, in and after regular hours; a minute of history is one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.calendar import NO_SESSION, TradingCalendar

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
#: Open, high, low, close.
Prices = tuple[Int64, Int64, Int64, Int64]

#: Prices are whole units of 1e-4 of the currency: what the feed's decimals can say.
PRICE_UNITS = 10_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
#: How long the extended hours last before the open and after the close, as far as the session's day goes.
PRE_MARKET_US = 11 * HOUR_US // 2
POST_MARKET_US = 4 * HOUR_US
#: What part of a day's trades, and of its volume, each of the extended hours has.
EXTENDED_PART = 0.03
#: A trade has at least so many shares on average, where the volume allows it.
_SHARES_A_TRADE = 20
_LEAST_EXTENDED = 3


class TapeError(ValueError):
    """A tape cannot be made as it is asked for; the message is one line that says what to do."""


class Phase(IntEnum):
    """When of the day a cell is, which also says how its trades crowd within it."""

    PRE = 0
    REGULAR = 1
    POST = 2
    #: A minute of history within, and outside of, regular hours.
    MINUTE = 3
    EXTENDED_MINUTE = 4


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of some symbols, sorted by (symbol, start); all arrays have shape (cells,).

    Attributes:
        symbols: the names, sorted.
        symbol: position of the name.
        session: the session's date, days since 1970.
        start, end: ``[start, end)``, UTC microseconds.
        open, high, low, close: in ``1 / PRICE_UNITS`` of the currency.
        volume: shares.
        trades: how many trades to make.
        phase: of ``Phase``.
    """

    symbols: tuple[str, ...]
    symbol: Int32
    session: Int32
    start: Int64
    end: Int64
    open: Int64
    high: Int64
    low: Int64
    close: Int64
    volume: Int64
    trades: Int64
    phase: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.symbol)

    def take(self, rows: npt.NDArray[Any]) -> Cells:
        """Return some cells, by mask or positions."""
        named = (item.name for item in fields(self) if item.name != "symbols")
        return Cells(self.symbols, **{name: getattr(self, name)[rows] for name in named})


def from_daily(rows: pa.Table, calendar: TradingCalendar, trades: float, rng: np.random.Generator) -> Cells:
    """Return the cells of daily rows.

    Prices of regular hours are the row's; those of the extended hours are made up around its open and close.

    Args:
        rows: ``symbol``, ``session``, ``open``, ``high``, ``low``, ``close``, ``volume``; a row without a
            volume is passed over.
        calendar: knows all the sessions.
        trades: how many a symbol and session, on average; more volume has more of them.
        rng: of the extended hours' prices.

    Raises:
        TapeError: no row is left, a price is below the unit, or a date is no session.
    """
    symbols, symbol, volume, prices, rows = _values(rows)
    session = rows["session"].to_numpy().astype("datetime64[D]").astype(np.int32)
    at = calendar.positions(session)
    if (at == NO_SESSION).any():
        day = session[at == NO_SESSION][0].astype("datetime64[D]")
        raise TapeError(f"{day} is no session of {calendar.name}: leave it out, or name another calendar")
    opens, closes = calendar.opens[at], calendar.closes[at]
    pre = np.maximum(opens - PRE_MARKET_US, calendar.day_starts[at])
    post = np.minimum(closes + POST_MARKET_US, calendar.day_ends[at])
    wanted = _shared_out(trades * len(symbol), volume)

    def part(phase: Phase, ohlc: Prices, start: Int64, end: Int64) -> Cells:
        regular = phase == Phase.REGULAR
        share = 1 - 2 * EXTENDED_PART if regular else EXTENDED_PART
        count = np.minimum((wanted * share).astype(np.int64), (volume * share).astype(np.int64) // 20)
        extended = (volume * EXTENDED_PART).astype(np.int64)
        if not regular:
            count = np.where((count < _LEAST_EXTENDED) | (end - start < MINUTE_US), 0, count)
        return Cells(
            symbols,
            symbol,
            session,
            start,
            end,
            *ohlc,
            extended,
            count,
            np.full(len(symbol), phase, np.int8),
        )

    open_, _, _, close = prices
    before = part(Phase.PRE, _around(open_, rng, ends_at=True), pre, opens)
    after = part(Phase.POST, _around(close, rng, ends_at=False), closes, post)
    within = part(Phase.REGULAR, prices, opens, closes)
    within.volume[:] = volume - sum(np.where(cell.trades > 0, cell.volume, 0) for cell in (before, after))
    np.maximum(within.trades, _least(prices), out=within.trades)
    return _together(before, within, after)


def from_minutes(rows: pa.Table, calendar: TradingCalendar, trades: float) -> Cells:
    """Return the cells of minute rows.

    Args:
        rows: ``symbol``, ``ts`` (the minute's start), ``open``, ``high``, ``low``, ``close``, ``volume``; a
            row without a volume is passed over.
        calendar: has a session for each minute.
        trades: how many a symbol and session, on average; more volume has more of them.

    Raises:
        TapeError: no row is left, a price is below the unit, or a minute is in no session.
    """
    symbols, symbol, volume, prices, rows = _values(rows)
    start = rows["ts"].combine_chunks().cast(pa.timestamp("us", "UTC")).view(pa.int64()).to_numpy().copy()
    at = calendar.positions_at(start)
    if (at == NO_SESSION).any():
        when = start[at == NO_SESSION][0].astype("datetime64[us]")
        raise TapeError(f"{when}Z is in no session of {calendar.name}: name another calendar")
    session = calendar.days[at]
    pairs = len(np.unique(symbol.astype(np.int64) << 32 | session))
    least = _least(prices)
    wanted = np.minimum(_shared_out(trades * pairs, volume).astype(np.int64), volume // _SHARES_A_TRADE)
    regular = (start >= calendar.opens[at]) & (start < calendar.closes[at])
    made = Cells(
        symbols,
        symbol,
        session,
        start,
        start + MINUTE_US,
        *prices,
        volume,
        np.maximum(wanted, least),
        np.where(regular, Phase.MINUTE, Phase.EXTENDED_MINUTE).astype(np.int8),
    )
    return _together(made)


def synthetic_daily(symbols: int, sessions: npt.NDArray[Any], rng: np.random.Generator) -> pa.Table:
    """Return daily rows of made-up symbols: random walks with the volumes of a market, few large, many small.

    Args:
        symbols: how many.
        sessions: dates, days since 1970, shape (sessions,).
        rng: of all values.
    """
    days = len(sessions)
    moves = rng.normal(0, 0.02, (symbols, days))
    closes = np.exp(rng.normal(3.6, 1.0, symbols))[:, None] * np.exp(np.cumsum(moves, axis=1))
    opens = closes * np.exp(rng.normal(0, 0.01, closes.shape))
    reach = rng.gamma(2.0, 0.004, (2, *closes.shape))
    highs = np.maximum(opens, closes) * (1 + reach[0])
    lows = np.minimum(opens, closes) * (1 - np.minimum(reach[1], 0.5))
    volumes = np.exp(rng.normal(13.0, 1.7, symbols))[:, None] * np.exp(rng.normal(0, 0.3, closes.shape)) + 100
    opens, highs, lows, closes = (
        np.maximum(np.round(np.maximum(values, 0.01), 2), 0.01) for values in (opens, highs, lows, closes)
    )
    names = np.array([_name(number) for number in range(symbols)])
    columns: dict[str, Any] = {
        "symbol": np.repeat(names, days),
        "session": pa.array(np.tile(sessions.astype(np.int32), symbols)).cast(pa.date32()),
        "open": opens.ravel(),
        "high": highs.ravel(),
        "low": lows.ravel(),
        "close": closes.ravel(),
        "volume": np.floor(volumes).ravel(),
    }
    return pa.table(columns)


def _name(number: int) -> str:
    """A symbol of four letters, sorted as the numbers are."""
    return "".join(chr(ord("A") + number // 26**place % 26) for place in (3, 2, 1, 0))


def _values(
    rows: pa.Table,
) -> tuple[tuple[str, ...], Int32, Int64, Prices, pa.Table]:
    """The names, each row's place among them, its shares and prices, and the rows that are left."""
    rows = rows.filter(pc.field("volume") >= 1.0)
    if not rows.num_rows:
        raise TapeError("no row with a volume is left to make trades of: ask for other symbols or sessions")
    column = rows["symbol"].cast(pa.string()).combine_chunks()
    symbols = tuple(sorted(str(name) for name in column.unique().to_pylist()))
    symbol = pc.index_in(column, value_set=pa.array(symbols)).to_numpy().astype(np.int32)
    volume = rows["volume"].to_numpy().astype(np.int64)
    prices = [
        np.rint(rows[name].to_numpy() * PRICE_UNITS).astype(np.int64)
        for name in ("open", "high", "low", "close")
    ]
    if min(int(price.min()) for price in prices) < 1:
        raise TapeError(f"a price is below {1 / PRICE_UNITS:g}: leave the symbol out")
    o, h, low, c = prices
    return (
        symbols,
        symbol,
        volume,
        (o, np.maximum(h, np.maximum(o, c)), np.minimum(low, np.minimum(o, c)), c),
        rows,
    )


def _least(prices: Prices) -> Int64:
    """How many trades open, high, low and close need: those that are equal need one."""
    o, h, low, c = prices
    still = (o == c) & (h == low)
    return np.where(still, 1, 2 + (h > np.maximum(o, c)).astype(np.int64) + (low < np.minimum(o, c)))


def _shared_out(total: float, volume: Int64) -> Float64:
    weights = np.sqrt(volume)
    return total * weights / weights.sum()


def _around(price: Int64, rng: np.random.Generator, ends_at: bool) -> Prices:
    """Prices of extended hours that end at, or start from, a price of regular hours."""
    drift, up, down = (rng.normal(0, sigma, len(price)) for sigma in (0.006, 0.004, 0.004))
    cent = np.where(price >= 2 * PRICE_UNITS, PRICE_UNITS // 100, 1)
    other = np.maximum(_rounded(price * (1 + np.clip(drift, -0.3, 0.3)), cent), 1)
    o, c = (other, price) if ends_at else (price, other)
    top, bottom = np.maximum(o, c), np.minimum(o, c)
    high = np.maximum(_rounded(top * (1 + np.abs(up)), cent), top)
    low = np.minimum(np.maximum(_rounded(bottom * (1 - np.minimum(np.abs(down), 0.5)), cent), 1), bottom)
    return o, high, low, c


def _rounded(price: Float64, step: Int64) -> Int64:
    return np.rint(price / step).astype(np.int64) * step


def _together(*parts: Cells) -> Cells:
    named = [item.name for item in fields(Cells) if item.name != "symbols"]
    joined = Cells(
        parts[0].symbols, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in named}
    )
    kept = np.flatnonzero(joined.trades > 0)
    return joined.take(kept[np.lexsort((joined.start[kept], joined.symbol[kept]))])
