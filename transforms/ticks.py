"""The kernel of ticks: trades or minute rows to one-minute partials, those to windows, those to bars.

``aggregate_ticks`` is the plain twin of ``AggregateBars`` on rows of a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms import accumulators as acc
from fibflow.transforms import tickrows
from fibflow.transforms.bars import BarSpec, daily_bars
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.conditions import Rule
from fibflow.transforms.duplicates import resolve
from fibflow.transforms.grid import Grid
from fibflow.transforms.partials import (
    Partials,
    as_arrow,
    encode_symbols,
    finish,
    merge,
    numbers,
    run_starts,
)
from fibflow.transforms.schemas import DAILY_ROWS, DEAD_LETTERS, TIMESTAMP
from fibflow.transforms.timeframe import DAY, MINUTE_US, Timeframe, TimeframeError, by_sessions
from fibflow.transforms.validation import MAX_VWAP

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]

#: ``open_ts`` and ``close_ts`` of partials without a price that may open or close a bar: later, and earlier,
#: than any.
NO_OPEN = int(np.iinfo(np.int64).max)
NO_CLOSE = int(np.iinfo(np.int64).min)

_HIGH_LOW, _OPEN_CLOSE, _VOLUME = (np.uint8(rule) for rule in (Rule.HIGH_LOW, Rule.OPEN_CLOSE, Rule.VOLUME))
#: How much further up the bits lie that hold outside regular hours.
_EXTENDED = np.uint8(3)


def fold_trades(
    symbols: pa.StringArray,
    symbol: Int32,
    minute: Int64,
    regular: Bool,
    seq: Int64,
    trades: pa.Table,
    order: Index | None = None,
) -> Partials:
    """Fold trades into one-minute partials.

    Args:
        symbols: the dictionary of ``symbol``.
        symbol: of each trade; a symbol's trades stand together, by (time, seq). Shape (n,), as all here.
        minute: start of each trade's minute, UTC microseconds.
        regular: whether that minute lies in regular hours.
        seq: of each trade.
        trades: TRADE_INPUT, each (symbol, session, seq) once.
        order: which trades of the table these are; None for all as they stand.

    Returns:
        Partials of each (symbol, minute) in the order of the rows. Where no trade may set open and close,
        ``open_ts`` is ``NO_OPEN`` and ``close_ts`` ``NO_CLOSE``; where none may set high and low they are
        -inf and +inf.
    """

    def column(name: str) -> npt.NDArray[Any]:
        values = numbers(trades, name)
        return values if order is None else values[order]

    ts, price, volume, rules = (column(name) for name in ("ts", "price", "volume", "rules"))
    n = len(ts)
    starts = run_starts(symbol, minute)
    bits = np.where(regular, rules, rules >> _EXTENDED)
    extreme, edge = (bits & _HIGH_LOW) != 0, (bits & _OPEN_CLOSE) != 0
    counted = ((bits & _VOLUME) != 0).astype(np.int64)
    place = np.arange(n)
    first = np.minimum.reduceat(np.where(edge, place, n), starts)
    last = np.maximum.reduceat(np.where(edge, place, -1), starts)
    # Either both are there or neither.
    has = last >= 0
    first[~has] = 0
    volume = volume * counted
    hi, lo = acc.sum_runs(*acc.multiply(acc.to_micro(price), volume), starts)
    whole = np.ones(len(starts), np.bool_)
    return Partials(
        symbols=symbols,
        symbol=symbol[starts],
        ts=minute[starts],
        end=minute[starts] + MINUTE_US,
        open=np.where(has, price[first], 0.0),
        open_ts=np.where(has, ts[first], NO_OPEN),
        open_seq=np.where(has, seq[first], 0),
        high=np.maximum.reduceat(np.where(extreme, price, -np.inf), starts),
        low=np.minimum.reduceat(np.where(extreme, price, np.inf), starts),
        close=np.where(has, price[last], 0.0),
        close_ts=np.where(has, ts[last], NO_CLOSE),
        close_seq=np.where(has, seq[last], 0),
        volume=acc.sum_volume(volume, starts),
        notional_hi=hi,
        notional_lo=lo,
        has_notional=whole,
        trade_count=np.add.reduceat(counted, starts),
        has_trade_count=whole,
        sessions=whole.astype(np.int32),
    )


def minute_partials(symbols: pa.StringArray, symbol: Int32, minute: Int64, rows: pa.Table) -> Partials:
    """Return each row of MINUTE_INPUT as a partial; ``vwap`` and ``trade_count`` are read as validation does.

    Args:
        symbols: the dictionary of ``symbol``.
        symbol: of each row, shape (n,).
        minute: start of each row's minute, UTC microseconds, shape (n,).
        rows: as they stand.
    """
    volume = acc.to_micro(numbers(rows, "volume"))
    vwap = tickrows.optional(rows, "vwap", float("nan"))
    has_notional = (vwap > 0) & (vwap < MAX_VWAP)
    hi, lo = acc.multiply(acc.to_micro(np.where(has_notional, vwap, 0.0)), volume)
    count = tickrows.optional(rows, "trade_count", -1)
    zeros = np.zeros(len(rows), np.int64)
    return Partials(
        symbols=symbols,
        symbol=symbol,
        ts=minute,
        end=minute + MINUTE_US,
        open=numbers(rows, "open"),
        open_ts=minute,
        open_seq=zeros,
        high=numbers(rows, "high"),
        low=numbers(rows, "low"),
        close=numbers(rows, "close"),
        close_ts=minute,
        close_seq=zeros,
        volume=volume,
        notional_hi=hi,
        notional_lo=lo,
        has_notional=has_notional,
        trade_count=np.maximum(count, 0),
        has_trade_count=count >= 0,
        sessions=np.ones(len(rows), np.int32),
    )


def without_prices(partials: Partials, which: Bool) -> Partials:
    """Return partials whose prices do not count where ``which``: volume, notional and count stay."""
    if not which.any():
        return partials
    p = partials
    return replace(
        p,
        open_ts=np.where(which, NO_OPEN, p.open_ts),
        close_ts=np.where(which, NO_CLOSE, p.close_ts),
        high=np.where(which, -np.inf, p.high),
        low=np.where(which, np.inf, p.low),
    )


def with_prices(partials: Partials) -> Partials:
    """Return the partials that make a bar: with an open; high and low at least as wide as open and close."""
    p = partials.take(partials.open_ts != NO_OPEN)
    return replace(
        p,
        high=np.maximum(p.high, np.maximum(p.open, p.close)),
        low=np.minimum(p.low, np.minimum(p.open, p.close)),
    )


def windows_of(partials: Partials, grid: Grid) -> Iterator[tuple[Timeframe, Partials]]:
    """Yield the partials of each timeframe's windows, from those of minutes (each in some session's day)."""
    minutes, at = np.unique(partials.ts, return_inverse=True)
    placed = grid.place(minutes)
    made: dict[int, Partials] = {}
    for number, timeframe in enumerate(grid.timeframes):
        source = partials
        finer = [length for length in made if timeframe.is_intraday and timeframe.minutes % length == 0]
        if finer:
            source = made[max(finer)]
            # A window's start may be no minute that has input, but the next one that has lies within it.
            index = np.searchsorted(minutes, source.ts)
        else:
            index = at
        if not timeframe.is_intraday:
            source = without_prices(source, ~placed.regular[index])
        merged = merge(replace(source, ts=placed.starts[number, index], end=placed.ends[number, index]))
        if timeframe.is_intraday:
            made[timeframe.minutes] = merged
        yield timeframe, merged


def aggregate_ticks(
    rows: pa.Table, spec: BarSpec, history: pa.Table | None = None, through: int | None = None
) -> tuple[list[pa.Table], pa.Table]:
    """Return the bars of each timeframe, and the rows that did not count, of rows of a stream.

    Of trades with one (symbol, session, seq) the one that lies first in the stream counts: the least
    (sequence, sub, place). Minute rows are registers: the greatest (version, sequence, sub, place) counts.
    Bars of several sessions are made of days: those of history, and after its last session those of ``1d``.

    Args:
        rows: TRADE_INPUT or MINUTE_INPUT in any order; whole symbols.
        spec: what to make. Rows of minutes that end after ``as_of`` are not used; it is the end of the newest
            session of the rows unless given.
        history: DAILY_ROWS, a (symbol, session) once; for timeframes of several sessions only.
        through: the session (days since 1970) after which days are made of ticks where history has none; its
            last one unless given.

    Returns:
        Tables of ``partials.BAR_BATCH``, ended windows before open ones, each by symbol and ts; and one of
        DEAD_LETTERS with the reasons ``not_a_session`` and ``duplicate``.

    Raises:
        TimeframeError: for a timeframe of several sessions without history.
    """
    short, long, lacks_days = by_sessions(spec.timeframes)
    if long and history is None:
        raise TimeframeError(
            f"timeframe {long[0]}: bars of several sessions come with history; of ticks alone name minutes, "
            "hours and 1d"
        )
    hidden = (DAY,) if lacks_days else ()
    grid = Grid((*short, *hidden), spec.calendar, spec.intraday_anchor)
    minute = tickrows.minutes_of(numbers(rows, "ts"))
    session = spec.calendar.positions_at(minute)
    strays = session == NO_SESSION
    letters = []
    if strays.any():
        letters.append(tickrows.dead_letters(rows.filter(as_arrow(strays)), tickrows.NOT_A_SESSION))
        rows, minute, session = rows.filter(as_arrow(~strays)), minute[~strays], session[~strays]
    as_of = spec.as_of
    if as_of is None and len(rows):
        as_of = int(spec.calendar.day_ends[int(session.max())])
    if as_of is not None:
        ahead = minute + MINUTE_US > as_of
        rows, minute, session = rows.filter(as_arrow(~ahead)), minute[~ahead], session[~ahead]
    bars: list[pa.Table] = []
    days: list[pa.Table] = []
    if len(rows):
        assert as_of is not None
        symbols, symbol = encode_symbols(rows["symbol"])
        fold = _trades if tickrows.is_trades(rows) else _registers
        partials, losers = fold(symbols, symbol, minute, session, rows, grid)
        if len(losers):
            letters.append(tickrows.dead_letters(losers, tickrows.DUPLICATE))
        for timeframe, made in windows_of(partials, grid):
            priced = with_prices(made)
            if timeframe not in hidden:
                bars.append(_bars(priced, timeframe, as_of, spec))
            if long and timeframe == DAY:
                days.append(finish(priced, timeframe.name, priced.end <= as_of))
    if long:
        assert history is not None
        bars += long_bars(days, history, replace(spec, timeframes=long, as_of=as_of), through)
    return [part for part in bars if len(part)], _concat(letters)


def long_bars(
    days: Sequence[pa.Table], history: pa.Table, spec: BarSpec, through: int | None = None
) -> Iterator[pa.Table]:
    """Yield bars of several sessions, of official history and of the days that ticks made after it.

    Args:
        days: tables of BAR_BATCH, of ``1d``, each (symbol, session) once.
        history: DAILY_ROWS, a (symbol, session) once; its rows count before days of ticks.
        spec: of these timeframes only; a session that ``as_of`` cuts counts as far as its ticks go.
        through: as ``aggregate_ticks`` has it.
    """
    calendar, as_of = spec.calendar, spec.as_of
    last = pc.max(history["session"]) if through is None else pa.scalar(through, pa.int32()).cast(pa.date32())
    rows = [history.cast(DAILY_ROWS).append_column("rank", as_arrow(np.ones(len(history), np.int32)))]
    for table in days:
        made = _daily_rows(table, calendar)
        if last.is_valid:
            made = made.filter(pc.greater(made["session"], last))
        rows.append(made.append_column("rank", as_arrow(np.zeros(len(made), np.int32))))
    winners, _ = resolve(pa.concat_tables(rows).unify_dictionaries(), "session", ranked=False)
    if as_of is None:
        yield from daily_bars(winners, spec)
        return
    running = int(np.searchsorted(calendar.day_starts, as_of, side="left")) - 1
    whole = max(as_of, int(calendar.day_ends[max(running, 0)]))
    for bars in daily_bars(winners, replace(spec, as_of=whole, complete_only=False)):
        complete = pc.less_equal(bars["end"], pa.scalar(as_of, pa.int64()).cast(TIMESTAMP))
        for name in ("complete", "final"):
            bars = bars.set_column(bars.schema.get_field_index(name), bars.schema.field(name), complete)
        yield bars.filter(complete) if spec.complete_only else bars


def _daily_rows(days: pa.Table, calendar: TradingCalendar) -> pa.Table:
    """Return ``1d`` bars as DAILY_ROWS."""
    session = calendar.days[calendar.positions_at(numbers(days, "ts"))]
    columns = [
        as_arrow(session).view(pa.date32()) if name == "session" else days[name] for name in DAILY_ROWS.names
    ]
    return pa.Table.from_arrays(columns, schema=DAILY_ROWS)


def _concat(letters: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([DEAD_LETTERS.empty_table(), *letters])


def _bars(partials: Partials, timeframe: Timeframe, as_of: int, spec: BarSpec) -> pa.Table:
    complete = partials.end <= as_of
    keep = np.ones(len(partials), np.bool_)
    if spec.complete_only:
        keep &= complete
    if spec.start is not None:
        keep &= partials.ts >= spec.start
    if spec.end is not None:
        keep &= partials.ts < spec.end
    if spec.changed_from is not None:
        keep &= partials.end > spec.changed_from
    chosen = np.concatenate((np.flatnonzero(keep & complete), np.flatnonzero(keep & ~complete)))
    return finish(partials.take(chosen), timeframe.name, complete[chosen])


def _trades(
    symbols: pa.StringArray, symbol: Int32, minute: Int64, session: Int32, rows: pa.Table, grid: Grid
) -> tuple[Partials, pa.Table]:
    """Return one-minute partials of trades, and the trades that another one of their key beat."""
    ts, seq = numbers(rows, "ts"), numbers(rows, "seq")
    losers = rows.slice(0, 0)
    order = np.lexsort((seq, session, symbol))
    again = repeats(symbol[order], session[order], seq[order])
    if again.any():
        # Equal trades are many when a whole file comes twice, but never all that there is to sort.
        involved = np.flatnonzero(again | np.append(again[1:], False))
        at = order[involved]
        group = np.cumsum(~again)[involved]
        ranked = np.lexsort((*tickrows.identity(rows.take(as_arrow(at))), group))
        order[involved] = at[ranked]
        lost = np.zeros(len(rows), np.bool_)
        lost[order[again]] = True
        losers = rows.filter(as_arrow(lost))
        kept = ~lost
        rows = rows.filter(as_arrow(kept))
        symbol, minute, ts, seq = symbol[kept], minute[kept], ts[kept], seq[kept]
    order = np.lexsort((seq, ts, symbol))
    symbol, minute = symbol[order], minute[order]
    distinct, at_minute = np.unique(minute, return_inverse=True)
    regular = grid.place(distinct).regular[at_minute]
    return fold_trades(symbols, symbol, minute, regular, seq[order], rows, order), losers


def repeats(*keys: npt.NDArray[Any]) -> Bool:
    """Return which rows of sorted columns have the key of the row before, shape (n,)."""
    same = np.ones(max(len(keys[0]) - 1, 0), np.bool_)
    for key in keys:
        same &= key[1:] == key[:-1]
    return np.append(np.zeros(min(len(keys[0]), 1), np.bool_), same)


def _registers(
    symbols: pa.StringArray, symbol: Int32, minute: Int64, session: Int32, rows: pa.Table, grid: Grid
) -> tuple[Partials, pa.Table]:
    """Return partials of minute rows, and the rows that a greater version of their minute beat."""
    del session, grid
    version = numbers(rows, "version")
    order = np.lexsort((*tickrows.identity(rows), version, minute, symbol))
    lost = np.append(repeats(symbol[order], minute[order])[1:], False)
    won = order[~lost]
    partials = minute_partials(symbols, symbol[won], minute[won], rows.take(as_arrow(won)))
    return partials, rows.take(as_arrow(order[lost]))
