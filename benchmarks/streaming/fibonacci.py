"""What Fibonacci timeframes add to the live benchmark: official history of all symbols, and their bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.pipelines import tape
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livedays import DayGrid
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.timeframe import FIBONACCI

#: Sessions of history: more than the longest window has.
SESSIONS = 40
SEED = 11


def history_of(
    symbols: int, calendar: TradingCalendar, position: int, names: Sequence[str] | None = None
) -> pa.Table:
    """Return daily rows of the sessions before one.

    Args:
        symbols: how many.
        calendar: has the sessions.
        position: of the session after them.
        names: of the symbols; those of the tapes by default.
    """
    days = calendar.days[position - SESSIONS : position].astype(np.int64)
    rows = tape.synthetic_daily(symbols, days, np.random.default_rng(SEED))
    if names is None:
        return rows
    renamed = pa.array(list(names)).take(as_arrow(np.repeat(np.arange(len(names)), len(days))))
    return rows.set_column(0, "symbol", renamed)


def land(lake: Lake, rows: pa.Table, calendar: TradingCalendar) -> None:
    """Write daily rows into ``bronze.daily`` of a lake that has none."""
    table = lake.table(tables.DAILY)
    n = len(rows)
    more = {
        "vwap": rows["close"],
        "trade_count": as_arrow(np.full(n, 100)),
        "source": as_arrow(np.zeros(n, np.int64)),
        "landed": as_arrow(np.ones(n, np.int32)),
    }
    schema = table.spec.file_schema
    columns = [more.get(name, rows[name] if name in rows.column_names else None) for name in schema.names]
    file = table.writer().write(pa.table(columns, schema=schema), {"period": "all"}, "history")
    table.commit(
        [file],
        base_version=-1,
        scope=Scope(),
        run="history",
        properties={tables.CALENDAR: calendar.name, tables.PRICE_BASIS: "raw"},
    )


def bars_ended(symbols: int, calendar: TradingCalendar, position: int) -> int:
    """Return how many bars of Fibonacci timeframes end with a session, of symbols that have history."""
    windows = DayGrid(FIBONACCI, 0, calendar).windows(np.array([position]))
    return symbols * sum(window.stop == position + 1 for window in windows)
