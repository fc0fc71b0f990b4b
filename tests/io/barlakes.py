"""Lakes of real bars, made by the kernel and committed without a pipeline, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.transforms.bars import BarSpec, daily_bars, minute_bars
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import BARS, DAILY_ROWS, MINUTE_ROWS
from fibflow.transforms.timeframe import Anchor, parse_timeframes

XNYS = load_calendar()


def daily_rows(
    histories: Mapping[str, Sequence[str]], calendar: TradingCalendar = XNYS, seed: int = 0
) -> pa.Table:
    """Rows of each symbol on all sessions of ``[first date, last date]``."""
    days = calendar.days.astype("datetime64[D]")
    spans = [days[(days >= np.datetime64(a)) & (days <= np.datetime64(b))] for a, b in histories.values()]
    names = np.repeat(list(histories), [len(span) for span in spans])
    return _priced(pa.array(names), "session", pa.array(np.concatenate(spans)), DAILY_ROWS, seed)


def minute_rows(symbol: str, starts: Sequence[str], minutes: int, seed: int = 0) -> pa.Table:
    """``minutes`` rows from each of some instants (UTC) on."""
    first = np.array(starts, "datetime64[us]").astype(np.int64)
    ts = (first[:, None] + np.arange(minutes) * 60_000_000).ravel()
    times = pa.array(ts).cast(pa.timestamp("us", "UTC"))
    return _priced(pa.array([symbol] * len(ts)), "ts", times, MINUTE_ROWS, seed)


def _priced(symbols: pa.Array, time: str, times: pa.Array, schema: pa.Schema, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    n = len(symbols)
    opens, closes, wick = (
        rng.uniform(10, 20, n).round(2),
        rng.uniform(10, 20, n).round(2),
        rng.uniform(0, 1, n).round(2),
    )
    values: dict[str, Any] = {
        "symbol": symbols,
        time: times,
        "open": opens,
        "high": np.maximum(opens, closes) + wick,
        "low": np.minimum(opens, closes) - wick,
        "close": closes,
        "volume": rng.integers(100, 10_000, n).astype(float),
        "vwap": closes,
        "trade_count": rng.integers(1, 100, n),
    }
    columns = [values[f.name] if f.name in values else pa.nulls(n) for f in schema]
    return pa.table([pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def as_of(rows: pa.Table, calendar: TradingCalendar = XNYS) -> int:
    """The end of the newest session that the rows hold."""
    if "session" in rows.column_names:
        newest = calendar.positions(rows["session"].to_numpy().astype("datetime64[D]").astype(np.int32)).max()
    else:
        newest = calendar.positions_at(rows["ts"].combine_chunks().view(pa.int64()).to_numpy()).max()
    return int(calendar.day_ends[newest])


def make_bars(
    rows: pa.Table,
    timeframes: str,
    anchor: Anchor = Anchor.EXCHANGE,
    calendar: TradingCalendar = XNYS,
    complete_only: bool = False,
) -> list[pa.Table]:
    """The bars of rows, a table for each timeframe."""
    spec = BarSpec(
        parse_timeframes(timeframes), calendar, as_of(rows, calendar), anchor, complete_only=complete_only
    )
    kernel = daily_bars if "session" in rows.column_names else minute_bars
    return [bars.cast(BARS) for bars in kernel(rows, spec)]


def commit_bars(
    lake: Lake,
    made: Sequence[pa.Table],
    run: str = "run",
    anchor: Anchor = Anchor.EXCHANGE,
    calendar: TradingCalendar = XNYS,
    basis: str = "raw",
) -> int:
    """Commit bars, a file for each timeframe and period, and return the version."""
    table = lake.table(tables.BARS)
    files = []
    for bars in made:
        name = bars["timeframe"][0].as_py()
        ts = bars["ts"].combine_chunks().view(pa.int64()).to_numpy()
        periods = tables.Period.of(*parse_timeframes(name)).names(calendar.local_days(ts))
        for period in np.unique(periods):
            part = bars.filter(pa.array(periods == period)).sort_by(
                [("symbol", "ascending"), ("ts", "ascending")]
            )
            files.append(table.writer().write(part, {"timeframe": name, "period": str(period)}, run))
    return table.commit(
        files,
        base_version=table.version,
        scope=Scope(),
        run=run,
        properties={tables.CALENDAR: calendar.name, tables.ANCHOR: str(anchor), tables.PRICE_BASIS: basis},
    )
